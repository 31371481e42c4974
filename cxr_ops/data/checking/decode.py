"""From the bytes of a PNG or JPEG file to grey pixels, for bytes that nobody vouches for.

`read_header` walks the file's parts before any decoder sees it. Of a PNG: signature, order, CRC of each chunk, size of
the picture, end of the file; one changed byte fails a CRC. Of a JPEG, which has no checksums: see `jpeg`. A picture too
large to be a radiograph is refused on what its header says, before memory is taken. The decoder (`png` for the plain
kinds, OpenCV for the others) then gets the parts that hold the picture and no others: text, colour profiles and
metadata, which unpack to any size, never reach its parsers.

Stored sample values are taken as they stand, whatever gamma or profile is declared, as all published work on the NIH's
files takes them. A PNG of 16 bits is read where it says which samples are black and white: see `grey`. What has no one
grey value (colours, transparency, 16 bits without such a window) is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cxr_ops.data.checking import grey, jpeg, png
from cxr_ops.errors import DataError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS: Final = 50_000_000  # twice the largest radiographic detector in use; the NIH's files hold a million
MAX_BYTES: Final = 64 * 2**20
_EVERY: Final = 4  # of so many rows one is looked at first
_MANY: Final = 32  # grey values, four times as many as a blank picture spans

_EXIF: Final = b"eXIf"
_PICTURE: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_REFUSED: Final = {
    b"acTL": "the PNG is animated",
    b"tRNS": "the PNG declares a grey or a colour to be transparent: what lies behind is not declared",
}
_COLOURS: Final = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_BY_NAME: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_OTHER_FORMATS: Final = (
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"PK", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<", "a web page or XML"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to"),
)


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    Attributes:
        width: in pixels.
        height: in pixels.
        colour: how a pixel is stored, in words.
        depth: bits a value, 8 or 16.
        window: of 16 bits, the samples that are black and white.
    """

    width: int
    height: int
    colour: str
    depth: int = 8
    window: tuple[float, float] | None = None


class _Parts(NamedTuple):
    """The parts of a file that hold its picture, and of a PNG that has no others than these, those that `png` reads."""

    all: Sequence[bytes | memoryview]
    header: bytes = b""
    deflated: Sequence[memoryview] = ()


def read_header(data: bytes, *, wide: bool = False) -> Header:
    """Check a PNG or JPEG file from end to end without decoding it.

    Args:
        data: the whole file.
        wide: read 16 bits of grey also where the file does not say what they mean.

    Raises:
        DataError: it is neither, is cut short or altered, has bytes after its end, is too large, or has no one grey
            value.

    Source: Portable Network Graphics specification, third edition, section 5; for JPEG see `jpeg`.
    """
    header, _ = _check(data)
    if not wide:
        _check_depth(header)
    return header


def decode_grey(data: bytes) -> Pixels:
    """Decode a PNG or JPEG file to grey pixels.

    Args:
        data: the whole file.

    Returns:
        The stored grey values, uint8, height x width, 0 (black) to 255; of 16 bits, those that the file's window gives.
        Three equal colour channels and an opaque alpha channel count as grey.

    Raises:
        DataError: as `read_header`; the picture's data do not decode, or it has colours or transparency.
    """
    header, parts = _check(data)
    _check_depth(header)
    pixels = _decode(header, parts)
    if header.window:
        return grey.to_8_bits(np.asarray(pixels, dtype=np.uint16), *header.window)
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels, dtype=np.uint8)
    first, second, third, *alpha = cv2.split(pixels)
    if alpha and int(alpha[0].min()) != 255:
        raise DataError(f"the picture ({header.colour}) is transparent in places: what lies behind is not declared")
    if not (np.array_equal(first, second) and np.array_equal(first, third)):
        raise DataError(f"the picture ({header.colour}) has colours: a radiograph has grey values only")
    return np.asarray(first, dtype=np.uint8)


def decode_wide(data: bytes) -> npt.NDArray[np.uint16]:
    """Decode a grey PNG of 16 bits to its samples, whatever they mean.

    Args:
        data: the whole file.

    Returns:
        The stored samples, uint16, height x width.

    Raises:
        DataError: as `read_header`; it is another picture.
    """
    header, parts = _check(data)
    if header.depth != 16 or header.colour != "grey":
        raise DataError(f"the picture ({header.colour}, {header.depth} bits) is not a PNG of 16 bits of grey")
    return np.ascontiguousarray(_decode(header, parts), dtype=np.uint16)


@dataclass(frozen=True)
class Inspected:
    """A picture that decodes.

    Attributes:
        sha256: of its file.
        pixels_sha256: of its size and its pixels.
        width: in pixels.
        height: in pixels.
        spread: grey values from the darkest to the brightest, without 1 % of the pixels at either end; where they are
            many, as in any radiograph, at least so many.
    """

    sha256: str
    pixels_sha256: str
    width: int
    height: int
    spread: int


