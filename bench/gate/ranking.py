"""One model's scores for one finding, sorted once, so that many shifts of its positives can be ranked cheaply.

A shift moves all positives alike, so the order among positives and among negatives stays. What comes out is the
project's own `auc.Ranking`, equal to what `auc.rank` gives for the shifted scores (the tests compare), and everything
after it is the project's own code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_ops.stats import auc

Bools = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NOTHING: Final[Floats] = np.empty(0)  # stands for what nobody will ask for


@dataclass(frozen=True)
class Labels:
    """What all models have in common for a finding, in all images or in a subgroup of them.

    Attributes:
        positives, negatives: (P,) images of each patient.
        winners, losers: positive and negative image of each pair within a patient, one patient after the other.
        owners: (Q,) the patients who have such pairs.
        ends: (Q,) number of pairs up to and with each of them.
    """

    positives: Ints
    negatives: Ints
    winners: Ints
    losers: Ints
    owners: Ints
    ends: Ints

    @classmethod
    def of(cls, truth: Floats, patients: Ints, among: Bools) -> Labels:
        """Of one finding, (N,) each, on the images of a mask."""
        count = int(patients[-1]) + 1
        positive, negative = np.flatnonzero(among & (truth == 1)), np.flatnonzero(among & (truth == 0))
        positives = np.bincount(patients[positive], minlength=count).astype(np.int64)
        negatives = np.bincount(patients[negative], minlength=count).astype(np.int64)
        # Images stand in the order of patients: the negatives of a patient are a stretch of `negative`.
        rivals = negatives[patients[positive]]
        winners = np.repeat(positive, rivals)
        first = (np.cumsum(negatives) - negatives)[patients[positive]]
        inside = np.arange(winners.size) - np.repeat(np.cumsum(rivals) - rivals, rivals)
        losers = negative[np.repeat(first, rivals) + inside]
        of_patient = positives * negatives
        owners = np.flatnonzero(of_patient)
        return cls(positives, negatives, winners, losers, owners, np.cumsum(of_patient[owners]))

    def gaps(self, scores: Field) -> Field:
        """What the winner of each pair lacks before the shift, to outrank the loser."""
        return scores[self.losers] - scores[self.winners]

    def won(self, gaps: Field, shift: float) -> Ints:
        """(P,) pairs within each patient in which the positive wins."""
        up_to = np.cumsum(gaps < np.float32(shift), dtype=np.int32)[self.ends - 1]
        won = np.zeros(self.positives.size, np.int64)
        won[self.owners] = np.diff(up_to, prepend=0)
        return won


@dataclass(frozen=True)
class Sorted:
    """Scores before the shift, in rising order, with their images and patients."""

    positive: Field
    negative: Field
    positive_images: Ints
    negative_images: Ints
    positive_owners: Ints
    negative_owners: Ints

    def among(self, mask: Bools) -> Sorted:
        """The images of a mask, (N,)."""
        # Places are gathered faster than a mask is.
        positive, negative = np.flatnonzero(mask[self.positive_images]), np.flatnonzero(mask[self.negative_images])
        return Sorted(
            self.positive[positive],
            self.negative[negative],
            self.positive_images[positive],
            self.negative_images[negative],
            self.positive_owners[positive],
            self.negative_owners[negative],
        )

    def rank(self, shift: float, labels: Labels, gaps: Field) -> auc.Ranking:
        """Rank with the positives shifted; the parts by image, which cost much, are left out.

        Float32 scores tie about once in 10 million pairs; a tie counts as lost here, and the AUC does not feel it.

        Args:
            shift: of the positives.
            labels: of the same images.
            gaps: of the pairs of the labels, before the shift.
        """
        m, n = self.positive.size, self.negative.size
        below, above = self._counts(shift)
        patients = labels.positives.size
        won = np.bincount(self.positive_owners, below, patients)
        lost = np.bincount(self.negative_owners, above, patients)
        pairs, total = float(m * n), float(won.sum())
        area = total / pairs
        # A patient with all images of a kind takes the AUC away; `auc.rank` keeps the value there.
        left = (m - labels.positives) * (n - labels.negatives)
        without = np.divide(
            total - won - lost + labels.won(gaps, shift), left, out=np.full(patients, area), where=left > 0
        )
        return auc.Ranking(
            value=area,
            positive=won / pairs - (area / m) * labels.positives,
            negative=lost / pairs - (area / n) * labels.negatives,
            positives=labels.positives,
            negatives=labels.negatives,
            without=without,
            image=NOTHING,
        )

    def by_image(self, shift: float, images: int) -> Floats:
        """(N,) each image's part of the deviation, as `auc.Ranking.image`."""
        m, n = self.positive.size, self.negative.size
        below, above = self._counts(shift)
        area = float(below.sum()) / float(m * n)
        parts = np.zeros(images)
        parts[self.positive_images] = (below / n - area) / math.sqrt(m * (m - 1))
        parts[self.negative_images] = (above / m - area) / math.sqrt(n * (n - 1))
        return parts

    def _counts(self, shift: float) -> tuple[Ints, Ints]:
        """Negatives below each positive, and positives above each negative."""
        m, n = self.positive.size, self.negative.size
        below = np.searchsorted(self.negative, self.positive + np.float32(shift))
        return below, m - np.cumsum(np.bincount(below, minlength=n + 1)[:n])


def sort(scores: Field, truth: Floats, patients: Ints) -> Sorted:
    """Sort one finding's scores.

    Args:
        scores: (N,) before the shift of the positives.
        truth: (N,) 1 or 0.
        patients: (N,) whole numbers from 0.
    """
    order = np.argsort(scores)
    is_positive = truth[order] == 1
    positive, negative = order[is_positive], order[~is_positive]
    return Sorted(scores[positive], scores[negative], positive, negative, patients[positive], patients[negative])
