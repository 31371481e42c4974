"""Near copies: pictures that show what another one shows, though no pixel need be equal.

A picture may come again re-encoded, resized, cropped by a few pixels, mirrored, turned by quarters, as a negative or
with other contrast. Two steps find it:

1. Candidates. The hash of each of the eight turns is compared with that of every other picture: 256 bits, four words of
   64, exclusive or and a count of bits. A hash that differs in nearly all bits is that of a negative.
2. Confirmation. The candidate's grey copy is laid over the other one by an affine map that maximises their correlation
   (enhanced correlation coefficient, Evangelidis and Psarakis, TPAMI 2008; OpenCV's `findTransformECC`). The similarity
   is the correlation of what then overlaps, after each is freed of its local mean and contrast, as it is or equalised;
   or that of local ranks, which a change of contrast in parts (CLAHE) leaves nearly as they are, brought to the same
   scale; whichever is higher: within -1 to 1, in practice 0.5 to 1.

Another study of one patient is no copy, and is more alike than a picture of anybody else; so the least similarity of a
copy is higher under one patient. docs/near-copies.md has the rates on real radiographs, by `python -m bench.copies`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cxr_ops.data.checking import fingerprints
from cxr_ops.data.checking.decode import Pixels
from cxr_ops.data.checking.fingerprints import BITS, SIDE, TURNS, Table

_LOCAL: Final = 4.0  # pixels: standard deviation of the window of the local mean and contrast
_COARSE: Final = 6.0  # the same, for the registration, which needs more to hold on to
_RANKS: Final = 3  # pixels to each side of those that a pixel's rank is among
_STEP: Final = 4.0  # grey values by which one pixel is wholly above another: less may be noise
_EDGE: Final = 2  # pixels at the border that do not count: what they show lies half outside
_ROWS: Final = 131_072  # hashes compared at a time: of smaller parts, threads mostly wait for Python's lock
_STEPS: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)

Grey = npt.NDArray[np.float32]


class Limits(NamedTuple):
    """What a copy is.

    Attributes:
        bits: of 256, in which the hashes of a candidate differ at most; below 128.
        other_patient: least similarity of a copy under another patient.
        same_patient: least similarity of a copy under the same patient, whose other studies are alike.
    """

    bits: int
    other_patient: float
    same_patient: float


RADIOGRAPHS: Final = Limits(bits=64, other_patient=0.9, same_patient=0.95)
# Generated pictures are drawn from one phantom: those of two patients reach a similarity of 0.97.
GENERATED: Final = Limits(bits=16, other_patient=0.99, same_patient=0.99)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Two pictures that show the same.

    Attributes:
        image_id: of the one that comes.
        patient_id: of it.
        other_id: of the other, which is in the same batch or in the data set.
        other_patient: of it.
        other_batch: the batch of the data set that holds the other one, "" where it comes with the first.
        similarity: see the module; at most 1.
        how: what was done to the one to see the other in it, in words; "" for nothing.
    """

    image_id: str
    patient_id: str
    other_id: str
    other_patient: str
    other_batch: str
    similarity: float
    how: str

    @property
    def same_patient(self) -> bool:
        """Whether both stand under one patient."""
        return self.patient_id == self.other_patient


@dataclass(frozen=True)
class Prints:
    """The fingerprints of a batch, and the patient of each of its images.

    Attributes:
        batch: its name; "" for the one that comes.
        table: rows of `fingerprints.DTYPE`.
        patients: in the order of the table.
    """

    batch: str
    table: Table
    patients: Sequence[str]


def find(
    coming: Prints, held: Sequence[Prints], *, limits: Limits = RADIOGRAPHS, workers: int | None = None
) -> list[Copy]:
    """Find the near copies within a batch, and between it and the data set.

    Args:
        coming: the batch.
        held: the batches of the data set.
        limits: what a copy is.
        workers: threads; by default one a processor.

    Returns:
        Each pair once, in the order of the coming pictures and then by falling similarity.
    """
    all_prints = [*held, coming]
    hashes = np.concatenate([prints.table["hash"] for prints in all_prints])
    starts = list(itertools.accumulate((len(prints.table) for prints in all_prints), initial=0))
    words = [np.ascontiguousarray(word) for word in hashes.view(np.uint64).T]

    def look(number: int) -> list[Copy]:
        grey = np.asarray(coming.table["grey"][number])
        greys = np.stack([fingerprints.turned(grey, turn) for turn in range(len(TURNS))])
        queries = fingerprints.hash_grey(greys).view(np.uint64)
        found = []
        # Of the batch itself only what comes before: a pair is found from its later picture.
        before = [word[: starts[-2] + number] for word in words]
        for position, (turn, negative) in _candidates(queries, before, limits.bits).items():
            at = int(np.searchsorted(starts, position, side="right")) - 1
            prints, row = all_prints[at], position - starts[at]
            one = 255 - greys[turn] if negative else greys[turn]
            similarity = registered_similarity(one, np.asarray(prints.table["grey"][row]))
            copy = Copy(
                image_id=coming.table["image_id"][number].decode(),
                patient_id=coming.patients[number],
                other_id=prints.table["image_id"][row].decode(),
                other_patient=prints.patients[row],
                other_batch=prints.batch,
                similarity=round(similarity, 4),
                how=" and ".join(word for word in (TURNS[turn], "a negative" if negative else "") if word),
            )
            if copy.similarity >= (limits.same_patient if copy.same_patient else limits.other_patient):
                found.append(copy)
        return sorted(found, key=lambda copy: (-copy.similarity, copy.other_id))

    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(itertools.chain.from_iterable(pool.map(look, range(len(coming.table)))))


