"""ingest: check a folder of radiographs and add it to the data set as one batch.

All or nothing: the batch is built aside and handed to the store when it is whole and has passed the checks that the
stage `validate` runs. What is refused is listed, with file, line and reason, in
`$CXR_HOME/quarantine/<batch>/problems.csv`.
"""

from __future__ import annotations

import errno
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from cxr_ops.data import manifest, shards, side_table, splits, validation
from cxr_ops.data.checking import batch as building
from cxr_ops.data.checking.batch import Checked
from cxr_ops.data.sources import registry, rsna
from cxr_ops.data.sources.source import Listing, Options, Problem
from cxr_ops.edges.home import Home
from cxr_ops.edges.locks import Lock
from cxr_ops.edges.store import batches
from cxr_ops.errors import BusyError, DataError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS, VIEWS
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_bytes, write_atomic
from cxr_ops.records.data import Batch, is_generated
from cxr_ops.stages import remove

# The batch is built aside, enters DVC's cache and is pushed to the remote: three copies, where all stand on one disk.
COPIES: Final = 3
_TOLD: Final = 20  # problems that an error lists; the file has all
_BATCH: Final = re.compile(r"(?=.{1,63}\Z)[a-z0-9]+(-[a-z0-9]+)*")
REFUSAL: Final = "refusal.txt"  # in a batch's quarantine: why it did not enter
_FILES: Final = ("batch.json", "manifest.csv", "pixels.csv")


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """What an ingestion did.

    `already` says that the data set held exactly this batch, and that nothing was changed. `quarantined` counts the
    rows that were left out, `boxes_left_out` the boxes that were wrong themselves; the reasons are in `problems`.
    `findings` counts positive images of the findings that the source labels.
    """

    batch: str
    revision: str
    images: int
    patients: int
    findings: dict[str, int]
    quarantined: int
    boxes_left_out: int
    problems: Path | None
    notes: tuple[str, ...]
    already: bool

    def __str__(self) -> str:
        done = "is in the data set already; nothing was changed" if self.already else "is in the data set"
        lines = [f"batch {self.batch} {done}: {self.images:,} images of {self.patients:,} patients"]
        lines.append("  " + ", ".join(f"{finding} {count:,}" for finding, count in self.findings.items()))
        lines.extend(f"  note: {note}" for note in self.notes)
        if self.problems:
            left_out = _counted(rows=self.quarantined, boxes=self.boxes_left_out) or "what no row names"
            lines.append(f"  left out {left_out}; the reasons are in {self.problems}")
        return "\n".join([*lines, f"  data revision {self.revision}"])


