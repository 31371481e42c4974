"""The plain kinds of PNG, decoded: every row filter and channel, and what is left to OpenCV."""

from __future__ import annotations

import contextlib
import io
import itertools
import runpy
import struct
import sys
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_ops.data.checking import decode, png
from cxr_ops.errors import DataError

pytest.importorskip("isal")  # reason: the extra `fast` may be missing, and then OpenCV reads all
pytest.importorskip("kornia_rs")

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
RNG = np.random.default_rng(0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def file(header: bytes, *deflated: bytes, between: bytes = b"") -> bytes:
    data = b"".join(chunk(b"IDAT", part) for part in deflated)
    return png.SIGNATURE + chunk(b"IHDR", header) + between + data + chunk(b"IEND", b"")


def ihdr(width: int, height: int, colour: int = 0, depth: int = 8, interlace: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def drawn(width: int, height: int, colour: int = 0, filters: range = range(5)) -> bytes:
    """Rows of any bytes, each under any of some filters: whatever they decode to, all decoders must agree."""
    rows = RNG.integers(0, 256, (height, 1 + width * CHANNELS[colour]), dtype=np.uint8)
    rows[:, 0] = RNG.choice(filters, height)
    return rows.tobytes()


def pillows(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("colour", [0, 2, 6])
@pytest.mark.parametrize("filters", [*(range(n, n + 1) for n in range(5)), range(5)], ids=str)
def test_every_filter_is_undone_as_pillow_undoes_it(colour: int, filters: range) -> None:
    """Pictures of all small sizes, and of more data than a stored block holds, decode to Pillow's pixels."""
    sizes = [(w, h) for w in (1, 2, 3, 7, 18) for h in (1, 2, 5)] + [(300, 240), (0xFFFF // 3 - 1, 3), (21844, 3)]
    for width, height in sizes:
        header, packed = ihdr(width, height, colour), zlib.compress(drawn(width, height, colour, filters))
        found = png.decode(header, [packed])
        assert found is not None
        assert found.dtype == np.uint8
        assert np.array_equal(found, pillows(file(header, packed))), (width, height)


@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_data_in_pieces_are_one_stream(pieces: int) -> None:
    """However many parts hold the data, the picture is the same."""
    packed, header = zlib.compress(drawn(40, 30)), ihdr(40, 30)
    cuts = np.linspace(0, len(packed), pieces + 1).astype(int)
    parts = [packed[a:b] for a, b in itertools.pairwise(cuts)]
    assert np.array_equal(png.decode(header, parts), pillows(file(header, packed)))


def faulty() -> Iterator[tuple[str, bytes, bytes]]:
    good = drawn(40, 30)
    packed = zlib.compress(good)
    yield "wrong checksum", ihdr(40, 30), packed[:-4] + bytes(4)
    yield "no checksum", ihdr(40, 30), packed[:-4]
    yield "cut", ihdr(40, 30), packed[:-200]
    yield "a row is missing", ihdr(40, 30), zlib.compress(good[:-41])
    yield "a byte is missing", ihdr(40, 30), zlib.compress(good[:-1])
    yield "a row too many", ihdr(40, 30), zlib.compress(good + bytes(41))
    yield "a byte too many", ihdr(40, 30), zlib.compress(good + b"\0")
    yield "bytes after the stream", ihdr(40, 30), packed + b"abc"
    yield "a filter that does not exist", ihdr(40, 30), zlib.compress(good[: 41 * 7] + b"\5" + good[41 * 7 + 1 :])
    yield "not compressed", ihdr(40, 30), good
    yield "gzip", ihdr(40, 30), b"\x1f\x8b\x08\0\0\0\0\0\0\3" + packed[2:]
    yield "another method", ihdr(40, 30)[:10] + b"\1\0\0", packed
    yield "another filter method", ihdr(40, 30)[:11] + b"\1\0", packed
    yield "interlaced", ihdr(40, 30, interlace=1), packed
    for depth in (1, 2, 4, 16):
        yield f"{depth} bits", ihdr(40, 30, depth=depth), zlib.compress(bytes(30 * (1 + 40 * depth // 8)))
    yield "palette", ihdr(40, 30, colour=3), packed
    yield "grey with alpha", ihdr(40, 30, colour=4), zlib.compress(drawn(40, 30, 4))


@pytest.mark.parametrize(("header", "packed"), [case[1:] for case in faulty()], ids=[case[0] for case in faulty()])
def test_what_is_not_plain_is_left_to_opencv(header: bytes, packed: bytes) -> None:
    """Another kind of PNG, and data that are in any way not as they should be, give nothing here."""
    assert png.decode(header, [packed]) is None


@pytest.mark.parametrize("case", [*faulty(), ("good", ihdr(40, 30), zlib.compress(drawn(40, 30)))], ids=lambda c: c[0])
def test_what_is_read_and_what_is_refused_is_opencvs(
    case: tuple[str, bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without this decoder, the same files are read, to the same pixels, and the same are refused, for it."""

    def outcome(data: bytes) -> bytes | str:
        try:
            return decode.decode_grey(data).tobytes()
        except DataError as error:
            return error.what

    palette = chunk(b"PLTE", np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    data = file(*case[1:], between=palette if case[0] == "palette" else b"")
    found = outcome(data)
    monkeypatch.setattr(png, "decode", lambda *parts: None)
    assert outcome(data) == found


@pytest.mark.parametrize("between", [b"PLTE", b"IHDR"])
def test_parts_that_do_not_belong_there_are_opencvs_to_judge(between: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey picture with a palette, or with two headers, is not taken for a plain one."""
    monkeypatch.setattr(png, "decode", lambda *parts: pytest.fail("it was"))
    content = bytes(768) if between == b"PLTE" else ihdr(40, 30)
    data = file(ihdr(40, 30), zlib.compress(drawn(40, 30)), between=chunk(between, content))
    with (
        pytest.raises(DataError)
        if cv2.imdecode(np.frombuffer(data, np.uint8), -1) is None
        else contextlib.nullcontext()
    ):
        decode.decode_grey(data)


def test_without_the_libraries_everything_is_left_to_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra `fast` is not installed nothing is read here, and the picture has the same pixels."""
    header, packed = ihdr(40, 30), zlib.compress(drawn(40, 30))
    found = decode.decode_grey(file(header, packed))
    for name in ("isal", "kornia_rs.io"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            alone = runpy.run_path(png.__file__)
        assert alone["decode"](header, [packed]) is None
    monkeypatch.setattr(png, "INSTALLED", False)
    assert np.array_equal(decode.decode_grey(file(header, packed)), found)


def test_a_small_file_never_takes_more_memory_than_its_header_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data that inflate to 200 MB under a header of 40 x 30 pixels, one byte more than the picture is inflated."""
    inflated: list[int] = []
    make = png.isal_zlib.decompressobj

    class Counted:
        def __init__(self) -> None:
            self.stream = make()

        def decompress(self, data: bytes, most: int) -> bytes:
            found = self.stream.decompress(data, most)
            inflated.append(len(found))
            return found

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

    monkeypatch.setattr(png.isal_zlib, "decompressobj", Counted)
    assert png.decode(ihdr(40, 30), [zlib.compress(bytes(200_000_000))]) is None
    assert inflated == [30 * 41 + 1]


def test_real_radiographs_are_plain(nih_originals) -> None:
    """Each of the NIH's own files, grey and RGBA, is read here, to Pillow's pixels, and not by the slower way."""
    for path in sorted((nih_originals / "images").iterdir()):
        data, contents, position = path.read_bytes(), [], 8
        while position < len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            if kind in (b"IHDR", b"IDAT"):
                contents.append(data[position + 8 : position + 8 + length])
            position += 12 + length
        found = png.decode(contents[0], contents[1:])
        assert found is not None, path.name
        assert np.array_equal(found, pillows(data)), path.name
