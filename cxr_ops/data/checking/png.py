"""Decodes the plain kinds of PNG, as most radiographs are, in about half of the time that libpng takes.

ISA-L inflates the picture's data, and the Rust decoder of kornia-rs undoes the row filters, from a PNG whose data are
stored and not compressed. What is plain is narrow on purpose: 8 bits of grey, RGB or RGBA, not interlaced, with data
that inflate to exactly the rows that the header declares, under a right checksum. All else is left to OpenCV, whose
judgement of what does not decode is therefore the only one. So is everything where the two libraries are not installed
(the extra `fast`): the pixels are the same. See docs/decisions/0023.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

try:
    import kornia_rs.io
    from isal import igzip_lib, isal_zlib
except ImportError:  # the extra `fast` is not installed
    INSTALLED = False
    crc32 = zlib.crc32
else:
    INSTALLED = True
    crc32 = isal_zlib.crc32

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_MODES: Final = {0: (1, "mono"), 2: (3, "rgb"), 6: (4, "rgba")}  # by colour type: bytes a pixel, and the decoder's name
_HEADER: Final = struct.Struct(">IIBBBBB")
_FILTERS: Final = 5
_BLOCK: Final = 0xFFFF  # bytes that a stored block holds at most, by RFC 1951, section 3.2.4


def decode(header: bytes, deflated: Sequence[bytes | memoryview]) -> npt.NDArray[np.uint8] | None:
    """The pixels of a PNG.

    Args:
        header: content of its IHDR part.
        deflated: contents of its IDAT parts, in order.

    Returns:
        uint8, height x width where it is grey, else height x width x 3 or 4 (red, green, blue, alpha). None where the
        picture is of no plain kind, its data are in any way not as they should be, or the libraries are not installed.
    """
    if not INSTALLED:
        return None
    width, height, depth, colour, *methods = _HEADER.unpack(header)
    if depth != 8 or colour not in _MODES or any(methods):
        return None
    channels, mode = _MODES[colour]
    rows = _inflate(b"".join(deflated), height * (1 + width * channels))
    if rows is None or np.frombuffer(rows, np.uint8)[:: 1 + width * channels].max() >= _FILTERS:
        return None
    pixels = np.asarray(kornia_rs.io.decode_image_png_u8(_stored(header, rows), (height, width), mode))
    return pixels[..., 0] if channels == 1 else pixels


def _inflate(deflated: bytes, size: int) -> bytes | None:
    """The rows, if there are exactly so many bytes; never more memory than one byte beyond them."""
    stream = isal_zlib.decompressobj()
    try:
        rows: bytes = stream.decompress(deflated, size + 1)
    except igzip_lib.IsalError:
        return None
    return rows if len(rows) == size and stream.eof and not stream.unused_data else None


def _stored(header: bytes, rows: bytes) -> bytes:
    """A PNG file of the same rows whose data are not compressed."""
    data = [b"\x78\x01", *_blocks(rows), isal_zlib.adler32(rows).to_bytes(4, "big")]
    return b"".join([SIGNATURE, *_part(b"IHDR", [header]), *_part(b"IDAT", data), *_part(b"IEND", [])])


def _blocks(rows: bytes) -> Iterator[bytes | memoryview]:
    for start in range(0, len(rows), _BLOCK):
        block = memoryview(rows)[start : start + _BLOCK]
        last = start + _BLOCK >= len(rows)
        yield struct.pack("<BHH", last, len(block), len(block) ^ _BLOCK)
        yield block


def _part(kind: bytes, contents: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    checksum = isal_zlib.crc32(kind)
    for content in contents:
        checksum = isal_zlib.crc32(content, checksum)
    yield struct.pack(">I4s", sum(len(content) for content in contents), kind)
    yield from contents
    yield checksum.to_bytes(4, "big")
