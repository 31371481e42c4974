"""JPEG files that nobody vouches for: walked from mark to mark before a decoder sees them.

Unlike PNG, JPEG holds no checksums: a file that is cut short, has bytes after its end or parts that are not what they
declare is refused, and a byte that was altered within the coded picture may go unseen. What the decoder gets are the
parts that hold the picture: profiles, thumbnails and comments never reach it.

Source: ITU-T T.81 (the JPEG standard), annex B; JFIF 1.02; Exif 2.32, section 4.6.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from cxr_ops.errors import DataError

SIGNATURE: Final = b"\xff\xd8\xff"

MAX_SCANS: Final = 100  # of a progressive picture, which has about ten; each costs a pass over all of it

_FRAMES: Final = (0xC0, 0xC1, 0xC2)  # baseline, sequential, progressive
_OTHER_FRAMES: Final = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)  # lossless, arithmetic, layered
_TABLES: Final = (0xDB, 0xC4, 0xDD)  # quantization, Huffman codes, restart interval
_JFIF, _EXIF, _ADOBE, _SCAN, _END = 0xE0, 0xE1, 0xEE, 0xDA, 0xD9
_PICTURE: Final = (*_FRAMES, *_TABLES, _JFIF, _ADOBE, _SCAN)
_COLOURS: Final = {1: "grey", 3: "three colours"}
# Where coded data end: a mark that is neither a stuffed zero, nor a restart, nor a fill byte.
_MARK: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
EXIF_BEGIN: Final = b"Exif\0\0"
_ORIENTATION: Final = 0x0112


class Checked(NamedTuple):
    """What a JPEG file says of its picture, in pixels and words, and the file without what is not the picture."""

    width: int
    height: int
    colour: str
    picture: bytes


def check(data: bytes) -> Checked:
    """Check a JPEG file from end to end without decoding it.

    Args:
        data: the whole file.

    Raises:
        DataError: it is cut short, has bytes after its end, has another depth than 8 bits, is stored in a way that is
            not read here, or says that it must be turned to be looked at.
    """
    pieces = [data[:2]]
    frames: list[tuple[int, int, int]] = []
    position, scans = 2, 0
    while True:
        mark, position = _next_mark(data, position)
        if mark == _END:
            break
        part = _segment(data, position)
        position += len(part)
        if mark in _FRAMES:
            frames.append(_read_frame(part[2:]))
        elif mark == _EXIF and part[2:].startswith(EXIF_BEGIN):
            refuse_turned("JPEG", part[2 + len(EXIF_BEGIN) :])
        if mark in _PICTURE:
            pieces += [bytes((0xFF, mark)), part]
        if mark == _SCAN:
            end = _MARK.search(data, position)
            if end is None:
                raise _cut(data)
            pieces.append(data[position : end.start()])
            position = end.start()
            scans += 1
    if position != len(data):
        raise DataError(f"the file has {len(data) - position:,} bytes after the end of the JPEG")
    if len(frames) != 1 or not 1 <= scans <= MAX_SCANS:
        raise DataError(f"the JPEG holds {len(frames)} pictures in {scans} scans, and one in 1 to {MAX_SCANS} is read")
    height, width, components = frames[0]
    if components not in _COLOURS:
        raise DataError(f"the JPEG has {components} colour channels: a radiograph has one, or three that are equal")
    return Checked(width, height, _COLOURS[components], b"".join([*pieces, b"\xff\xd9"]))


def _next_mark(data: bytes, position: int) -> tuple[int, int]:
    """The mark at a position, with fill bytes before it, and where what follows it begins."""
    if position < len(data) and data[position] != 0xFF:
        raise DataError(f"the JPEG is altered: no mark stands at byte {position:,}")
    while position < len(data) and data[position] == 0xFF:
        position += 1
    if position >= len(data):
        raise _cut(data)
    if data[position] in _OTHER_FRAMES:
        raise DataError("the JPEG is stored in a way that is not read here (lossless, arithmetic or layered)")
    return data[position], position + 1


def _segment(data: bytes, position: int) -> bytes:
    """A part with its length in front."""
    if position + 2 > len(data):
        raise _cut(data)
    (length,) = struct.unpack_from(">H", data, position)
    if length < 2:
        raise DataError(f"the JPEG is altered: the part at byte {position:,} has no length")
    if position + length > len(data):
        raise _cut(data)
    return data[position : position + length]


def _read_frame(body: bytes) -> tuple[int, int, int]:
    """Height, width and number of colour channels."""
    if len(body) < 6:
        raise DataError("the JPEG is altered: its header is too short")
    depth, height, width, components = struct.unpack_from(">BHHB", body)
    if depth != 8:
        raise DataError(f"the JPEG has {depth} bits a value, and nothing says how they map to grey: export it with 8")
    return height, width, components


def refuse_turned(kind: str, tiff: bytes) -> None:
    """Refuse a picture whose camera says that it lies on its side: the stored pixels are what is trained on.

    Args:
        kind: of the file, for the message.
        tiff: its Exif data, from their own header.

    Raises:
        DataError: it does.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == _ORIENTATION and value not in (0, 1):
            raise DataError(f"the {kind} says that it must be turned (Exif orientation {value}): export it upright")


def _cut(data: bytes) -> DataError:
    return DataError(f"the JPEG is cut short: it ends after {len(data):,} bytes without its end mark")
