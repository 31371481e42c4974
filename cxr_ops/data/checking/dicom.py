"""DICOM files that nobody vouches for: what the manifest needs of their headers, and their pictures as samples.

One frame of one grey channel, 8 to 16 bits, of CR or DX. The header is checked before memory is taken: the size of the
picture, that of its data, and what the compressed picture says of itself, which must be the same. Then come the
modality's rescale or table, the window (or a table, or a sigmoid) and the photometric interpretation: MONOCHROME1 is
turned round, so that 0 is the dark end. What has no one meaning is refused.

Call it in a process whose death is survivable: the decoders are C++, and see bytes that nobody vouches for.

Source: DICOM PS3.3, C.7.6.3, C.11.1, C.11.2; PS3.5, sections 8 and A.4, annex G; ITU-T T.81, T.87, T.800.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from cxr_ops.data.checking import decode, grey, identity
from cxr_ops.errors import DataError

# Transfer syntaxes that are read, with their names. Deflated ones unpack to any size, big-endian ones left the standard
# in 2006, and of high-throughput JPEG 2000 there is no decoder here. Nor is there one of lossy JPEG with 12 bits.
NATIVE: Final = {"1.2.840.10008.1.2": "uncompressed", "1.2.840.10008.1.2.1": "uncompressed"}
RLE: Final = "1.2.840.10008.1.2.5"
JPEGS: Final = {
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS, lossy",
}
LOSSY_JPEG: Final = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
JPEGS_2000: Final = {"1.2.840.10008.1.2.4.90": "JPEG 2000 lossless", "1.2.840.10008.1.2.4.91": "JPEG 2000"}
CODINGS: Final = {**NATIVE, **JPEGS, **JPEGS_2000, RLE: "RLE"}

MODALITIES: Final = ("CR", "DX")
FRONTAL: Final = ("PA", "AP")
UID: Final = re.compile(r"[0-9]+(\.[0-9]+){0,63}")
_CHEST: Final = ("CHEST", "THORAX", "TORAX", "LUNG")
# By code of SNOMED (old and new): where ViewPosition is empty, as in DX, the view may stand here.
_VIEW_CODES: Final = {"R-10206": "AP", "399348003": "AP", "R-10214": "PA", "272479007": "PA"}
_LONG: Final = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
# Marks of frames in the JPEG family: all but tables (C4), reserved (C8), arithmetic conditioning (CC); F7 is JPEG-LS.
_FRAMES: Final = (*(mark for mark in range(0xC0, 0xD0) if mark not in (0xC4, 0xC8, 0xCC)), 0xF7)
_SOC: Final = b"\xff\x4f\xff\x51"  # begin of a JPEG 2000 picture and of its size
_SHARPEST: Final = 65535
_FARTHEST: Final = 2**30  # beyond what any table is for, and within 32 bits


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is kept of a header, as text: "" is missing.

    Attributes:
        uid: SOP Instance UID.
        patient_id: as the header has it.
        age: DICOM's age string.
        sex: F, M, or "".
        view: PA, AP, or "".
    """

    uid: str
    patient_id: str
    age: str
    sex: str
    view: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as it is stored.

    Attributes:
        samples: uint16, height x width, the dark end first.
        window: the samples that are black and white.
        coding: how the file held it, in words.
    """

    samples: grey.Samples
    window: tuple[float, float]
    coding: str


@dataclass(frozen=True, kw_only=True)
class Header:
    """One file whose header is to be read, and how strictly: see `identity.found`."""

    path: Path
    pseudonym: str = ""
    published: bool = False
    deidentified: bool = False


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why a file cannot be used, and its SOP Instance UID where that could be read."""

    what: str
    uid: str = ""


