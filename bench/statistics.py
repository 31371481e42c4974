"""The gate's statistics on a test set of the NIH's size: paired comparison, bootstrap, whole decision; one thread."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from bench.measure import seconds, table

PROJECT = Path(__file__).resolve().parents[1]
IMAGES, PATIENTS = 25_596, 2_797  # of the official test set
# Shares of positive images in the official test set, and AUCs of a published DenseNet121, in the order of the findings.
PREVALENCE = (0.13, 0.04, 0.18, 0.24, 0.07, 0.06, 0.02, 0.10, 0.07, 0.04, 0.04, 0.02, 0.04, 0.003)
AREAS = (0.78, 0.88, 0.83, 0.70, 0.81, 0.77, 0.72, 0.86, 0.75, 0.85, 0.92, 0.82, 0.78, 0.93)
REPEATS = 5
REPLICATES = 2_000
LOOPED = 10  # replicates of the scikit-learn loop, which is too slow for all

Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]
Covariance = npt.NDArray[np.float64]


class Study(NamedTuple):
    truth: Floats  # images x findings
    patients: npt.NDArray[np.int64]
    challenger: Scores
    champion: Scores


def section() -> str:
    """Measure and write the section."""
    from threadpoolctl import threadpool_limits

    study = simulate(np.random.default_rng(0))
    with threadpool_limits(1):
        return "\n".join([delong_section(study), bootstrap_section(study), decision_section(study)])


def simulate(rng: np.random.Generator) -> Study:
    """Patients with few and with many images, labels and scores alike within a patient, two models alike."""
    images = np.ones(PATIENTS, dtype=np.int64)
    heavy = rng.gamma(0.7, size=PATIENTS)
    images += rng.multinomial(IMAGES - PATIENTS, heavy / heavy.sum())
    owner = np.repeat(np.arange(PATIENTS), images)

    def field(icc: float) -> Floats:
        own, common = rng.standard_normal((2, IMAGES, len(AREAS))), np.sqrt(icc)
        return common * own[0, :PATIENTS][owner] + np.sqrt(1 - icc) * own[1]

    truth = (field(0.6) > -ndtri(PREVALENCE)).astype(np.float64)
    shared, shift = field(0.55), np.sqrt(2) * ndtri(AREAS)
    models = [
        ndtr(truth * shift + np.sqrt(0.9) * shared + np.sqrt(0.1) * field(0.55) - 2).astype(np.float32)
        for _ in range(2)
    ]
    return Study(truth, owner, *models)


# -------------------------------------------------------------------------------------------- comparison


def kernel_covariance(positive: npt.NDArray[np.bool_], scores: list[Scores]) -> Covariance:
    """DeLong's covariance of two AUCs by comparing every pair: O(mn)."""
    v10, v01 = [], []
    for model in scores:
        x, y = model[positive], model[~positive]
        psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    return np.cov(v10) / len(v10[0]) + np.cov(v01) / len(v01[0])


def rankdata_covariance(positive: npt.NDArray[np.bool_], scores: list[Scores]) -> Covariance:
    """The same by mid-ranks within each kind and in all (Sun and Xu 2014)."""
    v10, v01 = [], []
    for model in scores:
        x, y = model[positive], model[~positive]
        of_all = rankdata(np.concatenate([x, y]))
        v10.append((of_all[: x.size] - rankdata(x)) / y.size)
        v01.append(1 - (of_all[x.size :] - rankdata(y)) / x.size)
    return np.cov(v10) / len(v10[0]) + np.cov(v01) / len(v01[0])


def delong_section(study: Study) -> str:
    from cxr_ops.labels import FINDINGS
    from cxr_ops.stats import auc

    truth, owner, *models = study
    # All but `compare`, which does it itself, are given each finding's numbers side by side.
    columns = list(zip(truth.T.copy(), models[0].T.copy(), models[1].T.copy(), strict=True))

    def peer(covariance: Callable[[npt.NDArray[np.bool_], list[Scores]], Covariance]) -> list[float]:
        found = []
        for column, *scores in columns:
            cov = covariance(column == 1, scores)
            found.append(float(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]))
        return found

    def ours() -> list[float]:
        found = []
        for column, *scores in columns:
            a, b = (auc.rank(column, model, owner) for model in scores)
            found.append(auc.variance([a.minus(b)]))
        return found

    def compare() -> list[float]:
        rows = auc.compare(FINDINGS, truth, owner, *models).findings
        return [row.difference.se_image**2 for row in rows]  # type: ignore[union-attr]  # all are defined here

    # All see the same pairs: without patients, ours is DeLong's.
    assert np.allclose(compare(), peer(kernel_covariance), rtol=1e-9, atol=0)
    assert np.allclose(peer(rankdata_covariance), peer(kernel_covariance), rtol=1e-9, atol=0)
    rows = seconds(
        {
            "DeLong, every pair: numpy kernel O(mn)": timed(lambda: peer(kernel_covariance)),
            "DeLong by Sun and Xu, `scipy.stats.rankdata`": timed(lambda: peer(rankdata_covariance)),
            "`auc.rank` and `auc.variance`: clustered by patient, leave-one-out values too": timed(ours),
            "`auc.compare`: with intervals, macro-AUC and evidence records": timed(compare),
        },
        repeats=REPEATS,
    )
    note = (
        f"The variances of 14 paired differences of AUCs: {IMAGES:,} images of {PATIENTS:,} patients, float32 scores "
        "of two models, one thread. `auc` clusters by patient, which its peers do not. Sun and Xu's algorithm with "
        f"`rankdata` takes {rows[1].median / rows[2].median:.1f} times as long as `auc.rank` and `auc.variance`."
    )
    return table("Paired comparison", "s", rows, note=note, repeats=REPEATS)


