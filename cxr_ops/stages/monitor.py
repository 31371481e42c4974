"""Monitor the model in use: what it answered since its promotion, against what the gate saw.

Everything is worked out again from all answers, so that there is no state to lose: a second look goes on where the
first one ended, because what was seen then is seen again. Nothing is written, and nobody is promoted.

While a plan withholds what the test set shows, the answers are held against the validation set, and nothing of the test
set is told. Its thresholds were chosen on that set, so that its errors are a little too low: a tolerance is for that.
"""

from __future__ import annotations

import csv
import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from cxr_ops import plan as plans
from cxr_ops.audit import public
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import last_promotion, plan_in_force
from cxr_ops.data import answers, manifest, receipts
from cxr_ops.data.answers import Answer, Known
from cxr_ops.edges.evidence import EVALUATION
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store.outs import Outs
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.plan import ChangePlan
from cxr_ops.records.evidence import Evaluation
from cxr_ops.stats import surveillance
from cxr_ops.stats.surveillance import Kind, Reference, Seen, Stream
from cxr_ops.voice import count

RATE: Final = 0.05  # of false alarms in a year, where nobody says another
WEEK: Final = timedelta(days=7)
_TABLES: Final = {"test": "evaluate/scores.csv", "validation": "evaluate/validation_scores.csv"}


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """What was seen of the model in use.

    Attributes:
        model: digest of its package; version: in the registry; run: that made it.
        promoted: when it came into use, ISO 8601.
        now: up to when was looked; weeks: whole ones since; left: answers of the week that is not over.
        answers: of the model since; patients: of whom one image each is watched; labelled: those with a label.
        against: the set that answers are held against.
        rate: of false alarms in a year, over all streams; kinds: that are watched; tolerance: of mean losses.
        plan: the plan in force, where it says what is watched; then: what it has follow an alarm.
        notes: sentences on what was read in another way than it stands, or passed over.
        streams: see `stats.surveillance`.
    """

    model: str
    version: str
    run: str
    promoted: str
    now: str
    weeks: int
    left: int
    answers: int
    patients: int
    labelled: int
    against: Literal["test", "validation"]
    rate: float
    kinds: tuple[Kind, ...]
    tolerance: float
    plan: str | None
    then: Literal["notify", "retrain"] | None
    notes: tuple[str, ...]
    streams: tuple[Stream, ...]

    @property
    def alarms(self) -> tuple[Stream, ...]:
        """The streams that are in alarm, or were since the promotion."""
        return tuple(one for one in self.streams if one.alarms)

    def since(self, week: int) -> str:
        """The day on which a week was over, as text."""
        return (datetime.fromisoformat(self.promoted) + (week + 1) * WEEK).date().isoformat()


def run(
    home: Home,
    folder: Path,
    *,
    now: datetime,
    log: Path | None = None,
    labels: Path | None = None,
    images: Path | None = None,
    rate: float | None = None,
    tolerance: float | None = None,
    withheld: bool = False,
) -> Monitored:
    """Look at what the model in use answered since its promotion.

    Args:
        home: the installation.
        folder: the answers, see `data.answers`.
        now: up to when; weeks that are not over then are not looked at.
        log: the log of receipts: each answer must be in it.
        labels: a table of labels, patients and attributes.
        images: a folder of the pictures, for their grey, and for `image_id` in the table.
        rate: of false alarms in a year, over all streams; None: as the plan in force says, or 5 %.
        tolerance: how much more a mean loss may be than what the gate saw; None: as the plan says, or nothing.
        withheld: hold answers against the test set also while its results are withheld, for auditors and approvers.

    Raises:
        DataError: there is no champion, or answers, receipts and table are damaged, do not fit each other or the
            champion, or no week is over.
        StorageError: they cannot be read.
    """
    entries = open_ledger(home).entries()
    entry = last_promotion(entries)
    if entry is None:
        raise DataError("no model is in use, so there is nothing to watch", where=home.ledger_address)
    notes: list[str] = []
    plan = _plan(entries)
    asked = plan.watch if plan is not None else None
    kinds: tuple[Kind, ...] = surveillance.KINDS if asked is None else asked.kinds
    if rate is None:
        rate = RATE if asked is None else asked.false_alarms_a_year
    if tolerance is None:
        tolerance = 0.0 if asked is None else asked.tolerance
    found = answers.read(folder)
    if log is not None:
        notes += _check_log(found, log, entry.promotion.package)
    begun = datetime.fromisoformat(entry.at)
    weeks = int((now - begun) / WEEK)
    ours, told = _of_champion(found, entries, entry, folder)
    notes += told
    seen_images = frozenset(one.image for one in found)
    pictures = answers.read_pictures(images, seen_images) if images is not None else None
    known = answers.read_known(labels, pictures.digests if pictures else {}) if labels is not None else {}
    _check_known(known, seen_images, labels)
    over = [one for one in ours if begun <= one.at < begun + weeks * WEEK]
    if not over:
        raise DataError(
            f"the champion has been in use since {begun:%Y-%m-%d %H:%M}, and no answer is of a week that is over",
            where=folder,
            fix=f"look again from {begun + (weeks + 1) * WEEK:%Y-%m-%d}",
        )
    seen, also = _seen(over, begun, known, pictures.grey if pictures else {})
    notes += also
    against: Literal["test", "validation"] = "test" if withheld or _is_told(entries, entry) else "validation"
    reference, points = _reference(home, entry, against)
    streams = surveillance.watch(
        seen, reference, FINDINGS, points, weeks=weeks, rate=rate, kinds=kinds, tolerance=tolerance
    )
    promotion = entry.promotion
    return Monitored(
        model=promotion.package,
        version=promotion.model_version,
        run=promotion.run,
        promoted=entry.at,
        now=now.isoformat(timespec="seconds"),
        weeks=weeks,
        left=sum(one.at >= begun + weeks * WEEK for one in ours),
        answers=len(ours),
        patients=int(seen.week.size),
        labelled=int(np.isfinite(seen.labelled).sum()),
        against=against,
        rate=rate,
        kinds=kinds,
        tolerance=tolerance,
        plan=plan.name if plan is not None and asked is not None else None,
        then=None if asked is None else asked.then,
        notes=tuple(notes),
        streams=tuple(streams),
    )


