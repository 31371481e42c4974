"""Published runs whose evidence follows from scores: what bundles are tested on.

Two runs: `first` was promoted, `second` was judged against it. The people and pictures have names that stand out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluations import resting
from finished import RUN, Case, finish, make_home

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Entry
from cxr_ops.data import manifest
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.inputs import Champion, Reference
from cxr_ops.stages import evaluate, promote, publish
from cxr_ops.stats import evidence

PATIENTS = 150


def rows_of(side: str, patients: int = PATIENTS, *, seed: int = 0) -> pd.DataFrame:
    """A manifest of two images a patient, with an uncertain label and some missing ones."""
    rng = np.random.default_rng([seed, len(side)])
    count = 2 * patients
    owner = np.repeat(rng.permutation(patients), 2)
    names = [f"{side}-img-{number:05d}.png" for number in range(count)]
    labels = pd.DataFrame((rng.random((count, len(FINDINGS))) < 0.3).astype(int), columns=list(FINDINGS))
    frame = pd.DataFrame(
        {
            "image_id": names,
            "patient_id": [f"{side}-person-{number:05d}" for number in owner],
            "sha256": [sha256_bytes(name.encode()) for name in names],
            "source": "nih",
            "batch": "batch-1",
            "view": [("AP", "PA")[number % 2] for number in range(count)],
            "age": pd.array([20 + 7 * int(number) % 60 for number in owner], dtype="Int64"),
            "sex": ["FM"[number % 2] for number in owner],
            "width": 64,
            "height": 64,
        }
    )
    frame = pd.concat([frame, labels.astype("Int64")], axis=1)
    frame.loc[3, "Mass"] = -1
    frame.loc[5, "Hernia"] = pd.NA
    return frame


def scores_of(rows: pd.DataFrame, roles: tuple[str, ...], *, seed: int = 1) -> dict[str, np.ndarray]:
    """Probabilities that rank the labels well, of each model."""
    rng = np.random.default_rng(seed)
    truth = np.nan_to_num(manifest.label_array(rows), nan=0.0)
    shared = rng.standard_normal(truth.shape)
    found = {}
    for role in roles:
        noise = 0.8 * shared + 0.6 * rng.standard_normal(truth.shape)
        found[role] = (1 / (1 + np.exp(1.5 - 3 * truth - noise))).astype(np.float32)
    return found


def scored(roles: tuple[str, ...], seed: int = 1) -> Callable[[Path, plans.ChangePlan], dict[str, Any]]:
    """What writes manifest, split and scores into a workspace, and gives the evidence that follows from them."""

    def write(root: Path, plan: plans.ChangePlan) -> dict[str, Any]:
        test, validation = rows_of("test"), rows_of("validation", 60)
        both = pd.concat([test, validation])
        for folder in ("validate", "split", "evaluate"):
            (root / folder).mkdir(exist_ok=True)
        (root / "validate/manifest.csv").write_bytes(manifest.to_csv(both, manifest.COLUMNS))
        both["split"] = ["test"] * len(test) + ["validation"] * len(validation)
        (root / "split/split.csv").write_bytes(manifest.to_csv(both, ("image_id", "patient_id", "split")))
        scores, tuned = scores_of(test, roles, seed=seed), scores_of(validation, roles, seed=seed + 100)
        (root / "evaluate/scores.csv").write_bytes(evaluate.scores_table(test, scores))
        (root / "evaluate/validation_scores.csv").write_bytes(evaluate.scores_table(validation, tuned))
        found = evidence.assess(
            FINDINGS,
            evaluate._scored(test, scores),
            validation=evaluate._scored(validation, tuned),
            attributes=evaluate.attributes_of(root, test),
            rules=plan.performance,
            level=0.95,
        )
        judged = [row for row in found.evidence.findings if row.finding in found.evidence.macro_over]
        return {
            **found.figures(),
            "test_images": len(test),
            "test_patients": PATIENTS,
            "reliance": resting(judged, plan),
        }

    return write


def against(promotion: Entry) -> dict[str, Any]:
    """Champion and reference of a run that is judged against a promotion."""
    body = promotion.promotion
    champion = Champion(package=body.package, version=body.model_version, entry=promotion.digest(), recipe=body.recipe)
    return {"champion": champion, "reference": Reference(package=body.package, version=body.model_version)}


@pytest.fixture(scope="session")
def scored_home(tmp_path_factory: pytest.TempPathFactory, packages: dict[str, Path]) -> Home:
    """An installation with anchors and both runs; nobody changes it."""
    root = tmp_path_factory.mktemp("scored")
    home = replace(make_home(root), anchor_address=str(root / "anchors"))
    publish.run(home, finish(home, packages, Case(name="first", package="a"), scored=scored(("challenger",))))
    promote.run(home, RUN["first"])
    champion = open_ledger(home).champion()
    case = Case(name="second", package="b", **against(champion))
    publish.run(home, finish(home, packages, case, scored=scored(("challenger", "champion"), seed=2)))
    return home
