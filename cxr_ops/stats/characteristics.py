"""Who the patients of a part of the data are: the table of characteristics that reporting guidelines ask for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cxr_ops.records.report import Ages, Characteristics

SEVERAL = "several"  # a patient of whom the images say different sexes


def describe(
    name: str, patients: Sequence[str], ages: Sequence[float | None], sexes: Sequence[str], views: Sequence[str]
) -> Characteristics:
    """Describe a part of the data.

    A patient has the sex of the patient's images, and the age at the first image, which is the lowest on record.

    Args:
        name: of the part.
        patients: N, the patient of each image.
        ages: N years; None where it is not known.
        sexes: N; "" where it is not known.
        views: N; "" where it is not known.

    Raises:
        ValueError: the sequences are not of one length.

    >>> found = describe("test", ["a", "a", "b"], [41, 40, None], ["F", "F", ""], ["PA", "AP", "PA"])
    >>> found.patients, found.sexes, found.views, found.ages.median, found.ages.unknown
    (2, {'': 1, 'F': 1}, {'AP': 1, 'PA': 2}, 40.0, 1)
    """
    if not len(patients) == len(ages) == len(sexes) == len(views):
        raise ValueError("patients, ages, sexes and views must be of one length")
    years: dict[str, float] = {}
    said: dict[str, set[str]] = defaultdict(set)
    for patient, age, sex in zip(patients, ages, sexes, strict=True):
        said[patient] |= {sex} - {""}
        if age is not None:
            years[patient] = min(float(age), years.get(patient, float("inf")))
    of_patients = Counter(SEVERAL if len(one) > 1 else next(iter(one), "") for one in said.values())
    spread = np.quantile(list(years.values()), (0.0, 0.25, 0.5, 0.75, 1.0)) if years else None
    return Characteristics(
        name=name,
        images=len(patients),
        patients=len(said),
        sexes=dict(sorted(of_patients.items())),
        views=dict(sorted(Counter(views).items())),
        ages=None
        if spread is None
        else Ages(
            youngest=float(spread[0]),
            lower_quartile=float(spread[1]),
            median=float(spread[2]),
            upper_quartile=float(spread[3]),
            oldest=float(spread[4]),
            unknown=len(said) - len(years),
        ),
    )
