"""What in a DICOM header may name a person."""

from __future__ import annotations

from typing import Any

import pytest
from dicoms import data_set
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from cxr_ops.data.checking import identity


def found(**others: Any) -> list[str]:
    return identity.found(data_set(**others))


def option(code: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code, "DCM"
    return item


def test_every_name_is_one_of_dicoms() -> None:
    """Each attribute in the tables is in pydicom's dictionary of the standard, so that none is looked for in vain."""
    tables = (
        identity.DIRECT,
        identity.DESCRIPTIONS,
        identity.CHARACTERISTICS,
        identity.DEVICES,
        identity.INSTITUTIONS,
        identity.OTHERS,
    )
    assert [name for table in tables for name in table if tag_for_keyword(name) is None] == []
    assert sum(map(len, tables)) == len(frozenset().union(*tables))


def test_a_clean_header_names_nobody() -> None:
    """A header with age, sex and view alone, or with what de-identification writes for nothing, is clean."""
    assert found() == []
    assert found(PatientName="ANONYMOUS", StudyDate="19010101", StudyTime="000000.00", AccessionNumber="") == []


@pytest.mark.parametrize(
    ("others", "names"),
    [
        ({"PatientName": "Roe^Jane"}, ["PatientName"]),
        ({"PatientID": "7"}, ["PatientID"]),
        ({"OperatorsName": "Roe^Jane"}, ["OperatorsName"]),
        ({"StudyDate": "20200102"}, ["StudyDate"]),
        ({"AcquisitionDateTime": "20200102101010"}, ["AcquisitionDateTime"]),
        ({"StudyTime": "101010"}, ["StudyTime"]),
        ({"InstitutionName": "St. X"}, ["InstitutionName"]),
        ({"StationName": "CR1"}, ["StationName"]),
        ({"StudyDescription": "Thorax of Jane"}, ["StudyDescription"]),
        ({"PatientAddress": "Street 1", "EthnicGroup": "any"}, ["EthnicGroup", "PatientAddress"]),
    ],
)
def test_what_the_basic_profile_takes_out_is_found(others: dict[str, Any], names: list[str]) -> None:
    """Names, numbers, dates, times, places, devices and free text are found by the name of their attribute."""
    assert found(**others) == names


def test_names_in_sequences_private_elements_and_overlays_are_found() -> None:
    """What stands deep inside, has no public name, or is drawn over the picture is found as well."""
    inner, outer = Dataset(), Dataset()
    inner.PersonName = "Roe^Jane"
    outer.PersonIdentificationCodeSequence = [inner]
    assert found(ProcedureCodeSequence=[outer]) == ["PersonName"]
    header = data_set()
    header.private_block(0x0019, "SOMEBODY", create=True).add_new(1, "LO", "anything")
    header.add_new(0x60003000, "OW", b"\1\1")
    assert identity.found(header) == ["overlays", "private elements (0019)"]


@pytest.mark.parametrize(
    ("code", "others"),
    [
        ("113105", {"StudyDescription": "chest"}),
        ("113107", {"StudyDate": "20200102", "StudyTime": "101010"}),
        ("113108", {"EthnicGroup": "any"}),
        ("113109", {"StationName": "CR1"}),
        ("113112", {"InstitutionName": "St. X"}),
    ],
)
def test_what_a_declared_option_keeps_is_allowed(code: str, others: dict[str, Any]) -> None:
    """A header that says with which option of the profile it was de-identified may hold what that option keeps."""
    assert found(**others)
    assert found(**others, DeidentificationMethodCodeSequence=[option(code)]) == []
    assert found(PatientName="Roe^Jane", DeidentificationMethodCodeSequence=[option(code)]) == ["PatientName"]


def test_private_elements_stay_where_they_are_declared_safe() -> None:
    """The option that retains safe private elements allows them."""
    header = data_set(DeidentificationMethodCodeSequence=[option("113111")])
    header.private_block(0x0019, "SOMEBODY", create=True).add_new(1, "LO", "anything")
    assert identity.found(header) == []


def test_a_pseudonym_is_one_where_the_header_says_so() -> None:
    """Where PatientIdentityRemoved is YES, the patient id is a pseudonym, also as the name; other names are none."""
    assert found(PatientID="P7", PatientName="P7", PatientIdentityRemoved="YES") == []
    assert found(PatientID="P7", PatientName="Roe^Jane", PatientIdentityRemoved="YES") == ["PatientName"]
    assert found(PatientID="P7", PatientIdentityRemoved="NO") == ["PatientID"]


def test_of_a_published_release_only_what_names_the_patient_is_looked_for() -> None:
    """Dates and descriptions stay in published headers; a name that is the image's own id names nobody."""
    header = data_set(PatientName="abc", PatientID="abc", StudyDate="20200102", SeriesDescription="view: PA")
    assert identity.found(header, pseudonym="abc", published=True) == []
    header.PatientBirthDate = "19700102"
    assert identity.found(header, pseudonym="abc", published=True) == ["PatientBirthDate"]
