"""ingest: check a folder of radiographs and add it to the data set as one batch.

All or nothing: the batch is built aside and handed to the store when it is whole and has passed the checks that the
stage `validate` runs. What is refused is listed, with file, line and reason, in
`$CXR_HOME/quarantine/<batch>/problems.csv`.
"""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from cxr_ops import contract
from cxr_ops.data import manifest, shards, validation
from cxr_ops.data.checking import decode, isolate
from cxr_ops.data.sources import nih
from cxr_ops.data.sources.nih import Problem
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import BusyError, DataError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.data import Batch

# The batch is built aside, enters DVC's cache and is pushed to the remote: three copies, where all stand on one disk.
COPIES: Final = 3
_TOLD: Final = 20  # problems that an error lists; the file has all
_BATCH: Final = re.compile(r"(?=.{1,63}\Z)[a-z0-9]+(-[a-z0-9]+)*")
_FILES: Final = ("batch.json", "manifest.csv", "pixels.csv")


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """What an ingestion did.

    `already` says that the data set held exactly this batch, and that nothing was changed. `quarantined` counts the
    rows that were left out; their reasons stand in `problems`. `findings` counts positive images.
    """

    batch: str
    revision: str
    images: int
    patients: int
    findings: dict[str, int]
    quarantined: int
    problems: Path | None
    notes: tuple[str, ...]
    already: bool

    def __str__(self) -> str:
        done = "is in the data set already; nothing was changed" if self.already else "is in the data set"
        lines = [f"batch {self.batch} {done}: {self.images:,} images of {self.patients:,} patients"]
        lines.append("  " + ", ".join(f"{finding} {count:,}" for finding, count in self.findings.items()))
        lines.extend(f"  note: {note}" for note in self.notes)
        if self.problems:
            lines.append(f"  left out {self.quarantined:,} rows; the reasons are in {self.problems}")
        return "\n".join([*lines, f"  data revision {self.revision}"])


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A folder whose pictures have been decoded.

    Attributes:
        frame: manifest rows that are good, with `line` of the folder's table, in the canonical order.
        boxes: boxes of those rows.
        pixels: `image_id` and the digest of the pixels.
        paths: the file of each image.
        problems: everything that is wrong with the rest.
        notes: what was read in another way than it stands.
        total: rows of the folder's table.
    """

    frame: pd.DataFrame
    boxes: pd.DataFrame
    pixels: pd.DataFrame
    paths: dict[str, Path]
    problems: list[Problem]
    notes: tuple[str, ...]
    total: int


def run(
    folder: Path,
    *,
    batch: str,
    home: Home,
    on_bad: Literal["refuse", "quarantine"] = "refuse",
    progress: Callable[[int, int], None] | None = None,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> IngestResult:
    """Add a folder in NIH layout to the data set.

    Args:
        folder: see `cxr_ops.data.sources.nih`.
        batch: name of the batch: lower-case letters, digits and hyphens.
        home: the installation.
        on_bad: `refuse` adds nothing when anything is wrong; `quarantine` leaves out the rows that are wrong.
        progress: called with the images decoded so far and their number.
        free_bytes: gives the free room of the disk that holds a path.

    Raises:
        SettingsError: the batch's name is not one.
        DataError: the folder is missing or empty, something in it is wrong, or the data set has a batch of this name
            with other
            content.
        BusyError: another ingestion is going on.
        StorageError: the folder cannot be read, or there is no room, or no way to write, where the data set stands.
    """
    if not _BATCH.fullmatch(batch):
        legal = re.sub(r"[^a-z0-9]+", "-", batch.lower()).strip("-")[:63].strip("-") or "batch-1"
        raise SettingsError(
            f"{batch!r} is not a batch name: up to 63 lower-case letters, digits and hyphens", fix=f"--batch {legal}"
        )
    quarantine = home.quarantine / batch
    with _storage_errors(home.root), _alone(home) as aside:
        held = batches.batch_files(home, names=_FILES)
        checked = check_folder(folder, batch, held, progress=progress)
        listed = _list_problems(quarantine, checked.problems) if checked.problems else None
        if checked.problems and (on_bad == "refuse" or checked.frame.empty):
            raise _refusal(checked, folder, listed)
        if batch in held:
            return _same_or_refused(checked, held[batch], home, listed)
        _check_room(home.root, checked.paths.values(), free_bytes)
        _check_expectations(checked, held, home, quarantine)
        record = build_batch(aside / batch, checked)
        revision = batches.add_batch(home, aside / batch)
    if listed is None:
        shutil.rmtree(quarantine, ignore_errors=True)  # an earlier attempt's list would contradict this success
    return _result(checked, record.name, revision, listed, already=False)


def check_folder(
    folder: Path,
    batch: str,
    held: dict[str, Path] | None = None,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Read a folder's tables, decode its pictures in other processes, and look for duplicates.

    Args:
        folder: see `cxr_ops.data.sources.nih`.
        batch: the batch's name.
        held: for each batch of the data set, a folder with its `manifest.csv` and `pixels.csv`.
        processes: how many decode; by default one a processor.
        progress: called with the images decoded so far and their number.

    Raises:
        DataError: see `nih.read_folder`.
    """
    source = nih.read_folder(folder)
    problem = partial(Problem, file=source.entries)
    inspected: dict[str, decode.Inspected] = {}
    problems = list(source.problems)
    outcomes = isolate.each(decode.inspect, [row.path for row in source.rows], processes=processes)
    for done, (row, outcome) in enumerate(zip(source.rows, outcomes, strict=True), start=1):
        if isinstance(outcome, decode.Inspected):
            inspected[row.image_id] = outcome
        else:
            why = outcome if isinstance(outcome, str) else "decoding it ends the process that tries"
            problems.append(problem(why, line=row.line, image_id=row.image_id))
        if progress:
            progress(done, len(source.rows))
        if done % 100 == 0 or done == len(source.rows):
            contract.report_progress("ingest", done, len(source.rows), unit="images")
    rows = [row for row in source.rows if row.image_id in inspected]
    others = {name: path for name, path in (held or {}).items() if name != batch}
    problems += [problem(what, line=row.line, image_id=row.image_id) for row, what in _repeats(rows, inspected)]
    problems += [problem(what, line=row.line, image_id=row.image_id) for row, what in _known(rows, inspected, others)]
    bad = {item.line for item in problems if item.file == source.entries}
    good = sorted((row for row in rows if row.line not in bad), key=lambda row: row.image_id)

    boxes: list[nih.Box] = []
    for box in source.boxes:
        picture = inspected.get(box.image_id)
        # The release's boxes are rounded: one pixel is given.
        if picture and (box.x + box.w > picture.width + 1 or box.y + box.h > picture.height + 1):
            what = f"the box reaches out of the image, which is {picture.width} x {picture.height}"
            problems.append(Problem(what, nih.BOXES, box.line, box.image_id))
        else:
            boxes.append(box)
    kept = {row.image_id for row in good}
    frame = _frame(good, inspected, batch)
    return Checked(
        frame=frame,
        boxes=pd.DataFrame(
            sorted((b.image_id, b.finding, b.x, b.y, b.w, b.h) for b in boxes if b.image_id in kept),
            columns=list(manifest.BOX_COLUMNS),
        ),
        pixels=pd.DataFrame(
            [(row.image_id, inspected[row.image_id].pixels_sha256) for row in good],
            columns=list(manifest.PIXEL_COLUMNS),
        ),
        paths={row.image_id: row.path for row in good},
        problems=sorted(problems, key=lambda item: (item.file != source.entries, item.file, item.line or 0, item.what)),
        notes=tuple(source.notes),
        total=source.total,
    )


