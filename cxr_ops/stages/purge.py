"""purge: remove a patient from every version of the data set, and whatever shows the patient from the installation.

Batches and events that hold the patient are written anew without, and what is written stands in their place in every
version: the data branch and run commits stay as they are, and `refs/cxr/purged` says what replaces what. Then what
shows the patient goes: objects of DVC's cache and remote, files of workspaces and of the checkout, packed rows, the
patient's part of quarantines, reports and MLflow's artifacts. A page that goes leaves one that says so. The ledger
keeps digests and gets an entry.

A batch's own rows say whose an image is: one that a patient had by mistake, and that stands under the right patient
since, stays there.

What is going on is in `$CXR_HOME/purge-<key>.json`, for its owner alone, until all is done: a purge that was cut off is
ended by typing it again. Until then versions that were replaced already are read without the patient. It keeps nobody
from purging another patient, who is told of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cxr_ops import contract
from cxr_ops.addresses import folder_of, without_password
from cxr_ops.audit.entries import Entry, PatientPurged
from cxr_ops.audit.package import patient_key
from cxr_ops.audit.state import find_decision, last_promotion
from cxr_ops.data import manifest, packed, room, splits
from cxr_ops.data.purging import quarantines, rewriting
from cxr_ops.data.purging.subject import Subject, has_word
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import versions as registry
from cxr_ops.edges.store import batches, objects, purges, runs, versions
from cxr_ops.edges.store.remote import Remote
from cxr_ops.edges.store.repository import RUN_STATE, ensure_store, temporary
from cxr_ops.errors import BusyError, DataError, RefusedError, SettingsError, StorageError
from cxr_ops.locks import Lock
from cxr_ops.params import Params
from cxr_ops.records.base import Kept, write_atomic, write_private
from cxr_ops.records.data import EVENT, DataRevision, is_event
from cxr_ops.records.purge import Replacement
from cxr_ops.stages import portray
from cxr_ops.stages.ingest import finish
from cxr_ops.voice import count

PAGE: Final = (
    b'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>purged</title></head><body><h1>Purged</h1>'
    b"<p>This page showed a patient who has been removed from the data set, or may have. The ledger has an entry of "
    b"the purge, and the digest of a page that a decision names: <code>cxr-ops ledger show</code>.</p></body></html>\n"
)
# Files that hold pixels and no names; what they show is known by the list beside them.
_PIXELS: Final = (".npy", ".png", ".jpg", ".jpeg")
_TABLES: Final = (manifest.ORIGINS, manifest.SIDES, manifest.ATTRIBUTES, manifest.COPIES)
_DATABASES: Final = (".db", ".db-wal", ".db-shm", ".sqlite", ".sqlite3")


class Journal(Kept):
    """A purge that is going on: `$CXR_HOME/purge-<key>.json`. It names the patient, and goes when all is done.

    `replaced` has the digests of the batches and events that hold the patient, `names` their names, `models` the
    versions trained on the patient.
    """

    subject: Subject
    by: str
    reason: str
    replaced: list[str]
    names: list[str]
    models: list[str]


@dataclass(frozen=True, kw_only=True)
class Purge:
    """What a purge does, or did (`done`).

    Attributes:
        images: of the patient, in all versions together.
        holders: batches and events that hold the patient, by name.
        versions: how many versions of the data set hold one of these.
        runs: runs that were opened on one of these.
        models: registered versions that were trained on the patient.
        champion: whether the model in use is one of them.
        pages: batches whose page, with its list of near copies, shows the patient or may.
        quarantines: batches whose quarantine has rows or pictures of the patient.
        quarantined: the rows of the patient that are listed there.
        under_others: images that stand under another patient too, as some batch has it, and stay there.
        unknown: quarantines of which nobody knows whether they show the patient, and how to remove them.
        cut_off: how to end purges of other patients that were cut off.
        removed: objects of DVC and files that went.
        left: what was not searched, and why.
        done: whether it was done.
    """

    images: int
    holders: tuple[str, ...]
    versions: int
    runs: tuple[str, ...]
    models: tuple[str, ...]
    champion: bool
    pages: tuple[str, ...] = ()
    quarantines: tuple[str, ...] = ()
    quarantined: int = 0
    under_others: int = 0
    unknown: tuple[str, ...] = ()
    cut_off: tuple[str, ...] = ()
    removed: int = 0
    left: tuple[str, ...] = ()
    done: bool = False

    def __str__(self) -> str:
        """A line for what goes, and one for each thing that follows."""
        verb = "are gone" if self.done else "would go"
        if self.images == 1:
            verb = "is gone" if self.done else "would go"
        images, made = count(self.images, "image"), count(self.versions, "version")
        lines = [f"{images} of the patient {verb}, from {made} of the data set"]
        if self.under_others:
            lines.append(
                f"  of which {self.under_others:,} stand under another patient too, as another batch has them, and "
                "stay there; if it is the same person, purge the other patient as well"
            )
        if self.holders:
            lines.append(f"  written anew without the patient: {', '.join(self.holders)}")
        if self.runs:
            lines.append(f"  runs that used them, and can no longer be made again: {', '.join(self.runs)}")
        if self.pages:
            lines.append(f"  pages of batches, which show the patient or may: {', '.join(self.pages)}")
        if self.quarantines:
            which = f"{', '.join(self.quarantines)} ({count(self.quarantined, 'row')} of the patient)"
            lines.append(f"  quarantines, without what is in them of others: {which}")
        if self.models:
            which = ", ".join(self.models)
            lines.append(f"  models that were trained on the patient, and stay: version {which}")
        if self.champion:
            lines.append("  the champion is one of them; next: cxr-ops retrain")
        if self.done:
            were = "object or file was" if self.removed == 1 else "objects and files were"
            lines.append(f"  {self.removed:,} {were} removed; the ledger has an entry of it")
        lines += [f"  quarantine that cannot be checked: {one}" for one in self.unknown]
        lines += [f"  not searched: {one}" for one in self.left]
        lines += [f"  a purge of another patient was cut off, and is not done; end it: {one}" for one in self.cut_off]
        then = "next" if self.done else "afterwards"
        lines.append(
            f"  {then}: cxr-ops backup NEWFOLDER, then delete the folders of earlier backups: they hold the patient"
        )
        if not self.done:
            lines.append("nothing was changed; next: the same command with --yes")
        return "\n".join(lines)


def run(
    home: Home,
    patient: str,
    *,
    by: str,
    reason: str,
    yes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Purge:
    """Remove a patient, or say what that would do.

    Args:
        home: the installation.
        patient: the id, as manifests have it; it is compared as text.
        by: who decided it.
        reason: why; the ledger keeps it, so it names nobody.
        yes: do it; otherwise nothing is changed.
        progress: called with the steps that are done and their number, where it is done.

    Raises:
        SettingsError: `by` or `reason` is blank, or the reason names the patient.
        DataError: no version and no quarantine holds an image of the patient, or a batch is missing from the store or
            was altered.
        RefusedError: no image would be left in the data set, or another patient goes first.
        BusyError: an ingestion or a run is going on, or the data set changed meanwhile.
        StorageError: the store, the remote, the ledger or MLflow cannot be read or written, or a file not removed; type
            the command again afterwards.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError("a purge needs a name and a reason", where="data purge", fix="--by NAME --reason TEXT")
    again = "and type the command again: a purge that was begun goes on where it stood"
    with room.storage_errors(home.root, then=again), ExitStack() as held:
        ingest = held.enter_context(Lock(home.locks / "ingest"))
        if not ingest.try_acquire():
            raise BusyError("an ingestion is going on", where=ingest.path, fix="purge when it has ended")
        if yes:  # one that was cut off would write what names the patient when it is finished later
            finish(home)
        journal = _going_on(home, patient)
        subject = _find(home, patient, journal)
        if has_word(reason, subject):
            raise SettingsError(
                f"the reason names the patient, or has the word {patient!r}, and the ledger would keep it for ever",
                where="--reason",
                fix="name nobody, and leave that word out",
            )
        made = versions.versions(home)
        holders = _holders(home, made, subject)
        _refuse_empty(home, subject, made)
        left = _quarantines(home, subject)
        used = _runs(home, made, holders)
        models = journal.models if journal else registry.trained_on(home, patient)
        champion = last_promotion(open_ledger(home).entries())
        names = sorted({*(journal.names if journal else ()), *(name for name, _ in holders.values())})
        seen = set(purges.read(home).objects)
        found = Purge(
            images=len(subject.images),
            holders=tuple(sorted({name for name, _ in holders.values()})),
            versions=sum(bool(holders.keys() & version.data.digests().values()) for version in made),
            runs=used,
            models=tuple(models),
            champion=champion is not None and champion.promotion.model_version in models,
            pages=tuple(folder.name for folder in _pages(home, subject, names, seen)),
            quarantines=tuple(one.folder.name for one in left if one.concerned),
            quarantined=sum(one.rows for one in left),
            under_others=len(set(subject.images) & set(subject.others)),
            unknown=tuple(told for one in left for told in one.unknown),
            cut_off=tuple(
                f"cxr-ops data purge {shlex.quote(one.subject.patient)} --reason TEXT --by NAME --yes"
                for one in _cut_off(home).values()
                if one.subject.patient != patient
            ),
            left=_not_searched(home),
        )
        if not yes:
            return found
        _hold_runs(held, home)
        if journal is None:
            journal = Journal(
                subject=subject,
                by=by.strip(),
                reason=" ".join(reason.split()),
                replaced=sorted(holders),
                names=names,
                models=models,
            )
        else:  # a batch of the patient's may have entered since it was cut off
            journal = journal.model_copy(
                update={
                    "subject": subject,
                    "replaced": sorted({*journal.replaced, *holders}),
                    "names": names,
                }
            )
        path = _journal(home, patient)
        ensure_store(home)
        write_private(path, journal.to_bytes())
        purges.add(home, {}, patients=[purges.name_of(patient)])
        done = progress or (lambda *_: None)
        steps = len(holders) + 2  # a batch or event each, then the objects, then the files
        for step, (digest, (name, data)) in enumerate(holders.items()):
            done(step, steps)
            purges.add(home, {digest: _without(home, name, data, subject)})
        done(steps - 2, steps)
        if made:
            batches.record_purge(home, len(subject.images), by=journal.by, reason=journal.reason)
        gone = _objects(home, journal)
        done(steps - 1, steps)
        removed = len(gone) + _sweep(home, journal, gone)
        _record(home, journal)
        path.unlink()
        done(steps, steps)
    return replace(found, removed=removed, done=True)