def facts(one: Header) -> Facts | Refused:
    """Read a file's header; of one that cannot be used, say why. A link is not followed, no picture is decoded."""
    try:
        with decode.opened(one.path) as file:
            return read_facts(file, pseudonym=one.pseudonym, published=one.published, deidentified=one.deidentified)
    except OSError as error:
        return Refused(what=f"the file cannot be read: {error.strerror or error}")
    except DataError as error:
        return Refused(what=error.what)


def read_facts(
    file: BinaryIO, *, pseudonym: str = "", published: bool = False, deidentified: bool = False
) -> Facts | Refused:
    """Check whom and what a header speaks of, and take what the manifest needs.

    Args:
        file: from its beginning.
        pseudonym: see `identity.found`.
        published: see `identity.found`.
        deidentified: somebody says that the header names nobody, and that nothing is burnt into the picture.

    Returns:
        The facts; of a file that may name somebody, or is no frontal radiograph of a chest, the reason.

    Raises:
        DataError: the file is no DICOM, or is damaged.
    """
    start = file.read(4096)
    _check_kind(start)
    file.seek(0)
    with _guarded("the DICOM header cannot be read"):
        header = _parsed(file, pixels=False)
        uid = _word(header, "SOPInstanceUID")
        if not UID.fullmatch(uid) or len(uid) > 64:
            raise DataError("the header holds no SOP Instance UID, by which labels find the file")
        try:
            if not deidentified:
                _refuse_identity(header, pseudonym=pseudonym, published=published)
            _refuse_other_pictures(header)
            view = _view(header)
        except DataError as error:
            return Refused(what=error.what, uid=uid)
        sex = _word(header, "PatientSex")
        return Facts(
            uid=uid,
            patient_id=_word(header, "PatientID"),
            age=_word(header, "PatientAge"),
            sex=sex if sex in ("F", "M") else "",
            view=view,
        )


def read_picture(data: bytes) -> Picture:
    """Decode a file's picture, and say which of its samples are black and white.

    Args:
        data: the whole file.

    Raises:
        DataError: the file is no DICOM, damaged, too large, coded in a way that is not read, or its grey has no one
            meaning.
    """
    if len(data) > decode.MAX_BYTES:
        raise DataError(f"the file has {len(data):,} bytes; more than {decode.MAX_BYTES:,} is no radiograph")
    syntax = _check_kind(data)
    with _guarded("the DICOM file does not decode"):
        header = _parsed(io.BytesIO(data), pixels=True)
        layout = _layout(header)
        samples = _decoded(header, layout, syntax)
        values, top, window, meaning = _presented(header, layout, samples)
        if layout.inverted:
            values, window = np.asarray(top - values, dtype=np.uint16), (top - window[1], top - window[0])
        grey.check(*window)
    photometric = "MONOCHROME1" if layout.inverted else "MONOCHROME2"
    coding = f"DICOM ({CODINGS[syntax]}, {photometric}, {layout.stored} bits, {meaning})"
    return Picture(samples=np.ascontiguousarray(values, dtype=np.uint16), window=window, coding=coding)


# ------------------------------------------------------------------------------------------------ the header


def _check_kind(data: bytes) -> str:
    """The transfer syntax, read before a parser sees the file: what stands before it has one form in all of them."""
    if data[128:132] != b"DICM":
        raise DataError("the file is not DICOM: the mark DICM is not where it belongs" if data else "the file is empty")
    position = 132
    syntax = ""
    while position + 12 <= len(data):
        group, element, kind, short = struct.unpack_from("<HH2sH", data, position)
        if group != 2:
            break
        long = kind in _LONG
        length = struct.unpack_from("<I", data, position + 8)[0] if long else short
        position += 12 if long else 8
        if element == 0x10:
            syntax = data[position : position + length].rstrip(b"\0 ").decode("ascii", "replace")
        position += length
    if not syntax:
        raise DataError("the DICOM header does not say how the picture is coded (its transfer syntax)")
    if syntax not in CODINGS:
        raise DataError(f"the DICOM file is coded in a way that is not read here (transfer syntax {syntax[:64]})")
    return syntax


