"""show: the whole history of one image, or of all images of a patient. The store is only read."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from cxr_ops.audit.state import open_period
from cxr_ops.data import manifest, splits
from cxr_ops.data.index import Index, Indexed
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches, versions
from cxr_ops.edges.store.versions import Version
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS, nearest
from cxr_ops.params import Params
from cxr_ops.records.versions import Held, ImageHistory, Shown, Touched, UsedBy
from cxr_ops.stages import index
from cxr_ops.stages.withdraw import as_it_is


def run(home: Home, identifier: str) -> Shown:
    """Find everything that is known of an image or of a patient's images, in all versions.

    Args:
        home: the installation.
        identifier: an image id, in small or capital letters; a patient id; or the SHA-256 of an image's file.

    Raises:
        SettingsError: no version holds such an image or patient.
        DataError: there is no data set, or a batch is missing from the store or was altered.
        StorageError: the remote does not answer, or the ledger is damaged.
    """
    made = versions.versions(home)
    if not made:
        raise DataError("there is no data set", where=home.store, fix="cxr-ops ingest nih FOLDER --batch NAME")
    with index.run(home, [version.data for version in made]) as known:
        kind, rows = _rows(known, identifier, {digest for one in made for digest in one.data.batches.values()})
        if not rows:
            raise _unknown(home, identifier, made[-1])
        sides = _sides_now(home, known, made[-1], {row.patient_id for row in rows})
    found: dict[str, list[tuple[Indexed, Version]]] = {}
    for row in rows:
        found.setdefault(row.image_id, []).append((row, _first_with(made, row.digest)))
    used = versions.runs_by_revision(home)
    images = [_history(home, image_id, states, made, used, sides) for image_id, states in sorted(found.items())]
    return Shown(asked=identifier, kind=kind, images=images)


def _unknown(home: Home, identifier: str, latest: Version) -> SettingsError:
    frame = as_it_is(home, latest.data).frame
    near = nearest(identifier, [*frame["image_id"], *frame["patient_id"].unique()])
    step = f"; the nearest id is {near}: cxr-ops data show {shlex.quote(near)}" if near else ""
    return SettingsError(
        f"no version of the data set holds an image or a patient {identifier!r}",
        where="ID",
        fix=f"give an image id, a patient id or the SHA-256 of an image's file, as the manifest has it{step}",
    )


def _rows(known: Index, identifier: str, digests: Collection[str]) -> tuple[str, list[Indexed]]:
    for kind, column, value in (
        ("image", "folded", identifier.lower()),
        ("image", "sha256", identifier.lower()),
        ("patient", "patient_id", identifier),
    ):
        if rows := known.find(column, [value], digests):
            return kind, rows
    return "", []


def _first_with(made: Sequence[Version], digest: str) -> Version:
    return next(version for version in made if digest in version.data.batches.values())


def _history(
    home: Home,
    image_id: str,
    states: list[tuple[Indexed, Version]],
    made: Sequence[Version],
    used: dict[str, list[str]],
    sides: dict[str, str],
) -> ImageHistory:
    touched = [
        Touched(
            event=event.name,
            version=version.number,
            kind=event.kind,
            by=event.by,
            reason=event.reason,
            now={one.finding: one.now for one in event.labels if one.image_id == image_id},
        )
        for version in made
        for event in batches.read_events(home, version.data)
        if event.name in version.events
        and (image_id in event.images or any(one.image_id == image_id for one in event.labels))
    ]
    held = [state for row, version in states for state in _states(home, row, version, made, touched)]
    runs = []
    for version in made[::-1]:
        if any(state.since <= version.number < (state.until or len(made) + 1) for state in held):
            runs += [
                UsedBy(run=run, data_revision=version.revision, side=_side_in(home, run, image_id))
                for run in used.get(version.revision, ())
            ]
    return ImageHistory(
        image_id=image_id,
        patient_id=states[-1][0].patient_id,
        states=sorted(held, key=lambda state: state.since),
        events=touched,
        side=sides.get(image_id),
        runs=runs,
    )


def _states(
    home: Home, row: Indexed, version: Version, made: Sequence[Version], touched: Sequence[Touched]
) -> list[Held]:
    """The image as a batch holds it, once for each time that it was in the data set with the same labels."""
    only = version.data.model_copy(update={"batches": {row.batch: row.digest}})
    names = (batches.BATCH, "manifest.csv")
    folder = batches.batch_files(home, names, only, optional=(manifest.ORIGINS,))[row.batch]
    frame = manifest.read_manifest(folder / "manifest.csv")
    told = frame[frame["image_id"] == row.image_id].iloc[0]
    entered = {finding: None if pd.isna(told[finding]) else int(told[finding]) for finding in FINDINGS}
    return [
        Held(
            batch=row.batch,
            batch_digest=row.digest,
            source=told["source"],
            sha256=told["sha256"],
            origin_sha256=_origin(folder, row.image_id),
            view=told["view"],
            age=None if pd.isna(told["age"]) else int(told["age"]),
            sex=told["sex"],
            width=int(told["width"]),
            height=int(told["height"]),
            labels=labels,
            since=since,
            until=until,
        )
        for since, until, labels in _spans(made, row.digest, entered, touched)
    ]


def _spans(
    made: Sequence[Version], digest: str, entered: dict[str, int | None], touched: Sequence[Touched]
) -> list[tuple[int, int | None, dict[str, int | None]]]:
    """The versions in which an image was there with the same labels: from the first number up to the second."""
    spans: list[tuple[int, int | None, dict[str, int | None]]] = []
    for version in made:
        happened = [one for one in touched if one.event in version.data.events]
        gone = any(one.kind == "withdraw" for one in happened)
        here = digest in version.data.batches.values() and not gone
        labels = {**entered}
        for one in happened:
            labels |= one.now
        if spans and spans[-1][1] is None and not (here and labels == spans[-1][2]):
            spans[-1] = (spans[-1][0], version.number, spans[-1][2])
        if here and not (spans and spans[-1][1] is None):
            spans.append((version.number, None, labels))
    return spans


def _origin(folder: Path, image_id: str) -> str | None:
    """The SHA-256 of the source's own file, where the image was converted from it."""
    path = folder / manifest.ORIGINS
    if not path.is_file():
        return None
    rows = manifest.read_table(path, manifest.ORIGIN_COLUMNS)
    found = rows.loc[rows["image_id"] == image_id, "origin_sha256"]
    return None if found.empty else str(found.iloc[0])


