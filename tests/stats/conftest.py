"""Scores whose true AUCs are known: normal in each class, alike within a patient, correlated between two models."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import ndtr, ndtri


class Study(NamedTuple):
    """A simulated test set: images x findings, and scores between 0 and 1 whose AUCs are known in expectation."""

    truth: np.ndarray
    patients: np.ndarray
    challenger: np.ndarray
    champion: np.ndarray


def _noise(rng: np.random.Generator, owner: np.ndarray, patients: int, findings: int, icc: float) -> np.ndarray:
    """Standard normal; correlation `icc` within a patient and 0.2 between findings."""

    def level(rows: int) -> np.ndarray:
        return np.sqrt(0.2) * rng.standard_normal((rows, 1)) + np.sqrt(0.8) * rng.standard_normal((rows, findings))

    return np.sqrt(icc) * level(patients)[owner] + np.sqrt(1 - icc) * level(owner.size)


@pytest.fixture(scope="session")
def simulate() -> Callable[..., Study]:
    """A function that simulates a study; `gain` is added to the challenger's AUCs."""

    def make(
        seed: int,
        *,
        patients: int = 350,
        images: float = 1.43,
        findings: int = 14,
        prevalence: float = 0.1,
        auc: float = 0.87,
        gain: float = 0.0,
        icc: float = 0.4,
        correlation: float = 0.7,
    ) -> Study:
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(patients), 1 + rng.poisson(images - 1, patients))
        liability = _noise(rng, owner, patients, findings, 0.5)
        truth = (liability > -ndtri(prevalence)).astype(float)
        shared = _noise(rng, owner, patients, findings, icc)
        scores = []
        for area in (auc + gain, auc):
            own = _noise(rng, owner, patients, findings, icc)
            noise = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
            scores.append(ndtr(truth * np.sqrt(2) * ndtri(area) + noise - 2))
        return Study(truth, owner, *scores)

    return make
