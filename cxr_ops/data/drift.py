"""Whether a new batch is like the data set: shares of findings, views, sexes and ages, compared patient by patient.

Images of one patient resemble each other, so images are no independent draws: a test that counts them sees drift where
there is none. Here a patient counts once, with one image, on one side: the image is the one whose file has the smallest
SHA-256, a choice that is made by nobody and is the same each time; who is in the batch is left out of the data set.
Each share is compared by Fisher's exact test, and all p-values of a batch are adjusted by Holm: the probability that a
batch of patients like those of the data set is told to differ in any share is at most the level, however few the
patients and however the shares hang together.

Sources: Fisher, "Statistical Methods for Research Workers" (1934), section 21.02; Holm, Scand. J. Statistics 6 (1979).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ops.data.validation import AGES
from cxr_ops.labels import FINDINGS, SEXES, VIEWS
from cxr_ops.records.acceptance import Comparison
from cxr_ops.stats.checks import holm

Bools = npt.NDArray[np.bool_]


def compare(batch: pd.DataFrame, held: pd.DataFrame, findings: Collection[str] = FINDINGS) -> list[Comparison]:
    """Compare the shares of a batch with those of the data set without its patients.

    A finding is compared among images whose label is 1 or 0, sex among those whose sex is known, age among those whose
    age is; that views, sexes and ages are known is compared as well. A share that one of the two sides cannot have,
    because nothing is known there, is left out.

    Args:
        batch: the batch's manifest, as `manifest.read_manifest` gives it.
        held: the manifests of the batches that are in the data set.
        findings: those that the batch's source labels.

    Returns:
        A comparison a share, with p-values adjusted for their number; none if the data set has no other patients.
    """
    from scipy.stats import fisher_exact

    sides = [_sorted(batch), _sorted(held[~held["patient_id"].isin(batch["patient_id"])])]
    counted: list[tuple[str, int, int, int, int]] = []
    for (what, *here), (_, *there) in zip(*(_shares(side, findings) for side in sides), strict=True):
        (has, of), (has_there, of_there) = (
            _count(side, *masks) for side, masks in zip(sides, (here, there), strict=True)
        )
        if of and of_there:
            counted.append((what, has, of, has_there, of_there))
    p_values = [
        float(fisher_exact([[has, of - has], [has_there, of_there - has_there]]).pvalue)
        for _, has, of, has_there, of_there in counted
    ]
    return [
        Comparison(
            what=what, batch=has, batch_of=of, held=has_there, held_of=of_there, p=min(p, 1.0), adjusted_p=adjusted
        )
        for (what, has, of, has_there, of_there), p, adjusted in zip(counted, p_values, holm(p_values), strict=True)
    ]


def table(comparisons: Collection[Comparison]) -> pd.DataFrame:
    """Comparisons as the table that a suite speaks of: `name` (in words), the counts, `p` and `adjusted_p`."""
    return pd.DataFrame(
        [{"name": str(one), **one.model_dump()} for one in comparisons],
        columns=["name", *Comparison.model_fields],
    )


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """The images by patient, who have numbers for it (`_patient`), and of a patient by the digest of the file."""
    numbered = frame.assign(_patient=pd.factorize(frame["patient_id"])[0])
    return numbered.sort_values(["_patient", "sha256"], kind="stable", ignore_index=True)


def _shares(frame: pd.DataFrame, findings: Collection[str]) -> Iterator[tuple[str, Bools, Bools]]:
    """Each share in words, the images that have it, and those of which it is known."""
    every = np.ones(len(frame), dtype=np.bool_)
    for finding in FINDINGS:
        if finding in findings:
            labels = frame[finding]
            yield finding.replace("_", " "), _array(labels == 1), _array(labels.isin([0, 1]))
    for view in VIEWS:
        yield f"view {view}", _array(frame["view"] == view), every
    yield "another view, or none", ~_array(frame["view"].isin(VIEWS)), every
    sexed = _array(frame["sex"].isin(SEXES))
    yield f"sex {SEXES[0]}", _array(frame["sex"] == SEXES[0]), sexed
    yield "sex unknown", ~sexed, every
    aged = _array(frame["age"].notna())
    for low, high in AGES:
        yield f"age {low} to {high}", _array(frame["age"].between(low, high)), aged
    yield "age unknown", ~aged, every


def _array(mask: pd.Series[bool]) -> Bools:
    return mask.fillna(value=False).to_numpy(dtype=np.bool_)


def _count(frame: pd.DataFrame, has: Bools, known: Bools) -> tuple[int, int]:
    """How many patients have it in the first of their images of which it is known, and how many have such an image."""
    patients = frame["_patient"].to_numpy()[known]
    first = np.flatnonzero(np.diff(patients, prepend=-1))
    return int(has[known][first].sum()), len(first)
