"""DICOM files: what is read of them, exactly, and what is refused, and why."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import cv2
import dicoms
import numpy as np
import pydicom
import pytest
from dicoms import compressed, data_set, dicom, drawn, written
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from cxr_ops.data.checking import decode, grey
from cxr_ops.data.checking import dicom as reading
from cxr_ops.errors import DataError
from cxr_ops.report import batch


def shown(data: bytes) -> np.ndarray:
    """What the stored picture decodes to."""
    found = reading.read_picture(data)
    return decode.decode_grey(grey.encode(found.samples, *found.window))


def second(data: bytes) -> np.ndarray:
    """The same by pydicom's own steps, to 8 bits by the definition of the window."""
    header = pydicom.dcmread(io.BytesIO(data))
    values = apply_modality_lut(header.pixel_array, header)
    given = "WindowCenter" in header or "VOILUTSequence" in header
    values = apply_voi_lut(values, header).astype(float)
    low, high = 0.0, 2.0**header.BitsStored - 1
    if header.PixelRepresentation:
        low, high = -(2.0 ** (header.BitsStored - 1)), 2.0 ** (header.BitsStored - 1) - 1
    if "VOILUTSequence" in header:
        low, high = 0.0, 2.0 ** header.VOILUTSequence[0].LUTDescriptor[2] - 1
    if given and "VOILUTSequence" not in header:  # pydicom's windows span the rescaled range of the stored bits
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
        low, high = low * slope + intercept, high * slope + intercept
    share = (values - low) / (high - low)
    if header.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return share * 255


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        reading.read_picture(data)
    return caught.value.what


def facts(data: bytes, **how: Any) -> reading.Facts:
    found = reading.read_facts(io.BytesIO(data), **how)
    assert isinstance(found, reading.Facts), found
    return found


def header_refusal(**others: Any) -> str:
    found = reading.read_facts(io.BytesIO(dicom(**others)))
    assert isinstance(found, reading.Refused)
    assert found.uid == f"{dicoms.ROOT}.1"
    return found.what


@pytest.mark.parametrize(
    ("others", "rule"),
    [
        ({"PatientName": "Doe"}, "The DICOM header may name somebody"),
        ({"BurnedInAnnotation": "YES"}, "The DICOM header says that something is burnt into the picture"),
        ({"Modality": "CT"}, "The picture is no radiograph of CR or DX"),
        ({"BodyPartExamined": "KNEE"}, "The picture is not of the chest"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "The picture is the detector's raw one"),
    ],
)
def test_the_page_of_a_batch_names_the_rule_of_a_refused_header(others: dict[str, str], rule: str) -> None:
    """What is wrong with a header is a rule of its own on the page, and none that one must look up."""
    assert batch.rule(header_refusal(**others)) == rule


def table(greys: np.ndarray, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(greys) % 65536, first, bits])
    item.add_new(0x00283006, "OW", greys.astype("<u2").tobytes())
    return item


LUT = (np.linspace(0, 1, 4096) ** 2 * 1023).astype(np.uint16)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"PixelAspectRatio": [1, 1]},
        {"bits": 8},
        {"bits": 10},
        {"bits": 16},
        {"WindowCenter": 2000, "WindowWidth": 1500},
        {"WindowCenter": [1800, 900], "WindowWidth": [2500, 100]},
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 3000, "WindowWidth": 5000, "RescaleSlope": "2.5", "RescaleIntercept": "-1024"},
        {"VOILUTSequence": [table(LUT, 0, 10)]},
        {"VOILUTSequence": [table(LUT[::4], 300, 10)]},
    ],
    ids=[
        "plain",
        "square",
        "8",
        "10",
        "16",
        "window",
        "two windows",
        "exact",
        "sigmoid",
        "rescale",
        "table",
        "short table",
    ],
)
def test_grey_is_what_pydicom_makes_of_it(others: dict[str, Any], photometric: str) -> None:
    """Bits, rescale, window, table and photometric interpretation give pydicom's grey, to half a grey value."""
    data = dicom(PhotometricInterpretation=photometric, **others)
    assert np.abs(shown(data) - second(data)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 100, "WindowWidth": 900}], ids=["plain", "window"])