# --------------------------------------------------------------------------------------------- bootstrap


def bootstrap_section(study: Study) -> str:
    from sklearn.metrics import roc_auc_score

    from cxr_ops.stats import bootstrap

    truth, owner, scores, _ = study
    times = bootstrap.draw(PATIENTS, LOOPED, np.random.default_rng(0))
    of_patient = np.split(np.arange(IMAGES), np.flatnonzero(np.diff(owner)) + 1)

    def loop() -> Floats:
        areas = np.empty((LOOPED, truth.shape[1]))
        for b, drawn in enumerate(times.T):
            rows = np.concatenate([of_patient[patient] for patient in np.repeat(np.arange(PATIENTS), drawn)])
            areas[b] = [roc_auc_score(truth[rows, f], scores[rows, f]) for f in range(truth.shape[1])]
        return areas

    def ours(replicates: int) -> Floats:
        return bootstrap.replicate_aucs(truth, owner, [scores], replicates, np.random.default_rng(0))

    assert np.abs(ours(LOOPED)[0] - loop()).max() < 1e-12
    rows = seconds(
        {
            f"scikit-learn's `roc_auc_score` in a loop: {LOOPED} replicates, extrapolated": timed(
                loop, REPLICATES / LOOPED
            ),
            f"`bootstrap.replicate_aucs`: {REPLICATES:,} replicates": timed(lambda: ours(REPLICATES)),
        },
        repeats=REPEATS,
    )
    note = (
        f"{REPLICATES:,} bootstrap replicates of patients, the AUCs of one model for 14 findings on the same test set; "
        "the replicates are equal to 1e-12. Most memory held at once: "
        f"{peak(lambda: ours(200)):.0f} MB for 200 replicates, {peak(lambda: ours(REPLICATES)):.0f} MB for "
        f"{REPLICATES:,}."
    )
    return table("Bootstrap of patients", "s", rows, note=note, repeats=REPEATS)


# ---------------------------------------------------------------------------------------------- decision


def decision_section(study: Study) -> str:
    from cxr_ops import plan as plans
    from cxr_ops.labels import FINDINGS
    from cxr_ops.records.evidence import Evaluation
    from cxr_ops.stats import evidence, rule

    plan = plans.load(PROJECT / "pccp.yaml")
    rng = np.random.default_rng(1)
    scores = {"challenger": study.challenger, "champion": study.champion}
    test = evidence.Scored(truth=study.truth, patients=study.patients, scores=scores)
    half = study.patients < PATIENTS // 2
    validation = evidence.Scored(
        truth=study.truth[half], patients=study.patients[half], scores={role: s[half] for role, s in scores.items()}
    )
    attributes = {
        "sex": rng.choice(["F", "M"], PATIENTS)[study.patients].tolist(),
        "age": rng.integers(5, 95, PATIENTS)[study.patients].astype(str).tolist(),
        "view": rng.choice(["AP", "PA"], IMAGES).tolist(),
        "source": ["nih"] * IMAGES,
    }

    def decide() -> str:
        found = evidence.assess(
            FINDINGS, test, validation=validation, attributes=attributes, rules=plan.performance, level=0.95
        )
        problems = evidence.score_problems(FINDINGS, study.truth, scores)
        evaluation = Evaluation(
            **dict(found.evidence),
            **{name: getattr(found, name) for name in vars(found) if name != "evidence"},
            test_digest="test",
            test_images=IMAGES,
            test_patients=PATIENTS,
            challenger="challenger",
            champion="champion",
            problems=problems,
        )
        return rule.judge(evaluation, plan.of_scores()).evidence_says

    rows = seconds({"`evidence.assess` and `rule.judge`": timed(decide)}, repeats=REPEATS)
    note = (
        f"From the scores of two models to a verdict under the NIH plan (`pccp.yaml`): the {IMAGES:,} test images, all "
        f"findings and subgroups, operating points and calibration from {int(half.sum()):,} validation images, the "
        f"checks on the scores themselves, the gate. Most memory held at once: {peak(decide):.0f} MB."
    )
    return table("The whole decision", "s", rows, note=note, repeats=REPEATS)


# ------------------------------------------------------------------------------------------------ measuring


def timed(work: Callable[[], object], times: float = 1.0) -> Callable[[], float]:
    """Seconds that the work takes, times a factor."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return times * (time.perf_counter() - start)

    return measure


def peak(work: Callable[[], object]) -> float:
    """The most memory that the work holds at once, in MB."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6
