"""A new batch beside the data set: what is compared, and how often it is told to differ where it does not."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cxr_ops.data import drift
from cxr_ops.labels import FINDINGS

ALPHA = 0.1
BATCHES = 120


def population(
    rng: np.random.Generator, patients: int, first: int = 0, prevalence: float = 0.08, images: int = 5
) -> pd.DataFrame:
    """Patients with one to `images` images each, all images of a patient alike: as clustered as can be."""
    per_patient = rng.integers(1, images + 1, patients)
    owner = np.repeat(np.arange(patients), per_patient)
    count = len(owner)
    frame = pd.DataFrame(
        {
            "image_id": [f"{first}-{n}.png" for n in range(count)],
            "patient_id": [str(first + one) for one in owner],
            "sha256": [hashlib.sha256(f"{first} {n}".encode()).hexdigest() for n in range(count)],
            "view": np.where(rng.random(patients) < 0.6, "PA", "AP")[owner],
            "sex": np.where(rng.random(patients) < 0.55, "M", "F")[owner],
            "age": pd.array(rng.integers(18, 90, patients)[owner], dtype="Int64"),
        }
    )
    for finding in FINDINGS:
        frame[finding] = pd.array((rng.random(patients) < prevalence).astype(int)[owner], dtype="Int64")
    return frame


def by_name(
    batch: pd.DataFrame, held: pd.DataFrame, findings: tuple[str, ...] = FINDINGS
) -> dict[str, tuple[int, ...]]:
    found = drift.compare(batch, held, findings)
    return {one.what: (one.batch, one.batch_of, one.held, one.held_of) for one in found}


def test_batches_like_the_data_set_are_told_to_differ_no_more_often_than_stated() -> None:
    """Of 120 drawn batches from the same clustered population at most as many are told to differ as the level allows.

    A chi-squared test that counts images, with the same adjustment, tells far more.
    """
    rng = np.random.default_rng(20261129)
    alarms = naive = 0
    for _ in range(BATCHES):
        batch, held = population(rng, 40), population(rng, 120, first=1000)
        found = drift.compare(batch, held)
        alarms += min(one.adjusted_p for one in found) < ALPHA
        counts = [[(side[name] == 1).sum() for side in (batch, held)] for name in FINDINGS]
        sizes = [len(batch), len(held)]
        p_values = [
            stats.chi2_contingency([[a, sizes[0] - a], [b, sizes[1] - b]], correction=False).pvalue
            for a, b in counts
            if a + b
        ]
        naive += min(p_values) * len(p_values) < ALPHA
    assert alarms <= stats.binom.ppf(0.999, BATCHES, ALPHA)
    assert naive > 2 * ALPHA * BATCHES


def test_what_has_changed_is_found_and_named() -> None:
    """A finding that is three times as common, other views and older patients are found; nothing else is."""
    rng = np.random.default_rng(5)
    batch, held = population(rng, 200), population(rng, 1500, first=1000)
    patients = batch["patient_id"].to_numpy(dtype=int)
    batch["Mass"] = pd.array((patients % 4 == 0).astype(int), dtype="Int64")
    batch["view"] = "AP"
    batch["age"] = pd.array(60 + patients % 20, dtype="Int64")
    changed = {one.what for one in drift.compare(batch, held) if one.adjusted_p < 0.01}
    assert changed == {"Mass", "view PA", "view AP", "age 20 to 39", "age 40 to 59", "age 60 to 79", "age 80 to 120"}


def test_a_patient_counts_once_and_on_one_side() -> None:
    """One image a patient is taken, of the smallest digest; a patient of the batch is left out of the data set."""
    columns = {"view": "PA", "sex": "F", "age": pd.array([30] * 3, dtype="Int64")}
    labels = {finding: pd.array([0, 1, 0], dtype="Int64") for finding in FINDINGS}
    batch = pd.DataFrame({"patient_id": ["1", "1", "2"], "sha256": ["bb", "aa", "cc"], **columns, **labels})
    held = pd.DataFrame({"patient_id": ["1", "3", "3"], "sha256": ["a", "z", "b"], **columns, **labels})
    found = by_name(batch, held)
    assert found["Hernia"] == (1, 2, 0, 1)  # of patient 3 the file "b", whose label is 0
    assert found["view PA"] == (2, 2, 1, 1)
    assert len(found) == 25
    assert drift.compare(batch, held.iloc[:1]) == []


def test_only_what_is_known_on_both_sides_is_compared() -> None:
    """Missing and uncertain labels do not count as absent, and what one side knows nothing of is not compared."""
    rng = np.random.default_rng(3)
    batch, held = population(rng, 30), population(rng, 50, first=100)
    batch.loc[:9, "Mass"] = pd.NA
    batch["Edema"] = pd.array([-1] * len(batch), dtype="Int64")
    batch["sex"] = ""
    held["age"] = pd.array([pd.NA] * len(held), dtype="Int64")
    found = by_name(batch, held, tuple(name for name in FINDINGS if name != "Hernia"))
    assert not {"Hernia", "Edema", "sex F", "age 20 to 39"} & set(found)
    assert found["Mass"][1] == batch.loc[batch["Mass"].notna(), "patient_id"].nunique() < 30
    assert found["sex unknown"] == (30, 30, 0, 50)
    assert found["age unknown"] == (0, 30, 50, 50)


@pytest.mark.parametrize("seed", range(3))
def test_p_values_are_those_of_the_hypergeometric_distribution(seed: int) -> None:
    """A p-value is the probability of all tables with the same margins that are no likelier than the one seen."""
    rng = np.random.default_rng(seed)
    for one in drift.compare(population(rng, 20), population(rng, 40, first=100)):
        positive = one.batch + one.held
        chances = stats.hypergeom(one.batch_of + one.held_of, positive, one.batch_of).pmf(np.arange(one.batch_of + 1))
        assert one.p == pytest.approx(chances[chances <= chances[one.batch] * (1 + 1e-7)].sum())
        assert one.adjusted_p >= one.p


def test_the_table_of_comparisons_says_each_in_words() -> None:
    """A row a comparison, with a sentence that has both shares, both counts and the adjusted p-value."""
    rng = np.random.default_rng(1)
    found = drift.compare(population(rng, 20), population(rng, 40, first=100))
    table = drift.table(found)
    assert table["adjusted_p"].tolist() == [one.adjusted_p for one in found]
    assert "of 20 patients here" in table["name"][0]
    assert list(drift.table([])) == list(table)