def build_batch(out: Path, checked: Checked) -> Batch:
    """Write a batch's folder: shards, manifest, boxes, digests of pixels, and `batch.json` last.

    Args:
        out: the folder to make; its name is the batch's.
        checked: what goes in.

    Raises:
        DataError: a picture has changed since it was checked.
        OSError: the folder exists or cannot be written.
    """
    out.mkdir(parents=True)
    digests = dict(zip(checked.frame["image_id"], checked.frame["sha256"], strict=True))
    shards.write_shards(
        out, ((image_id, _read_same(checked.paths[image_id], digests[image_id])) for image_id in digests)
    )
    for name, data in _tables(checked).items():
        write_atomic(out / name, data)
    record = Batch(
        name=out.name,
        source=nih.SOURCE,
        images=len(checked.frame),
        patients=int(checked.frame["patient_id"].nunique()),
        files={path.name: sha256_file(path) for path in sorted(out.iterdir())},
    )
    record.write(out / "batch.json")
    return record


def _tables(checked: Checked) -> dict[str, bytes]:
    return {
        "manifest.csv": manifest.to_csv(checked.frame, manifest.COLUMNS),
        "boxes.csv": manifest.to_csv(checked.boxes, manifest.BOX_COLUMNS),
        "pixels.csv": manifest.to_csv(checked.pixels, manifest.PIXEL_COLUMNS),
    }


