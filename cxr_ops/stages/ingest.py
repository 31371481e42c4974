"""ingest: check a folder of radiographs and add it to the data set as one batch.

A batch is accepted whole, accepted with quarantine, or refused, and its record (`acceptance.json`) says which, with the
figures that decided it. It is built aside and handed to the store when it is whole and has passed the checks that the
stage `validate` runs, so of a refused batch nothing is in the data set. What could not enter is in
`$CXR_HOME/quarantine/<batch>`: the bytes, and file, line and reason in `problems.csv`.

An ingestion may be killed at any moment. What it says before the batch has entered is that it is not finished; the
batch enters in one step (a ref moves); and what is said after that was written down before, so that the next ingestion
says it if this one cannot.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from cxr_ops import voice
from cxr_ops.audit.package import patient_key
from cxr_ops.contract import AUTO, BATCH_NAME, batch_name
from cxr_ops.data import drift, events, manifest, room, shards, side_table, splits, validation
from cxr_ops.data.checking import batch as building
from cxr_ops.data.checking import delivery, duplicates, fingerprints
from cxr_ops.data.checking import quarantine as quarantines
from cxr_ops.data.checking.batch import Checked
from cxr_ops.data.checking.decode import Inspected
from cxr_ops.data.checking.duplicates import Known
from cxr_ops.data.sources import registry, rsna
from cxr_ops.data.sources.source import Listing, Options, Problem, Row
from cxr_ops.edges import deliveries
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches, purges, versions
from cxr_ops.errors import BusyError, DataError, SettingsError
from cxr_ops.labels import FINDINGS, VIEWS
from cxr_ops.locks import Lock
from cxr_ops.params import Ingest, Params
from cxr_ops.records.acceptance import ACCEPTANCE, PROBLEMS, REFUSAL, Acceptance, Outcome, Unfinished
from cxr_ops.records.base import sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.data import GENERATED_ID, Batch, is_generated
from cxr_ops.report.batch import Portrait
from cxr_ops.stages import index, match, portray, remove

_TOLD: Final = 20  # problems that an error lists; the file has all
_ALIKE: Final = 5  # of those with one reason
_OWN_FILE: Final = re.compile(r"^\S+: ")  # what is wrong with a DICOM file begins with the file
_LATER: Final = "they come in as a folder with those rows alone, under a new batch name"
_MENDED: Final = f"once mended, {_LATER}"
_BATCH: Final = re.compile(BATCH_NAME)
_SPOKEN: Final = tuple(finding.replace("_", " ") for finding in FINDINGS)
_PAGE: Final = deliveries.PAGE
_log = logging.getLogger(__name__)
_FILES: Final = ("batch.json", "manifest.csv", "pixels.csv")
_OPTIONAL: Final = (manifest.SIDES, manifest.COPIES, fingerprints.FILE)


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """What an ingestion did.

    `already` says that the data set held exactly this batch, and that nothing was changed; `finished`, that an earlier
    ingestion of it had been cut off after it had entered, and that this one said what that one could not. `quarantined`
    counts the rows that were left out, `boxes_left_out` the boxes that were wrong themselves; the reasons are in
    `problems`. `findings` counts positive images of the findings that the source labels. `acceptance` says how the
    batch was taken; None of a batch that an earlier version took. `picture` is the page that shows the batch.
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
    acceptance: Acceptance | None = None
    picture: Path | None = None
    finished: bool = False

    def __str__(self) -> str:
        done = "is in the data set already; nothing was changed" if self.already else "is in the data set"
        done += f", {self.acceptance}" if self.acceptance and not self.already else ""
        images, patients = voice.count(self.images, "image"), voice.count(self.patients, "patient")
        lines = [f"batch {self.batch} {done}: {images} of {patients}"]
        lines.append("  " + ", ".join(f"{finding} {count:,}" for finding, count in self.findings.items()))
        lines.extend(f"  {note}" if note.startswith("warning: ") else f"  note: {note}" for note in self.notes)
        if self.acceptance and not self.already:
            lines.extend(f"  warning: {one}" for one in _warnings(self.acceptance))
        if self.problems:
            left_out = _counted(rows=self.quarantined, boxes=self.boxes_left_out) or "what no row names"
            lines.append(f"  left out {left_out}; the reasons are in {self.problems}")
            if self.quarantined:
                lines.append(f"  {_MENDED}")
        if self.picture:
            lines.append(f"  what it looks like: {self.picture}")
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
    free_bytes: Callable[[Path], int] = room.free,
    attributes: Path | None = None,
    accept_copies: Path | None = None,
    doing: Callable[[str], None] = lambda _: None,
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
        accept_copies: a table of near copies under two patients that are right; see `match.read_accepted`.
        doing: called with what goes on after all images are decoded, which may take a while.

    Raises:
        SettingsError: the batch's name is not one, there is no such source, it does not take an option, or a pair that
            is accepted is none.
        DataError: the folder is missing or empty, something in it is wrong, the data set has a batch of this name with
            other content, generated and real patients would mix, or a kept split or an accepted pair would move a
            patient.
        BusyError: another ingestion is going on.
        StorageError: the folder cannot be read, or there is no room, or no way to write, where the data set stands.
    """
    check_name(batch)
    options = options or Options()
    if kind != AUTO:
        registry.check_options(registry.find(kind), options)
    settings = Params.load(home.project / "params.yaml").ingest
    told = _Told(batch, settings)
    quarantine = home.quarantine / batch
    with (
        room.storage_errors(home.root),
        _alone(home) as aside,
        _begun(home, told) as finished,
        _refusal_kept(home, told),
    ):
        held = batches.batch_files(home, names=_FILES, optional=(*_OPTIONAL, ACCEPTANCE))
        told.kept = batch in held
        if not told.kept:
            shutil.rmtree(quarantine, ignore_errors=True)  # what an earlier attempt left would contradict this one
        kind, listing = _read(kind, folder, options, attributes, told)
        _refuse_mixing(listing.source, kind, folder, batch, held, home)
        _refuse_strangers(listing, held)
        listing = _without_purged(listing, home)
        _check_room(home, (row.path for row in listing.rows), free_bytes)
        checked = building.check(
            listing,
            batch,
            known=partial(_look_up, home, batch),
            aside=aside / "converted",
            barred=_barred(home, batch, told),
            progress=progress,
        )
        doing("looking for near copies")
        frames = {name: manifest.read_manifest(path / "manifest.csv") for name, path in held.items()}
        matched = match.run(checked, listing, batch=batch, home=home, held=held, frames=frames, accepted=accept_copies)
        portrait = portray.run(checked, matched, listing, folder=folder, batch=batch, held=frames)
        checked = matched.checked
        told.learn(checked)
        refused = _too_many(checked, settings, on_bad)
        if batch in held:
            return replace(_same_or_refused(checked, held[batch], home, quarantine), finished=batch in finished)
        told.portrait = portrait
        seen = portray.write(portrait, "not finished", home)
        listed = None
        if checked.problems:
            listed = quarantines.keep(
                quarantine,
                folder,
                listing,
                checked.problems,
                at_most=quarantines.REFUSED_BYTES if refused else None,
                free_bytes=free_bytes,
            )
        if refused:
            same = _held_as(listing, checked, frames, home)
            why_not = _refusal(checked, folder, listed, settings, refused, match.accepting(matched), seen)
            raise _there_already(same, listing, listed) if same else why_not
        _check_room(home, checked.paths.values(), free_bytes)  # what was converted has another size
        _check_nobody_moves(checked, held, home)
        doing("checking what is expected of the batch and of the data set")
        _check_expectations(checked, held, frames, home, quarantine, told)
        acceptance = told.record("quarantine" if checked.problems else "whole")
        building.build(aside / batch, checked, acceptance)
        portray.prepare(portrait, "accepted with quarantine" if checked.problems else "accepted", home)
        doing("bringing the batch into the data set")
        revision = _enter(home, aside / batch, acceptance)
    noted = replace(checked, notes=(*checked.notes, *matched.notes, *_alike(checked.frame, frames.values())))
    result = _result(noted, batch, revision, listed, already=False, acceptance=acceptance)
    return replace(result, picture=seen)


def _read(kind: str, folder: Path, options: Options, attributes: Path | None, told: _Told) -> tuple[str, Listing]:
    """The kind of the folder, and what it lists, with what a side table says; a delivery must be what its end says."""
    if kind == AUTO:
        kind, why = registry.recognise(folder)
        told.taken = f"the folder was taken to be of the kind {kind}: {why}"
    source = registry.find(kind)
    registry.check_options(source, options)
    whole = delivery.check(folder)
    listing = source.read(folder, options)
    if told.taken:
        listing.notes.insert(0, told.taken)
    if whole:
        listing.notes.insert(0, whole)
    if attributes is not None:
        _add_attributes(listing, attributes)
    side_table.check(listing.attributes, attributes or folder)
    _refuse_disguised(listing, folder)
    return kind, listing


def _barred(home: Home, batch: str, told: _Told) -> dict[str, str]:
    """The patients who may not enter with a batch, with the reason."""
    barred = {
        patient: f"the patient was tested in the batch {name!r}, which was taken out: a batch of that name may "
        "bring the patient back, and no other, or the test would be forgotten"
        for patient, name in remove.tested_and_gone(home, but=batch).items()
    }
    if not told.kept:  # the same batch once more changes nothing
        barred |= {
            patient: f"the patient was withdrawn from the data set ({name})"
            for patient, name in events.withdrawn_patients(batches.read_events(home)).items()
        }
    return barred


def _enter(home: Home, built: Path, acceptance: Acceptance) -> str:
    """Add a batch that was built to the data set, and say that it has entered; return the data revision.

    What there is to say is written down first, so that the next ingestion says it if this one is killed.
    """
    before = batches.data_revision(home)
    entering = Unfinished(
        batch=built.name,
        after=before.revision if before else "",
        record=sha256_file(built / batches.BATCH),
        acceptance=acceptance if acceptance.outcome == "quarantine" else None,
    )
    entering.write(deliveries.unfinished(home, built.name))
    revision = batches.add_batch(home, built)
    _say_entered(home, entering)
    return revision


def check_name(batch: str) -> None:
    """See that a name can be a batch's.

    Raises:
        SettingsError: it cannot.
    """
    if not _BATCH.fullmatch(batch):
        raise SettingsError(
            f"{batch!r} is not a batch name: up to 63 lower-case letters, digits and hyphens",
            fix=f"--batch {batch_name(batch)}",
        )


def finish(home: Home) -> list[str]:
    """Finish what ingestions that were killed had left to do; the lock of ingestions is held.

    Returns:
        The names of the batches that had entered. Of one that had not, the record stays until it is ingested again.
    """
    entered = []
    for path in deliveries.begun(home):
        one = Unfinished.read(path)
        if _finish(home, one):
            what = "the ingestion of %s was cut off after the batch had entered; its page and its record are whole now"
            _log.warning(what, one.batch)
            entered.append(one.batch)
        elif _holds(home, one.batch):  # the data set had a batch of this name before, and nothing was to be done
            path.unlink()
    return entered


def _finish(home: Home, begun: Unfinished) -> bool:
    """Finish an ingestion if its batch had entered; say whether it had."""
    if begun.record:
        made = versions.versions(home)
        numbers = {version.revision: version.number for version in made}
        if any(begun.record in version.data.batches.values() for version in made[numbers.get(begun.after, 0) :]):
            _say_entered(home, begun)
            return True
    portray.turn(home, begun.batch, entered=False)
    return False


def _holds(home: Home, batch: str) -> bool:
    revision = batches.data_revision(home)
    return revision is not None and batch in revision.batches


def _say_entered(home: Home, entered: Unfinished) -> None:
    """Say of a batch that has entered that it has: on its page and in its quarantine. Once more it does nothing."""
    portray.turn(home, entered.batch, entered=True)
    quarantine = home.quarantine / entered.batch
    if entered.acceptance is not None and quarantine.is_dir():
        entered.acceptance.write(quarantine / ACCEPTANCE)
    deliveries.unfinished(home, entered.batch).unlink(missing_ok=True)


@contextmanager
def _begun(home: Home, told: _Told) -> Iterator[list[str]]:
    """Leave a record of the ingestion for as long as it goes on; first finish those that were killed.

    Yields:
        The names of the batches whose ingestion was finished.
    """
    finished = finish(home)
    path = deliveries.unfinished(home, told.batch)
    Unfinished(batch=told.batch).write(path)
    try:
        yield finished
    finally:
        # Where it is still there, an error ended the ingestion; yet the batch may have entered.
        if path.is_file() and not _finish(home, Unfinished.read(path)):
            quarantine = home.quarantine / told.batch
            if told.portrait is not None and not (quarantine / REFUSAL).is_file():
                shutil.rmtree(quarantine, ignore_errors=True)  # nothing was refused, and the folder is still there
            path.unlink()


@dataclass
class _Told:
    """What is known of a batch while it is checked, for its record.

    `kept` says that the data set has a batch of this name: the quarantine is that batch's, and stays as it is.
    `portrait` is what its page shows, once there is one. `taken` says what kind the folder was found to be, and why.
    """

    batch: str
    settings: Ingest
    facts: dict[str, Any] = field(default_factory=dict)
    kept: bool = False
    portrait: Portrait | None = None
    taken: str = ""

    def learn(self, checked: Checked) -> None:
        self.facts |= {
            "rows": checked.total,
            "images": len(checked.frame),
            "boxes_left_out": checked.boxes_left_out,
            "problems": len(checked.problems),
        }

    def record(self, outcome: Outcome, why: str = "") -> Acceptance:
        settings = self.settings.model_dump(include=set(Acceptance.model_fields))
        return Acceptance(batch=self.batch, outcome=outcome, why=why, **settings, **self.facts)


def _warnings(acceptance: Acceptance) -> list[str]:
    """What a person should know of a batch that was taken: expectations that failed and let it pass."""
    failed: dict[tuple[str, str], list[str]] = {}
    for check in acceptance.checks:
        if not check.passed:
            name = next((one for one in _SPOKEN if check.says.startswith(f"{one} is ")), "")
            key = (check.says.removeprefix(f"{name} "), check.found or voice.count(check.rows, "row"))
            failed.setdefault(key, []).append(name)
    # What small batches fail of many findings is one sentence, or it would hide the others.
    return [
        f"{', '.join(names)}: each {says} Not so: {found}."
        if len(names) > 1
        else f"{names[0]} {says} Not so: {found}.".lstrip()
        for (says, found), names in failed.items()
    ]


def _too_many(checked: Checked, settings: Ingest, on_bad: str) -> str:
    """Why a batch with problems is refused, "" if it is not."""
    if not checked.problems:
        return ""
    if on_bad == "refuse":
        return "nothing was ingested"
    left_out = checked.total - len(checked.frame)
    if _over(left_out, checked, settings):
        return (
            f"nothing was ingested: {left_out:,} of {checked.total:,} rows are bad, and at most "
            f"{settings.max_quarantined:.1%} may be left out"
        )
    return "nothing was ingested: no row is left" if checked.frame.empty else ""


def _over(left_out: int, checked: Checked, settings: Ingest) -> bool:
    """Whether more rows are left out than may be; 29 of 100 are not more than 0.29, though 0.29 x 100 is below 29."""
    return left_out > 0 and left_out / checked.total > settings.max_quarantined


def _held_as(listing: Listing, checked: Checked, frames: Mapping[str, pd.DataFrame], home: Home) -> str:
    """The batch of the data set that has every picture of the folder, byte for byte and by its name; "" for none."""
    if len(checked.frame) or listing.problems or not listing.rows:
        return ""
    gone = events.withdrawn_images(batches.read_events(home))
    for name, frame in frames.items():
        held = dict(zip(frame["image_id"], frame["sha256"], strict=True))
        if all(row.image_id in held and row.image_id not in gone for row in listing.rows) and all(
            sha256_file(row.path) == held[row.image_id] for row in listing.rows
        ):
            return name
    return ""


def _refuse_disguised(listing: Listing, folder: Path) -> None:
    """See that generated pictures do not come in as real ones, by a source that cannot know them.

    Raises:
        DataError: some would.
    """
    if is_generated(listing.source):
        return
    drawn = [row for row in listing.rows if GENERATED_ID in _beginnings(row)]
    if drawn:
        told = voice.part(len(drawn), len(listing.rows), "picture", "is", "are")
        raise DataError(
            f"{told} generated, first {drawn[0].image_id}, and would come in as those of real patients",
            where=folder,
            fix="take them out; generated ones come in as they were drawn: cxr-ops ingest nih FOLDER --batch NAME",
        )


def _beginnings(row: Row) -> set[str]:
    names = (row.image_id, row.patient_id, row.path.name)
    return {name.lower()[: len(GENERATED_ID)] for name in names}


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


def _without_purged(listing: Listing, home: Home) -> Listing:
    """A listing in which the rows of patients who were purged are problems: nothing of theirs is decoded or kept.

    The ledger's name of a patient depends on the salt of the split, and is all that a purge by an earlier version left.
    """
    names = set(purges.read(home).patients)
    keys = {entry.purge.patient for entry in open_ledger(home).entries() if entry.kind == "purge"}
    if not names | keys:
        return listing
    salt = Params.load(home.project / "params.yaml").split.salt
    gone = {
        patient
        for patient in {row.patient_id for row in listing.rows}
        if purges.name_of(patient) in names or patient_key(salt, patient) in keys
    }
    rows = [row for row in listing.rows if row.patient_id in gone]
    images = {row.image_id for row in rows}
    told = "the patient was purged from this data set, and does not come in again"
    return replace(
        listing,
        rows=[row for row in listing.rows if row.patient_id not in gone],
        boxes=[box for box in listing.boxes if box.image_id not in images],
        problems=[*listing.problems, *(replace(listing.problem(row, told), keep=False) for row in rows)],
    )


def _add_attributes(listing: Listing, path: Path) -> None:
    found, notes = side_table.read(path, listing.rows)
    for image_id, said in found.items():
        listing.attributes.setdefault(image_id, {}).update(said)
    listing.notes += notes


def _alike(frame: pd.DataFrame, held: Iterable[pd.DataFrame]) -> list[str]:
    """A note on patients of a batch whose ids are written otherwise in it or in the data set, if there are any.

    Ids are compared as text, so whoever stands under two spellings counts as two.
    """
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    own = set(frame["patient_id"])
    for patient in own.union(*(one["patient_id"] for one in held)):
        spellings[_spelling(patient)].add(patient)
    alike = sorted(sorted(ids) for ids in spellings.values() if len(ids) > 1 and not own.isdisjoint(ids))
    if not alike:
        return []
    told = voice.count(len(alike), "patient id is", "patient ids are")
    what = (
        f"warning: {told} written in more than one way, such as {' and '.join(alike[0])}, and counted as different "
        "patients: if they are one person, the split can leak"
    )
    return [what]


def _spelling(patient: str) -> str:
    """What is left of an id without what people write now so and now so.

    >>> _spelling("MRN-0012") == _spelling("mrn_12"), _spelling("A-1") == _spelling("A-10")
    (True, False)
    """
    return re.sub(r"0+(?=[0-9])|[._-]+", lambda found: "" if found[0][0] == "0" else "-", patient.casefold())


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
            f"the batch's own split would move {voice.count(len(moved), 'patient')} of the data set to another side, "
            f"such as {moved[0]}: a patient never changes sides",
            where="--own-split",
            fix="leave --own-split out: the patients then keep the sides that they have",
        )


def _look_up(home: Home, batch: str, rows: Sequence[Row], inspected: Mapping[str, Inspected]) -> Known:
    """What the other batches of the data set hold of some rows, by the index: their tables are not read."""
    revision = batches.data_revision(home)
    others = {name: digest for name, digest in (revision.batches if revision else {}).items() if name != batch}
    if revision is None or not others:
        return Known()
    with index.run(home, [revision.model_copy(update={"batches": others})]) as opened:
        gone = events.withdrawn_images(batches.read_events(home, revision))
        return duplicates.look_up(rows, inspected, opened, others.values(), gone)


def _check_expectations(
    checked: Checked,
    held: dict[str, Path],
    frames: dict[str, pd.DataFrame],
    home: Home,
    quarantine: Path,
    told: _Told,
) -> None:
    """Run the suites over the batch, beside the data set, and over the data set with it, after all events.

    How many images and patients a training needs is for the stage `validate` to say: data may arrive in small batches.
    """
    suites = [home.project / suite for suite in Params.load(home.project / "params.yaml").validate_.suites]
    records = [Batch.read(folder / "batch.json") for folder in held.values()]
    labelled = {record.name: record.findings for record in records}
    labelled |= {str(name): list(checked.findings) for name in checked.frame["batch"].unique()}
    digests = checked.pixels["pixels_sha256"].astype(str)
    happened = batches.read_events(home)
    entered = list(frames.values())
    before = events.apply(manifest.concatenate(entered), manifest.no_boxes(), happened).frame if held else None
    compared = drift.compare(checked.frame, before, checked.findings) if before is not None else []
    told.facts["comparisons"] = compared
    beside = validation.Beside(
        labelled=labelled,
        pixels=digests,
        drift_alpha=told.settings.drift_alpha,
        drift_fails=told.settings.drift == "failure",
    )
    if compared:
        beside["comparisons"] = drift.table(compared)
    found = validation.validate(checked.frame, checked.boxes, suites, **beside)
    of_batch = validation.record(found, checked.frame)
    told.facts |= {"checks": of_batch.checks, "suites": of_batch.suites}
    _refuse_failures(found, checked.frame, checked, quarantine, told)
    if before is None:
        return
    whole, boxes, _ = events.apply(manifest.concatenate([*entered, checked.frame]), checked.boxes, happened)
    known = dict(zip(checked.frame["image_id"], digests, strict=True))
    image_ids = whole["image_id"].tolist()
    of_held = manifest.read_pixels(held.values(), image_ids)
    sides = manifest.all_sides(held.values())
    for patient, side in checked.sides.itertuples(index=False) if checked.sides is not None else ():
        sides.setdefault(patient, set()).add(side)
    found = validation.validate(
        whole,
        boxes,
        suites,
        labelled=labelled,
        pixels=pd.Series([known.get(name, of) for name, of in zip(image_ids, of_held, strict=True)], dtype=str),
        sides=sides,
        batches=manifest.read_stated(held.values()),
    )
    _refuse_failures(found, whole, checked, quarantine, told)


def _refuse_failures(
    found: validation.Validation, frame: pd.DataFrame, checked: Checked, quarantine: Path, told: _Told
) -> None:
    """Refuse what failed a critical check.

    Raises:
        DataError: something did; the page and every failing row are in the quarantine.
    """
    if found.passed:
        return
    if told.portrait is not None:
        told.portrait = portray.with_failures(told.portrait, found, frame, checked)
    quarantines.make(quarantine)
    rows = manifest.to_csv(validation.failing_rows(found, frame), validation.FAILURE_COLUMNS)
    write_atomic(quarantine / validation.FAILURES, rows)
    write_atomic(quarantine / _PAGE, validation.page(found, frame).encode())
    raise validation.failure(
        found,
        frame,
        page=quarantine / _PAGE,
        fix="correct the rows (batch:line of the manifest) and ingest the folder again: nothing has entered, and the "
        "batch's name is free",
    )


def _is_same(checked: Checked, held: Path) -> bool:
    """Whether the data set holds exactly this batch."""
    record = Batch.read(held / "batch.json")
    return {
        name: sha256_bytes(data) for name, data in building.tables_of(checked).items()
    }.items() <= record.files.items()


def _same_or_refused(checked: Checked, held: Path, home: Home, quarantine: Path) -> IngestResult:
    record = Batch.read(held / "batch.json")
    if _is_same(checked, held):
        data = batches.data_revision(home)
        listed = quarantine / PROBLEMS
        return _result(
            checked,
            record.name,
            data.revision if data else "",
            listed if listed.is_file() else None,
            already=True,
            acceptance=Acceptance.read(held / ACCEPTANCE) if (held / ACCEPTANCE).is_file() else None,
        )
    raise DataError(
        f"the data set has a batch {record.name!r} with other content; a batch never changes",
        where=home.store,
        fix="give what is new a --batch name of its own",
    )


def _result(
    checked: Checked,
    batch: str,
    revision: str,
    listed: Path | None,
    *,
    already: bool,
    acceptance: Acceptance | None,
) -> IngestResult:
    frame = checked.frame
    views = frame.loc[~frame["view"].isin(VIEWS), "view"].value_counts()
    aside = ", ".join(f"{count:,} {view or 'unknown'}" for view, count in sorted(views.items()))
    many = (
        f"{voice.count(int(views.sum()), 'image')} {'is' if views.sum() == 1 else 'are'} of no frontal view ({aside})"
    )
    note = f"{many}: kept, and neither trained on nor judged"
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
        acceptance=acceptance,
    )


def _there_already(same: str, listing: Listing, listed: Path | None) -> DataError:
    pictures = voice.count(len(listing.rows), "picture")
    return DataError(
        f"this folder is in the data set as {same!r}, with {pictures}, byte for byte; nothing was ingested",
        where=listed,
        fix="nothing is to be done; corrected labels come in with cxr-ops data relabel FILE.csv --reason TEXT "
        "--by NAME",
    )


def _refusal(
    checked: Checked, folder: Path, listed: Path | None, settings: Ingest, why: str, more: str, seen: Path
) -> DataError:
    problems = checked.problems
    lines = _told(problems)
    left_out = checked.total - len(checked.frame)
    bad = _counted(rows=left_out, boxes=checked.boxes_left_out)
    fix = "correct them"
    if _over(left_out, checked, settings) and not checked.frame.empty:
        fix += f"; or raise ingest.max_quarantined in params.yaml, and leave them out: --on-bad quarantine ({_MENDED})"
    elif not checked.frame.empty:
        fix += f"; or leave out {bad or 'the files that no row names'}: --on-bad quarantine"
        fix += f" ({_MENDED})" if left_out else ""
    return DataError(
        f"the batch is refused: {voice.count(len(problems), 'problem')}; {why}\n  " + "\n  ".join(lines),
        where=f"{folder}; all of them in {listed}; as pictures in {seen}",
        fix=fix + more,
    )


def _told(problems: Sequence[Problem]) -> list[str]:
    """The first problems in words; of many with one reason a few, so that another reason is not far down."""
    reasons = [_OWN_FILE.sub("", problem.what) for problem in problems]
    alike = Counter(reasons)
    before: Counter[str] = Counter()
    lines: list[str] = []
    left = len(problems)
    for problem, reason in zip(problems, reasons, strict=True):
        before[reason] += 1
        if before[reason] > _ALIKE or len(lines) >= _TOLD:
            continue
        lines.append(str(problem))
        left -= 1
        if before[reason] == _ALIKE and alike[reason] > _ALIKE:
            more = alike[reason] - _ALIKE
            lines.append(f"  and {more:,} more for this reason")
            left -= more
    return [*lines, f"and {left:,} more"] if left else lines


def _counted(*, rows: int, boxes: int) -> str:
    """How many rows and boxes, in words; "" for none."""
    counts = ((rows, "row", "rows"), (boxes, "box", "boxes"))
    return " and ".join(voice.count(count, one, many) for count, one, many in counts if count)


def _check_room(home: Home, files: Iterable[Path], free_bytes: Callable[[Path], int]) -> None:
    """See that there is room for each copy of a batch: the one that is built aside, DVC's cache, and the remote."""
    size = sum(path.stat().st_size + shards.OVERHEAD_BYTES for path in files)
    copies = (home.root / "tmp", *home.object_folders)
    room.check(
        dict.fromkeys(copies, size),
        "the batch",
        fix="free some, or set CXR_HOME and CXR_DVC_REMOTE to larger disks",
        free_bytes=free_bytes,
    )


@contextmanager
def refusal_kept(home: Home, batch: str) -> Iterator[None]:
    """Keep the reason of a refusal that comes before `run` is asked, as that of a delivery that cannot be brought.

    Raises:
        SettingsError: the batch's name is not one.
    """
    check_name(batch)
    with _refusal_kept(home, _Told(batch, Params.load(home.project / "params.yaml").ingest, kept=_holds(home, batch))):
        yield


@contextmanager
def _refusal_kept(home: Home, told: _Told) -> Iterator[None]:
    """Keep the reason of a refusal, so that nothing is put in the batch's place and the reason can be read again."""
    try:
        yield
    except DataError as error:
        if told.taken:
            error.where = f"{error.where}; {told.taken}" if error.where else told.taken
        if told.portrait is not None:
            portray.write(told.portrait, "refused", home)
        quarantine = home.quarantine / told.batch
        quarantines.make(quarantine)
        write_atomic(quarantine / REFUSAL, f"{error}\n".encode())
        if not told.kept:
            told.record("refused", str(error)).write(quarantine / ACCEPTANCE)
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
