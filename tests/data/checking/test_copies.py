"""Near copies: what is found, under whom, and what is not one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_ops.data.checking import copies, fingerprints
from cxr_ops.data.checking.copies import Prints
from cxr_ops.data.sources import nih

Change = Callable[[np.ndarray], np.ndarray]


def scene(seed: int, size: int = 160) -> np.ndarray:
    """A picture with coarse and fine parts, as a radiograph has, of its own for each seed."""
    rng = np.random.default_rng(seed)
    parts = [cv2.resize(rng.normal(0, 1, (n, n)), (size, size), interpolation=cv2.INTER_CUBIC) for n in (4, 9, 20)]
    whole = parts[0] + parts[1] + 0.6 * parts[2]
    return np.clip(128 + 45 * whole, 0, 255).astype(np.uint8)


def prints(pictures: dict[str, np.ndarray], patients: list[str] | None = None, batch: str = "") -> Prints:
    spool = fingerprints.Spool()
    for name, picture in pictures.items():
        spool.add(name, fingerprints.row(picture))
    return Prints(batch, spool.table(list(pictures)), patients or [str(n) for n in range(len(pictures))])


def jpeg(picture: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_GRAYSCALE)


CHANGES: dict[str, tuple[Change, str]] = {
    "JPEG": (jpeg, ""),
    "smaller": (lambda p: cv2.resize(p, (100, 100), interpolation=cv2.INTER_AREA), ""),
    "larger": (lambda p: cv2.resize(p, (300, 300), interpolation=cv2.INTER_CUBIC), ""),
    "cropped": (lambda p: p[3:, 2:-1], ""),
    "mirrored": (lambda p: p[:, ::-1], "mirrored left to right"),
    "upside down": (lambda p: p[::-1, ::-1], "turned upside down"),
    "quarter": (lambda p: np.rot90(p, -1), "turned by a quarter to the left"),
    "gamma": (lambda p: (255 * (p / 255.0) ** 0.7).astype(np.uint8), ""),
    "equalised": (cv2.equalizeHist, ""),
    "negative": (lambda p: 255 - p, "a negative"),
    "mirrored negative": (lambda p: 255 - p[:, ::-1], "mirrored left to right and a negative"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_picture_is_found(name: str) -> None:
    """Each change that the contract names is found in the data set, with the picture, the patient and what was done."""
    change, how = CHANGES[name]
    held = prints({f"{n}.png": scene(n) for n in range(6)}, batch="first")
    found = copies.find(prints({"new.png": np.ascontiguousarray(change(scene(4)))}, ["x"]), [held])
    assert [(c.image_id, c.patient_id, c.other_id, c.other_patient, c.other_batch) for c in found] == [
        ("new.png", "x", "4.png", "4", "first")
    ]
    assert found[0].how == how
    assert 0.9 <= found[0].similarity <= 1
    assert not found[0].same_patient


def noisy(picture: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("deviation", "other", "same"), [(20, True, True), (28, True, False), (60, False, False)], ids=str
)
def test_what_is_alike_enough_depends_on_the_patient(deviation: float, other: bool, same: bool) -> None:
    """From 0.9 on two pictures are copies under two patients, and from 0.95 on under one, whose studies are alike."""
    held = prints({f"{n}.png": scene(n) for n in range(6)}, batch="first")
    new = {"new.png": noisy(scene(4), deviation)}
    for patient, found in (("x", other), ("4", same)):
        assert [copy.other_id for copy in copies.find(prints(new, [patient]), [held])] == ["4.png"] * found


def test_within_a_batch_each_pair_comes_once() -> None:
    """Of three pictures that show the same the three pairs are told, each from its later picture, and no other."""
    same = scene(1)
    batch = prints({"a.png": same, "b.png": scene(2), "c.png": jpeg(same), "d.png": same[:, ::-1].copy()})
    found = copies.find(batch, [])
    assert {(c.image_id, c.other_id) for c in found} == {("c.png", "a.png"), ("d.png", "a.png"), ("d.png", "c.png")}
    assert all(c.other_batch == "" for c in found)


def test_the_scan_finds_what_a_loop_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidates are those whose bits differ least by a plain count of each pair, over blocks and for negatives."""
    monkeypatch.setattr(copies, "_ROWS", 7)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    hashes[:, 0] |= 128
    queries = hashes[[3, 20]] ^ np.packbits(rng.random((2, 256)) < 0.1, axis=1)
    queries[1] = ~queries[1]
    queries[:, 0] |= 128
    apart = np.array(
        [[sum(int(a ^ b).bit_count() for a, b in zip(q, h, strict=True)) for h in hashes] for q in queries]
    )
    nearest = np.minimum(apart, 256 - apart)
    expected = {
        at: (int(nearest[:, at].argmin()), bool(apart[nearest[:, at].argmin(), at] > 128))
        for at in np.flatnonzero(nearest.min(axis=0) <= 64)
    }
    words = [np.ascontiguousarray(word) for word in hashes.view(np.uint64).T]
    assert expected.keys() == {3, 20}
    assert copies._candidates(queries.view(np.uint64), words, 64) == expected


def test_pictures_without_anything_in_them_are_no_copies_of_each_other() -> None:
    """Two that are nearly even, whose correlation means nothing, are not taken for copies."""
    rng = np.random.default_rng(0)
    flat = {f"{n}.png": (100 + rng.integers(0, 2, (64, 64))).astype(np.uint8) for n in range(4)}
    assert copies.find(prints(flat), []) == []
    assert copies.registered_similarity(np.full((64, 64), 9, np.uint8), scene(1, 64)) == 0.0


def _sample(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    rows = nih.read_folder(folder).rows
    return {row.image_id: cv2.imread(str(row.path), cv2.IMREAD_GRAYSCALE) for row in rows}, [r.patient_id for r in rows]


def test_on_real_radiographs_copies_are_found_and_other_studies_are_not(nih_sample: Path) -> None:
    """Of 1,298 radiographs only the pair that the release holds twice is told; 40 changed ones are all found, once."""
    pictures, patients = _sample(nih_sample)
    whole = prints(pictures, patients, "first")
    found = copies.find(Prints("", whole.table, patients), [])
    assert [(c.image_id, c.other_id, c.same_patient) for c in found] == [("00002658_002.png", "00002658_001.png", True)]
    chosen = [name for name in list(pictures)[::33] if not name.startswith("00002658")]
    rng = np.random.default_rng(0)
    changed = {}
    for name in chosen:
        top, left = rng.integers(0, 5, 2)
        changed[f"new-{name}"] = jpeg(np.ascontiguousarray(pictures[name][top:, left:][:, ::-1]))
    again = copies.find(prints(changed, ["x"] * len(chosen)), [whole])
    assert [(c.image_id, c.other_id) for c in again] == [(f"new-{name}", name) for name in chosen]
    assert {c.how for c in again} == {"mirrored left to right"}
    # Contrast changed in parts: under the same patient, whose other studies are alike, grey values find not half.
    clahe = cv2.createCLAHE(2.0, (8, 8)).apply
    owners = dict(zip(pictures, patients, strict=True))
    evened = prints({f"even-{name}": clahe(pictures[name]) for name in chosen}, [owners[name] for name in chosen])
    own = [c for c in copies.find(evened, [whole]) if c.image_id == f"even-{c.other_id}"]
    assert len(own) > 0.7 * len(chosen)