def _frame(rows: list[nih.Row], inspected: dict[str, decode.Inspected], batch: str) -> pd.DataFrame:
    pictures = [inspected[row.image_id] for row in rows]
    columns = {
        "image_id": [row.image_id for row in rows],
        "patient_id": [row.patient_id for row in rows],
        "sha256": [picture.sha256 for picture in pictures],
        "source": [nih.SOURCE] * len(rows),
        "batch": [batch] * len(rows),
        "view": [row.view for row in rows],
        "age": pd.array([row.age for row in rows], dtype="Int64"),
        "sex": [row.sex for row in rows],
        "width": [picture.width for picture in pictures],
        "height": [picture.height for picture in pictures],
        **{name: pd.array([row.labels[at] for row in rows], dtype="Int64") for at, name in enumerate(FINDINGS)},
        "line": [row.line for row in rows],
    }
    return pd.DataFrame(columns)


def _repeats(rows: list[nih.Row], inspected: dict[str, decode.Inspected]) -> Iterator[tuple[nih.Row, str]]:
    """Rows of this batch that show a picture again.

    The first of them stays if all give one patient the same findings; else which of them is right cannot be told.
    """
    groups: defaultdict[str, list[nih.Row]] = defaultdict(list)
    for row in rows:
        groups[inspected[row.image_id].pixels_sha256].append(row)
    for group in groups.values():
        agree = len({(row.patient_id, row.labels) for row in group}) == 1
        for row in group[1:] if agree else group if len(group) > 1 else ():
            twin = next(other for other in group if other is not row)
            same_file = inspected[row.image_id].sha256 == inspected[twin.image_id].sha256
            what = "the same file as" if same_file else "the same pixels, in another encoding, as"
            why = "" if agree else ", and the rows contradict each other"
            yield row, f"{what} {twin.image_id} on line {twin.line}{why}"


def _known(
    rows: list[nih.Row], inspected: dict[str, decode.Inspected], held: dict[str, Path]
) -> Iterator[tuple[nih.Row, str]]:
    """Rows that the data set holds already, or that contradict it."""
    names: dict[str, str] = {}
    pictures: dict[str, str] = {}
    sexes: dict[str, str] = {}
    for batch, folder in held.items():
        frame = manifest.read_manifest(folder / "manifest.csv")
        pixels = manifest.read_table(folder / "pixels.csv", manifest.PIXEL_COLUMNS)
        names |= {image_id.lower(): batch for image_id in frame["image_id"]}
        pictures |= {
            digest: f"{image_id} of the batch {batch!r}" for image_id, digest in pixels.itertuples(index=False)
        }
        sexes |= dict(zip(frame["patient_id"], frame["sex"], strict=True))
    for row in rows:
        picture = inspected[row.image_id]
        if row.image_id.lower() in names:
            yield row, f"the data set holds an image of this name, in the batch {names[row.image_id.lower()]!r}"
        elif picture.pixels_sha256 in pictures:
            yield row, f"the data set holds this picture as {pictures[picture.pixels_sha256]}"
        if sexes.get(row.patient_id, row.sex) != row.sex:
            yield row, f"the patient is {sexes[row.patient_id]} in the data set and {row.sex} here"


