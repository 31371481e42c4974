"""Pictures that are stored otherwise than they come."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicoms import dicom, drawn
from PIL import Image

from cxr_ops.data.checking import convert, decode
from cxr_ops.data.sources.source import Reading

TOP = 4095


def png(samples: np.ndarray) -> bytes:
    return cv2.imencode(".png", samples)[1].tobytes()


def taken(tmp_path: Path, data: bytes, reading: Reading | None) -> convert.Taken | str:
    path = tmp_path / ("a.png" if reading is None or reading.kind == "png16" else "a.dcm")
    path.write_bytes(data)
    return convert.inspect(convert.Job(path=path, reading=reading, target=tmp_path / "aside" / "a.png"))


def stored(tmp_path: Path, data: bytes, reading: Reading) -> tuple[np.ndarray, str]:
    found = taken(tmp_path, data, reading)
    assert isinstance(found, convert.Taken), found
    assert found.origin
    return decode.decode_grey(found.path.read_bytes()), found.origin.coding


def test_what_can_be_stored_as_it_is_is_not_touched(tmp_path: Path) -> None:
    """A picture without a reading keeps its own file, and has no origin."""
    found = taken(tmp_path, png(drawn(bits=8).astype(np.uint8)), None)
    assert isinstance(found, convert.Taken)
    assert (found.path, found.origin) == (tmp_path / "a.png", None)


def test_dicom_is_stored_with_the_digest_of_its_own_bytes(tmp_path: Path) -> None:
    """A DICOM file becomes a PNG of its samples; of its own bytes the SHA-256 is kept, and nothing of its header."""
    data = dicom(PatientName="Roe^Jane")
    found = taken(tmp_path, data, Reading(kind="dicom"))
    assert isinstance(found, convert.Taken)
    assert found.origin == convert.Origin(
        sha256=hashlib.sha256(data).hexdigest(), coding="DICOM (uncompressed, MONOCHROME2, 12 bits, no window)"
    )
    content = found.path.read_bytes()
    assert np.array_equal(decode.decode_wide(content), drawn())
    assert b"Roe" not in content
    assert found.picture.sha256 == hashlib.sha256(content).hexdigest()
    assert convert.notes([found.origin]) == ("1 picture was stored from " + found.origin.coding,)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_table_says_what_16_bits_mean(tmp_path: Path, inverted: bool) -> None:
    """Bits, window and inversion of a 16-bit PNG come from the source's table."""
    share = drawn() / TOP
    shown, coding = stored(tmp_path, png(drawn()), Reading(kind="png16", bits=12, inverted=inverted))
    assert np.abs(shown - 255 * (1 - share if inverted else share)).max() <= 0.5
    assert coding == "16-bit PNG, 12 bits used" + (", inverted" if inverted else "")
    windowed = Reading(kind="png16", bits=12, inverted=inverted, window=(2000.5, 1001))
    shown, _ = stored(tmp_path, png(drawn()), windowed)
    share = np.interp(drawn(), [1500, 2500], [0, 1])
    assert np.abs(shown - 255 * (1 - share if inverted else share)).max() <= 0.5


def test_values_beyond_the_declared_bits_show_a_stretched_picture(tmp_path: Path) -> None:
    """A picture that was stretched to 16 bits is read over all 16, and is told apart in the notes."""
    samples = (drawn().astype(np.uint32) * 16).astype(np.uint16)
    shown, coding = stored(tmp_path, png(samples), Reading(kind="png16", bits=12, window=(2000, 1000)))
    assert coding == convert.STRETCHED
    assert np.abs(shown - samples / 65535 * 255).max() <= 0.5


@pytest.mark.parametrize(
    ("data", "reading", "why"),
    [
        (png(drawn()), Reading(kind="png16"), "unknown many"),
        (png(drawn()), Reading(kind="png16", bits=20), "says that 20 are used"),
        (png(drawn()), Reading(kind="png16", bits=12, window=(100, 0)), "at least 1 wide"),
        (png(drawn(bits=8).astype(np.uint8)), Reading(kind="png16", bits=12, inverted=True), "turned that round"),
        (png(np.dstack([drawn()] * 3)), Reading(kind="png16", bits=12), "not a PNG of 16 bits of grey"),
        (b"", Reading(kind="png16", bits=12), "empty"),
        (b"", Reading(kind="dicom"), "empty"),
        (dicom(Rows=65000, Columns=65000), Reading(kind="dicom"), "65000 x 65000"),
    ],
)
def test_what_cannot_be_told_is_a_reason(tmp_path: Path, data: bytes, reading: Reading, why: str) -> None:
    """A picture whose grey cannot be told, or that does not decode, is a reason and leaves no file."""
    found = taken(tmp_path, data, reading)
    assert isinstance(found, str)
    assert why in found
    assert not (tmp_path / "aside").exists()


def test_8_bits_under_a_table_of_16_are_stored_as_they_are(tmp_path: Path) -> None:
    """A copy of 8 bits, as people make them, is taken as any picture of 8 bits."""
    found = taken(tmp_path, png(drawn(bits=8).astype(np.uint8)), Reading(kind="png16", bits=12))
    assert isinstance(found, convert.Taken)
    assert (found.path, found.origin) == (tmp_path / "a.png", None)


def test_a_blank_picture_is_refused(tmp_path: Path) -> None:
    """A picture of one grey, but for noise and a few bright pixels, shows nothing; one of 8 greys and more is taken."""
    blank = np.full((40, 40), 90, np.uint8) + np.random.default_rng(0).integers(0, 3, (40, 40), dtype=np.uint8)
    blank[0, :8] = 255
    assert "the picture is blank" in str(taken(tmp_path, png(blank), None))
    assert isinstance(taken(tmp_path, png(np.tile(np.arange(20, dtype=np.uint8), (20, 1))), None), convert.Taken)


def test_a_picture_that_asks_for_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a decoder gets no more memory, the picture is refused and the process goes on."""

    def greedy(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "decode_grey", greedy)
    assert "more memory" in str(taken(tmp_path, dicom(), Reading(kind="dicom")))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in place of a file, or nothing there, is a reason."""
    (tmp_path / "a.dcm").write_bytes(dicom())
    (tmp_path / "b.dcm").symlink_to(tmp_path / "a.dcm")
    for name in ("b.dcm", "c.dcm"):
        one = convert.Job(path=tmp_path / name, reading=Reading(kind="dicom"), target=tmp_path / "aside" / "a.png")
        assert "cannot be read" in str(convert.inspect(one))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_torn_within_is_refused(tmp_path: Path, progressive: bool, capfd: pytest.CaptureFixture) -> None:
    """libjpeg fills what is missing with grey where an end mark stands, and says so on the standard error alone."""
    pixels = drawn(shape=(96, 96), bits=8).astype(np.uint8)
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)])[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert isinstance(convert.inspect(convert.Job(path=path)), convert.Taken)
    for share in (0.4, 0.6, 0.8):
        path.write_bytes(data[: int(len(data) * share)] + b"\xff\xd9")
        assert "cut short or altered" in str(convert.inspect(convert.Job(path=path)))
    assert capfd.readouterr().err == ""
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"


def test_a_png_that_must_be_turned_is_refused(tmp_path: Path) -> None:
    """As a JPEG that says so: the stored pixels are what is trained on."""
    exif = Image.Exif()
    for orientation, refused in ((1, False), (6, True)):
        exif[0x0112] = orientation
        Image.fromarray(drawn(bits=8).astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
        found = convert.inspect(convert.Job(path=tmp_path / "a.png"))
        assert ("the PNG says that it must be turned (Exif orientation 6)" in str(found)) == refused
