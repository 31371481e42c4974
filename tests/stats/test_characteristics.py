"""The table of characteristics against pandas, and what is said of patients who are not known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxr_ops.stats.characteristics import describe


def test_counts_and_quartiles_are_those_of_pandas():
    """On random patients, sexes by patient, views by image and quartiles of the first ages are what pandas finds."""
    rng = np.random.default_rng(3)
    patients = [f"p{i}" for i in rng.integers(0, 60, 200)]
    sex_of = {patient: rng.choice(["F", "M", ""]) for patient in set(patients)}
    frame = pd.DataFrame(
        {
            "patient": patients,
            "age": np.where(rng.random(200) < 0.2, np.nan, rng.integers(18, 90, 200)),
            "sex": [sex_of[patient] for patient in patients],
            "view": rng.choice(["AP", "PA"], 200),
        }
    )
    ages = [None if np.isnan(age) else float(age) for age in frame["age"]]
    found = describe("test", patients, ages, frame["sex"].tolist(), frame["view"].tolist())
    first = frame.groupby("patient")["age"].min()
    assert (found.images, found.patients) == (200, frame["patient"].nunique())
    assert found.sexes == frame.groupby("patient")["sex"].first().value_counts().to_dict()
    assert found.views == frame["view"].value_counts().to_dict()
    quartiles = (found.ages.lower_quartile, found.ages.median, found.ages.upper_quartile)
    assert quartiles == pytest.approx(first.quantile([0.25, 0.5, 0.75]).tolist())
    assert (found.ages.youngest, found.ages.oldest) == (first.min(), first.max())
    assert found.ages.unknown == first.isna().sum()


def test_a_patient_of_two_sexes_is_counted_as_such():
    """Where images say different sexes, the patient counts as neither; a missing one does not contradict."""
    found = describe("test", ["a", "a", "b", "b"], [1, 2, 3, 4], ["F", "M", "F", ""], ["PA"] * 4)
    assert found.sexes == {"F": 1, "several": 1}


def test_nobody_has_an_age():
    """Without any age there are no quartiles, and nothing is made up."""
    assert describe("test", ["a"], [None], [""], [""]).ages is None


def test_columns_of_other_lengths_are_refused():
    """All columns describe the same images."""
    with pytest.raises(ValueError, match="one length"):
        describe("test", ["a"], [], [""], [""])