def _check_expectations(checked: Checked, held: dict[str, Path], home: Home, quarantine: Path) -> None:
    """Run the suites over the batch, and over the data set as it would be with it.

    How many images and patients a training needs is for the stage `validate` to say: data may arrive in small batches.
    """
    suites = [home.project / suite for suite in Params.load(home.project / "params.yaml").validate_.suites]
    frames = [checked.frame]
    if held:
        before = [manifest.read_manifest(folder / "manifest.csv") for folder in held.values()]
        frames.append(manifest.concatenate([*before, checked.frame]))
    for frame in frames:
        found = validation.validate(frame, checked.boxes, suites)
        if not found.passed:
            quarantine.mkdir(parents=True, exist_ok=True)
            write_atomic(quarantine / "validation.html", validation.page(found, frame).encode())
            raise validation.failure(found, frame, page=quarantine / "validation.html")


def _same_or_refused(checked: Checked, held: Path, home: Home, listed: Path | None) -> IngestResult:
    record = Batch.read(held / "batch.json")
    if {name: sha256_bytes(data) for name, data in _tables(checked).items()}.items() <= record.files.items():
        data = batches.data_revision(home)
        return _result(checked, record.name, data.revision if data else "", listed, already=True)
    raise DataError(
        f"the data set has a batch {record.name!r} with other content; a batch never changes",
        where=home.store,
        fix="give what is new a --batch name of its own",
    )


def _result(checked: Checked, batch: str, revision: str, listed: Path | None, *, already: bool) -> IngestResult:
    frame = checked.frame
    return IngestResult(
        batch=batch,
        revision=revision,
        images=len(frame),
        patients=int(frame["patient_id"].nunique()),
        findings={finding: int((frame[finding] == 1).sum()) for finding in FINDINGS},
        quarantined=checked.total - len(frame),
        problems=listed,
        notes=checked.notes,
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
    bad = checked.total - len(checked.frame)
    leave_out = f"; or leave out the {bad:,} bad rows of {checked.total:,}: --on-bad quarantine"
    return DataError(
        f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}; nothing was ingested\n  " + "\n  ".join(lines),
        where=f"{folder}; all of them in {listed}",
        fix="correct them" + ("" if checked.frame.empty else leave_out),
    )


def _check_room(root: Path, files: Iterable[Path], free_bytes: Callable[[Path], int]) -> None:
    needed = COPIES * sum(path.stat().st_size + shards.OVERHEAD_BYTES for path in files)
    free = free_bytes(root)
    if needed > free:
        raise StorageError(
            f"too little disk: {free / 2**20:,.0f} MiB are free, and the batch needs {needed / 2**20:,.0f} MiB",
            where=root,
            fix="free some, or set CXR_HOME to a larger disk",
        )


def _read_same(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    if sha256_bytes(data) != digest:
        raise DataError(
            "the file has changed since it was checked", where=path, fix="ingest again when nobody writes to it"
        )
    return data


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
def _alone(home: Home) -> Iterator[Path]:
    """Hold the only ingestion, so that two batches cannot bring the same picture, and give a folder to build in."""
    home.locks.mkdir(parents=True, exist_ok=True)
    with (home.locks / "ingest").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                "another ingestion is going on", where=lock.name, fix="start this one when it has ended"
            ) from error
        for left in (home.root / "tmp").glob("ingest-*"):  # by an ingestion that was killed: no other is alive
            shutil.rmtree(left, ignore_errors=True)
        (home.root / "tmp").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="ingest-", dir=home.root / "tmp") as folder:
            yield Path(folder)