def _plan(entries: list[Entry]) -> ChangePlan | None:
    """The plan in force; None in the ledger of an earlier version, which names none."""
    entry = plan_in_force(entries)
    if entry is None:
        return None
    return plans.from_document(entry.plan.document, f"entry {entry.seq} of the ledger")


# ------------------------------------------------------------------------------------------------------- what is read


def _check_log(found: Sequence[Answer], log: Path, model: str) -> list[str]:
    """See that each answer has its receipt in the log, and say how many receipts have no answer here."""
    try:
        read = receipts.read(log)
    except OSError as error:
        raise StorageError(f"the receipts cannot be read: {error.strerror}", where=log) from error
    except ValueError as error:
        raise DataError(str(error), where=log, fix="compare it with a copy of the log from before") from error
    logged = {(one["input"], one["model"], one["answer"]) for one in read.receipts}
    held = {(one.image, one.model, one.receipt) for one in found}
    if strange := [one for one in found if (one.image, one.model, one.receipt) not in logged]:
        raise DataError(
            f"{len(strange)} of {count(len(found), 'answer')} have no receipt in the log, the first of {strange[0].at}",
            where=log,
            fix="name the log of the same server: --log FILE",
        )
    lacking = sum(key[1] == model for key in logged - held)
    return [f"{count(lacking, 'receipt')} of the champion: its answer was not kept, and is not seen"] if lacking else []


def _of_champion(
    found: Sequence[Answer], entries: Sequence[Entry], entry: Entry, folder: Path
) -> tuple[list[Answer], list[str]]:
    """The champion's answers, and what is to be said of others."""
    model, begun = entry.promotion.package, datetime.fromisoformat(entry.at)
    decided = {one.decision.package for one in entries if one.kind == "decision"}
    if strange := [one for one in found if one.model not in decided]:
        raise DataError(
            f"{count(len(strange), 'answer')} of the model {strange[0].model[:12]}, which the ledger never decided on",
            where=folder,
            fix="leave them out, or name the installation of that model: CXR_HOME",
        )
    ours = [one for one in found if one.model == model and one.at >= begun]
    if not ours:
        others = Counter(one.model[:12] for one in found)
        raise DataError(
            f"no answer is of the champion {model[:12]} since its promotion on {begun:%Y-%m-%d %H:%M}; they are of "
            f"{', '.join(f'{name} ({many})' for name, many in sorted(others.items()))}",
            where=folder,
            fix="serve the champion: cxr-ops model fetch champion FOLDER, then cxr-ops serve FOLDER",
        )
    earlier = sum(one.at < begun for one in found)
    late = [one for one in found if one.model != model and one.at >= begun]
    notes = [f"{count(earlier, 'answer')} from before the promotion: passed over"] if earlier else []
    if late:
        notes.append(
            f"{count(len(late), 'answer')} since the promotion of another model, the last on {late[-1].at:%Y-%m-%d}: "
            "passed over; is a server not started again?"
        )
    return ours, notes


def _check_known(known: Mapping[str, Known], images: frozenset[str], labels: Path | None) -> None:
    if strange := [image for image in known if image not in images]:
        raise DataError(
            f"{len(strange)} of {count(len(known), 'row')} are about pictures that were never answered, the first "
            f"{strange[0][:12]}",
            where=labels,
            fix="give the SHA-256 of the bytes that were sent, and all answers",
        )