def run(
    kind: str,
    folder: Path,
    *,
    batch: str,
    home: Home,
    on_bad: Literal["refuse", "quarantine"] = "refuse",
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    attributes: Path | None = None,
) -> IngestResult:
    """Add a folder to the data set.

    Args:
        kind: what kind of folder it is, or `auto`; see `cxr_ops.data.sources.registry`.
        folder: as that source wants it.
        batch: name of the batch: lower-case letters, digits and hyphens.
        home: the installation.
        on_bad: `refuse` adds nothing when anything is wrong; `quarantine` leaves out the rows that are wrong.
        options: what a person says of the folder besides.
        progress: called with the images decoded so far and their number.
        free_bytes: gives the free room of the disk that holds a path.
        attributes: a table of further attributes, by image or by patient; see `cxr_ops.data.side_table`.

    Raises:
        SettingsError: the batch's name is not one, there is no such source, or it does not take an option.
        DataError: the folder is missing or empty, something in it is wrong, the data set has a batch of this name with
            other content, generated and real patients would mix, or a kept split would move a patient.
        BusyError: another ingestion is going on.
        StorageError: the folder cannot be read, or there is no room, or no way to write, where the data set stands.
    """
    if not _BATCH.fullmatch(batch):
        legal = re.sub(r"[^a-z0-9]+", "-", batch.lower()).strip("-")[:63].strip("-") or "batch-1"
        raise SettingsError(
            f"{batch!r} is not a batch name: up to 63 lower-case letters, digits and hyphens", fix=f"--batch {legal}"
        )
    why = ""
    if kind == registry.AUTO:
        kind, why = registry.recognise(folder)
    source = registry.find(kind)
    options = options or Options()
    registry.check_options(source, options)
    quarantine = home.quarantine / batch
    with _storage_errors(home.root), _alone(home) as aside, _refusal_kept(quarantine):
        held = batches.batch_files(home, names=_FILES, optional=(manifest.SIDES,))
        listing = source.read(folder, options)
        if why:
            listing.notes.insert(0, f"the folder was taken to be of the kind {kind}: {why}")
        if attributes is not None:
            _add_attributes(listing, attributes)
        side_table.check(listing.attributes, attributes or folder)
        _refuse_mixing(listing.source, kind, folder, batch, held, home)
        _refuse_strangers(listing, held)
        barred = {
            patient: f"the patient was tested in the batch {name!r}, which was taken out: a batch of that name may "
            "bring the patient back, and no other, or the test would be forgotten"
            for patient, name in remove.tested_and_gone(home, but=batch).items()
        }
        checked = building.check(listing, batch, held, aside=aside / "converted", barred=barred, progress=progress)
        listed = _list_problems(quarantine, checked.problems) if checked.problems else None
        if checked.problems and (on_bad == "refuse" or checked.frame.empty):
            raise _refusal(checked, folder, listed)
        if batch in held:
            return _same_or_refused(checked, held[batch], home, listed)
        _check_room(home.root, checked.paths.values(), free_bytes)
        _check_nobody_moves(checked, held, home)
        _check_expectations(checked, held, home, quarantine)
        record = building.build(aside / batch, checked)
        revision = batches.add_batch(home, aside / batch)
    if listed is None:
        shutil.rmtree(quarantine, ignore_errors=True)  # an earlier attempt's list would contradict this success
    (quarantine / REFUSAL).unlink(missing_ok=True)
    return _result(checked, record.name, revision, listed, already=False)


def refused_batches(home: Home) -> list[str]:
    """Names of batches that were refused, and have not entered since."""
    # An earlier version left the reasons of some refusals, and not the sentence.
    told = (REFUSAL, "validation.html", "problems.csv")
    return sorted({path.parent.name for name in told for path in home.quarantine.glob(f"*/{name}")})


def _refuse_mixing(source: str, kind: str, folder: Path, batch: str, held: dict[str, Path], home: Home) -> None:
    """See that generated and real patients are never in one data set.

    Raises:
        DataError: they would.
        SettingsError: real patients would have the name that generated ones had under an earlier version.
    """
    generated = is_generated(source)
    if is_generated(source, batch) != generated:
        raise SettingsError(
            f"{batch!r} is the name of a batch that an earlier version drew, and these patients are real",
            where="--batch",
            fix="give another name",
        )
    records = [Batch.read(path / "batch.json") for path in held.values()]
    others = sorted(one.name for one in records if is_generated(one.source, one.name) != generated)
    # Under an earlier version no name told further drawn batches; beside the one whose name does, they are drawn.
    if not others or (generated and len(others) < len(records)):
        return
    this, that = ("generated", "real") if generated else ("real", "generated")
    own = shlex.quote(str(home.root.with_name(f"{home.root.name}-{this}")))
    addresses = {"CXR_DVC_REMOTE": home.dvc_remote, "MLFLOW_TRACKING_URI": home.mlflow_uri}
    shared = [name for name, address in addresses.items() if str(home.root) not in address]
    also = f" (and another {' and another '.join(shared)})" if shared else ""
    raise DataError(
        f"the data set holds {that} patients ({', '.join(others)}), and these are {this}: the two never mix",
        where=home.root,
        fix=f"give the {this} ones an installation of their own, and name it{also} in every later command: "
        f"CXR_HOME={own} cxr-ops ingest {kind} {shlex.quote(str(folder))} --batch {batch}",
    )


