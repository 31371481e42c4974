"""Files that are no radiograph: what ingestion, MLflow's script and the server refuse alike."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import cv2
import dicoms
import numpy as np
from finished import png
from PIL import Image

GREY = np.random.default_rng(2).integers(0, 256, (20, 30), dtype=np.uint8)


def encode(mode: str, pixels: np.ndarray, **options: object) -> bytes:
    """A PNG of another mode."""
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, "PNG", **options)
    return data.getvalue()


def chunked(kind: bytes, content: bytes) -> bytes:
    """A PNG that begins with this chunk."""
    part = kind + content
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(content)) + part + struct.pack(">I", zlib.crc32(part))


def damaged(position: int) -> bytes:
    """A PNG with one byte inverted."""
    data = bytearray(png(GREY))
    data[position] ^= 255
    return bytes(data)


# What it is -> what comes in, and a word of why it is refused.
BAD: dict[str, tuple[object, str]] = {
    "empty": (b"", "empty"),
    "web page": (b"<html>", "web page"),
    "colours": (encode("RGB", np.dstack([GREY, GREY, 255 - GREY])), "colours"),
    "transparent": (encode("RGBA", np.dstack([GREY, GREY, GREY, GREY])), "transparent"),
    "transparent grey": (encode("L", GREY, transparency=0), "transparent"),
    "16 bits": (cv2.imencode(".png", GREY.astype(np.uint16) * 257)[1].tobytes(), "16 bits"),
    "1 bit": (encode("1", GREY), "1 bits"),
    "cut short": (png(GREY)[:-30], "cut short"),
    "one corrupt byte": (damaged(60), "altered"),
    "JPEG cut short": (cv2.imencode(".jpg", GREY)[1].tobytes()[:-9], "cut short"),
    "DICOM of two frames": (dicoms.dicom(NumberOfFrames=2), "2 pictures"),
    "DICOM cut short": (dicoms.dicom()[:-9], "are needed"),
    "pickle": (pickle.dumps(GREY), "neither PNG nor JPEG"),
    "text": ("no base64!", "not base64"),
    "nothing": (None, "not NoneType"),
    "bomb": (chunked(b"IHDR", struct.pack(">IIBBBBB", 14_000, 14_000, 8, 0, 0, 0, 0)), "14000 x 14000"),
}
