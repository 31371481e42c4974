"""What in a DICOM header may name a person: the attributes that the basic profile of DICOM PS3.15 takes out.

A header that holds one of them is refused unless a person says that the files were de-identified. Two things no header
can show: that the unique identifiers were replaced, and that no name is burnt into the pixels.

The age, sex, size and weight of a patient are not looked for: the manifest needs the first two, and none of them names
anybody alone. A date is no date where it is the first day of 1900 or 1901, which de-identification writes for none.

Source: DICOM PS3.15, annex E, table E.1-1, and its options by the codes of CID 7050.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Who the patient is, or is known as elsewhere. Looked for in published releases too.
DIRECT: Final = _names(
    "AccessionNumber CountryOfResidence InsurancePlanIdentification IssuerOfPatientID MedicalRecordLocator "
    "MilitaryRank BranchOfService OtherPatientIDs OtherPatientIDsSequence OtherPatientNames PatientAddress "
    "PatientBirthDate PatientBirthName PatientBirthTime PatientInsurancePlanCodeSequence PatientMotherBirthName "
    "PatientName PatientReligiousPreference PatientTelecomInformation PatientTelephoneNumbers RegionOfResidence "
    "ResponsibleOrganization ResponsiblePerson"
)
DESCRIPTIONS: Final = _names(
    "AcquisitionComments AcquisitionDeviceProcessingDescription AcquisitionProtocolDescription "
    "AdditionalPatientHistory AdmittingDiagnosesDescription ContributionDescription DerivationDescription "
    "DischargeDiagnosisDescription FrameComments IdentifyingComments ImageComments ImagePresentationComments "
    "Impressions InterpretationDiagnosisDescription InterpretationText LabelText PatientComments "
    "PerformedProcedureStepDescription ProtocolName ReasonForStudy ReasonForTheImagingServiceRequest "
    "ReasonForTheRequestedProcedure RequestedProcedureComments RequestedProcedureDescription ResultsComments "
    "ScheduledProcedureStepDescription SeriesDescription StudyComments StudyDescription TextComments TextString "
    "VisitComments"
)
CHARACTERISTICS: Final = _names(
    "Allergies EthnicGroup MedicalAlerts Occupation PatientState PregnancyStatus SmokingStatus SpecialNeeds"
)
DEVICES: Final = _names(
    "CassetteID DetectorID DeviceDescription DeviceLabel DeviceSerialNumber GantryID PlateID ScheduledStationName "
    "StationName XRayDetectorID XRayDetectorLabel XRaySourceID"
)
INSTITUTIONS: Final = _names(
    "InstitutionAddress InstitutionCodeSequence InstitutionName InstitutionalDepartmentName "
    "InstitutionalDepartmentTypeCodeSequence"
)
OTHERS: Final = _names(
    "AdmissionID ConfidentialityConstraintOnPatientDataDescription CurrentPatientLocation DigitalSignaturesSequence "
    "FillerOrderNumberImagingServiceRequest GraphicAnnotationSequence IconImageSequence ModifiedAttributesSequence "
    "OperatorIdentificationSequence OrderCallbackPhoneNumber OrderEnteredBy OrderEntererLocation "
    "OriginalAttributesSequence PatientInstitutionResidence PerformedLocation PerformedProcedureStepID "
    "PerformingPhysicianIdentificationSequence PhysiciansOfRecordIdentificationSequence "
    "PhysiciansReadingStudyIdentificationSequence PlacerOrderNumberImagingServiceRequest ReferencedPatientSequence "
    "ReferringPhysicianAddress ReferringPhysicianIdentificationSequence ReferringPhysicianTelephoneNumbers "
    "RequestAttributesSequence RequestedProcedureID RequestingService ScheduledProcedureStepID "
    "ServiceEpisodeDescription ServiceEpisodeID StudyID"
)

# By code of CID 7050: what a header keeps on purpose, where it says that it was de-identified with this option.
_OPTIONS: Final[dict[str, frozenset[str]]] = {
    "113105": DESCRIPTIONS,
    "113108": CHARACTERISTICS,
    "113109": DEVICES,
    "113112": INSTITUTIONS,
}
_DATES_KEPT: Final = ("113106", "113107")
_PRIVATE_KEPT: Final = "113111"
_DATES: Final = ("DA", "DT", "TM")
_NO_DATES: Final = ("19000101", "19010101")
_NOBODY: Final = _names("anon anonymous anonymized anonymised deidentified de-identified none removed unknown")
_DEEPEST: Final = 16  # sequences in sequences; a header of CR or DX has four
_OVERLAYS: Final = range(0x5000, 0x6100)  # curves and overlays: drawings over the picture


class TooDeepError(ValueError):
    """Sequences in sequences beyond what any header has."""


def found(header: Any, *, pseudonym: str = "", published: bool = False) -> list[str]:
    """Names of the attributes that may say who somebody is, sorted; never their values.

    Args:
        header: a pydicom data set.
        pseudonym: what a name or an id may be without naming anybody: the image's own id in some releases.
        published: look only for what names the patient, as in a release that was de-identified by its makers.

    Raises:
        TooDeepError: sequences are nested beyond reason.
    """
    codes = {str(item.get("CodeValue", "")) for item in header.get("DeidentificationMethodCodeSequence", None) or ()}
    sought = DIRECT
    if not published:
        sought = DIRECT | DESCRIPTIONS | CHARACTERISTICS | DEVICES | INSTITUTIONS | OTHERS
        sought -= frozenset().union(*(kept for code, kept in _OPTIONS.items() if code in codes))
    nobody = {*_NOBODY, "", pseudonym.lower()}
    if str(header.get("PatientIdentityRemoved", "")).strip() == "YES":
        nobody.add(str(header.get("PatientID", "")).strip().lower())  # a pseudonym then, and often the name as well
    names = set[str]()
    for element in _elements(header, 0):
        text = _text(element)
        if text.lower() in nobody:
            continue
        if element.keyword in sought or element.keyword == "PatientID" or element.VR == "PN":
            names.add(element.keyword)
        elif not published:
            names |= _by_kind(element, text, codes)
    return sorted(names)


def _by_kind(element: Any, text: str, codes: set[str]) -> set[str]:
    """What is taken out whatever it is called: dates and times, private elements, drawings over the picture."""
    if element.tag.is_private:
        private = {f"private elements ({element.tag.group:04x})"}
        return set() if _PRIVATE_KEPT in codes else private
    if element.tag.group in _OVERLAYS:
        return {"overlays"}
    if element.VR in _DATES and not any(code in codes for code in _DATES_KEPT):
        dummy = text[:8] in _NO_DATES or (element.VR == "TM" and not text.strip("0.:"))
        return set() if dummy else {element.keyword}
    return set()


def _elements(header: Any, depth: int) -> Iterator[Any]:
    """Every element, those in sequences too."""
    if depth > _DEEPEST:
        raise TooDeepError
    for element in header:
        yield element
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _elements(item, depth + 1)


def _text(element: Any) -> str:
    """Something that is not empty where the element holds something."""
    value = element.value
    if element.VR == "SQ":
        return "items" if value else ""
    if value is None:
        return ""
    return (f"{len(value)} bytes" if value else "") if isinstance(value, bytes) else str(value).strip()
