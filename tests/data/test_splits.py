"""The split: who is on which side."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_ops.data import splits
from cxr_ops.labels import FINDINGS

PATIENTS = st.lists(st.text("0123456789abcXYZ.-_", min_size=1, max_size=12), unique=True, max_size=60)
FRACTION = st.floats(0.01, 0.45)


def sides(patients: list[str], salt: str = "s", validation: float = 0.1, test: float = 0.25) -> dict[str, str]:
    return {name: splits.side(name, salt=salt, validation=validation, test=test) for name in patients}


@settings(max_examples=200, deadline=None)
@given(before=PATIENTS, after=PATIENTS, salt=st.text(min_size=1), validation=FRACTION, test=FRACTION)
def test_growing_data_never_move_a_patient(
    before: list[str], after: list[str], salt: str, validation: float, test: float
) -> None:
    """Whatever patients arrive, in whatever order, those who were there keep their side."""
    old = sides(before, salt, validation, test)
    new = sides([*after, *reversed(before)], salt, validation, test)
    assert {name: new[name] for name in before} == old


IMAGES = st.lists(st.tuples(st.integers(0, 40).map(str), st.sampled_from("abcd")), max_size=80)


def assigned(images: list[tuple[str, str]], closed: set[str]) -> dict[str, str]:
    """The one side of each patient, of images given as (patient, batch)."""
    rows = pd.DataFrame(images, columns=["patient_id", "batch"], dtype=str)
    sides = splits.assign(rows, salt="s", validation=0.2, test=0.4, closed_batches=closed)
    found = set(zip(rows["patient_id"], sides, strict=True))
    assert len(found) == rows["patient_id"].nunique()
    return dict(found)


@settings(max_examples=200, deadline=None)
@given(before=IMAGES, after=IMAGES, closed=st.sets(st.sampled_from("abcd")), more=st.sets(st.sampled_from("abcd")))
def test_only_test_patients_retire_and_nobody_returns(
    before: list[tuple[str, str]], after: list[tuple[str, str]], closed: set[str], more: set[str]
) -> None:
    """Whatever arrives and whatever is closed, a patient stays in training, validation, or test or retired; who is
    retired stays so, and is a test patient with an image in a closed batch."""
    old, new = assigned(before, closed), assigned(before + after, closed | more)
    for patient, was in old.items():
        now = new[patient]
        assert now == was or (was, now) == ("test", "retired")
    by_hash = sides([patient for patient, _ in before], validation=0.2, test=0.4)
    for patient, was in old.items():
        seen = any(name == patient and batch in closed for name, batch in before)
        assert was == ("retired" if seen and by_hash[patient] == "test" else by_hash[patient])


@settings(max_examples=100, deadline=None)
@given(patients=PATIENTS, one=FRACTION, two=FRACTION)
def test_the_validation_fraction_leaves_the_test_set_alone(patients: list[str], one: float, two: float) -> None:
    """Another validation fraction moves nobody into or out of the test set."""
    first, second = sides(patients, validation=one), sides(patients, validation=two)
    assert [n for n in patients if first[n] == "test"] == [n for n in patients if second[n] == "test"]


def test_positions_are_uniform_for_the_ids_that_exist() -> None:
    """Positions of the NIH's consecutive patient numbers pass a Kolmogorov-Smirnov test of uniformity."""
    positions = [splits.position(str(number), "cxr-ops-1") for number in range(1, 30_806)]
    assert stats.kstest(positions, "uniform").pvalue > 0.001


def test_fractions_are_those_asked_for() -> None:
    """The number of patients on each side lies where the binomial distribution puts it."""
    counts = Counter(sides([str(number) for number in range(20_000)]).values())
    for side, share in (("test", 0.25), ("validation", 0.1), ("train", 0.65)):
        assert stats.binomtest(counts[side], 20_000, share).pvalue > 0.001, side


def test_another_salt_is_another_split() -> None:
    """Two salts give independent splits: patients are on the test side of both as often as chance says."""
    patients = [str(number) for number in range(20_000)]
    one, two = sides(patients, "one"), sides(patients, "two")
    both = sum(one[name] == two[name] == "test" for name in patients)
    assert stats.binomtest(both, 20_000, 0.25**2).pvalue > 0.001


def test_the_hash_is_hmac_sha256() -> None:
    """The position is the first 53 bits of HMAC-SHA256 keyed by the salt, so that anyone can repeat the split."""
    digest = hmac.new(b"salt", b"17", hashlib.sha256).hexdigest()
    assert splits.position("17", "salt") == int(bin(int(digest, 16))[2:].zfill(256)[:53], 2) / 2**53


def test_the_test_digest_is_of_images_and_labels() -> None:
    """The digest ignores the order of rows, and changes with an image, its bytes or one label."""
    rows = pd.DataFrame(
        {"image_id": ["a.png", "b.png"], "sha256": ["00", "11"], **{finding: [0, 1] for finding in FINDINGS}}
    )
    digest = splits.test_digest(rows)
    assert splits.test_digest(rows[::-1]) == digest
    assert splits.test_digest(rows[:1]) != digest
    assert splits.test_digest(rows.assign(sha256=["00", "12"])) != digest
    assert splits.test_digest(rows.assign(Hernia=[1, 1])) != digest
    assert splits.test_digest(rows.assign(Hernia=pd.array([None, 1], dtype="Int64"))) != digest
    # Written side by side, "-1" and "-", "1" would be one text.
    other = [rows.iloc[:1].assign(Mass=a, Nodule=b, Pneumonia=c) for a, b, c in ((pd.NA, 1, -1), (-1, pd.NA, 1))]
    assert splits.test_digest(other[0]) != splits.test_digest(other[1])


def test_a_pinned_patient_is_where_the_source_put_them() -> None:
    """A source's own split has the word on its patients alone; of its development side the usual share validates."""
    rows = pd.DataFrame({"patient_id": [str(n) for n in range(4000)], "batch": "a", "view": "PA"})
    pinned = {str(n): "test" if n < 500 else "development" for n in range(3000)} | {"3000": "validation"}
    sides = splits.assign(rows, salt="s", validation=0.1, test=0.25, pinned=pinned)
    free = splits.assign(rows, salt="s", validation=0.1, test=0.25)
    assert set(sides[:500]) == {"test"}
    assert set(sides[500:3000]) == {"train", "validation"}
    assert sides[3000] == "validation"
    assert sides[3001:].tolist() == free[3001:].tolist()
    share = 0.1 / 0.75
    assert stats.binomtest(int((sides[500:3000] == "validation").sum()), 2500, share).pvalue > 1e-3
    stays = free[500:3000] != "test"
    assert (sides[500:3000][stays] == free[500:3000][stays]).all()  # only who would have been tested on moves


def test_only_frontal_images_have_a_side() -> None:
    """A lateral image and one of unknown view stand aside, whosever they are; the patient keeps the side."""
    rows = pd.DataFrame({"patient_id": ["1"] * 4, "batch": "a", "view": ["PA", "LL", "", "AP"]})
    sides = splits.assign(rows, salt="s", validation=0.1, test=0.25)
    assert sides[[1, 2]].tolist() == ["not-frontal"] * 2
    assert sides[0] == sides[3] == splits.side("1", salt="s", validation=0.1, test=0.25)