# ------------------------------------------------------------------------------------------------ what is concerned


def _cut_off(home: Home) -> dict[Path, Journal]:
    """The purges that were cut off; an earlier version called its one `purge.json`."""
    return {path: Journal.read(path) for path in sorted(home.root.glob("purge*.json"))}


def _journal(home: Home, patient: str) -> Path:
    there = (path for path, journal in _cut_off(home).items() if journal.subject.patient == patient)
    return next(there, home.root / f"purge-{purges.name_of(patient)}.json")


def _going_on(home: Home, patient: str) -> Journal | None:
    """The purge of this patient that was cut off, if there is one."""
    return next((one for one in _cut_off(home).values() if one.subject.patient == patient), None)


def _find(home: Home, patient: str, journal: Journal | None) -> Subject:
    """The patient's images in all versions and quarantines, with those that a purge which was cut off had begun with.

    Raises:
        DataError: there is none.
        RefusedError: near copies of the pictures stand under another patient, who goes first.
    """
    images, digests, pixels = set[str](), set[str](), set[str]()
    of_others, digests_of_others, pixels_of_others = set[str](), set[str](), set[str]()
    followers: set[str] = set()
    seen: set[str] = set()
    for version in versions.versions(home):
        fresh = {name: digest for name, digest in version.data.batches.items() if digest not in seen}
        seen |= set(fresh.values())
        only = version.data.model_copy(update={"batches": fresh, "events": {}})
        optional = (manifest.ORIGINS, manifest.SIDES)
        folders = batches.batch_files(home, ("manifest.csv", "pixels.csv"), only, optional=optional)
        for folder in folders.values():
            frame = manifest.read_manifest(folder / "manifest.csv")
            pairs: dict[str, str] = dict(
                manifest.read_table(folder / "pixels.csv", manifest.PIXEL_COLUMNS).itertuples(index=False)
            )
            origins: dict[str, str] = {}
            if (folder / manifest.ORIGINS).is_file():
                table = manifest.read_table(folder / manifest.ORIGINS, manifest.ORIGIN_COLUMNS)
                origins = dict(zip(table["image_id"], table["origin_sha256"], strict=True))
            is_own = frame["patient_id"] == patient
            for rows, ids, of_file, of_pixels in (
                (frame[is_own], images, digests, pixels),
                (frame[~is_own], of_others, digests_of_others, pixels_of_others),
            ):
                named = set(rows["image_id"])
                ids.update(named)
                of_file.update(rows["sha256"], (origins[one] for one in named & origins.keys()))
                of_pixels.update(pairs[one] for one in named & pairs.keys())
        sides = manifest.all_sides(folders.values())
        followers |= {one for one, of in sides.items() if f"{splits.WITH}{patient}" in of}
    if followers:
        first = sorted(followers)[0]
        raise RefusedError(
            f"near copies of this patient's pictures were accepted under {' and '.join(sorted(followers))}, and would "
            "stay",
            where=home.store,
            fix=f"cxr-ops data purge {first} --reason TEXT --by NAME, and then this patient",
        )
    refused = quarantines.owned(home.quarantine.glob("*/"), patient)
    before = journal.subject if journal else Subject(patient=patient, images=[], sha256=[])
    if not images | refused.images | refused.sha256 and not journal:
        raise DataError(
            f"no version of the data set holds an image of a patient {patient!r}, and no quarantine lists one; ids are "
            "compared as text",
            where=home.store,
            fix="cxr-ops data show ID, with the id of an image: it says which patient it is of",
        )
    return Subject(
        patient=patient,
        images=sorted(images | {*before.images}),
        sha256=sorted((digests | (refused.sha256 - refused.sha256_of_others) | {*before.sha256}) - digests_of_others),
        pixels=sorted((pixels | {*before.pixels}) - pixels_of_others),
        refused=sorted(refused.images | {*before.refused}),
        others=sorted(of_others | (refused.images_of_others - images - {*before.images})),
    )


