"""Bytes of JPEG files: what is read, exactly, and what is refused, and why."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_ops.data.checking import decode, jpeg
from cxr_ops.errors import DataError

# Smooth, as radiographs are: noise would be all that JPEG loses.
GREY = np.add.outer(np.arange(24) * 4, np.arange(18) * 7).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray = GREY, **options: object) -> bytes:
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, "jpeg", **options)
    return file.getvalue()


def with_part(data: bytes, mark: int, content: bytes) -> bytes:
    """The JPEG with one more part after its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, mark, len(content) + 2) + content + data[2:]


def with_frame(data: bytes, **changes: int) -> bytes:
    """The JPEG with other values in its header."""
    at = next(data.index(bytes((0xFF, mark))) for mark in (0xC0, 0xC2) if bytes((0xFF, mark)) in data)
    fields = dict(
        zip(("mark", "length", "depth", "height", "width"), struct.unpack_from(">xBHBHH", data, at), strict=True)
    )
    return data[:at] + struct.pack(">BBHBHH", 0xFF, *(fields | changes).values()) + data[at + 9 :]


def exif(orientation: int, order: str = "<") -> bytes:
    """An Exif part that holds an orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1)
    return b"Exif\0\0" + head + struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        decode.decode_grey(data)
    return caught.value.what


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 40}, {"progressive": True}, {"restart_marker_blocks": 1}, {"comment": b"a comment"}],
    ids=["baseline", "coarse", "progressive", "restarts", "comment"],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_way_to_store_grey_decodes_as_pillow_decodes_it(mode: str, options: dict[str, object]) -> None:
    """Baseline and progressive files, in grey and in three equal colours, give the pixels that Pillow gives."""
    data = encoded(Image.fromarray(GREY).convert(mode), **options)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decode.decode_grey(data), np.asarray(image.convert("L")))
    assert (decode.read_header(data).width, decode.read_header(data).height) == (18, 24)


@pytest.mark.parametrize("progressive", [False, True])
def test_any_cut_is_noticed(progressive: bool) -> None:
    """A JPEG cut at any byte is refused, the lost end mark included, and so is one with bytes after its end."""
    data = encoded(progressive=progressive)
    for length in range(1, len(data)):
        with pytest.raises(DataError):
            decode.read_header(data[:length])
    assert "cut short" in refusal(data[:-2])
    assert "2 bytes after the end of the JPEG" in refusal(data + b"\0\0")
    assert "after the end" in refusal(data + data)


def test_what_is_not_the_picture_never_reaches_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles, thumbnails and comments are left out of what is decoded."""
    data = with_part(with_part(with_part(encoded(), 0xE2, b"ICC_PROFILE"), 0xFE, b"who and when"), 0xE1, exif(1))
    given: list[bytes] = []
    real = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda array, how: given.append(array.tobytes()) or real(array, how))
    assert np.array_equal(decode.decode_grey(data), decode.decode_grey(encoded()))
    assert given[0] == given[1] == encoded()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encoded(Image.fromarray(np.dstack([GREY, GREY[::-1], GREY]))), "colours"),
        (encoded(Image.fromarray(GREY).convert("CMYK")), "4 colour channels"),
        (with_frame(encoded(), depth=12), "12 bits a value"),
        (with_frame(encoded(), width=14000, height=14000), "14000 x 14000"),
        (with_frame(encoded(), height=0), "18 x 0"),
        (with_frame(encoded(), mark=0xC3), "lossless, arithmetic or layered"),
        (with_part(encoded(), 0xE1, exif(6)), "must be turned (Exif orientation 6)"),
        (with_part(encoded(), 0xE1, exif(3, ">")), "must be turned (Exif orientation 3)"),
        (b"\xff\xd8\xff\xd9", "holds 0 pictures"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "has no length"),
        (encoded()[:2] + encoded()[2:-2].replace(b"\xff\xda", b"\xff\xfe", 1) + b"\xff\xd9", "no mark stands"),
    ],
    ids=[
        *("colour", "cmyk", "12 bit", "bomb", "no height", "lossless", "turned", "turned, big-endian", "empty"),
        *("no length", "no scan"),
    ],
)
def test_what_has_no_one_grey_value_is_refused(data: bytes, why: str) -> None:
    """Colours, depths, sizes, ways of storing and pictures on their side are refused with that reason."""
    assert why in refusal(data)


def test_a_picture_of_many_scans_is_refused() -> None:
    """Each scan costs a pass over the whole picture: a file of hundreds is refused before it is decoded."""
    data = encoded(progressive=True)
    at = data.rindex(b"\xff\xda")
    many = data[:at] + data[at:-2] * (jpeg.MAX_SCANS + 1) + data[-2:]
    assert f"one in 1 to {jpeg.MAX_SCANS} is read" in refusal(many)


def test_a_damaged_exif_part_is_passed_over() -> None:
    """Metadata that lead nowhere say nothing about how the picture lies."""
    for content in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", exif(6)[:20], b"http://ns.adobe.com/xap/1.0/"):
        decode.decode_grey(with_part(encoded(), 0xE1, content))


def test_a_name_that_says_another_format_is_refused(tmp_path: Path) -> None:
    """A JPEG under a PNG's name, and the other way round, is refused as what it is; under its own name it is read."""
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "b.jpeg").write_bytes(cv2.imencode(".png", GREY)[1].tobytes())
    (tmp_path / "c.jpg").write_bytes(encoded())
    assert "is a JPEG picture, and its name says PNG" in str(decode.inspect(tmp_path / "a.png"))
    assert "is a PNG picture, and its name says JPEG" in str(decode.inspect(tmp_path / "b.jpeg"))
    assert isinstance(decode.inspect(tmp_path / "c.jpg"), decode.Inspected)