def test_signed_samples_are_shown_from_their_lowest(window: dict[str, Any]) -> None:
    """Samples with a sign have their grey by the same rules; the lowest that can be is black."""
    data = dicom(drawn().astype(np.int16) - 2048, **window)
    assert np.abs(shown(data) - second(data)).max() <= 0.5 + 1e-6


def test_a_table_for_signed_samples_begins_below_0() -> None:
    """The first sample of a table is read with its sign where samples have one, as 63488 for -2048."""
    samples = drawn().astype(np.int16) - 2048
    found = reading.read_picture(dicom(samples, VOILUTSequence=[table(LUT, 65536 - 2048, 10)]))
    assert np.array_equal(found.samples, LUT[drawn()])
    assert found.window == (0, 1023)


def test_a_table_of_the_modality_comes_before_the_window() -> None:
    """Samples go through the modality's table, and the window is one of its values."""
    item = table(LUT, 0, 10)
    found = reading.read_picture(dicom(ModalityLUTSequence=[item], WindowCenter=500.5, WindowWidth=201))
    assert np.array_equal(found.samples, LUT[drawn()])
    assert found.window == (400, 600)
    assert reading.read_picture(dicom(ModalityLUTSequence=[item])).window == (0, 1023)


def test_samples_are_stored_as_they_are() -> None:
    """What is stored under a window are the file's own samples: no bit is lost, and MONOCHROME1 is turned round."""
    samples = drawn()
    found = reading.read_picture(dicom(samples, WindowCenter=2000, WindowWidth=1500))
    assert np.array_equal(found.samples, samples)
    assert np.array_equal(decode.decode_wide(grey.encode(found.samples, *found.window)), samples)
    turned = reading.read_picture(dicom(samples, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(turned.samples, 4095 - samples)


@pytest.mark.parametrize("coding", ["lossless", "jpegls", "jpeg2000", "rle"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_compressed_pictures_are_those_that_were_compressed(coding: str, bits: int) -> None:
    """Each lossless coding, of 8 to 16 bits, gives the samples that went in."""
    samples = drawn(bits=bits)
    found = reading.read_picture(compressed(dicom(samples, bits=bits), coding))
    assert np.array_equal(found.samples, samples)
    assert f"{bits} bits" in found.coding


def test_lossy_pictures_are_decoded() -> None:
    """JPEG of 8 bits decodes as OpenCV decodes the same JPEG; of more bits, which no decoder reads, it is refused."""
    samples = drawn(bits=8)
    ok, jpeg = cv2.imencode(".jpg", samples.astype(np.uint8))
    assert ok
    header = data_set(samples, bits=8, PixelData=encapsulate([jpeg.tobytes()]))
    header["PixelData"].is_undefined_length = True
    found = reading.read_picture(written(header, JPEGBaseline8Bit))
    assert np.abs(found.samples.astype(int) - cv2.imdecode(jpeg, cv2.IMREAD_UNCHANGED)).max() <= 1
    assert "lossy JPEG of" in refusal(compressed(dicom(), "jpeg12"))


def test_implicit_headers_are_read() -> None:
    """The default transfer syntax, whose elements do not say their kind, gives the same samples."""
    assert np.array_equal(reading.read_picture(written(data_set(), ImplicitVRLittleEndian)).samples, drawn())


def test_bits_above_the_stored_ones_are_no_part_of_the_picture() -> None:
    """An overlay in the unused high bits changes no sample."""
    samples = drawn()
    data = dicom(samples | np.uint16(0x8000))
    assert np.array_equal(reading.read_picture(data).samples, samples)


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"Rows": 65000, "Columns": 65000}, "65000 x 65000"),
        ({"Rows": 41}, "are needed"),
        ({"Rows": 39}, "are needed"),
        ({"Rows": 0}, "0 pixels"),
        ({"Rows": None}, "does not say Rows"),
        ({"PixelData": bytes(10)}, "are needed"),
        ({"PixelData": b""}, "holds no picture"),
        ({"PixelData": None}, "holds no picture"),
        ({"NumberOfFrames": 2}, "holds 2 pictures"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not grey"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not grey"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "not grey"),
        ({"PhotometricInterpretation": None}, "no declared kind"),
        ({"BitsStored": 17}, "8 to 16 bits"),
        ({"BitsStored": 4, "HighBit": 3}, "8 to 16 bits"),
        ({"HighBit": 15}, "up to bit 15"),
        ({"BitsAllocated": 32}, "of 32 bits"),
        ({"PixelAspectRatio": [1, 2]}, "not square (PixelAspectRatio 1:2)"),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, "contradicts itself"),
        ({"PresentationLUTShape": "INVERSE"}, "contradicts itself"),
        ({"WindowCenter": 100, "WindowWidth": 0}, "the width 0"),
        ({"WindowCenter": 100, "WindowWidth": 10, "VOILUTFunction": "CURVED"}, "CURVED"),
        ({"RescaleSlope": "-1"}, "slope is -1"),
        ({"RescaleSlope": "0"}, "slope is 0"),
        ({"VOILUTSequence": [table(LUT[:100], 0, 17)]}, "does not hold"),
        ({"VOILUTSequence": [table(LUT, 0, 8)]}, "does not hold"),
    ],
)
def test_headers_that_lie_or_have_no_one_meaning_are_refused(others: dict[str, Any], why: str) -> None:
    """Sizes, depths, channels, frames and greys that do not fit, or cannot be told, are refused with that reason."""
    assert why in refusal(dicom(**others))


