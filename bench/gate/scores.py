"""Scores of models whose true AUCs are known: binormal, clustered by patient, correlated between findings and models.

The score of an image for a finding is the sum of
    a shift if the image has the finding,
    `LEAK` for each other finding that it has (at most two): pictures of ill patients look ill,
    noise of variance 1: a patient's part, which all images of the patient share, and an image's part.
Both parts of the noise correlate between findings, and between models.

The AUC of a finding then is the mean of Phi(difference of means / sqrt 2) over pairs of a positive and a negative
image, and the shift that gives a wanted AUC, in all patients or in a subgroup, is solved for. Pairs within a patient,
whose noise differs less, are left out of it: they are 0.1 % of the pairs or fewer, and the means of the estimates are
compared with the truth in the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from bench.gate.structure import Structure
from cxr_ops.labels import FINDINGS

# As published for DenseNet121 at 224 pixels on the official split (mean 0.815), in the order of FINDINGS.
AREAS = (0.78, 0.88, 0.83, 0.70, 0.82, 0.76, 0.74, 0.87, 0.75, 0.85, 0.92, 0.82, 0.78, 0.91)
# Intra-patient correlation of the noise. On real predictions 0.45 to 0.63 was seen among negative images.
INTRA_PATIENT = tuple(np.linspace(0.45, 0.63, len(FINDINGS))[[7, 2, 11, 4, 0, 13, 9, 5, 1, 12, 6, 3, 10, 8]])
BETWEEN_FINDINGS = 0.3
BETWEEN_MODELS = 0.9
LEAK, LEAK_MOST = 0.35, 2

Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """A structure, and how models score its images."""

    structure: Structure

    @cached_property
    def leak(self) -> Field:
        """(F, N) what the other findings of an image add to its score."""
        found = self.structure.truth
        others = np.minimum(found.sum(axis=1, keepdims=True) - found, LEAK_MOST)
        return np.ascontiguousarray((LEAK * others).T, dtype=np.float32)

    def shift(self, finding: int, area: float, among: npt.NDArray[np.bool_] | None = None) -> float:
        """The positives' shift that makes the AUC of a finding `area`, over all images or those of a mask."""
        return float(optimize.brentq(lambda shift: self.area(finding, shift, among) - area, -8.0, 12.0))

    def area(self, finding: int, shift: float, among: npt.NDArray[np.bool_] | None = None) -> float:
        """The true AUC of a finding for a shift; the inverse of `shift`."""
        mask = np.ones(len(self.structure.patients), bool) if among is None else among
        positive = self.structure.truth[:, finding] == 1
        steps = np.rint(self.leak[finding] / LEAK).astype(int)
        of_positive, of_negative = (
            np.bincount(steps[mask & kind], minlength=LEAK_MOST + 1) for kind in (positive, ~positive)
        )
        apart = shift + LEAK * np.subtract.outer(range(LEAK_MOST + 1), range(LEAK_MOST + 1))
        pairs = np.outer(of_positive / of_positive.sum(), of_negative / of_negative.sum())
        return float((pairs * special.ndtr(apart / np.sqrt(2))).sum())

    def noise(self, rng: np.random.Generator) -> Field:
        """(F, N) noise of variance 1."""
        patients, findings = self.structure.patients, len(FINDINGS)
        of_patients = _together(rng, findings, self.structure.patient_count)
        of_patients *= np.sqrt(INTRA_PATIENT, dtype=np.float32)[:, None]
        field = _together(rng, findings, patients.size)
        field *= np.sqrt(1 - np.asarray(INTRA_PATIENT), dtype=np.float32)[:, None]
        field += np.take(of_patients, patients, axis=1)
        return field

    @cached_property
    def _leak_spread(self) -> npt.NDArray[np.float64]:
        """(F,) variance of the leak among the negatives."""
        columns = zip(self.leak, self.structure.truth.T, strict=True)
        return np.array([np.var(row[column == 0], dtype=np.float64) for row, column in columns])

    def scores(self, common: Field, own: Field, between_models: float = BETWEEN_MODELS) -> Field:
        """(F, N) scores of a model before the positives' shift. Scores of negatives correlate as asked between models.

        The leak is in all models alike and correlates fully, so the noise correlates a little less.
        """
        share = (between_models - (1 - between_models) * self._leak_spread)[:, None]
        return self.leak + np.sqrt(share).astype(np.float32) * common + np.sqrt(1 - share).astype(np.float32) * own


def _together(rng: np.random.Generator, findings: int, size: int) -> Field:
    """(findings, size) normals that correlate by BETWEEN_FINDINGS between findings."""
    field = rng.standard_normal((findings, size), dtype=np.float32)
    field *= np.float32(np.sqrt(1 - BETWEEN_FINDINGS))
    field += np.float32(np.sqrt(BETWEEN_FINDINGS)) * rng.standard_normal(size, dtype=np.float32)
    return field