def _sides_now(home: Home, known: Index, latest: Version, patients: Collection[str]) -> dict[str, str]:
    """The side of each image of some patients, as the next run would split the latest version.

    An image that is withdrawn has its patient's side too: whatever comes of the patient later is on it.
    """
    rows = known.find("patient_id", patients, latest.data.batches.values())
    if not rows:
        return {}
    folders = batches.batch_files(home, ("manifest.csv",), latest.data, optional=(manifest.SIDES,))
    frame = manifest.concatenate(manifest.read_manifest(folder / "manifest.csv") for folder in folders.values())
    frame = frame[frame["patient_id"].isin(list(patients))].reset_index(drop=True)
    split = Params.load(home.project / dvc.PARAMS).split
    assigned = splits.assign(
        frame,
        **split.model_dump(),
        closed_batches=open_period(open_ledger(home).entries()).closed_batches,
        pinned=manifest.read_sides(folders.values()),
    )
    return dict(zip(frame["image_id"], assigned, strict=True))


def _side_in(home: Home, run: str, image_id: str) -> str | None:
    """The side of an image in a run, None where the run's workspace does not say it any more."""
    path = home.workspace(run) / "split" / "split.csv"
    if not path.is_file():
        return None
    rows = manifest.read_table(path, ("image_id", "patient_id", "split"))
    found = rows.loc[rows["image_id"] == image_id, "split"]
    return None if found.empty else str(found.iloc[0])
