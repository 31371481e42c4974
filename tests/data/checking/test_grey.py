"""Grey of more than 8 bits: stored without loss, shown by its window."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicoms import drawn
from PIL import Image

from cxr_ops.data.checking import decode, grey
from cxr_ops.errors import DataError


def with_content(content: bytes, data: bytes | None = None) -> bytes:
    """A 16-bit PNG with this content for its window."""
    data = cv2.imencode(".png", drawn())[1].tobytes() if data is None else data
    part = grey.CHUNK + content
    return data[:33] + struct.pack(">I", len(content)) + part + struct.pack(">I", zlib.crc32(part)) + data[33:]


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        decode.decode_grey(data)
    return caught.value.what


def test_samples_come_back_as_they_went_in() -> None:
    """The stored file holds every sample, and another program (Pillow) reads the same."""
    data = grey.encode(drawn(bits=16), 0, 65535)
    assert np.array_equal(decode.decode_wide(data), drawn(bits=16))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), drawn(bits=16))
    assert data == grey.encode(drawn(bits=16), 0, 65535)


@pytest.mark.parametrize(("black", "white"), [(0, 4095), (1000, 3000), (-500, 2000.5), (2000, 2000), (0, 65535)])
def test_a_window_is_a_straight_line_between_its_ends(black: float, white: float) -> None:
    """The grey that is shown is numpy's interpolation between black and white, to the nearest value."""
    expected = np.interp(drawn(), [black, white], [0, 255])
    if black == white:
        expected = np.where(drawn() <= black, 0, 255)
    assert np.abs(decode.decode_grey(grey.encode(drawn(), black, white)) - expected).max() <= 0.5


@pytest.mark.parametrize("window", [(5, 4), (float("nan"), 5), (0, float("inf")), (-1e12, 5)])
def test_a_window_that_is_none_is_refused(window: tuple[float, float]) -> None:
    """Ends that are no numbers, too far out or in the wrong order are refused, in writing and in reading."""
    with pytest.raises(DataError, match="is none"):
        grey.encode(drawn(), *window)
    assert "is none" in refusal(with_content(struct.pack(">dd", *window)))


def test_a_damaged_window_or_one_on_another_picture_is_refused() -> None:
    """A window of another length, or on a picture of 8 bits or of colours, is refused; so are 16 bits without one."""
    assert "grEY is damaged" in refusal(with_content(b"12345"))
    eight = cv2.imencode(".png", drawn(bits=8).astype(np.uint8))[1].tobytes()
    assert "a window, which is for 16 bits" in refusal(with_content(struct.pack(">dd", 0, 1), eight))
    colours = cv2.imencode(".png", np.dstack([drawn()] * 3))[1].tobytes()
    assert "a window, which is for 16 bits" in refusal(with_content(struct.pack(">dd", 0, 1), colours))
    assert "nothing says how they map to grey" in refusal(cv2.imencode(".png", drawn())[1].tobytes())


def test_any_altered_byte_is_noticed() -> None:
    """Every byte of the stored file stands under a checksum, its window too."""
    data = grey.encode(drawn(shape=(6, 7)), 0, 4095)
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 0xFF
        with pytest.raises(DataError):
            decode.decode_grey(bytes(altered))


def test_a_file_with_a_window_is_a_picture_like_any_other(tmp_path: Path) -> None:
    """Inspected, a stored file has the size and the pixels of what it shows."""
    (tmp_path / "a.png").write_bytes(grey.encode(drawn(), 0, 4095))
    shown = np.floor(drawn() / 4095 * 255 + 0.5).astype(np.uint8)
    (tmp_path / "b.png").write_bytes(cv2.imencode(".png", shown)[1].tobytes())
    wide, eight = decode.inspect(tmp_path / "a.png"), decode.inspect(tmp_path / "b.png")
    assert isinstance(wide, decode.Inspected)
    assert isinstance(eight, decode.Inspected)
    assert (wide.width, wide.height, wide.pixels_sha256) == (36, 40, eight.pixels_sha256)
    assert wide.sha256 != eight.sha256


def test_a_linear_window_has_dicoms_two_ends() -> None:
    """PS3.3 C.11.2.1.2 gives window centre 2048 and width 4096 the ends 0 and 4095; a window without width is none."""
    assert grey.linear_window(2048, 4096) == (0, 4095)
    assert grey.linear_window(100, 1) == (99.5, 99.5)
    with pytest.raises(DataError, match="at least 1 wide"):
        grey.linear_window(100, 0.5)
