"""A second truth beside the first, as `cxr-ops report --second-truth` records it."""

from __future__ import annotations

from evaluations import estimate

from cxr_ops.records.evidence import Paired
from cxr_ops.records.second_truth import Compared, SecondTruth, UnderTruth


def second_truth() -> SecondTruth:
    """Mass of 40 images by two truths; nothing of Hernia."""
    paired = Paired(challenger=estimate(0.8), champion=estimate(0.7), difference=estimate(0.1))
    under = UnderTruth(positives=9, auc=paired, sensitivity=paired, specificity=paired)
    counts = {"patients": 30, "both": 7, "first_only": 2, "second_only": 3, "neither": 28}
    found = [
        Compared(finding="Mass", images=40, kappa=estimate(0.61), first=under, second=under, **counts),
        Compared(finding="Hernia", images=0, kappa=estimate(0), first=under, second=under, **counts),
    ]
    return SecondTruth(
        name="<again>.csv", sha256="a" * 64, evaluation="b" * 64, scored="test", images=99, labelled=40, others=2,
        level=0.95, findings=found,
    )  # fmt: skip