def _holders(home: Home, made: list[versions.Version], subject: Subject) -> dict[str, tuple[str, DataRevision]]:
    """The batches and events that hold the patient: by the digest of the record its name, and a version with it."""
    found: dict[str, tuple[str, DataRevision]] = {}
    for version in made:
        fresh = {name: digest for name, digest in version.data.batches.items() if digest not in found}
        only = version.data.model_copy(update={"batches": fresh, "events": {}})
        for name, folder in batches.batch_files(home, revision=only, optional=_TABLES).items():
            if any(subject.shown_by(path) for path in sorted(folder.iterdir())):
                found[fresh[name]] = (name, version.data)
        for event in batches.read_events(home, version.data):
            if event != rewriting.rewrite_event(event, subject):
                found[version.data.events[event.name]] = (event.name, version.data)
    return found


def _refuse_empty(home: Home, subject: Subject, made: list[versions.Version]) -> None:
    """See that the data set of now, after its events, does not become empty. One that is empty stays so."""
    now = made[-1].data if made else None
    folders = batches.batch_files(home, revision=now).values() if now else ()
    if not now or not folders:
        return
    patients = set(manifest.joined(folders, batches.read_events(home, now)).frame["patient_id"])
    if patients == {subject.patient}:
        raise RefusedError(
            "no image would be left in the data set",
            where=home.root,
            fix="remove the whole installation, or ingest another batch first",
        )