def inspect(path: Path) -> Inspected | str:
    """Read and decode a picture; of one that cannot be used, say why.

    Two files with the same pixels in another encoding have the same `pixels_sha256`. A link is not followed.
    """
    try:
        return described(*read_picture(path))
    except OSError as error:
        return f"the file cannot be read: {error.strerror or error}"
    except DataError as error:
        return error.what


def read_picture(path: Path) -> tuple[bytes, Pixels]:
    """Read and decode a picture; a link is not followed.

    Returns:
        The file's bytes, and its pixels as `decode_grey` gives them.

    Raises:
        DataError: as `decode_grey`, or the file's name says another format than it has.
        OSError: the file cannot be read, or is a link.
    """
    data = read_file(path)
    _refuse_other_name(path, data)
    return data, decode_grey(data)


def described(data: bytes, pixels: Pixels) -> Inspected:
    """What a picture is.

    Args:
        data: the whole file.
        pixels: what `decode_grey` gave of it.
    """
    height, width = pixels.shape
    content = hashlib.sha256(f"{width} x {height}\n".encode())
    content.update(pixels.data)
    return Inspected(hashlib.sha256(data).hexdigest(), content.hexdigest(), width, height, _spread(pixels))


def _spread(pixels: Pixels) -> int:
    """See `Inspected`. A quarter of the rows is enough where 1 % of all pixels are at either end of it."""
    aside = 0.01 * pixels.size
    for rows in (pixels[::_EVERY], pixels):
        up_to = np.cumsum(histogram(rows))
        spread = int(np.searchsorted(up_to, up_to[-1] - aside)) - int(np.searchsorted(up_to, aside))
        if spread >= _MANY:
            break
    return spread


def histogram(pixels: Pixels) -> npt.NDArray[np.int64]:
    """How often each grey value from 0 to 255 is there: NumPy's `bincount`, in a quarter of its time.

    Args:
        pixels: uint8, height x width.
    """
    # OpenCV counts in float32, which is exact up to 2^24: rows are counted in groups of no more pixels than that.
    counts = np.zeros(256, np.int64)
    rows = 2**24 // pixels.shape[1] or 1
    for start in range(0, pixels.shape[0], rows):
        counts += cv2.calcHist([pixels[start : start + rows]], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts


def _refuse_other_name(path: Path, data: bytes) -> None:
    """A name that says another format than the file has is somebody's mistake, and only they know which."""
    kind = "JPEG" if data.startswith(jpeg.SIGNATURE) else "PNG" if data.startswith(png.SIGNATURE) else None
    says = _BY_NAME.get(path.suffix.lower())
    if kind and says and kind != says:
        raise DataError(f"the file is a {kind} picture, and its name says {says}: rename the file and its row")


def read_file(path: Path) -> bytes:
    """The bytes of a file, without following a link, and no more than one byte beyond `MAX_BYTES`.

    Raises:
        DataError: it is a folder, a pipe or a device.
        OSError: it cannot be read, or is a link.
    """
    with opened(path) as file:
        # As many bytes as it has, for what is asked is also reserved; one more tells whether it has grown since.
        size = min(os.fstat(file.fileno()).st_size, MAX_BYTES)
        data = file.read(size + 1)
        return data + file.read(MAX_BYTES - size) if len(data) > size else data


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, without following a link or waiting for a pipe.

    Raises:
        DataError: it is a folder, a pipe or a device.
        OSError: it cannot be read, or is a link.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DataError("it is not a file")
        yield file


def to_square(pixels: Pixels, size: int) -> Pixels:
    """Bring a picture to the side that the network sees.

    A picture that is not square keeps its shape: it is padded with black to a centred square first (the odd line goes
    to the bottom or right). Then it is resized by area when it shrinks and linearly when it grows. A package's own
    `network.preprocess` must do exactly this.

    Args:
        pixels: uint8, height x width.
        size: side of the result in pixels.

    Returns:
        uint8, size x size.
    """
    height, width = pixels.shape
    side = max(height, width)
    if height != width:
        top, left = (side - height) // 2, (side - width) // 2
        square = np.zeros((side, side), np.uint8)
        square[top : top + height, left : left + width] = pixels
        pixels = square
    if side == size:
        return pixels
    how = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how), dtype=np.uint8)


