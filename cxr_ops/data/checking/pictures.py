"""Any picture that this project reads, as grey pixels: what a served model and `api` are given.

A data set stores DICOM otherwise (see `convert`), and its pictures are read by `decode`; both come to the same pixels.
"""

from __future__ import annotations

from cxr_ops.data.checking import decode, dicom, grey
from cxr_ops.data.checking.decode import Pixels


def decode_any(data: bytes) -> Pixels:
    """Decode a PNG, JPEG or DICOM file to grey pixels.

    A DICOM file's header is read for its grey alone: who is in it and what view it has, nobody asks.

    Args:
        data: the whole file.

    Returns:
        uint8, height x width, 0 (black) to 255: what `decode.decode_grey` gives of the picture as it would be stored.

    Raises:
        DataError: it is neither, is damaged or too large, or its grey has no one meaning.
    """
    if data[128:132] != b"DICM":
        return decode.decode_grey(data)
    found = dicom.read_picture(data)
    return grey.to_8_bits(found.samples, *found.window)