def _runs(home: Home, made: list[versions.Version], holders: Iterable[str]) -> tuple[str, ...]:
    concerned = set(holders)
    used = versions.runs_by_revision(home)
    of = {
        run
        for version in made
        if concerned & set(version.data.digests().values())
        for run in used.get(version.revision, ())
    }
    return tuple(sorted(of))


def _not_searched(home: Home) -> tuple[str, ...]:
    left = []
    if folder_of(home.mlflow_artifacts) is None:
        left.append(f"MLflow's artifacts in {home.mlflow_artifacts}")
    if home.mlflow_uri.startswith("http"):
        left.append(f"the MLflow server {without_password(home.mlflow_uri)}, if it keeps artifacts of its own")
    if home.settings.airflow_url:
        left.append("logs of the Airflow that CXR_AIRFLOW_URL names")
    return (*left, "backups, and copies that left this installation")


def _hold_runs(held: ExitStack, home: Home) -> None:
    for folder in _workspaces(home):
        lock = held.enter_context(Lock(home.workspace_lock(folder.parent.name), mode=0o666))
        if not lock.try_acquire():
            raise BusyError(
                f"the run {folder.parent.name} is being worked on", where=lock.path, fix="purge when it has ended"
            )


def _workspaces(home: Home) -> list[Path]:
    folders = sorted((home.root / "runs").glob("*/workspace"))
    return [path for path in folders if contract.is_run_name(path.parent.name) and path.is_dir()]