def test_a_table_that_is_cut_is_refused() -> None:
    """A table of greys with fewer values than it declares is refused."""
    item = table(LUT, 0, 10)
    item.LUTData = item.LUTData[:100]
    assert "does not hold the 4,096 values" in refusal(dicom(VOILUTSequence=[item]))


@pytest.mark.parametrize("coding", ["lossless", "jpegls", "jpeg2000", "rle"])
def test_a_compressed_picture_that_is_not_the_declared_one_is_refused(coding: str) -> None:
    """A compressed picture of another size than the header's, cut short, or beside another one is refused."""
    data = compressed(dicom(), coding)
    header = pydicom.dcmread(io.BytesIO(data))
    header.Rows = 41
    other = io.BytesIO()
    header.save_as(other)
    assert "says 36 x 40" in refusal(other.getvalue()) or "does not hold every sample" in refusal(other.getvalue())
    frame = next(pydicom.encaps.generate_frames(header.PixelData, number_of_frames=1))
    header.Rows = 40
    for frames, whys in (
        ([frame[: len(frame) // 2]], ("cut short", "do not follow")),
        ([frame[:10]], ("cut short",)),
        ([frame, frame], ("holds", "does not hold")),
    ):
        header.PixelData = encapsulate([b"".join(frames) if coding != "rle" else frames[0]], has_bot=False)
        if coding == "rle" and len(frames) == 2:
            continue
        file = io.BytesIO()
        header.save_as(file)
        assert any(why in refusal(file.getvalue()) for why in whys), refusal(file.getvalue())


def test_every_cut_and_many_altered_bytes_end_in_a_picture_or_a_reason() -> None:
    """A file that is cut anywhere is refused; with any byte altered it is read or refused, and nothing else happens."""
    for data in (dicom(), compressed(dicom(), "lossless"), compressed(dicom(), "rle")):
        for length in [*range(0, 700, 23), *range(700, len(data), 211)]:
            with pytest.raises(DataError):
                reading.read_picture(data[:length])
        rng = np.random.default_rng(1)
        for at in rng.integers(0, len(data), 150):
            altered = bytearray(data)
            altered[at] ^= 0xFF
            with contextlib.suppress(DataError):
                reading.read_picture(bytes(altered))


def test_a_deflated_file_is_refused_before_it_unpacks() -> None:
    """Transfer syntaxes that unpack to any size, or that no decoder reads, are refused by their number."""
    for syntax in (
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.100",
    ):
        data = dicom().replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0")[:20])
        at = data.index(struct.pack("<HH2s", 2, 0x10, b"UI"))
        end = at + 8 + struct.unpack_from("<H", data, at + 6)[0]
        value = syntax.encode() + b"\0" * (len(syntax) % 2)
        data = data[: at + 6] + struct.pack("<H", len(value)) + value + data[end:]
        assert f"transfer syntax {syntax}" in refusal(data)


def test_what_is_no_dicom_is_named() -> None:
    """An empty file, a PNG and a file without its mark are refused as what they are."""
    assert "empty" in refusal(b"")
    assert "not DICOM" in refusal(cv2.imencode(".png", drawn())[1].tobytes())
    assert "not DICOM" in refusal(dicom()[132:])


def test_facts_are_what_the_manifest_needs_and_no_more() -> None:
    """Of a header are taken its UID, patient, age, sex and view."""
    found = facts(dicom(PatientID="P7", PatientIdentityRemoved="YES", StudyDate="19000101"))
    assert found == reading.Facts(uid=f"{dicoms.ROOT}.1", patient_id="P7", age="058Y", sex="F", view="PA")


def test_the_view_may_stand_as_a_code() -> None:
    """Where ViewPosition is empty, as in DX, the code of the view says PA or AP; without either it is not known."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "399348003", "SCT"
    assert facts(dicom(ViewPosition="", ViewCodeSequence=[code])).view == "AP"
    assert facts(dicom(ViewPosition=None)).view == ""


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"Modality": "CT"}, "the modality is 'CT'"),
        ({"Modality": None}, "the modality is 'missing'"),
        ({"ViewPosition": "LL"}, "the view is 'LL'"),
        ({"BodyPartExamined": "HAND"}, "the body part is 'HAND'"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw"),
        ({"BurnedInAnnotation": "YES"}, "burnt into the picture"),
    ],
)
def test_other_pictures_than_frontal_radiographs_are_refused(others: dict[str, Any], why: str) -> None:
    """Another modality, view or body part, a raw picture and burnt-in text are refused, with the UID."""
    assert why in header_refusal(**others)


def test_a_file_without_a_uid_is_refused() -> None:
    """Labels find a file by its UID: one without is of no use."""
    with pytest.raises(DataError, match="no SOP Instance UID"):
        facts(dicom(SOPInstanceUID=None))


def test_a_header_that_names_somebody_is_refused_unless_told() -> None:
    """A header with a name is refused without the name being told; said to be de-identified, it is read."""
    what = header_refusal(PatientName="Roe^Jane", PatientBirthDate="19700102")
    assert "PatientBirthDate, PatientName" in what
    assert "Roe" not in what
    assert "1970" not in what
    data = dicom(PatientName="Roe^Jane", BurnedInAnnotation="YES", PatientID="7")
    assert facts(data, deidentified=True).patient_id == "7"


def test_a_header_of_sequences_in_sequences_is_refused() -> None:
    """A header nested beyond reason ends in a reason."""
    inner = Dataset()
    inner.StudyID = "1"
    for _ in range(40):
        outer = Dataset()
        outer.RequestAttributesSequence = [inner]
        inner = outer
    with pytest.raises(DataError, match="nests sequences"):
        facts(dicom(RequestAttributesSequence=[inner]))


def test_explicit_is_what_these_tests_write() -> None:
    """The helper's file is one that pydicom reads whole."""
    assert pydicom.dcmread(io.BytesIO(dicom())).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
