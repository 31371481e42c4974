"""Which images a report shows, chosen by a stated rule from labels and scores at the operating points. Pure.

Shapes: N images, F findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from cxr_ops.stats.probability import SMALLEST

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
MOST: Final = 2  # times that an image is shown
RULE: Final = (
    "Each model calls a finding at its own operating point. Of the images that champion and challenger call "
    "differently, those come first on which they differ most; then the surest errors of the challenger, and its surest "
    "right calls. No image is shown more than twice, and none twice for the same finding."
)
RULE_BY_RANK: Final = (
    "Where no operating point is known, the P highest scores count as called, with P positive images of the finding."
)
# In the order in which images are given away, since each is shown at most twice.
KINDS: Final = (
    "missed now",
    "false alarm now",
    "found now",
    "cleared now",
    "false negative",
    "false positive",
    "true positive",
    "true negative",
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a model's scores of a finding are read.

    Attributes:
        threshold: the score from which it calls the finding; None where none was chosen.
        intercept, slope: by which the logit of a score becomes calibrated; 0 and 1 leave it as it is.
    """

    threshold: float | None = None
    intercept: float = 0.0
    slope: float = 1.0

    @property
    def calibrates(self) -> bool:
        """Whether there is a calibration, and one that keeps the order: a falling one would turn calls round."""
        return self.slope > 0.0 and (self.intercept, self.slope) != (0.0, 1.0)

    def calibrate(self, score: float) -> float:
        """A score as a calibrated probability.

        >>> Scale(intercept=0.0, slope=1.0).calibrate(0.25)
        0.25
        """
        if not self.calibrates:
            return score
        return float(special.expit(self.intercept + self.slope * float(_logit(np.asarray(score)))))

    def sureness(self, scores: Floats) -> Floats:
        """(N,) how far calibrated logits lie above the threshold's; without one, above that of 0.5."""
        at = 0.5 if self.threshold is None else self.threshold
        return (self.slope if self.calibrates else 1.0) * (_logit(scores) - _logit(np.asarray(at)))


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An image (a row of the table) chosen for a finding, the `number`-th of its kind."""

    finding: str
    kind: str
    row: int
    number: int


def choose(
    findings: Sequence[str],
    names: Sequence[str],
    truth: npt.ArrayLike,
    scores: Mapping[str, npt.NDArray[np.floating[Any]]],
    scales: Mapping[str, Sequence[Scale]],
    *,
    per_kind: int,
) -> tuple[list[Chosen], list[str]]:
    """Choose cases by `RULE`.

    Args:
        findings: F names.
        names: N names of images, by which ties are broken: the smaller name comes first.
        truth: (N, F) 1, 0 or NaN. Images without a label of a finding are not shown for it.
        scores: role -> (N, F); `challenger`, and `champion` where there is one. A column of NaN is of a finding that
            the model was not trained on.
        scales: role -> F ways to read its scores.
        per_kind: of each finding, at most.

    Returns:
        The cases in the order of findings and kinds, and in sentences what there is none of.
    """
    labels = np.asarray(truth, dtype=np.float64)
    place = np.argsort(np.argsort(np.asarray(names)))  # ties by name
    shown: Counter[int] = Counter()
    taken: set[tuple[int, int]] = set()
    cases: dict[tuple[int, int], list[Chosen]] = {}
    none: dict[str, list[str]] = {}
    missing: list[str] = []
    candidates = []
    for f, finding in enumerate(findings):
        if np.isnan(scores[CHALLENGER][:, f]).all():
            missing.append(f"{finding}: the challenger was not trained on it.")
        elif not (labels[:, f] == 1).any():
            missing.append(f"{finding}: no test image has it.")
        else:
            candidates.append((f, dict(_kinds(f, labels[:, f], scores, scales))))
    for k, kind in enumerate(KINDS):
        for f, by_kind in candidates:
            if kind not in by_kind:
                continue
            rows, sureness = by_kind[kind]
            order = rows[np.lexsort((place[rows], -sureness))]
            chosen = _first(((row, f) for row in order.tolist()), per_kind, shown, taken)
            cases[f, k] = [
                Chosen(finding=findings[f], kind=kind, row=row, number=number) for number, row in enumerate(chosen, 1)
            ]
            if not rows.size:
                none.setdefault(kind, []).append(findings[f])
    missing += [f"There is no {kind} for {', '.join(of)}." for kind, of in none.items()]
    return [case for key in sorted(cases) for case in cases[key]], missing


def _kinds(
    f: int, labels: Floats, scores: Mapping[str, npt.NDArray[np.floating[Any]]], scales: Mapping[str, Sequence[Scale]]
) -> Iterator[tuple[str, tuple[npt.NDArray[np.int64], Floats]]]:
    """Rows of each kind, and how sure each is of its kind."""
    known = np.isfinite(labels) & np.isfinite(scores[CHALLENGER][:, f])
    positive, negative = known & (labels == 1), known & (labels == 0)
    now, sure = _calls(scores[CHALLENGER][:, f], scales[CHALLENGER][f], positive, known)

    def among(which: Bools, sureness: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        rows = np.flatnonzero(which)
        return rows, sureness[rows]

    if CHAMPION in scores and None not in (scales[CHALLENGER][f].threshold, scales[CHAMPION][f].threshold):
        theirs = scores[CHAMPION][:, f]
        known = known & np.isfinite(theirs)
        before, sure_before = _calls(theirs, scales[CHAMPION][f], positive & known, known)
        gap = sure - sure_before
        yield "missed now", among(positive & known & before & ~now, -gap)
        yield "false alarm now", among(negative & known & now & ~before, gap)
        yield "found now", among(positive & known & now & ~before, gap)
        yield "cleared now", among(negative & known & before & ~now, -gap)
    yield "false negative", among(positive & ~now, -sure)
    yield "false positive", among(negative & now, sure)
    yield "true positive", among(positive & now, sure)
    yield "true negative", among(negative & ~now, -sure)


def _calls(column: npt.NDArray[np.floating[Any]], scale: Scale, positive: Bools, known: Bools) -> tuple[Bools, Floats]:
    """Which images a model calls, and how sure it is."""
    values = np.where(np.isfinite(column), column, 0.0).astype(np.float64)
    if scale.threshold is not None:
        return known & (column >= scale.threshold), scale.sureness(values)
    count = int(positive.sum())
    highest = np.sort(values[known])[::-1][count - 1] if count else np.inf
    return known & (values >= highest), scale.sureness(values)


def _first(
    candidates: Iterable[tuple[int, int]], most: int, shown: Counter[int], taken: set[tuple[int, int]]
) -> list[int]:
    """The first candidates that may be shown once more; they are marked as shown."""
    chosen: list[int] = []
    for row, finding in candidates:
        if len(chosen) == most:
            break
        if shown[row] < MOST and (row, finding) not in taken:
            chosen.append(row)
            shown[row] += 1
            taken.add((row, finding))
    return chosen


def _logit(probabilities: npt.NDArray[Any]) -> Floats:
    inside = np.clip(np.asarray(probabilities, dtype=np.float64), SMALLEST, 1.0 - SMALLEST)
    logits: Floats = special.logit(inside)
    return logits