# ------------------------------------------------------------------------------------------------ batches and events


def _without(home: Home, name: str, data: DataRevision, subject: Subject) -> Replacement | None:
    """Put a batch or event without the patient into the store."""
    with temporary(home) as aside:
        if is_event(name):
            event = next(one for one in batches.read_events(home, data) if one.name == name)
            rewriting.rewrite_event(event, subject).write(aside / name / EVENT)
            return batches.replace_purged(home, aside / name, name)
        only = data.model_copy(update={"batches": {name: data.batches[name]}, "events": {}})
        with batches.whole(home, only) as dataset:
            if rewriting.rewrite_batch(dataset / name, aside / name, subject) is None:
                return None
            return batches.replace_purged(home, aside / name, name)


# -------------------------------------------------------------------------------------------- what shows the patient


def _objects(home: Home, journal: Journal) -> set[str]:
    """Remove the objects of DVC's cache and remote that show the patient; return their names.

    What a version points to is clean by now. An array or a picture goes with the list beside it that names the patient,
    and whatever was replaced goes. They are on record in the store before the first goes.
    """
    remote, subject = Remote(home), journal.subject
    clean, _ = objects.spread(objects.of_versions(home), home.object_folders)
    # What came back since is somebody's again.
    gone = (set(purges.read(home).objects) | _replaced(home, journal)) - clean
    listings: list[list[dict[str, str]]] = []
    cached = {path.parent.name + path.name: path for path in (home.dvc_cache / "files" / "md5").glob("??/*")}
    with temporary(home) as aside:
        for name in sorted({*cached, *remote.names()} - clean - gone):
            path = cached.get(name) or remote.fetch(name, aside)
            if path is None:
                continue
            if name.endswith(".dir"):
                listings.append(json.loads(path.read_bytes()))
            elif subject.shown_by(path):
                gone.add(name)
            if path.parent == aside:
                path.unlink()
    for listing in listings:
        if any(entry["md5"] in gone for entry in listing):
            gone |= {entry["md5"] for entry in listing if entry["relpath"].endswith(_PIXELS)} - clean
    purges.add(home, {}, gone)
    for name in sorted(gone):
        _unlink(cached.get(name, dvc.place(home.dvc_cache, name)))
        remote.delete(name)
    for path in sorted((home.dvc_cache / "runs").glob("??/*/*")):
        if any(name in path.read_text(encoding="utf-8", errors="replace") for name in gone):
            _unlink(path)  # it would restore what is gone
    return gone


def _replaced(home: Home, journal: Journal) -> set[str]:
    """The objects of the batches and events in whose place others stand."""
    instead = (one for one in purges.read(home).replaced.values() if one is not None)
    pointers = {one.record: one.pointer.encode() for one in instead}
    for version in versions.versions(home):
        for name, pointer in batches.entered_pointers(home, version.revision).items():
            pointers.setdefault(batches.batch_digest(pointer, name), pointer)
    named = {one for digest in journal.replaced if digest in pointers for one in objects.of_outs(pointers[digest])}
    return objects.spread(named, home.object_folders)[0]