def _refuse_strangers(listing: Listing, held: dict[str, Path]) -> None:
    """See that one person does not enter under two ids, where a source is known to show another's patients.

    Raises:
        DataError: pictures of both would stand in one data set, and not all of the first have the other's patient ids.
    """
    sources = {name: Batch.read(folder / "batch.json").source for name, folder in held.items()}
    for one, other in rsna.SAME_PEOPLE.items():
        if not {one, other} <= {listing.source, *sources.values()}:
            continue
        patients = {row.patient_id for row in listing.rows if listing.source == one}
        for name, source in sources.items():
            if source == one:
                patients |= set(manifest.read_manifest(held[name] / "manifest.csv")["patient_id"])
        if strange := sum(not patient.isdecimal() for patient in patients):
            raise DataError(
                f"pictures of {one} are those of {other}, and {strange:,} of its patients have other ids than there: "
                "one person would stand on two sides of the split",
                where=f"the batch of {one}",
                fix=f"put {rsna.MAPPINGS} beside the tables of {one}, and bring the batch in with it",
            )


def _add_attributes(listing: Listing, path: Path) -> None:
    found, notes = side_table.read(path, listing.rows)
    for image_id, said in found.items():
        listing.attributes.setdefault(image_id, {}).update(said)
    listing.notes += notes


def _check_nobody_moves(checked: Checked, held: dict[str, Path], home: Home) -> None:
    """See that patients of the data set keep their side when a batch comes with a split of its own.

    Raises:
        DataError: one would not.
    """
    if checked.sides is None or not held:
        return
    before = manifest.concatenate(manifest.read_manifest(folder / "manifest.csv") for folder in held.values())
    pins = manifest.read_sides(held.values())
    coming: dict[str, str] = dict(checked.sides.itertuples(index=False))
    split = Params.load(home.project / "params.yaml").split.model_dump()
    was, now = (splits.assign(before, pinned=pinned, **split) for pinned in (pins, {**pins, **coming}))
    moved = sorted(
        set(before.loc[was != now, "patient_id"]) | {one for one in coming if pins.get(one, coming[one]) != coming[one]}
    )
    if moved:
        raise DataError(
            f"the batch's own split would move {len(moved):,} patients of the data set to another side, such as "
            f"{moved[0]}: a patient never changes sides",
            where="--own-split",
            fix="leave --own-split out: the patients then keep the sides that they have",
        )


def _check_expectations(checked: Checked, held: dict[str, Path], home: Home, quarantine: Path) -> None:
    """Run the suites over the batch, and over the data set as it would be with it.

    How many images and patients a training needs is for the stage `validate` to say: data may arrive in small batches.
    """
    suites = [home.project / suite for suite in Params.load(home.project / "params.yaml").validate_.suites]
    frames = [checked.frame]
    records = [Batch.read(folder / "batch.json") for folder in held.values()]
    labelled = {record.name: record.findings for record in records}
    labelled |= {str(name): list(checked.findings) for name in checked.frame["batch"].unique()}
    if held:
        before = [manifest.read_manifest(folder / "manifest.csv") for folder in held.values()]
        frames.append(manifest.concatenate([*before, checked.frame]))
    for frame in frames:
        found = validation.validate(frame, checked.boxes, suites, labelled=labelled)
        if not found.passed:
            quarantine.mkdir(parents=True, exist_ok=True)
            write_atomic(quarantine / "validation.html", validation.page(found, frame).encode())
            raise validation.failure(found, frame, page=quarantine / "validation.html")


def _same_or_refused(checked: Checked, held: Path, home: Home, listed: Path | None) -> IngestResult:
    record = Batch.read(held / "batch.json")
    if {name: sha256_bytes(data) for name, data in building.tables_of(checked).items()}.items() <= record.files.items():
        data = batches.data_revision(home)
        return _result(checked, record.name, data.revision if data else "", listed, already=True)
    raise DataError(
        f"the data set has a batch {record.name!r} with other content; a batch never changes",
        where=home.store,
        fix="give what is new a --batch name of its own",
    )


