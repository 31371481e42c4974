"""Bytes of PNG files: what is read, exactly, and what is refused, and why."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cxr_ops.data.checking import decode
from cxr_ops.errors import DataError

GREY = np.random.default_rng(0).integers(0, 256, (24, 18), dtype=np.uint8)


def png(image: Image.Image | np.ndarray = GREY, **options: object) -> bytes:
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, "png", **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """The PNG with one more chunk after its header."""
    return data[:33] + chunk(kind, content) + data[33:]


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        decode.decode_grey(data)
    return caught.value.what


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_every_way_to_store_grey_gives_the_stored_values(mode: str) -> None:
    """Grey stored as grey, as three equal colours, with an opaque alpha channel or as a palette decodes to the same."""
    assert np.array_equal(decode.decode_grey(png(Image.fromarray(GREY).convert(mode))), GREY)


@pytest.mark.parametrize("gamma", [45455, 100_000, 220_000])
def test_a_declared_gamma_changes_no_grey_value(gamma: int) -> None:
    """An RGBA picture with a gAMA chunk, as some NIH files are, decodes to its stored values."""
    data = with_chunk(png(Image.fromarray(GREY).convert("RGBA")), b"gAMA", struct.pack(">I", gamma))
    assert np.array_equal(decode.decode_grey(data), GREY)


@pytest.mark.parametrize("folder", ["nih_sample", "nih_originals"])
def test_real_radiographs_decode_as_pillow_decodes_them(folder: str, request: pytest.FixtureRequest) -> None:
    """Pixels of real NIH files equal Pillow's, those of the RGBA files included."""
    modes = set()
    for path in sorted((request.getfixturevalue(folder) / "images").iterdir())[:100]:
        with Image.open(path) as image:
            modes.add(image.mode)
            assert np.array_equal(decode.decode_grey(path.read_bytes()), np.asarray(image.convert("L"))), path.name
    assert modes == ({"L", "RGBA"} if folder == "nih_originals" else {"L"})


def test_any_altered_byte_is_noticed() -> None:
    """A PNG with any one byte changed is refused."""
    data = png()
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 0xFF
        with pytest.raises(DataError):
            decode.read_header(bytes(altered))


def test_any_cut_is_noticed() -> None:
    """A PNG cut at any byte is refused, the lost end mark included, and so is one with bytes after its end."""
    data = png()
    for length in range(len(data)):
        with pytest.raises(DataError):
            decode.read_header(data[:length])
    assert "after the end" in refusal(data + b"\0")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "0 bytes"),
        (b"\n<!doctype html><html>not found</html>", "web page"),
        (b"GIF89a" + bytes(40), "GIF"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "JPEG"),
        (b"PK\x03\x04" + bytes(40), "ZIP"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(100), "neither PNG nor JPEG"),
    ],
)
def test_what_is_no_png_is_named(data: bytes, name: str) -> None:
    """A file of another kind under a PNG's name is refused as what it is."""
    assert name in refusal(data)


def test_a_bomb_is_refused_on_its_header() -> None:
    """A small file that declares 14000 x 14000 pixels is refused before anything is decoded."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 14000, 14000, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"not even compressed") + chunk(b"IEND", b"")
    assert "14000 x 14000" in refusal(data)


def test_text_never_reaches_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text chunk that unpacks to 50 MB is left out of what is decoded."""
    text = zlib.compress(bytes(50_000_000))
    given: list[bytes] = []
    opencv, plain = cv2.imdecode, decode.png.decode
    monkeypatch.setattr(cv2, "imdecode", lambda array, how: given.append(array.tobytes()) or opencv(array, how))
    monkeypatch.setattr(
        decode.png,
        "decode",
        lambda header, deflated: given.append(header + b"".join(deflated)) or plain(header, deflated),
    )
    for kind, content in ((b"zTXt", b"Comment\0\0" + text), (b"iCCP", b"profile\0\0" + text)):
        assert np.array_equal(decode.decode_grey(with_chunk(png(), kind, content)), GREY)
        palette = png(Image.fromarray(GREY).convert("P"))
        assert np.array_equal(decode.decode_grey(with_chunk(palette, kind, content)), GREY)
    assert given == [png()[16:29] + png()[41:-16], *([] if decode.png.INSTALLED else [png()]), palette] * 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (png(GREY.astype(np.uint16) * 257), "16 bits"),
        (png(Image.fromarray(GREY).convert("1")), "1 bits"),
        (png(np.stack([GREY, GREY, GREY[::-1]], axis=-1)), "colours"),
        (png(np.stack([GREY, GREY[::-1], GREY], axis=-1)), "colours"),
        (png(np.stack([GREY[::-1], GREY, GREY], axis=-1)), "colours"),
        (png(np.stack([GREY, GREY, GREY, GREY], axis=-1)), "transparent"),
        (png(Image.fromarray(GREY), transparency=7), "transparent"),
        (with_chunk(png(), b"acTL", bytes(8)), "animated"),
        (with_chunk(png(), b"ABCD", b""), "unknown kind"),
        (png()[:33] + png()[-12:], "no picture data"),
    ],
    ids=["16 bit", "1 bit", "blue", "green", "red", "alpha", "transparent grey", "animated", "unknown part", "no data"],
)
def test_what_has_no_one_grey_value_is_refused(data: bytes, why: str) -> None:
    """Depths, colours, transparency and parts whose meaning cannot be told are refused with that reason."""
    assert why in refusal(data)


