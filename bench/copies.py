"""Near copies on real radiographs: how many are found, and what is taken for one. Writes docs/near-copies.md.

The patients are halved by a hash of their ids. The limits of a copy follow from one half by a stated rule, and the
rates are those of the other half. Type: python -m bench.copies (CXR_SHARED names the folder of the radiographs).
"""

from __future__ import annotations

import hashlib
import os
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import beta

from cxr_ops.data.checking import copies, fingerprints
from cxr_ops.data.checking.copies import RADIOGRAPHS, Prints
from cxr_ops.data.sources import nih

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs" / "near-copies.md"
EVERY = 3  # of the pictures of a half, that are changed
EMBEDDING = "## Would an embedding find more?"  # that part of the page is by `bench.embedding`
RELEASE = 112_120  # pictures of the whole NIH release

Change = Callable[[np.ndarray], np.ndarray]


def _jpeg(quality: int) -> Change:
    return lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def _resized(side: int) -> Change:
    how = cv2.INTER_AREA if side < 256 else cv2.INTER_CUBIC
    return lambda p: cv2.resize(p, (side, side), interpolation=how)


def _cropped(most: int) -> Change:
    rng = np.random.default_rng(most)

    def change(p: np.ndarray) -> np.ndarray:
        top, bottom, left, right = rng.integers(0, most + 1, 4)
        return p[top : p.shape[0] - bottom, left : p.shape[1] - right]

    return change


def _gamma(gamma: float) -> Change:
    return lambda p: (255 * (p / 255.0) ** gamma).round().astype(np.uint8)


def _noisy(p: np.ndarray) -> np.ndarray:
    return np.clip(p + np.random.default_rng(int(p.sum())).normal(0, 8, p.shape), 0, 255).astype(np.uint8)


def _turned(degrees: float) -> Change:
    def change(p: np.ndarray) -> np.ndarray:
        height, width = p.shape
        return cv2.warpAffine(p, cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1), (width, height))

    return change


CROP = _cropped(8)
CHANGES: dict[str, Change] = {
    "JPEG, quality 90": _jpeg(90),
    "JPEG, quality 50": _jpeg(50),
    "JPEG, quality 20": _jpeg(20),
    "half the size": _resized(128),
    "twice the size": _resized(512),
    "cropped by up to 4 of 256 pixels a side": _cropped(4),
    "cropped by up to 8": CROP,
    "cropped by up to 16": _cropped(16),
    "mirrored": lambda p: p[:, ::-1],
    "turned upside down": lambda p: p[::-1, ::-1],
    "gamma 0.6": _gamma(0.6),
    "gamma 1.6": _gamma(1.6),
    "windowed: 40 to 210 of 255": lambda p: np.clip((p.astype(float) - 40) * 1.5, 0, 255).astype(np.uint8),
    "equalised": cv2.equalizeHist,
    "CLAHE, clip 2": lambda p: cv2.createCLAHE(2.0, (8, 8)).apply(p),
    "negative": lambda p: 255 - p,
    "noise of 8 grey values": _noisy,
    "turned by 2 degrees": _turned(2),
    "mirrored, cropped by up to 8, gamma 1.3, JPEG 60": lambda p: _jpeg(60)(_gamma(1.3)(CROP(p[:, ::-1]))),
}


@dataclass(frozen=True)
class Half:
    """Pictures of a half of the patients."""

    names: list[str]
    patients: list[str]
    pictures: list[np.ndarray]

    def prints(self) -> Prints:
        """Their fingerprints."""
        return Prints("half", _table(self.names, self.pictures), self.patients)


def _table(names: list[str], pictures: list[np.ndarray]) -> fingerprints.Table:
    spool = fingerprints.Spool()
    for name, picture in zip(names, pictures, strict=True):
        spool.add(name, fingerprints.row(np.ascontiguousarray(picture)))
    return spool.table(names)


def halves(folder: Path) -> tuple[Half, Half]:
    """The pictures of a folder, the patients halved by a hash of their ids."""
    parts: tuple[Half, Half] = (Half([], [], []), Half([], [], []))
    for row in nih.read_folder(folder).rows:
        half = parts[hashlib.sha256(row.patient_id.encode()).digest()[0] & 1]
        half.names.append(row.image_id)
        half.patients.append(row.patient_id)
        half.pictures.append(cv2.imread(str(row.path), cv2.IMREAD_GRAYSCALE))
    return parts


