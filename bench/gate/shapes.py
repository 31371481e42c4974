"""Scores that are not normal: how often a challenger at its margin passes by mistake, and an equally good one at all.

Patients with the finding are those of the test set, with their numbers of images; 2,400 further images of 400 patients
do not show it. The champion's scores give the wanted AUC. At the margin the challenger's AUC is exact in expectation:
it is lower by a shift of the scores, or some patients fail and the others are as good as the champion's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from bench.gate import procedures
from bench.gate.procedures import Setup
from bench.gate.scores import AREAS
from cxr_ops.labels import FINDINGS
from cxr_ops.stats import auc, sparse

Floats = npt.NDArray[np.float64]
Shape = Literal["normal", "beta", "bf16", "bimodal", "fails", "fails to any rank", "negatives fail"]

NEGATIVES, NEGATIVE_IMAGES = 400, 6  # patients, and images of each
WITHIN_PATIENT: Final = 0.5
BIMODAL: Final = 0.15  # share of patients whom the challenger ranks lower, all by the same
LEVELS: Final = (0.025, 0.005)
MOST: Final = {0.025: 2.9, 0.005: 0.65}  # per cent of false passes that are asked for
FLAT: Final = 2.5  # scores of a saturated model: expit(2.5 z), in bf16


@dataclass(frozen=True)
class Case:
    """Two models' scores for a finding.

    Attributes:
        finding: whose patients, and whose AUC.
        margin: of the difference.
        shape: of the scores, or of what the challenger loses.
        correlation: of the models' scores on an image.
        patients: only so many of the patients; None is all.
        one: images of one further patient.
    """

    finding: str
    margin: float
    shape: Shape
    correlation: float = 0.9
    patients: int | None = None
    one: int = 0

    @property
    def name(self) -> str:
        """What the results call it."""
        who = "" if self.patients is None else f", {self.patients} patients"
        more = f", one with {self.one} images" if self.one else ""
        return f"{self.finding}{who}{more}, margin {self.margin:g}, correlation {self.correlation:g}: {self.shape}"


CASES: Final = (
    *(Case("Hernia", 0.10, shape, rho) for shape in ("normal", "bf16", "bimodal", "fails") for rho in (0.5, 0.9, 0.99)),
    *(Case("Hernia", 0.10, shape) for shape in ("beta", "fails to any rank", "negatives fail")),
    *(Case("Hernia", 0.15, shape) for shape in ("normal", "fails")),
    *(Case("Hernia", 0.20, shape, patients=20) for shape in ("normal", "fails")),
    Case("Hernia", 0.10, "fails", patients=20),
    *(Case("Fibrosis", 0.05, shape, rho) for shape in ("fails", "bimodal") for rho in (0.9, 0.99)),
    *(Case("Fibrosis", 0.05, shape, one=180) for shape in ("normal", "fails")),
    *(Case("Pleural_Thickening", 0.03, shape) for shape in ("normal", "bimodal", "fails")),
)


def draw(setup: Setup, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """One test set of each case: does the margin alone pass, and with the check of few patients, at either level?"""
    for case in CASES:
        images = _images(setup, case, rng)
        for true in ("margin", "equal"):
            if true == "equal" and case.shape not in ("normal", "beta", "bf16"):
                continue
            alone, both = _passes(case, images, rng, lost=true == "margin")
            for level in LEVELS:
                yield f"shape/{true}/alone/{level:g}/{case.name}", alone[level]
                yield f"shape/{true}/both/{level:g}/{case.name}", both[level]


def _images(setup: Setup, case: Case, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Positive images of each positive patient."""
    structure = setup.world.structure
    counts = np.bincount(structure.patients, weights=structure.truth[:, FINDINGS.index(case.finding)]).astype(np.int64)
    counts = counts[counts > 0]
    if case.patients is not None and counts.size > case.patients:
        counts = rng.permutation(counts)[: case.patients]
    return np.append(counts, case.one) if case.one else counts


def _passes(
    case: Case, images: npt.NDArray[np.int64], rng: np.random.Generator, *, lost: bool
) -> tuple[dict[float, bool], dict[float, bool]]:
    area = AREAS[FINDINGS.index(case.finding)]
    positives = images.size
    owners = np.concatenate(
        (np.repeat(np.arange(positives), images), positives + np.repeat(np.arange(NEGATIVES), NEGATIVE_IMAGES))
    )
    truth = (owners < positives).astype(np.float64)

    def noise() -> Floats:
        of_patients = rng.standard_normal(positives + NEGATIVES)[owners]
        return math.sqrt(WITHIN_PATIENT) * of_patients + math.sqrt(1 - WITHIN_PATIENT) * rng.standard_normal(
            owners.size
        )

    common = math.sqrt(case.correlation) * noise()
    champion, challenger = (common + math.sqrt(1 - case.correlation) * noise() for _ in range(2))
    shift = math.sqrt(2) * float(special.ndtri(area))
    champion += shift * truth
    by_shift = case.shape in ("normal", "beta", "bf16") and lost
    challenger += truth * (math.sqrt(2) * float(special.ndtri(area - case.margin)) if by_shift else shift)
    champion, challenger = (_shaped(case, scores) for scores in (champion, challenger))
    if lost and not by_shift:
        challenger = _failing(case, challenger, owners, positives, rng)
    before, after = (auc.rank(truth, scores, owners) for scores in (champion, challenger))
    figure = procedures.difference([(after, before)])
    seen = sparse.falls([after], [before], figure.se)
    alone = {level: auc.bounds(figure, level)[0] > -case.margin for level in LEVELS}
    both = {
        level: met and sparse.keeps(figure.value, seen, figure.df, level, case.margin) for level, met in alone.items()
    }
    return alone, both


def _shaped(case: Case, scores: Floats) -> Floats:
    """The scores of a model, whose order a smooth shape leaves as it is."""
    if case.shape == "beta":
        return np.asarray(special.betaincinv(0.6, 3.0, special.ndtr(scores)))
    if case.shape == "bf16":  # 8 bits of mantissa near 1: many ties
        rising = special.expit(FLAT * scores).astype(np.float32)
        return (rising.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return scores


def _failing(
    case: Case, scores: Floats, owners: npt.NDArray[np.int64], positives: int, rng: np.random.Generator
) -> Floats:
    """Some patients fail, so many that the expected AUC is lower by the margin."""
    area = AREAS[FINDINGS.index(case.finding)]
    of_patients = rng.random(positives + NEGATIVES)
    ill = owners < positives
    if case.shape == "bimodal":
        lower: Floats = scores - _depth(area, case.margin) * (ill & (of_patients < BIMODAL)[owners])
        return lower
    if case.shape == "negatives fail":
        return np.where(~ill & (of_patients < case.margin / area)[owners], 99.0, scores)
    if case.shape == "fails":
        return np.where(ill & (of_patients < case.margin / area)[owners], -99.0, scores)
    hit = ill & (of_patients < case.margin / (area - 0.5))[owners]
    return np.where(hit, rng.standard_normal(owners.size), scores)


@cache
def _depth(area: float, margin: float) -> float:
    """By how much a share of the patients must score lower."""
    shift = math.sqrt(2) * special.ndtri(area)

    def excess(depth: float) -> float:
        return float(BIMODAL * (area - special.ndtr((shift - depth) / math.sqrt(2))) - margin)

    return float(optimize.brentq(excess, 0.0, 40.0))