def _decode(header: Header, parts: _Parts) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    if parts.deflated and (plain := png.decode(parts.header, parts.deflated)) is not None:
        return plain
    try:
        pixels = cv2.imdecode(np.frombuffer(b"".join(parts.all), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError("the picture's data do not decode") from error
    if pixels is None:
        raise DataError("the picture's data do not decode")
    depth = np.uint16 if header.depth == 16 else np.uint8
    if pixels.dtype != depth or pixels.shape[:2] != (header.height, header.width):
        raise DataError("the picture that was decoded is not the one that the header declares")
    return np.asarray(pixels)


def _check(data: bytes) -> tuple[Header, _Parts]:
    """The header, and the parts that hold the picture."""
    if len(data) > MAX_BYTES:
        raise DataError(f"the file has {len(data):,} bytes; more than {MAX_BYTES:,} is no radiograph")
    if data.startswith(jpeg.SIGNATURE):
        found = jpeg.check(data)
        check_size("JPEG", found.width, found.height)
        return Header(found.width, found.height, found.colour), _Parts([found.picture])
    if not data.startswith(png.SIGNATURE):
        raise DataError(_no_picture(data))
    header, parts = _check_png(data)
    whole = _Parts([png.SIGNATURE, *parts])
    if {bytes(part[4:8]) for part in parts[1:-1]} != {b"IDAT"}:
        return header, whole
    contents = [part[8:-4] for part in parts]
    return header, whole._replace(header=bytes(contents[0]), deflated=contents[1:-1])


def _check_png(data: bytes) -> tuple[Header, list[memoryview]]:
    """The header, and the parts that hold the picture, from the first to the end mark."""
    header: Header | None = None
    kinds: list[bytes] = []
    parts: list[memoryview] = []
    position = len(png.SIGNATURE)
    while b"IEND" not in kinds[-1:]:
        kind, part = _read_chunk(data, position)
        if header is None:
            header = _read_ihdr(kind, bytes(part[8:-4]))
        elif kind in _REFUSED:
            raise DataError(_REFUSED[kind])
        elif kind not in _PICTURE and not kind[0] & 0x20:  # a capital first letter says: not to be skipped
            raise DataError(f"the PNG has a part of an unknown kind at byte {position:,}")
        if kind == _EXIF:
            jpeg.refuse_turned("PNG", bytes(part[8:-4]).removeprefix(jpeg.EXIF_BEGIN))
        if kind == grey.CHUNK:
            header = replace(header, window=grey.read_window(bytes(part[8:-4])))
        if kind in _PICTURE:
            kinds.append(kind)
            parts.append(part)
        position += len(part)
    if header is None or b"IDAT" not in kinds:
        raise DataError("the PNG holds no picture data")
    if position != len(data):
        raise DataError(f"the file has {len(data) - position:,} bytes after the end of the PNG")
    return header, parts


def _read_chunk(data: bytes, position: int) -> tuple[bytes, memoryview]:
    """A chunk's kind, and all of it: length, kind, content and CRC."""
    if position + 12 > len(data):
        raise DataError(f"the PNG is cut short: it ends after {len(data):,} bytes without its end mark")
    length, kind = struct.unpack_from(">I4s", data, position)
    end = position + 12 + length
    if end > len(data):
        raise DataError(f"the PNG is cut short or altered: {end - len(data):,} bytes or more are missing")
    part = memoryview(data)[position:end]
    if png.crc32(part[4:-4]) != struct.unpack_from(">I", data, end - 4)[0]:
        raise DataError(f"the PNG is altered: the checksum of the part at byte {position:,} is wrong")
    return kind, part


def _read_ihdr(kind: bytes, body: bytes) -> Header:
    if kind != b"IHDR" or len(body) != 13:
        raise DataError("the PNG does not begin with its header")
    width, height, depth, colour = struct.unpack_from(">IIBB", body)
    check_size("PNG", width, height)
    if colour not in _COLOURS:
        raise DataError(f"the PNG stores pixels in a way ({colour}) that does not exist")
    return Header(width, height, _COLOURS[colour], depth)


def _check_depth(header: Header) -> None:
    wide = header.depth == 16 and header.colour == "grey"
    if header.window and not wide:
        raise DataError(f"the PNG ({header.colour}, {header.depth} bits) has a window, which is for 16 bits of grey")
    if header.depth != 8 and not header.window:
        ways = " (or ingest it by a source whose table says it, as padchest's does)" if wide else ""
        raise DataError(
            f"the PNG has {header.depth} bits a value, and nothing says how they map to grey: export it with 8{ways}"
        )


def check_size(kind: str, width: int, height: int) -> None:
    """See that a picture has pixels, and not too many.

    Raises:
        DataError: it has none, or more than `MAX_PIXELS`.
    """
    if width == 0 or height == 0 or width * height > MAX_PIXELS:
        raise DataError(f"the {kind} says that it is {width} x {height} pixels; 1 to {MAX_PIXELS:,} pixels are read")


def _no_picture(data: bytes) -> str:
    if not data:
        return "the file is empty (0 bytes)"
    if data[128:132] == b"DICM":
        return "the file is DICOM, neither PNG nor JPEG"
    start = data[:256].lstrip()
    for mark, name in _OTHER_FORMATS:
        if start.startswith(mark):
            return f"the file is {name}, neither PNG nor JPEG"
    return "the file is neither PNG nor JPEG"