def _parsed(file: BinaryIO, *, pixels: bool) -> Any:
    import pydicom

    log = logging.getLogger("pydicom")
    if not log.handlers:  # without one, Python prints what pydicom has to say of a hostile file
        log.addHandler(logging.NullHandler())
    return pydicom.dcmread(file, stop_before_pixels=not pixels)


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turn whatever hostile bytes make of pydicom into a reason. The child process may run out of memory too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is not as it should be and matters is checked here
            yield
    except DataError:
        raise
    except identity.TooDeepError as error:
        raise DataError("the DICOM header nests sequences beyond what any header has") from error
    except Exception as error:  # a parser of hostile bytes raises anything; the reason is kept
        raise DataError(f"{what}: it is damaged ({type(error).__name__})") from error


def _refuse_identity(header: Any, *, pseudonym: str, published: bool) -> None:
    names = identity.found(header, pseudonym=pseudonym, published=published)
    if names:
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        raise DataError(
            f"the header may name somebody ({', '.join(names[:6])}{more}): de-identify the files by the basic profile "
            "of DICOM PS3.15; if that was done, and these name nobody, say --deidentified"
        )
    if _word(header, "BurnedInAnnotation") == "YES":
        raise DataError(
            "the header says that something is burnt into the picture (BurnedInAnnotation): black it out; if it names "
            "nobody, say --deidentified"
        )


def _refuse_other_pictures(header: Any) -> None:
    """See that the file is a frontal radiograph of a chest, as far as its header says."""
    modality = _word(header, "Modality")
    if modality not in MODALITIES:
        raise DataError(f"the modality is {modality or 'missing'!r}, and radiographs are {' or '.join(MODALITIES)}")
    part = _word(header, "BodyPartExamined").upper()
    if part and not any(word in part for word in _CHEST):
        raise DataError(f"the body part is {part[:32]!r}, not the chest")
    if _word(header, "PresentationIntentType") == "FOR PROCESSING":
        raise DataError("the picture is the detector's raw one (FOR PROCESSING): take the one FOR PRESENTATION")


def _view(header: Any) -> str:
    """PA, AP, or "" where the header does not say.

    Raises:
        DataError: it is another view.
    """
    view = _word(header, "ViewPosition").upper()
    if not view:
        codes = [_word(item, "CodeValue") for item in header.get("ViewCodeSequence", None) or ()]
        return next((_VIEW_CODES[code] for code in codes if code in _VIEW_CODES), "")
    if view not in FRONTAL:
        raise DataError(f"the view is {view[:16]!r}: only frontal ones (PA, AP) are taken")
    return view


def _word(header: Any, name: str) -> str:
    value = header.get(name, None)
    return "" if value is None else str(value).strip().strip("\0")