def _seen(
    over: Sequence[Answer],
    begun: datetime,
    known: Mapping[str, Known],
    grey: Mapping[str, tuple[float, float]],
) -> tuple[Seen, list[str]]:
    """One image a patient, by week, and in a week by a digest that has nothing to do with what is in it."""
    people = [_patient(one.image, known) for one in over]
    first = surveillance.one_each(people, [(one.at, one.image) for one in over])
    order = {row: (_week(over[row].at, begun), _hashed(f"order {over[row].image}")) for row in first.tolist()}
    rows = sorted(order, key=lambda row: order[row])
    chosen = [over[row] for row in rows]
    facts = [known.get(one.image) for one in chosen]
    nothing = np.full(len(FINDINGS), np.nan)
    labelled = np.array(
        [
            np.inf
            if fact is None or np.isnan(fact.truth).all()
            else max(((fact.labelled or one.at) - begun) / WEEK, (one.at - begun) / WEEK)
            for one, fact in zip(chosen, facts, strict=True)
        ]
    )
    inputs = {
        name: np.array([np.nan if fact is None else fact.inputs.get(name, np.nan) for fact in facts])
        for name in ("view", "sex", "age")
    }
    for place, name in enumerate(("brightness", "contrast")):
        inputs[name] = np.array([grey[one.image][place] if one.image in grey else np.nan for one in chosen])
    seen = Seen(
        week=np.array([order[row][0] for row in rows], dtype=np.int64),
        chance=np.array([_hashed(f"chance {one.image}") for one in chosen]),
        scores=np.array([one.scores for one in chosen]),
        truth=np.array([nothing if fact is None else fact.truth for fact in facts]),
        labelled=labelled,
        inputs=inputs,
    )
    return seen, list(_notes(over, known, rows))


def _notes(over: Sequence[Answer], known: Mapping[str, Known], rows: Sequence[int]) -> Iterable[str]:
    unnamed = sum(_patient(image, known) == image for image in {one.image for one in over})
    if unnamed:
        yield f"{count(unnamed, 'picture')} without a patient_id in --labels: each counts as a patient of its own"
    if again := len(over) - len(rows):
        yield f"{count(again, 'answer')} on patients who were seen before: a patient counts once"
    used = {over[row].image for row in rows}
    others = ({one.image for one in over} & known.keys()) - used
    lost = sum(not np.isnan(known[image].truth).all() for image in others)
    if lost:
        yield f"{count(lost, 'label')} of other images of those patients: not used"
    undated = sum(one.labelled is None and not np.isnan(one.truth).all() for one in known.values())
    if undated:
        yield (
            f"{count(undated, 'label')} without a date in the column {answers.LABELLED}: taken as if it came with the "
            "image. Labels that are added so to weeks that were looked at are not covered by the rate of false alarms"
        )


def _patient(image: str, known: Mapping[str, Known]) -> str:
    fact = known.get(image)
    return image if fact is None or fact.patient is None else f"patient {fact.patient}"


def _week(at: datetime, begun: datetime) -> int:
    return int((at - begun) / WEEK)


def _hashed(text: str) -> float:
    """A number in 0 to 1 that nobody chose."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


# --------------------------------------------------------------------------------------------------- what the gate saw


def _is_told(entries: list[Entry], entry: Entry) -> bool:
    """Whether what the test set shows of the champion's run may be told."""
    shown = public.shown(entries)
    return not any(one.withheld for one in shown if one.entry.digest() == entry.promotion.decision)


def _reference(
    home: Home, entry: Entry, against: Literal["test", "validation"]
) -> tuple[Reference, list[float | None]]:
    """The scores that the champion was judged by, one image a patient, and its operating points."""
    promotion = entry.promotion
    outs = Outs(home, promotion.run_commit)
    evaluation = Evaluation.model_validate_json(outs.needed(EVALUATION, promotion.run))
    table = list(csv.reader(io.StringIO(outs.needed(_TABLES[against], promotion.run).decode(), newline="")))
    head, body = table[0], table[1:]
    ids, patients = [row[0] for row in body], [row[1] for row in body]
    rows = surveillance.one_each(patients, [_hashed(f"order {name}") for name in ids])
    places = {name: place for place, name in enumerate(head)}
    truth, scores = (
        _columns([body[row] for row in rows.tolist()], [places[f"{finding}_{what}"] for finding in FINDINGS])
        for what in ("truth", "challenger")
    )
    return (
        Reference(
            scores=scores,
            truth=np.where(truth == UNCERTAIN, np.nan, truth),
            inputs=_attributes(outs, [ids[row] for row in rows.tolist()]),
        ),
        [evaluation.points.get(finding) for finding in FINDINGS],
    )


def _columns(body: Sequence[Sequence[str]], places: Sequence[int]) -> npt.NDArray[np.float64]:
    return np.array([[float(row[place]) if row[place] else np.nan for place in places] for row in body]).reshape(
        len(body), len(places)
    )


def _attributes(outs: Outs, images: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """View, sex and age of the reference; empty where the run's manifest is lost."""
    with tempfile.TemporaryDirectory(prefix="cxr-monitor-") as aside:
        for name in ("validate/manifest.csv", "split/split.csv"):
            data = outs.read(name)
            if data is None:
                return {}
            (Path(aside) / name).parent.mkdir(exist_ok=True)
            (Path(aside) / name).write_bytes(data)
        frame = manifest.read_split(Path(aside)).set_index("image_id")
    if not set(images) <= set(frame.index):
        return {}
    chosen = frame.loc[list(images)]
    return {
        name: answers.coded(name, chosen[name].astype("object").where(chosen[name].notna(), None).tolist())
        for name in ("view", "sex", "age")
    }