def _result(checked: Checked, batch: str, revision: str, listed: Path | None, *, already: bool) -> IngestResult:
    frame = checked.frame
    views = frame.loc[~frame["view"].isin(VIEWS), "view"].value_counts()
    aside = ", ".join(f"{count:,} {view or 'unknown'}" for view, count in sorted(views.items()))
    note = f"{views.sum():,} images are of no frontal view ({aside}): they are kept, and neither trained on nor judged"
    return IngestResult(
        batch=batch,
        revision=revision,
        images=len(frame),
        patients=int(frame["patient_id"].nunique()),
        findings={finding: int((frame[finding] == 1).sum()) for finding in FINDINGS if finding in checked.findings},
        quarantined=checked.total - len(frame),
        boxes_left_out=checked.boxes_left_out,
        problems=listed,
        notes=(*checked.notes, *([note] if aside else [])),
        already=already,
    )


def _list_problems(quarantine: Path, problems: list[Problem]) -> Path:
    path = quarantine / "problems.csv"
    quarantine.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(
        [(item.file, item.line, item.image_id, item.what) for item in problems],
        columns=["file", "line", "image_id", "problem"],
    ).astype({"line": "Int64"})
    write_atomic(path, manifest.to_csv(table, ("file", "line", "image_id", "problem")))
    return path


def _refusal(checked: Checked, folder: Path, listed: Path | None) -> DataError:
    problems = checked.problems
    lines = [str(item) for item in problems[:_TOLD]]
    if len(problems) > _TOLD:
        lines.append(f"and {len(problems) - _TOLD:,} more")
    bad = _counted(rows=checked.total - len(checked.frame), boxes=checked.boxes_left_out)
    leave_out = f"; or leave out {bad or 'the files that no row names'}: --on-bad quarantine"
    return DataError(
        f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}; nothing was ingested\n  " + "\n  ".join(lines),
        where=f"{folder}; all of them in {listed}",
        fix="correct them" + ("" if checked.frame.empty else leave_out),
    )


def _counted(*, rows: int, boxes: int) -> str:
    """How many rows and boxes, in words; "" for none."""
    counts = ((rows, "row"), (boxes, "box" if boxes == 1 else "boxe"))
    return " and ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts if count)


def _check_room(root: Path, files: Iterable[Path], free_bytes: Callable[[Path], int]) -> None:
    needed = COPIES * sum(path.stat().st_size + shards.OVERHEAD_BYTES for path in files)
    free = free_bytes(root)
    if needed > free:
        raise StorageError(
            f"too little disk: {free / 2**20:,.0f} MiB are free, and the batch needs {needed / 2**20:,.0f} MiB",
            where=root,
            fix="free some, or set CXR_HOME to a larger disk",
        )


@contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"{'the disk is full' if full else 'a file cannot be read or written'}: {error.strerror or error}",
            where=error.filename or root,
            fix="free some room" if full else "check who may write there",
        ) from error


@contextmanager
def _refusal_kept(quarantine: Path) -> Iterator[None]:
    """Keep the reason of a refusal, so that nothing is put in the batch's place and the reason can be read again."""
    try:
        yield
    except DataError as error:
        quarantine.mkdir(parents=True, exist_ok=True)
        write_atomic(quarantine / REFUSAL, f"{error}\n".encode())
        raise


@contextmanager
def _alone(home: Home) -> Iterator[Path]:
    """Hold the only ingestion, so that two batches cannot bring the same picture, and give a folder to build in."""
    with Lock(home.locks / "ingest") as lock:
        if not lock.try_acquire():
            raise BusyError("another ingestion is going on", where=lock.path, fix="start this one when it has ended")
        for left in (home.root / "tmp").glob("ingest-*"):  # by an ingestion that was killed: no other is alive
            shutil.rmtree(left, ignore_errors=True)
        (home.root / "tmp").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="ingest-", dir=home.root / "tmp") as folder:
            yield Path(folder)