def _alike(half: Half) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    """Similarities of other studies of a patient and of the nearest pairs of two; pairs of both, and candidates."""
    table = half.prints().table
    bits = np.unpackbits(table["hash"], axis=1).astype(np.float32) * 2 - 1
    apart = (256 - bits @ bits.T) / 2
    first, second = np.triu_indices(len(bits), 1)
    patients = np.array(half.patients)
    same = patients[first] == patients[second]
    order = np.argsort(apart[first, second], kind="stable")
    nearest = [at for at in order if not same[at]][:1500]

    def similar(pairs: list[int]) -> np.ndarray:
        return np.array(
            [copies.registered_similarity(table["grey"][first[at]], table["grey"][second[at]]) for at in pairs]
        )

    one = similar(np.flatnonzero(same).tolist())
    candidates = int((apart[first, second][~same] <= RADIOGRAPHS.bits).sum())
    return one[one < 0.999], similar(nearest), int(same.sum()), int((~same).sum()), candidates


def _found(half: Half) -> dict[str, tuple[np.ndarray, int, int, int]]:
    """For each change the similarities, how many are found under another patient and the same one, and of how many."""
    held = half.prints()
    low = RADIOGRAPHS._replace(other_patient=-1.0, same_patient=-1.0)
    told = {}
    for name, change in CHANGES.items():
        chosen = range(0, len(half.names), EVERY)
        names = [f"{half.names[at]}" for at in chosen]
        table = _table(names, [change(half.pictures[at]) for at in chosen])
        coming = Prints("", table, ["another"] * len(names))
        best = dict.fromkeys(names, -1.0)
        for copy in copies.find(coming, [held], limits=low):
            if copy.other_id == copy.image_id:
                best[copy.image_id] = copy.similarity
        similarity = np.array(list(best.values()))
        other, same = ((similarity >= least).sum() for least in (RADIOGRAPHS.other_patient, RADIOGRAPHS.same_patient))
        told[name] = (similarity, int(other), int(same), len(names))
        print(name, told[name][1:], flush=True)
    return told


def _false_alarms(half: Half) -> tuple[int, int]:
    """Pairs of the half that are told: under two patients, and under one (without pictures that are equal)."""
    prints = half.prints()
    found = copies.find(Prints("", prints.table, prints.patients), [])
    return sum(not c.same_patient for c in found), sum(c.same_patient and c.similarity < 0.999 for c in found)


