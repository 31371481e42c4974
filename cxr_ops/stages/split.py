"""split: give each patient a side, and count what stands on it.

Reads `validate/manifest.csv`, `validate/sides.csv` (where sources' own splits are kept), `validate/withdrawn.csv`
(whose withdrawn images were scored) and `test-period.json`; writes
`split/split.csv` (image_id, patient_id, split) and `split/split.json`. Test patients who were scored in an earlier
period get the side `retired`, images that are lateral or of unknown view the side `not-frontal`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from cxr_ops import contract
from cxr_ops.data import manifest, splits
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records.base import write_atomic
from cxr_ops.records.data import Division, SplitSide
from cxr_ops.records.inputs import Period


def run(root: Path, params: Params) -> None:
    """Split the validated data.

    Args:
        root: the workspace.
        params: `split` is used.

    Raises:
        DataError: `open` or `validate` has not run, or a side has no patient.
    """
    out = root / "split"
    shutil.rmtree(out, ignore_errors=True)
    frame = manifest.read_manifest(root / "validate" / "manifest.csv")
    period = _period(root)
    frame["split"] = splits.assign(
        frame,
        salt=params.split.salt,
        validation=params.split.validation,
        test=params.split.test,
        closed_batches=period.closed_batches,
        pinned=manifest.read_sides([root / "validate"]),
        withdrawn=manifest.read_withdrawn(root),
    )
    sides = [*splits.SIDES, splits.RETIRED]
    if (frame["split"] == splits.NOT_FRONTAL).any():
        sides.append(splits.NOT_FRONTAL)
    division = Division(
        salt=params.split.salt,
        validation=params.split.validation,
        test=params.split.test,
        test_digest=splits.test_digest(frame[frame["split"] == "test"]),
        splits={side: _count(frame[frame["split"] == side]) for side in sides},
    )
    retired = frame.loc[frame["split"] == splits.RETIRED, "patient_id"].nunique()
    empty = [side for side in splits.SIDES if not (frame["split"] == side).any()]
    if empty == ["test"] and retired:
        raise DataError(
            f"the test set of period {period.number} is empty: all {retired} test patients were scored before it",
            where=root / contract.PERIOD,
            fix="ingest patients who were never scored",
        )
    if empty:
        frontal = frame.loc[frame["split"] != splits.NOT_FRONTAL, "patient_id"].nunique()
        raise DataError(
            f"no patient falls to {' and '.join(empty)}: {frontal} patients with a frontal view are too few",
            where=root / "validate" / "manifest.csv",
            fix="ingest more patients; or raise the fraction in params.yaml, which starts a new lineage",
        )
    out.mkdir(parents=True)
    write_atomic(out / "split.csv", manifest.to_csv(frame, ("image_id", "patient_id", "split")))
    division.write(out / "split.json")


def _period(root: Path) -> Period:
    if not (root / contract.PERIOD).is_file():
        raise DataError(f"{contract.PERIOD} is missing", where=root / contract.PERIOD, fix="cxr-ops open")
    return Period.read(root / contract.PERIOD)


def _count(rows: pd.DataFrame) -> SplitSide:
    return SplitSide(
        images=len(rows),
        patients=int(rows["patient_id"].nunique()),
        positives={finding: int((rows[finding] == 1).sum()) for finding in FINDINGS},
    )
