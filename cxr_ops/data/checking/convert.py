"""Takes one picture in: decodes it, and where its source's file cannot be stored as it is, stores it without loss.

Runs in a process whose death is survivable. PNG and JPEG of 8 bits are stored as they are; DICOM, and PNG of 16 bits
whose meaning a table tells, become 16-bit PNG files with a window (see `grey`), and the SHA-256 of the source's own
file is kept beside them. What a network sees later is decoded from the stored file by the same code for every source.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from cxr_ops.data.checking import decode, fingerprints, grey
from cxr_ops.data.sources.source import Reading, Row
from cxr_ops.errors import DataError

BLANK: Final = 8  # grey values that a picture spans at least; each of 1,326 real ones spans 99 or more
# What libjpeg says where it fills what is missing with grey. Extra bytes before a mark, of which it says another thing,
# some encoders write.
_TORN: Final = (b"premature end", b"bad Huffman code")
_COMPLAINTS: Final = 2**16  # bytes that a pipe holds
STRETCHED: Final = "16-bit PNG, stretched to 16 bits"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a stored picture was made from: SHA-256 of the source's own file, and how that file was coded, in words."""

    sha256: str
    coding: str


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A picture, the file that is stored of it, and what that was made from; None where it is the source's own.

    `fingerprint` is what `fingerprints.row` gives of its pixels.
    """

    picture: decode.Inspected
    path: Path
    fingerprint: bytes
    origin: Origin | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to take in: its file, how that is read, and the file to write where it is converted."""

    path: Path
    reading: Reading | None = None
    target: Path | None = None


def job(row: Row, aside: Path | None) -> Job:
    """What is to be done for a row.

    Args:
        row: of a source.
        aside: the folder for converted pictures.

    Raises:
        ValueError: the row's picture must be converted, and there is no such folder.
    """
    if row.reading is None:
        return Job(path=row.path)
    if aside is None:
        raise ValueError("pictures of this source are converted, and no folder was given for them")
    return Job(path=row.path, reading=row.reading, target=aside / row.image_id)


def inspect(one: Job) -> Taken | str:
    """Read, decode and, where it must be, convert a picture; of one that cannot be used, say why.

    A link is not followed. What a converted file decodes to is what was inspected: it is read back. A picture without a
    picture in it, all of one grey or nearly so, cannot be used.
    """
    try:
        found = _taken(one)
    except MemoryError:
        return "decoding it needs more memory than a radiograph does"
    if isinstance(found, Taken) and found.picture.spread < BLANK:
        return (
            f"the picture is blank: nearly all of its pixels are within {found.picture.spread + 1} of 256 grey values"
        )
    return found


def _taken(one: Job) -> Taken | str:
    try:
        if one.reading is None or one.target is None:
            return _as_it_is(one.path)
        data = decode.read_file(one.path)
        if one.reading.kind == "png16" and decode.read_header(data, wide=True).depth == 8:
            _refuse_inverted(one.reading)
            return _as_it_is(one.path)
        samples, window, coding = _samples(data, one.reading)
        stored = grey.encode(samples, *window)
        pixels = decode.decode_grey(stored)
    except OSError as error:
        return f"the file cannot be read: {error.strerror or error}"
    except DataError as error:
        return error.what
    one.target.parent.mkdir(parents=True, exist_ok=True)
    one.target.write_bytes(stored)
    origin = Origin(sha256=hashlib.sha256(data).hexdigest(), coding=coding)
    return _described(stored, pixels, one.target, origin)


def notes(origins: Iterable[Origin]) -> tuple[str, ...]:
    """What a person should know of how pictures were converted, a line a coding with its count."""
    counts = Counter(origin.coding for origin in origins)
    return tuple(
        f"{count:,} {'picture was' if count == 1 else 'pictures were'} stored from {coding}"
        for coding, count in sorted(counts.items())
    )


def _as_it_is(path: Path) -> Taken:
    if path.suffix.lower() == ".png":
        return _described(*decode.read_picture(path), path)
    with _complaints() as said:
        data, pixels = decode.read_picture(path)
    if any(word in said[0] for word in _TORN):
        raise DataError("the JPEG is damaged: its end mark is there, and its coded picture is cut short or altered")
    return _described(data, pixels, path)


@contextmanager
def _complaints() -> Iterator[list[bytes]]:
    """What libraries in C write to the standard error, once the block has ended; it is not printed.

    Of a JPEG that is torn, libjpeg makes a whole picture, says so there and nowhere else. This process does nothing
    else meanwhile: see `isolate`.
    """
    said = [b""]
    own = os.dup(2)
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)  # what does not fit is lost, and nobody waits
        os.dup2(writer, 2)
        try:
            yield said
        finally:
            os.dup2(own, 2)
            os.close(writer)
        said[0] = os.read(reader, _COMPLAINTS)
    finally:
        os.close(reader)
        os.close(own)


def _described(data: bytes, pixels: decode.Pixels, path: Path, origin: Origin | None = None) -> Taken:
    picture = decode.described(data, pixels)
    return Taken(picture=picture, path=path, fingerprint=fingerprints.row(pixels), origin=origin)


def _refuse_inverted(reading: Reading) -> None:
    if reading.inverted:
        raise DataError(
            "the picture has 8 bits and its table says that the lowest value was white (MONOCHROME1): nothing says "
            "whether whoever made 8 bits of it turned that round"
        )


def _samples(data: bytes, reading: Reading) -> tuple[grey.Samples, tuple[float, float], str]:
    if reading.kind == "dicom":
        from cxr_ops.data.checking import dicom  # pydicom: half a second that other sources need not wait for

        found = dicom.read_picture(data)
        return found.samples, found.window, found.coding
    return _table_says(decode.decode_wide(data), reading)


def _table_says(samples: grey.Samples, reading: Reading) -> tuple[grey.Samples, tuple[float, float], str]:
    """A 16-bit PNG whose grey its source's table tells.

    A value beyond the declared bits shows that the exporter stretched the picture to all 16; then the declared window,
    which speaks of the samples before that, is of no use.
    """
    if not 8 <= reading.bits <= 16:
        raise DataError(
            f"the PNG has 16 bits a value, and the table says that {reading.bits or 'unknown many'} are used"
        )
    stretched = int(samples.max()) >= 2**reading.bits
    bits, coding = (16, STRETCHED) if stretched else (reading.bits, f"16-bit PNG, {reading.bits} bits used")
    top = 2**bits - 1
    window: tuple[float, float] = (0, top)
    if reading.window and not stretched:
        window = grey.linear_window(*reading.window)
    if reading.inverted:
        samples, window = np.asarray(top - samples, dtype=np.uint16), (top - window[1], top - window[0])
        coding += ", inverted"
    return samples, window, coding
