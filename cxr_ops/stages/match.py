"""match: find the near copies of a batch's pictures, in the batch and in the data set, and say what follows.

`ingest` asks it before a batch enters. A near copy under the same patient enters with a warning. One under another
patient does not, unless a person accepted the pair with a reason: then both patients are on one side of the split. All
pairs are listed in `$CXR_HOME/pictures/<batch>/near-copies.csv`, which is also what a person writes reasons into.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from cxr_ops.audit.state import open_period
from cxr_ops.data import manifest, splits
from cxr_ops.data.checking import batch as building
from cxr_ops.data.checking import copies, decode, fingerprints, isolate
from cxr_ops.data.checking.batch import Checked
from cxr_ops.data.checking.copies import Copy, Prints
from cxr_ops.data.checking.decode import Pixels
from cxr_ops.data.shards import Place, ShardReader, read_place
from cxr_ops.data.sources.source import Listing, Problem
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.params import Params, Split
from cxr_ops.records.base import write_atomic
from cxr_ops.records.data import Batch, DataRevision, is_generated
from cxr_ops.stages import withdraw
from cxr_ops.voice import count

LISTED: Final = "near-copies.csv"  # in the folder of a batch's picture
ACCEPT: Final = "--accept-copies"
SHOWN: Final = 20  # pairs whose pictures are kept at hand for the page of the batch
_SURVEYED: Final = ("batch.json", "manifest.csv")
_NEEDED: Final = ("image_id", "other_id", "reason")

Pair = frozenset[str]


class Matched(NamedTuple):
    """A batch whose pictures were compared.

    Attributes:
        checked: without the pictures that may not enter, and with the pairs and sides that do.
        listed: the file of all pairs; None where there are none.
        notes: what a person should know.
        refused: how many pairs under two patients were not accepted.
        pairs: how many pairs there are.
        shown: the first pairs of the list with the grey copies of both.
    """

    checked: Checked
    listed: Path | None = None
    notes: tuple[str, ...] = ()
    refused: int = 0
    pairs: int = 0
    shown: tuple[tuple[Copy, Pixels, Pixels], ...] = ()


def run(
    checked: Checked,
    listing: Listing,
    *,
    batch: str,
    home: Home,
    held: Mapping[str, Path],
    frames: Mapping[str, pd.DataFrame] | None = None,
    accepted: Path | None = None,
) -> Matched:
    """Compare the pictures of a batch with one another and with those of the data set.

    Args:
        checked: the batch, as its pictures and rows were found.
        listing: what `checked` was made of.
        batch: its name.
        home: the installation.
        held: for each batch of the data set the folder with its `manifest.csv`, and `sides.csv`, `copies.csv` and
            fingerprints where it has them. A batch of an earlier version has no fingerprints: they are made, once.
        frames: the manifest of each of them, where they were read already.
        accepted: a file of pairs with reasons; see `read_accepted`.

    Raises:
        DataError: a batch of the data set cannot be read, or an accepted pair would move a patient to another side.
        SettingsError: `accepted` is no such file, or names a pair that is none.
        StorageError: a batch of the data set cannot be fetched.
    """
    said = {**_recorded(held.values()), **(read_accepted(accepted) if accepted else {})}
    if batch in held and fingerprints.FILE not in Batch.read(held[batch] / "batch.json").files:
        return Matched(checked)  # it entered before pictures were compared, and never changes
    others = {name: folder for name, folder in held.items() if name != batch}
    frames = {
        name: frames[name] if frames else manifest.read_manifest(folder / "manifest.csv")
        for name, folder in others.items()
    }
    tables = held_fingerprints(home, others, {name: frame["image_id"].tolist() for name, frame in frames.items()})
    known = [Prints(name, tables[name], frames[name]["patient_id"].tolist()) for name in sorted(others)]
    coming = Prints("", checked.fingerprints, checked.frame["patient_id"].tolist())
    limits = copies.GENERATED if is_generated(listing.source, batch) else copies.RADIOGRAPHS
    found = copies.find(coming, known, limits=limits)
    if accepted:
        _refuse_others(read_accepted(accepted), found, accepted)
    listed = write_pairs(home.pictures / batch / LISTED, found, said)
    refused = [copy for copy in found if not copy.same_patient and _pair(copy) not in said]
    problems = _problems(listing, refused)
    kept = building.without(checked, problems) if problems else checked
    enters = set(kept.frame["image_id"])
    inside = [copy for copy in found if copy.image_id in enters and (copy.other_batch or copy.other_id in enters)]
    if inside:
        table = pairs_table(inside, said)
        sides = _sides(kept, inside, batch, held, frames, home)
        kept = replace(kept, copies=table, sides=sides)
    greys = _greys([*known, coming], found[:SHOWN])
    shown = tuple((copy, greys[copy.image_id], greys[copy.other_id]) for copy in found[:SHOWN])
    return Matched(kept, listed, _notes(inside, listed), len(refused), len(found), shown)


def _greys(all_prints: Sequence[Prints], found: Sequence[Copy]) -> dict[str, Pixels]:
    wanted = {image_id.encode() for copy in found for image_id in (copy.image_id, copy.other_id)}
    greys: dict[str, Pixels] = {}
    for prints in all_prints if wanted else ():
        names = prints.table["image_id"]
        for row in np.flatnonzero(np.isin(names, list(wanted))):
            greys[names[row].decode()] = np.array(prints.table["grey"][row])
    return greys


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """The near copies of a data set.

    Attributes:
        images: how many pictures were compared.
        same_patient: pairs under one patient.
        accepted: pairs under two patients that entered with a reason.
        listed: the file of all pairs; None where there are none.
    """

    images: int
    same_patient: int
    accepted: int
    listed: Path | None

    def __str__(self) -> str:
        pairs = f"near copies under one patient: {self.same_patient:,}, accepted under two: {self.accepted:,}"
        place = f"\n  all of them in {self.listed}" if self.listed else ""
        images = f"{count(self.images, 'image')} {'was' if self.images == 1 else 'were'}"
        return f"{images} compared with one another; {pairs}{place}"


def survey(home: Home) -> Surveyed:
    """Compare all pictures of the data set with one another, also those that entered before pictures were compared.

    Withdrawn images do not count. All pairs are listed in `$CXR_HOME/pictures/near-copies.csv`.

    Args:
        home: the installation.

    Raises:
        DataError: there is no data set, a batch is missing or was altered, or there are near copies under two patients
            that nobody accepted.
        StorageError: a batch cannot be fetched.
    """
    revision = batches.data_revision(home)
    if revision is None:
        raise DataError("there is no data set", where=home.store, fix="cxr-ops ingest nih FOLDER --batch NAME")
    held = batches.batch_files(home, names=_SURVEYED, optional=(manifest.SIDES, manifest.COPIES, fingerprints.FILE))
    frames = {name: manifest.read_manifest(folder / "manifest.csv") for name, folder in sorted(held.items())}
    tables = held_fingerprints(home, held, {name: frame["image_id"].tolist() for name, frame in frames.items()})
    known = [Prints(name, tables[name], frame["patient_id"].tolist()) for name, frame in frames.items()]
    records = [Batch.read(folder / "batch.json") for folder in held.values()]
    generated = any(is_generated(record.source, record.name) for record in records)
    limits = copies.GENERATED if generated else copies.RADIOGRAPHS
    here = set(withdraw.as_it_is(home, revision).frame["image_id"])
    found = [
        copy
        for at, coming in enumerate(known)
        for copy in copies.find(coming, known[:at], limits=limits)
        if {copy.image_id, copy.other_id} <= here
    ]
    said = _recorded(held.values())
    listed = write_pairs(home.pictures / LISTED, found, said)
    other = [copy for copy in found if not copy.same_patient]
    accepted = [copy for copy in other if _pair(copy) in said]
    if len(other) > len(accepted):
        _refuse_unaccepted([copy for copy in other if _pair(copy) not in said], home, held, listed)
    return Surveyed(images=len(here), same_patient=len(found) - len(other), accepted=len(accepted), listed=listed)


def _refuse_unaccepted(found: Sequence[Copy], home: Home, held: Mapping[str, Path], listed: Path | None) -> None:
    split = Params.load(home.project / dvc.PARAMS).split.model_dump()
    pins = manifest.read_sides(held.values())
    lines, apart = [], 0
    for copy in found:
        one, other = (splits.side_of(patient, pins, **split) for patient in (copy.patient_id, copy.other_patient))
        apart += one != other
        lines.append(
            f"{copy.image_id} of the patient {copy.patient_id} ({one}) and {copy.other_id} of the patient "
            f"{copy.other_patient} ({other}): {told(copy)}"
        )
    more = [f"and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    raise DataError(
        f"near copies under two patients: {len(found):,}, of them on two sides of the split: {apart:,}\n  "
        + "\n  ".join([*lines[:SHOWN], *more]),
        where=listed,
        fix="find out which of the two is right, and take the other out: cxr-ops data withdraw IMAGE --reason TEXT "
        "--by NAME",
    )


def read_accepted(path: Path) -> dict[Pair, str]:
    """The pairs that a person accepted: rows with `image_id`, `other_id` and a `reason` that is not blank.

    Other columns are not read, and rows without a reason accept nothing: `near-copies.csv` with reasons filled in will
    do.

    Raises:
        SettingsError: the file is missing or is no such table, or no row of it has a reason.
    """
    try:
        rows = manifest.read_rows(path)
    except DataError as error:
        raise SettingsError(error.what, where=error.where or path, fix=f"{ACCEPT} FILE, a table of pairs") from error
    header = rows[0][1] if rows else []
    if missing := [name for name in _NEEDED if name not in header]:
        raise SettingsError(
            f"the table of accepted pairs has no column {missing[0]!r}",
            where=path,
            fix=f"write reasons into {LISTED}, which ingestion left, and give that: {ACCEPT} FILE",
        )
    found: dict[Pair, str] = {}
    for line, fields in rows[1:]:
        if len(fields) != len(header):
            raise SettingsError(f"the row has {len(fields)} fields, not {len(header)}", where=f"{path}, line {line}")
        row = dict(zip(header, fields, strict=True))
        if row["reason"].strip():
            found[frozenset((row["image_id"], row["other_id"]))] = row["reason"].strip()
    if not found:
        raise SettingsError(
            "no row of the table of accepted pairs has a reason, so it accepts nothing",
            where=path,
            fix=f"write why into the column reason of the pairs that are right, or leave {ACCEPT} out",
        )
    return found


def held_fingerprints(
    home: Home, held: Mapping[str, Path], image_ids: Mapping[str, Sequence[str]]
) -> dict[str, fingerprints.Table]:
    """The fingerprints of batches of the data set; those that have none get them, in `$CXR_HOME/fingerprints`.

    Args:
        home: the installation.
        held: the folder of each batch, as `batches.batch_files` gives it, with its fingerprints where it has them.
        image_ids: of the images of each batch, in the order of its manifest.

    Raises:
        DataError: a batch is missing from the store or was altered, or a picture of it does not decode.
        StorageError: the remote does not answer.
    """
    revision = batches.data_revision(home)
    paths: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name, folder in held.items():
        paths[name] = folder / fingerprints.FILE
        if not paths[name].is_file() and revision:
            digest = revision.batches[name]
            paths[name] = home.fingerprints / f"{digest}.npy"
            if not paths[name].is_file():
                missing[name] = digest
    if missing and revision:
        home.fingerprints.mkdir(exist_ok=True)
        only: DataRevision = revision.model_copy(update={"batches": missing})
        with batches.whole(home, only) as dataset:
            for name in missing:
                fingerprints.write(paths[name], _made(dataset / name, image_ids[name]))
    return {name: fingerprints.read(path, image_ids[name]) for name, path in paths.items()}


def _made(folder: Path, image_ids: Sequence[str]) -> fingerprints.Table:
    spool = fingerprints.Spool()
    with ShardReader(folder) as reader:
        places = [reader.place(image_id) for image_id in image_ids]
        for image_id, row in zip(image_ids, isolate.each(fingerprint_of, places), strict=True):
            if isinstance(row, isolate.DiedError):
                raise DataError("decoding it ends the process that tries", where=f"{folder.name}: {image_id}")
            spool.add(image_id, row)
    return spool.table(image_ids)


def fingerprint_of(place: Place) -> bytes:
    """The fingerprint of a picture of the data set.

    Raises:
        DataError: it does not decode.
        StorageError: its shard cannot be read.
    """
    return fingerprints.row(decode.decode_grey(read_place(place)))


def write_pairs(path: Path, found: Sequence[Copy], said: Mapping[Pair, str]) -> Path | None:
    """Write the pairs for a person, or remove the list of an earlier attempt where there are none.

    Args:
        path: of the list.
        found: the pairs.
        said: reasons of those that are accepted.

    Returns:
        The path, or None where there are no pairs.
    """
    if not found:
        path.unlink(missing_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)  # it names patients
    write_atomic(path, manifest.to_csv(pairs_table(found, said), manifest.COPY_COLUMNS))
    return path


def pairs_table(found: Sequence[Copy], said: Mapping[Pair, str]) -> pd.DataFrame:
    """Pairs as a table of `manifest.COPY_COLUMNS`; the reason is "" where none was given.

    Args:
        found: the pairs.
        said: reasons by pair.
    """
    rows = [(*vars(copy).values(), said.get(_pair(copy), "")) for copy in found]
    table = pd.DataFrame(rows, columns=list(manifest.COPY_COLUMNS), dtype=str)
    return table.assign(similarity=[f"{copy.similarity:.4f}" for copy in found])


def accepting(matched: Matched) -> str:
    """What to type where both patients of a near copy are right, as the end of a sentence; "" where none was refused.

    Args:
        matched: what came of the comparison.
    """
    pairs = matched.listed
    if not matched.refused or pairs is None:
        return ""
    return (
        f"; or, where both patients of a near copy are right, write why into the column reason of {pairs} and give it: "
        f"{ACCEPT} {shlex.quote(str(pairs))}"
    )


def told(copy: Copy) -> str:
    """How alike a pair is, and how one was made of the other, in words."""
    return f"similarity {copy.similarity:.3f}" + (f", {copy.how}" if copy.how else "")


def _pair(copy: Copy) -> Pair:
    return frozenset((copy.image_id, copy.other_id))


def _recorded(folders: Iterable[Path]) -> dict[Pair, str]:
    """The reasons of the pairs that batches of the data set entered with."""
    found: dict[Pair, str] = {}
    for path in (folder / manifest.COPIES for folder in folders):
        if path.is_file():
            table = manifest.read_table(path, manifest.COPY_COLUMNS)
            pairs = zip(table["image_id"], table["other_id"], table["reason"], strict=True)
            found |= {frozenset((one, other)): reason for one, other, reason in pairs if reason}
    return found


def _refuse_others(accepted: Mapping[Pair, str], found: Sequence[Copy], path: Path) -> None:
    """See that each accepted pair is one: a slip in an id would accept nothing, and seem to.

    Raises:
        SettingsError: one is not.
    """
    if unknown := sorted(sorted(pair) for pair in accepted.keys() - {_pair(copy) for copy in found}):
        raise SettingsError(
            f"{' and '.join(unknown[0])} are no near copies of each other",
            where=path,
            fix="take the row out, or correct its image_id and other_id",
        )


def _problems(listing: Listing, refused: Sequence[Copy]) -> list[Problem]:
    rows = {row.image_id: row for row in listing.rows}
    problems = []
    for copy in refused:
        own, other = f"the patient {copy.patient_id}", f"the patient {copy.other_patient}"
        where = f", in the batch {copy.other_batch!r}" if copy.other_batch else ""
        what = f"under {own}, and a near copy of {copy.other_id} under {other}{where} ({told(copy)})"
        problems.append(listing.problem(rows[copy.image_id], what))
        if not copy.other_batch:
            what = f"under {other}, and a near copy of {copy.image_id} under {own} ({told(copy)})"
            problems.append(listing.problem(rows[copy.other_id], what))
    return problems


def _notes(inside: Sequence[Copy], listed: Path | None) -> tuple[str, ...]:
    notes = []
    same = [copy for copy in inside if copy.same_patient]
    if same:
        one, enter = same[0], "it enters, and is" if len(same) == 1 else "they enter, and are"
        notes.append(
            f"warning: {len(same):,} near cop{'y' if len(same) == 1 else 'ies'} under the same patient, such as "
            f"{one.image_id} of {one.other_id} ({told(one)}): {enter} listed in {listed}"
        )
    if other := [copy for copy in inside if not copy.same_patient]:
        one = other[0]
        notes.append(
            f"warning: {len(other):,} accepted near cop{'y' if len(other) == 1 else 'ies'} under two patients, such as "
            f"{one.image_id} of {one.patient_id} and {one.other_id} of {one.other_patient}: the patients of each pair "
            "are on one side of the split"
        )
    return tuple(notes)


def _sides(
    checked: Checked,
    inside: Sequence[Copy],
    batch: str,
    held: Mapping[str, Path],
    frames: Mapping[str, pd.DataFrame],
    home: Home,
) -> pd.DataFrame | None:
    """The sides that the batch brings, with those of patients who go with another."""
    own = {} if checked.sides is None else dict(checked.sides.itertuples(index=False, name=None))
    if batch in held:  # it is there already: its sides were decided when it came
        before = manifest.read_sides([held[batch]])
        going = {patient: side for patient, side in before.items() if side.startswith(splits.WITH)}
    else:
        period = open_period(open_ledger(home).entries())
        going = going_together(
            [copy for copy in inside if not copy.same_patient],
            rows=manifest.concatenate(frames.values()) if frames else None,
            pinned={**manifest.read_sides(held.values()), **own},
            split=Params.load(home.project / dvc.PARAMS).split,
            closed_batches=period.closed_batches,
        )
    sides = sorted({**own, **going}.items())
    return pd.DataFrame(sides, columns=list(manifest.SIDE_COLUMNS)) if sides else None


def going_together(
    accepted: Sequence[Copy],
    *,
    rows: pd.DataFrame | None,
    pinned: Mapping[str, str],
    split: Split,
    closed_batches: Collection[str],
) -> dict[str, str]:
    """Who goes with whom so that the patients of each accepted pair are on one side, and nobody changes sides.

    Args:
        accepted: pairs under two patients.
        rows: the manifest of the data set; None before there is one.
        pinned: as `manifest.read_sides` gives it, of the data set and of the batch.
        split: the settings of the split.
        closed_batches: batches of earlier test periods.

    Returns:
        For a patient `with:` and another patient.

    Raises:
        DataError: a patient of the data set would change sides, or a picture that was tested in an earlier period would
            be tested again.
    """
    pins = dict(pinned)
    here = set() if rows is None else set(rows["patient_id"])
    tested = set() if rows is None else splits.scored_before(rows, closed_batches)
    going: dict[str, str] = {}

    def side(patient: str) -> str:
        return splits.side_of(patient, pins, **split.model_dump())

    for copy in accepted:
        one, other = splits.leader(copy.patient_id, pins), splits.leader(copy.other_patient, pins)
        if one == other:
            continue
        if side(one) == side(other) and one in pins and other in pins:
            continue  # two splits of their sources' own agree
        led = {leader: {p for p in here if splits.leader(p, pins) == leader} for leader in (one, other)}
        free = [
            (patient, guide)
            for patient, guide in ((one, other), (other, one))
            if patient not in pins and (side(patient) == side(guide) or not led[patient])
        ]
        if not free:
            raise _cannot_accept(copy, f"they are in the data set on two sides ({side(one)} and {side(other)})")
        patient, guide = min(free, key=lambda item: len(led[item[0]]))
        if side(guide) == "test" and tested & led[guide] and not tested & led[patient]:
            raise _cannot_accept(
                copy, "the picture was in the test set of an earlier period, and would be tested again"
            )
        going[patient] = pins[patient] = f"{splits.WITH}{guide}"
    return going


def _cannot_accept(copy: Copy, why: str) -> DataError:
    return DataError(
        f"the near copies {copy.image_id} (patient {copy.patient_id}) and {copy.other_id} (patient "
        f"{copy.other_patient}) cannot be accepted: {why}",
        where=ACCEPT,
        fix=f"leave {shlex.quote(copy.image_id)} out of the batch, and its row out of the accepted pairs",
    )