def _scan(half: Half) -> tuple[float, float]:
    """Seconds a picture: compared with as many as the release has, and its fingerprint from 1024 x 1024 pixels."""
    rng = np.random.default_rng(0)
    held = np.zeros(RELEASE, fingerprints.DTYPE)
    held["hash"] = rng.integers(0, 256, (RELEASE, fingerprints.BITS // 8))
    held["hash"][:, 0] |= 128
    some = _table(half.names[:100], half.pictures[:100])
    start = time.perf_counter()
    copies.find(Prints("", some, ["x"] * 100), [Prints("held", held, ["y"] * RELEASE)])
    scan = (time.perf_counter() - start) / 100
    large = cv2.resize(half.pictures[0], (1024, 1024), interpolation=cv2.INTER_CUBIC)
    start = time.perf_counter()
    for _ in range(100):
        fingerprints.row(large)
    return scan, (time.perf_counter() - start) / 100


def _expected(similar: np.ndarray, candidates: int, pairs: int) -> float:
    """How many pairs of two patients the release would have that are told as copies, were it like the sample.

    Its candidates are taken to be as frequent as the sample's, and their similarities to fall as those of the nearest
    pairs do: exponentially above 0.78.
    """
    above = similar[similar > 0.78] - 0.78
    share = len(above) / len(similar) * np.exp(-(RADIOGRAPHS.other_patient - 0.78) / above.mean())
    return candidates / pairs * RELEASE * (RELEASE - 1) / 2 * share


def _upper(found: int, of: int) -> float:
    """The exact one-sided upper bound of a share, at 95 % (Clopper and Pearson)."""
    return 1.0 if found == of else float(beta.ppf(0.95, found + 1, of - found))


def main() -> None:
    """Measure and write the page."""
    shared = Path(os.environ.get("CXR_SHARED") or PROJECT.parent / "shared") / "data" / "nih-sample"
    one, two = halves(shared)
    chosen_same, chosen_other, _, chosen_pairs, chosen_candidates = _alike(one)
    chosen = np.concatenate([similarity[similarity > -1] for similarity, *_ in _found(one).values()])
    low = float(np.quantile(chosen, 0.01))
    same, other, pairs_same, pairs_other, candidates = _alike(two)
    expected = _expected(
        np.concatenate([chosen_other, other]), candidates + chosen_candidates, pairs_other + chosen_pairs
    )
    told = _found(two)
    false_other, false_same = _false_alarms(two)
    scan, fingerprint = _scan(two)
    rows = [
        f"| {name} | {count} | {100 * as_other / count:.1f} % | {100 * as_same / count:.1f} % | "
        f"{'no candidate' if similarity.min() < 0 else f'{similarity.min():.3f}'} |"
        for name, (similarity, as_other, as_same, count) in told.items()
    ]
    kinds = (
        ("two patients", pairs_other, false_other, other.max()),
        ("other studies of one patient", pairs_same, false_same, same.max()),
    )
    alarms = [
        f"| {kind} | {pairs:,} | {false} | {_upper(false, pairs):.1e} | {highest:.3f} |"
        for kind, pairs, false, highest in kinds
    ]
    cores = len(os.sched_getaffinity(0))
    parts = [
        "# Near copies",
        (
            f"Written by `python -m bench.copies`. {len(one.names) + len(two.names):,} real NIH radiographs "
            "of 256 x 256 "
            f"pixels; the patients are halved by a hash of their ids: {len(one.names)} pictures to look at, "
            f"{len(two.names)} to show what comes of it. What follows from a near copy stands in "
            "[your-data.md](your-data.md#near-copies), and how pictures are compared in "
            "[decision 0026](decisions/0026-near-copies.md)."
        ),
        "## The limits",
        (
            f"In the first half two patients reach a similarity of {chosen_other.max():.3f} (the 1,500 pairs with the "
            f"nearest hashes), other studies of one patient {chosen_same.max():.3f}, and 99 in 100 changed pictures "
            f"{low:.3f} or more. "
            f"The limits in the code are {RADIOGRAPHS.other_patient} under another patient and "
            f"{RADIOGRAPHS.same_patient} "
            "under the same. They were set after trials with pictures of both halves, and are no finer than that."
        ),
        "## What is found",
        "In the second half, end to end: a picture that was changed is compared with all of the half as they are.",
        "\n".join(
            [
                "| change | of | found under another patient | found under the same patient | least similarity |",
                "|---|---|---|---|---|",
                *rows,
            ]
        ),
        "## What is taken for one",
        "In the second half, with nothing changed:",
        "\n".join(
            [
                "| pairs | how many | told as copies | upper bound of the share, 95 % | highest similarity |",
                "|---|---|---|---|---|",
                *alarms,
            ]
        ),
        (
            "Pairs share pictures, so the bound is one for pairs that are drawn at random. The highest "
            "similarity of two patients is that of the 1,500 pairs with the nearest hashes. "
            f"A release of {RELEASE:,} pictures of that kind would have some {expected:.1g} pairs of two "
            "patients that are told though they are none (the tail of both halves, drawn out). Lateral "
            "views were not measured: "
            "the sample has none."
        ),
        "## What it costs",
        (
            f"{1000 * fingerprint:.2f} ms a picture of 1024 x 1024 pixels for its fingerprint, and "
            f"{1000 * scan:.1f} ms a "
            f"picture to compare it with {RELEASE:,} others, on {cores} cores that had much other work. A "
            f"fingerprint is {fingerprints.DTYPE.itemsize:,} bytes."
        ),
    ]
    lines = [
        part if part.startswith(("|", "#")) else textwrap.fill(part, 119, break_on_hyphens=False) for part in parts
    ]
    _, heading, rest = PAGE.read_text(encoding="utf-8").partition(EMBEDDING)
    PAGE.write_text("\n\n".join(lines) + "\n" + (f"\n{heading}{rest}" if heading else ""), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
