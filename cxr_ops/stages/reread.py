"""reread: put a second truth beside the first in a published report, such as labels that experts read again.

Reads a CSV with an image id and columns named like findings, and the run's `evaluate/scores.csv` and `evaluation.json`.
Writes `second-truth.json` into the run's folder, and the published report again, with the comparison in its record:
the verdict, the evidence and the report that the ledger names stay as they are. While the plan withholds what the test
set shows, the comparison is in the full report alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from cxr_ops.data import score_files
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_file, write_private
from cxr_ops.records.evidence import Estimate, Evaluation, Undefined
from cxr_ops.records.second_truth import SecondTruth
from cxr_ops.stages import publish
from cxr_ops.stats import auc, second_truth
from cxr_ops.stats.evidence import CHALLENGER, ROLES

_AGAIN: Final = "bring the run's files back from the store: cxr-ops checkout RUN FOLDER"


def run(home: Home, name: str, path: Path) -> SecondTruth:
    """Compare a second truth with the first on a published run's scored images, and publish its report again.

    Args:
        home: the installation.
        name: the run's.
        path: the table of the second truth.

    Raises:
        DataError: the table cannot be read, or speaks of no scored image; the run's scores are gone or are not those
            that the evidence was made from.
        RefusedError: the run was not decided on, or its evidence is not the one that was.
    """
    decision = open_ledger(home).decision(name)
    if decision is None:
        raise RefusedError(f"the run {name} is not published", fix=f"cxr-ops publish --run {name}")
    found = compare(home.workspace(name) / "evaluate", path)
    if found.evaluation != decision.decision.evaluation:
        raise RefusedError(
            "the run's evidence is not the one that was decided on",
            where=home.workspace(name) / "evaluate",
            fix=_AGAIN,
        )
    target = home.run(name) / publish.SECOND_TRUTH
    write_private(target, found.to_bytes())  # it shows the test set, whatever the folder's other files may show
    publish.finish(home, name)
    return found


def compare(root: Path, path: Path) -> SecondTruth:
    """Compare a second truth with the first on what a run scored.

    Args:
        root: the folder `evaluate` of a workspace.
        path: the table of the second truth.

    Raises:
        DataError: as of `run`.
    """
    for file in ("evaluation.json", "scores.csv"):
        if not (root / file).is_file():
            raise DataError(f"{file} of the run is not here", where=root / file, fix=_AGAIN)
    evaluation = Evaluation.read(root / "evaluation.json")
    if not path.is_file():
        raise DataError("there is no such file", where=path, fix="name a CSV with image_id and columns of findings")
    truth = score_files.read_truth(path)
    scored = _read_scores(root / "scores.csv")
    models = {role: _column(scored, role) for role in ROLES if f"{FINDINGS[0]}_{role}" in scored}
    first = _column(scored, "truth")
    first[(first != 0) & (first != 1)] = np.nan  # an uncertain label is none
    level = next((one.challenger.level for one in evaluation.findings if isinstance(one.challenger, Estimate)), 0.95)
    _check_scores(evaluation, first, scored, models["challenger"], level, root)
    place = {image_id: row for row, image_id in enumerate(scored["image_id"])}
    here = [(row, place[image_id]) for row, image_id in enumerate(truth.image_ids) if image_id in place]
    if not here:
        raise DataError(
            f"none of the {len(truth.image_ids)} images of the table was scored",
            where=path,
            fix=f"an image id is written as in the manifest, such as {scored['image_id'].iloc[0]}",
        )
    rows, places = (list(one) for one in zip(*here, strict=True))
    second = np.full(first.shape, np.nan)
    second[places] = truth.truth[rows]
    thresholds = {role: [_threshold(evaluation, role, f) for f in range(len(FINDINGS))] for role in models}
    return SecondTruth(
        name=path.name,
        sha256=sha256_file(path),
        evaluation=sha256_file(root / "evaluation.json"),
        scored=evaluation.scored,
        images=len(scored),
        labelled=len(here),
        others=len(truth.image_ids) - len(here),
        level=level,
        findings=second_truth.compare(FINDINGS, first, second, scored["patient_id"], models, thresholds, level),
    )


def _read_scores(path: Path) -> pd.DataFrame:
    """Read the scores of a run, and see that those of the challenger and the first truth are there."""
    try:
        scored = pd.read_csv(path, dtype={"image_id": str, "patient_id": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is no table: {error}", where=path, fix=_AGAIN) from error
    needed = [f"{finding}_{what}" for finding in FINDINGS for what in ("truth", CHALLENGER)]
    if lacking := [name for name in ("image_id", "patient_id", *needed) if name not in scored]:
        raise DataError(f"{path.name} has no column {lacking[0]}", where=path, fix=_AGAIN)
    return scored


def _column(scored: pd.DataFrame, what: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return scored[[f"{finding}_{what}" for finding in FINDINGS]].to_numpy(dtype=np.float64).copy()


def _threshold(evaluation: Evaluation, role: str, f: int) -> float | Undefined:
    of = evaluation.performance[f].thresholds if f < len(evaluation.performance) else {}
    return of.get(role, Undefined(reason="the evidence has no threshold", needed="operating_points in the plan"))


def _check_scores(
    evaluation: Evaluation,
    first: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    scored: pd.DataFrame,
    challenger: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    level: float,
    root: Path,
) -> None:
    """The scores must be those that the evidence was made from: its AUCs come out of them again."""
    again = auc.compare(FINDINGS, first, scored["patient_id"], challenger, level=level)
    for was, one in zip(evaluation.findings, again.findings, strict=True):
        same = was.support == one.support and (
            not isinstance(was.challenger, Estimate)
            or (isinstance(one.challenger, Estimate) and abs(was.challenger.value - one.challenger.value) < 1e-9)
        )
        if not same:
            raise DataError(
                f"scores.csv is not what the evidence was made from: {was.finding} comes out otherwise",
                where=root / "scores.csv",
                fix=_AGAIN,
            )