def _sweep(home: Home, journal: Journal, gone: set[str]) -> int:
    """Remove what shows the patient besides objects of DVC; return how many files went."""
    count, subject = 0, journal.subject
    entries = open_ledger(home).entries()
    for folder in _workspaces(home):
        run = folder.parent.name
        if find_decision(entries, run) is None and any(_shown(folder, subject, gone)):
            runs.clear_workspace(home, run)  # it could only go on with what is gone
            count += 1
    for digest in journal.replaced:
        shutil.rmtree(home.root / "batches" / digest, ignore_errors=True)
        _unlink(home.fingerprints / f"{digest}.npy")
    for folder in _pages(home, subject, journal.names, gone):
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        write_atomic(folder / portray.PAGE, PAGE)
        count += 1
    for path in home.root.glob(f"{home.index.name}*"):
        _unlink(path)  # made again when it is asked for
    for without in _quarantines(home, subject):
        without.write()
        count += max(1, without.files) if without.concerned else 0
    packed_folders = {
        home.packed,
        home.project / ".cxr" / "packed",
        *(one / ".cxr" / "packed" for one in _workspaces(home)),
    }
    count += sum(packed.forget(folder, subject.sha256) for folder in packed_folders if folder.is_dir())
    artifacts = folder_of(home.mlflow_artifacts)
    places = [home.root, *(home.project / name for name in (*RUN_STATE, "failed")), *([artifacts] if artifacts else [])]
    for place in places:
        for path in list(_shown(place, subject, gone, skip=_kept(home))):
            if path.suffix == ".html":
                # It shows what the page shows, and holds no text that a search finds.
                path.with_suffix(".pdf").unlink(missing_ok=True)
            _unlink(path)
            if path.suffix == ".html":
                write_atomic(path, PAGE)
            count += 1
    return count


def _pages(home: Home, subject: Subject, names: Iterable[str], gone: set[str]) -> list[Path]:
    """The folders of batches with a page that shows the patient, or may: pages name nobody, but have a list beside.

    An earlier version wrote no list. A page of a batch that held the patient counts the patient, shown or not.
    """
    return [
        page.parent
        for page in sorted(home.pictures.glob(f"*/{portray.PAGE}"))
        if page.read_bytes() != PAGE
        and (
            page.parent.name in names
            or not page.with_name(portray.LIST).is_file()
            or any(_shown(page.parent, subject, gone))
        )
    ]


def _quarantines(home: Home, subject: Subject) -> list[quarantines.Without]:
    """Every quarantine as it is without the patient."""
    return [quarantines.without(folder, subject, PAGE) for folder in sorted(home.quarantine.glob("*/"))]


def _kept(home: Home) -> tuple[Path, ...]:
    """What is not searched file by file: digests alone, what was looked at, and what is going on."""
    searched = (*home.object_folders, home.packed, home.quarantine)
    return (home.ledger, home.store, home.locks, *_cut_off(home), *searched)


def _shown(place: Path, subject: Subject, gone: set[str], skip: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files in a folder, or the file, that show the patient, or are objects that went."""
    for path in _files(place, skip):
        if path.name.endswith(_DATABASES) or path.suffix == ".rows":
            continue
        is_gone = path.stat().st_size < 2**31 and _md5(path) in gone
        if is_gone or subject.shown_by(path):
            yield path


def _files(place: Path, skip: tuple[Path, ...]) -> Iterator[Path]:
    if place.is_file() and not place.is_symlink():
        yield place
    for above, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if Path(above) / name not in skip and name != ".git")
        paths = (Path(above) / name for name in sorted(names))
        yield from (path for path in paths if path not in skip and path.is_file() and not path.is_symlink())


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path.name} cannot be removed: {error.strerror}",
            where=path,
            fix="type the command again as the owner of CXR_HOME",
        ) from error


# ------------------------------------------------------------------------------------------------ the record


def _record(home: Home, journal: Journal) -> None:
    """Put the purge on the ledger, unless it is there."""
    known = purges.read(home).replaced
    salt = Params.load(home.project / dvc.PARAMS).split.salt
    body = PatientPurged(
        patient=patient_key(salt, journal.subject.patient),
        images=len(journal.subject.images),
        replaced={
            digest: None if (instead := known[digest]) is None else instead.record for digest in journal.replaced
        },
        models=journal.models,
        by=journal.by,
        reason=journal.reason,
    )

    def decide(entries: list[Entry]) -> PatientPurged | Entry:
        there = (
            entry
            for entry in entries
            if entry.kind == "purge"
            and (entry.purge.patient, entry.purge.replaced) == (body.patient, body.replaced)
            and body.replaced  # of what was only ever refused nothing shows that it is the same purge
        )
        return next(there, body)

    open_ledger(home).append_if("purge", decide)