def _candidates(
    queries: npt.NDArray[np.uint64], words: Sequence[npt.NDArray[np.uint64]], near: int
) -> dict[int, tuple[int, bool]]:
    """The places of near hashes, each with the turn that is nearest and whether it is that of the negative.

    Args:
        queries: the hashes of the turns of one picture, turns x 4 words.
        words: the hashes of the others, a column a word.
        near: bits that differ at most.
    """
    best: dict[int, tuple[int, int, bool]] = {}
    xor, count, differ = np.empty(_ROWS, np.uint64), np.empty(_ROWS, np.uint8), np.empty(_ROWS, np.uint8)
    for start in range(0, len(words[0]), _ROWS):
        part = [word[start : start + _ROWS] for word in words]
        rows = len(part[0])
        for turn, query in enumerate(queries):
            # Bytes hold the sum: it is never 256, for the first bit is that of the mean grey and set in every hash.
            differ[:rows] = 0
            for word, own in zip(part, query, strict=True):
                np.bitwise_xor(word, own, out=xor[:rows])
                np.bitwise_count(xor[:rows], out=count[:rows])
                differ[:rows] += count[:rows]
            # At most `near`, or at least BITS - near, in one comparison of bytes that wrap around.
            for at in np.flatnonzero(differ[:rows] + np.uint8(near) <= 2 * near):
                bits = int(differ[at])
                seen = (min(bits, BITS - bits), turn, bits > BITS // 2)
                best[start + int(at)] = min(seen, best.get(start + int(at), seen))
    return {position: (turn, negative) for position, (_, turn, negative) in sorted(best.items())}


def registered_similarity(one: Pixels, other: Pixels) -> float:
    """How alike two grey copies are when one is laid over the other: see the module.

    Args:
        one: uint8, `SIDE` x `SIDE`.
        other: uint8, of the same size.

    Returns:
        A correlation, -1 to 1; 0 where no map is found that lays one over the other.
    """
    inner = np.zeros((SIDE, SIDE), np.uint8)
    inner[SIDE // 16 : -SIDE // 16, SIDE // 16 : -SIDE // 16] = 255
    try:
        _, affine = cv2.findTransformECC(
            _even(other, _COARSE),
            _even(one, _COARSE),
            np.eye(2, 3, dtype=np.float32),
            cv2.MOTION_AFFINE,
            _STEPS,
            inner,
            5,
        )
    except cv2.error:  # it does not converge: the two have nothing in common
        return 0.0
    flags: Any = {"dsize": (SIDE, SIDE)}
    over = cv2.warpAffine(np.ones_like(one), affine, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, **flags) > 0
    over[:_EDGE] = over[-_EDGE:] = over[:, :_EDGE] = over[:, -_EDGE:] = False
    if over.sum() < SIDE * SIDE // 2:
        return 0.0
    laid = cv2.warpAffine(
        one, affine, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE, **flags
    )
    pairs = ((laid, other), (cv2.equalizeHist(laid), cv2.equalizeHist(other)))
    even = max(_correlation(_even(a, _LOCAL)[over], _even(b, _LOCAL)[over]) for a, b in pairs)
    return max(even, _as_even(_correlation(_ranks(laid)[over], _ranks(other)[over])))


def _as_even(ranked: float) -> float:
    """The correlation of ranks on the scale of the other one, which falls off less.

    On real radiographs other studies of one patient reach 0.817, and two patients 0.612: 0.85 stands for 0.95, and 0.75
    for 0.90. Above, what is no copy by ranks must not come nearer to 1.
    """
    return min(0.525 + ranked / 2, 1 - (1 - ranked) / 3)


def _even(grey: Pixels, sigma: float) -> Grey:
    """A picture without its local mean, at a local contrast of about 1."""
    values = grey.astype(np.float32)
    apart = values - cv2.GaussianBlur(values, (0, 0), sigma)
    # 4: the square of two grey values, so that noise in an even part is not drawn up to a pattern.
    return np.asarray(apart / np.sqrt(cv2.GaussianBlur(apart**2, (0, 0), sigma) + 4), dtype=np.float32)


def _ranks(grey: Pixels) -> Grey:
    """For each pixel, by how much of its neighbours it is brighter: the sum over them, each within -1 to 1.

    Source: the census and rank transforms of Zabih and Woodfill, ECCV 1994, with a slope where they have a step.
    """
    values = grey.astype(np.float32)
    around = cv2.copyMakeBorder(values, _RANKS, _RANKS, _RANKS, _RANKS, cv2.BORDER_REFLECT)
    height, width = grey.shape
    total = np.zeros_like(values)
    for top in range(2 * _RANKS + 1):
        for left in range(2 * _RANKS + 1):
            total += np.clip((values - around[top : top + height, left : left + width]) / _STEP, -1, 1)
    return np.asarray(total, dtype=np.float32)


def _correlation(a: Grey, b: Grey) -> float:
    spread = float(a.std()) * float(b.std())
    return 0.0 if spread == 0 else float(((a - a.mean()) * (b - b.mean())).mean()) / spread
