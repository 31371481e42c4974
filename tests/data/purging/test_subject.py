"""What shows a patient, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_ops.data.purging import subject
from cxr_ops.data.purging.subject import Subject
from cxr_ops.records.base import sha256_bytes

DIGEST = 64 * "c"
ONE = Subject(patient="1", images=["1.png"], sha256=[DIGEST])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("image_id,label\n1.png,0\n", True),
        ("image_id,label\n11.png,0\nx1.png,0\n1.png2,0\n", False),
        ("the image 1.png.", True),
        ("patient_id,side\n1,train\n", True),
        ("image_id,other_patient\nx.png,1\n", True),
        ("patient_id,age\n2,1\n", False),
        ("image_id,age\nx.png,1\n", False),
        (f'{{"cases": ["{DIGEST[:12]}"]}}', False),
        (f'{{"cases": [{{"picture": "case-{DIGEST[:12]}.png"}}]}}', True),
        (f"<html>case {DIGEST[:12]}</html>", True),
        (f'{{"sha256": "{DIGEST}"}}', True),
        ("", False),
    ],
)
def test_a_file_shows_a_patient_by_ids_and_digests(tmp_path: Path, text: str, shown: bool) -> None:
    """An id is not a part of another one, nor an age; the beginning of a digest shows something on pages alone."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert ONE.shown_by(path) is shown


def test_a_file_shows_a_patient_by_pixels_and_by_its_own_bytes(tmp_path: Path) -> None:
    """A digest of the patient's pixels shows the patient, and so does a picture of the patient under another name."""
    path = tmp_path / "file"
    path.write_bytes(b"a picture")
    own = ONE.model_copy(update={"sha256": [sha256_bytes(b"a picture")], "pixels": [64 * "d"]})
    assert (own.shown_by(path), ONE.shown_by(path)) == (True, False)
    path.write_text(f"pixels_sha256\n{64 * 'd'}\n")
    assert (own.shown_by(path), ONE.shown_by(path)) == (True, False)


def test_what_crosses_a_border_of_reading_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is found wherever it stands in a file that is read in pieces."""
    monkeypatch.setattr(subject, "_PIECE", 8)
    path = tmp_path / "file"
    for at in range(20):
        path.write_bytes(b" " * at + b"1.png" + b" " * 9)
        assert ONE.shown_by(path)
        path.write_bytes(b" " * at + b"11.png" + b" " * 9)
        assert not ONE.shown_by(path)