# ----------------------------------------------------------------------------------------------- the samples


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How samples lie in the file: pixels, bits that are allocated and stored, signed or not, MONOCHROME1 or not."""

    height: int
    width: int
    allocated: int
    stored: int
    signed: bool
    inverted: bool


def _layout(header: Any) -> _Layout:
    photometric = _word(header, "PhotometricInterpretation")
    channels = _whole(header, "SamplesPerPixel", 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or channels != 1:
        raise DataError(f"the picture is {photometric or 'of no declared kind'} in {channels} channels, not grey")
    frames = _whole(header, "NumberOfFrames", 1)
    if frames != 1:
        raise DataError(f"the file holds {frames:,} pictures, and one is read")
    height, width = _whole(header, "Rows"), _whole(header, "Columns")
    decode.check_size("DICOM header", width, height)
    allocated, stored = _whole(header, "BitsAllocated"), _whole(header, "BitsStored")
    high = _whole(header, "HighBit", stored - 1)
    if allocated not in (8, 16) or not 8 <= stored <= allocated or high != stored - 1:
        raise DataError(
            f"the samples have {stored} of {allocated} bits up to bit {high}; 8 to 16 bits from the lowest are read"
        )
    _check_square(header)
    shape = _word(header, "PresentationLUTShape")
    if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        raise DataError(f"the header contradicts itself: {photometric}, and PresentationLUTShape {shape}")
    return _Layout(
        height=height,
        width=width,
        allocated=allocated,
        stored=stored,
        signed=_whole(header, "PixelRepresentation", 0) == 1,
        inverted=photometric == "MONOCHROME1",
    )


def _check_square(header: Any) -> None:
    """See that pixels are as high as they are wide: the network takes them so."""
    ratio = header.get("PixelAspectRatio", None)
    if ratio and len({int(side) for side in ratio}) != 1:
        raise DataError(
            f"the pixels are not square (PixelAspectRatio {':'.join(map(str, ratio))}): resample the picture"
        )


def _whole(header: Any, name: str, absent: int | None = None) -> int:
    value = header.get(name, None)
    if value is None or value == "":
        if absent is None:
            raise DataError(f"the DICOM header does not say {name}")
        return absent
    return int(value)


def _decoded(header: Any, layout: _Layout, syntax: str) -> npt.NDArray[np.int32]:
    """The samples of the file with their sign."""
    content = header.get("PixelData", None)
    if not isinstance(content, bytes) or not content:
        raise DataError("the DICOM file holds no picture")
    count = layout.height * layout.width
    kind = np.dtype("<u1" if layout.allocated == 8 else "<u2")
    if syntax in NATIVE:
        needed = count * kind.itemsize
        if len(content) != needed + needed % 2:
            raise DataError(f"the picture's data have {len(content):,} bytes, and {needed:,} are needed")
        raw = np.frombuffer(content, kind, count)
    else:
        frame = _frame(content)
        if syntax == RLE:
            raw = _unpacked(frame, count, kind.itemsize)
        else:
            depth = _check_frame(frame, layout, wavelets=syntax in JPEGS_2000)
            if syntax in LOSSY_JPEG and depth != 8:
                raise DataError(f"the picture is lossy JPEG of {depth} bits, which is not read: store it losslessly")
            raw = _by_gdcm(header, layout)
    return _with_sign(raw.reshape(layout.height, layout.width), layout, exact=syntax not in NATIVE)


def _with_sign(
    raw: npt.NDArray[np.unsignedinteger[Any]] | npt.NDArray[np.signedinteger[Any]], layout: _Layout, *, exact: bool
) -> npt.NDArray[np.int32]:
    """Samples of the bits that are stored. What stands above these is no part of the picture, and may be an overlay."""
    mask = 2**layout.stored - 1
    values = raw.astype(np.int32)
    if exact and not layout.signed and (int(values.max()) > mask or int(values.min()) < 0):
        raise DataError(
            f"the compressed picture holds values up to {int(values.max()):,}, and has {layout.stored} bits"
        )
    values &= mask
    return np.where(values >= 2 ** (layout.stored - 1), values - 2**layout.stored, values) if layout.signed else values


def _frame(content: bytes) -> bytes:
    from pydicom.encaps import generate_frames

    frames = list(generate_frames(content, number_of_frames=1))
    if len(frames) != 1 or not frames[0]:
        raise DataError(f"the file holds {len(frames)} compressed pictures, and one is read")
    return bytes(frames[0])


def _check_frame(frame: bytes, layout: _Layout, *, wavelets: bool) -> int:
    """See that a compressed picture is one, whole, and of the size and depth that the header declares.

    Returns:
        Its bits a sample.
    """
    begin = frame.find(_SOC) if wavelets else 0
    mark = _SOC if wavelets else b"\xff\xd8\xff"
    if begin < 0 or not frame.startswith(mark, begin):
        raise DataError("the compressed picture does not begin as its transfer syntax says")
    if frame.find(mark, begin + 2) >= 0:
        raise DataError("the file holds more than one compressed picture")
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise DataError("the compressed picture is cut short: it has no end mark")
    width, height, depth, channels = _wavelet_size(frame[begin:]) if wavelets else _jpeg_size(frame)
    if (width, height, channels) != (layout.width, layout.height, 1) or not 2 <= depth <= layout.allocated:
        raise DataError(
            f"the compressed picture says {width} x {height} pixels, {channels} channels and {depth} bits; the header "
            f"says {layout.width} x {layout.height}, 1 and {layout.stored} of {layout.allocated}"
        )
    return depth


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int]:
    """Width, height, bits and channels from the first frame header of the JPEG family."""
    position = 2
    while position + 10 <= len(frame):
        if frame[position] != 0xFF:
            break
        mark = frame[position + 1]
        if mark == 0xFF:  # a fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if mark in _FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", frame, position + 4)
            return width, height, depth, channels
        if mark == 0xDA or length < 2:
            break
        position += 2 + length
    raise DataError("the compressed picture is damaged: it has no header of its own")


def _wavelet_size(frame: bytes) -> tuple[int, int, int, int]:
    """The same of a JPEG 2000 picture, from the part that follows its begin."""
    if len(frame) < 43:
        raise DataError("the compressed picture is damaged: it has no header of its own")
    right, lower, left, upper = struct.unpack_from(">IIII", frame, 8)
    tile_width, tile_height = struct.unpack_from(">II", frame, 24)
    channels, precision = struct.unpack_from(">HB", frame, 40)
    if not tile_width or not tile_height or -(-right // tile_width) * -(-lower // tile_height) > 2**16:
        raise DataError("the compressed picture says that it has more tiles than the standard allows")
    return right - left, lower - upper, (precision & 0x7F) + 1, channels


def _by_gdcm(header: Any, layout: _Layout) -> npt.NDArray[np.unsignedinteger[Any]]:
    from pydicom.pixels import get_decoder

    decoder = get_decoder(header.file_meta.TransferSyntaxUID)
    pixels, _ = decoder.as_array(header, raw=True, decoding_plugin="gdcm")
    if pixels.shape != (layout.height, layout.width):
        raise DataError("the picture that was decoded is not the one that the header declares")
    return np.asarray(pixels)


def _unpacked(frame: bytes, count: int, size: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """A frame of run-length code: a segment a byte of the sample, the high one first. It never grows beyond `count`."""
    if len(frame) < 64:
        raise DataError("the compressed picture is cut short: its table of segments is not there")
    segments, *offsets = struct.unpack_from("<16I", frame)
    if segments != size:
        raise DataError(f"the compressed picture has {segments} segments, and samples of {size} bytes have {size}")
    places = [*offsets[:size], len(frame)]
    if places[0] < 64 or any(start >= end for start, end in pairwise(places)):
        raise DataError("the compressed picture is damaged: its segments do not follow one another")
    parts = [_runs(frame[start:end], count) for start, end in pairwise(places)]
    value = np.zeros(count, dtype=np.uint16)
    for part in parts:
        value = np.asarray(value * np.uint16(256) + part, dtype=np.uint16)
    return value


def _runs(data: bytes, count: int) -> npt.NDArray[np.uint8]:
    out = bytearray()
    position = 0
    while position < len(data) and len(out) < count:
        control = data[position]
        if control < 128:
            out += data[position + 1 : position + 2 + control]
            position += control + 2
        elif control > 128:
            out += data[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    if len(out) != count:
        raise DataError("the compressed picture is cut short or damaged: a segment does not hold every sample")
    return np.frombuffer(bytes(out), np.uint8)


# ------------------------------------------------------------------------------------------------ their grey


def _presented(
    header: Any, layout: _Layout, samples: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], int, tuple[float, float], str]:
    """Samples from 0, the largest that can be, which of them are black and white, and how that is known.

    A straight line from the file's sample to the window's value is not applied to the samples: the window is brought to
    them, so that they stay as the detector's software left them. A table or a curve is applied.
    """
    lowest = -(2 ** (layout.stored - 1)) if layout.signed else 0
    top = 2**layout.stored - 1
    slope, intercept = 1.0, 0.0
    if table := _table(header, "ModalityLUTSequence", signed=layout.signed):
        samples, lowest, top = table.looked_up(samples), 0, table.top
    else:
        said = header.get("RescaleSlope", None)
        slope = 1.0 if said is None or said == "" else float(said)
        intercept = float(header.get("RescaleIntercept", None) or 0)
    if not slope > 0:
        raise DataError(f"the rescale slope is {slope:g}: which end is dark cannot be told")
    if table := _table(header, "VOILUTSequence", signed=lowest + intercept < 0):
        rescaled = np.rint(np.clip(samples * slope + intercept, -_FARTHEST, _FARTHEST)).astype(np.int32)
        return table.looked_up(rescaled), table.top, (0, table.top), "a table of its own"
    centre, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if centre is None or width is None:
        return samples - lowest, top, (0, top), "no window"
    shape = _word(header, "VOILUTFunction") or "LINEAR"
    if shape == "SIGMOID":
        if not width > 0:
            raise DataError(f"the window has the width {width:g}")
        curve = 1 / (1 + np.exp(np.clip(-4 * (samples * slope + intercept - centre) / width, -700, 700)))
        return np.rint(curve * _SHARPEST).astype(np.int32), _SHARPEST, (0, _SHARPEST), "a sigmoid window"
    black, white = _window(shape, centre, width)
    window = ((black - intercept) / slope - lowest, (white - intercept) / slope - lowest)
    return samples - lowest, top, window, "a window"


def _window(shape: str, centre: float, width: float) -> tuple[float, float]:
    if shape == "LINEAR":
        return grey.linear_window(centre, width)
    if shape != "LINEAR_EXACT" or not width > 0:
        raise DataError(f"the window is {shape[:16]!r} with the width {width:g}, which has no meaning")
    return centre - width / 2, centre + width / 2


def _first(header: Any, name: str) -> float | None:
    """A number, the first where there are several; None where there is none."""
    value = header.get(name, None)
    if value is None or value == "":
        return None
    return float(value if isinstance(value, str | int | float) else next(iter(value), None) or 0)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table from samples to greys: the first sample that it is for, its greys, and the largest grey there can be."""

    first: int
    greys: npt.NDArray[np.int32]
    top: int

    def looked_up(self, samples: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Greys of samples; those below or above the table have its first and last."""
        return self.greys[np.clip(samples - self.first, 0, len(self.greys) - 1)]


def _table(header: Any, name: str, *, signed: bool) -> _Table | None:
    """The first table of a sequence; None where there is none.

    Raises:
        DataError: it does not hold what it says.
    """
    items = header.get(name, None)
    if not items:
        return None
    count, first, bits = (int(value) for value in items[0].LUTDescriptor)
    count = count % 2**16 or 2**16  # 0 is 65,536
    content = items[0].LUTData
    if isinstance(content, bytes):
        greys = np.frombuffer(content, "<u1" if len(content) in (count, count + count % 2) else "<u2").astype(np.int32)
    else:
        greys = np.atleast_1d(np.asarray(content, dtype=np.int32))
    greys = greys[:count] if len(greys) == count + 1 else greys  # padded to an even length
    if len(greys) != count or not 8 <= bits <= 16 or greys.min() < 0 or greys.max() >= 2**bits:
        raise DataError(
            f"the table of greys ({name}) does not hold the {count:,} values of {bits} bits that it declares"
        )
    if signed and first >= 2**15:
        first -= 2**16
    return _Table(first=first, greys=greys, top=2**bits - 1)