def test_picture_data_that_end_early_are_refused() -> None:
    """A file whose checksums are right and whose compressed data hold half of the rows is refused."""
    raw = b"".join(b"\0" + row.tobytes() for row in GREY[:10])
    data = png()[:33] + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert "do not decode" in refusal(data)


def test_shrinking_by_a_whole_number_is_the_mean_of_blocks() -> None:
    """A picture shrunk four times holds the mean of each 4 x 4 block, to the rounding of one grey value."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    blocks = pixels.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(decode.to_square(pixels, 16) - blocks).max() <= 0.5


def test_a_picture_that_is_not_square_keeps_its_shape() -> None:
    """It is padded with black around its centre, the odd line at the bottom or right, before it is resized."""
    white = np.full((7, 10), 255, np.uint8)
    expected = np.zeros((10, 10), np.uint8)
    expected[1:8] = 255
    assert np.array_equal(decode.to_square(white, 10), expected)
    assert np.array_equal(decode.to_square(white.T, 10), expected.T)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    """At its own size, a picture comes back as it was; smaller ones are enlarged to the size that was asked for."""
    square = GREY[:18]
    assert np.array_equal(decode.to_square(square, 18), square)
    large = decode.to_square(square, 36)
    assert large.shape == (36, 36)
    assert np.array_equal(large, cv2.resize(square, (36, 36), interpolation=cv2.INTER_LINEAR))


def test_the_same_picture_in_another_encoding_has_the_same_digest(tmp_path: Path) -> None:
    """Two files with equal pixels differ in the digest of the file and agree in that of the pixels."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "another encoding")
    (tmp_path / "a.png").write_bytes(png(compress_level=1))
    (tmp_path / "b.png").write_bytes(png(pnginfo=text))
    (tmp_path / "c.png").write_bytes(png(GREY.reshape(18, 24)))
    a, b, c = (decode.inspect(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    assert isinstance(a, decode.Inspected)
    assert isinstance(b, decode.Inspected)
    assert isinstance(c, decode.Inspected)
    assert (a.width, a.height) == (18, 24)
    assert a.sha256 != b.sha256
    assert a.pixels_sha256 == b.pixels_sha256 != c.pixels_sha256


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link, a folder or nothing in place of a picture is a reason, not an exception."""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("link.png", "folder.png", "none.png"):
        assert isinstance(decode.inspect(tmp_path / name), str)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("many", [0, 1, 5, 30, 40, 200])
@pytest.mark.parametrize("share", [0.0, 0.005, 0.012, 0.05, 0.3])
def test_the_spread_is_that_of_all_pixels_or_less_where_it_is_many(rows: int, many: int, share: float) -> None:
    """Of one that spans few grey values all pixels are counted; one that spans many is told no more than it has."""
    rng = np.random.default_rng([rows, many, int(1000 * share)])
    pixels = np.full((rows, 50), 20, np.uint8)
    pixels[rng.random(pixels.shape) < share] = 20 + many
    low, high = np.quantile(pixels, (0.01, 0.99), method="inverted_cdf").astype(int)
    found = decode.described(b"", pixels).spread
    assert found == high - low or 32 <= found <= high - low


def test_a_file_is_read_whole_and_a_huge_one_no_further_than_one_byte_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files up to the limit come whole, one that grows while it is opened too, and of a larger one a byte more."""
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    path = tmp_path / "file"
    for size in (0, 1, 99, 100, 101, 5000):
        path.write_bytes(bytes(range(100)) * 50 if size == 5000 else bytes(range(100))[:size] + b"x" * (size - 100))
        assert decode.read_file(path) == path.read_bytes()[:101]
    path.write_bytes(b"short")
    known = decode.os.fstat

    def then_grown(descriptor: int) -> object:
        found = known(descriptor)
        path.write_bytes(b"short, and then more")
        return found

    monkeypatch.setattr(decode.os, "fstat", then_grown)
    assert decode.read_file(path) == b"short, and then more"
