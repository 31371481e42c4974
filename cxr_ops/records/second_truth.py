"""Records of what a second truth, such as labels that experts read again, says beside the first."""

from __future__ import annotations

from cxr_ops.records.base import Kept, Record
from cxr_ops.records.evidence import Figure, Paired


class UnderTruth(Record):
    """How well the models do by one of the truths, at the thresholds of the evidence."""

    positives: int
    auc: Paired
    sensitivity: Paired
    specificity: Paired


class Compared(Record):
    """A finding by two truths, on the images of which both say 1 or 0; see `cxr_ops.stats.second_truth`.

    both, first_only, second_only, neither: images that are positive by so many truths. kappa: Cohen's, clustered by
    patient.
    """

    finding: str
    images: int
    patients: int
    both: int
    first_only: int
    second_only: int
    neither: int
    kappa: Figure
    first: UnderTruth
    second: UnderTruth


class SecondTruth(Kept):
    """A second truth of a run's scored images: `runs/<run>/second-truth.json`. No decision reads it.

    name, sha256: of the file that it was given in. evaluation: digest of the run's evidence, which holds the first.
    scored: which set of images was scored, and `images` how many; `labelled` of them the file speaks of, and `others`
    of its rows are of no scored image. level: of the intervals.
    """

    name: str
    sha256: str
    evaluation: str
    scored: str
    images: int
    labelled: int
    others: int
    level: float
    findings: list[Compared]
