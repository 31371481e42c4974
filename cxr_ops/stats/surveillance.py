"""What is watched of a model in use: streams of its inputs, its scores and, as labels come, its errors.

A patient counts once: with one image, in the week of the first. Images of a patient resemble each other, and a patient
who comes each week would be counted as a change. Weeks are looked at when they are over, and within a week the order is
one that nobody chose, so that what differs between days of the week is no change. How a stream is tested, and what is
promised, stands in `cxr_ops.stats.monitoring`.

The year's rate of false alarms is shared among kinds of stream equally, and within a kind among its streams, whether or
not there is something to see of them: a stream that begins later changes no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from cxr_ops.stats import monitoring
from cxr_ops.stats.monitoring import Floats, Ints

Kind = Literal["inputs", "scores", "labels"]
KINDS: Final[tuple[Kind, ...]] = ("inputs", "scores", "labels")
# What is known of a picture and its patient: the mean and the spread of its grey, and what a table says.
INPUTS: Final = ("brightness", "contrast", "view", "sex", "age")
# Errors at the operating point, those of patients who have the finding, and the squared error of the probability.
LOSSES: Final = ("wrong", "missed", "brier")
RECENT: Final = 4  # weeks up to an alarm, or to now, that figures in words are of


@dataclass(frozen=True, kw_only=True)
class Seen:
    """N patients, those of a week together, and within a week in an order that does not depend on what is known.

    Attributes:
        week: (N,) of the image, from 0, rising.
        chance: (N,) uniform in 0 to 1, independent of all else: they break ties.
        scores: (N, F) probabilities; NaN throughout a finding that the model was not trained on.
        truth: (N, F) 1, 0 or NaN, as far as labels have come.
        labelled: (N,) when the label came, in weeks from the promotion; infinite where there is none.
        inputs: of `INPUTS` those that are known: (N,), NaN where one is missing.
    """

    week: Ints
    chance: Floats
    scores: Floats
    truth: Floats
    labelled: Floats
    inputs: Mapping[str, Floats]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the gate saw: R patients with one image each; see `Seen`."""

    scores: Floats
    truth: Floats
    inputs: Mapping[str, Floats]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One thing that is watched.

    Attributes:
        kind, what: `what` is of `INPUTS`, `score` or of `LOSSES`.
        finding: that it is about; None of an input, and of all findings together (the mean logit, or the mean loss).
        level: its rate of false alarms in a year.
        patients: of whom something was seen; reference: patients whom they are held against.
        peaks: for each week its largest capital, divided by that at which it is in alarm.
        alarms: the first week, from 0, in which it was in alarm, of each year.
        recent: mean rank, or mean loss, of the last `RECENT` weeks up to the last alarm, or to now; None of nobody.
        expected: 0.5, or the bound of the loss; None where there is none.
        cusum: the first week in which a CUSUM of the weekly means lay above its limit; of losses alone.
        unwatched: why nothing can be said; "" where something can.
    """

    kind: Kind
    what: str
    finding: str | None
    level: float
    patients: int = 0
    reference: int = 0
    peaks: tuple[float, ...] = ()
    alarms: tuple[int, ...] = ()
    recent: float | None = None
    expected: float | None = None
    cusum: int | None = None
    unwatched: str = ""


def one_each(patients: Sequence[object], order: Sequence[object]) -> Ints:
    """The row of each patient that comes first in an order: their places, in that order.

    >>> one_each(["a", "b", "a"], [3, 2, 1]).tolist()
    [2, 1]
    """
    seen: set[object] = set()
    found = []
    for row in sorted(range(len(patients)), key=lambda place: order[place]):  # type: ignore[arg-type,return-value]
        if patients[row] not in seen:
            seen.add(patients[row])
            found.append(row)
    return np.array(found, dtype=np.int64)


def levels(rate: float, kinds: Sequence[Kind], findings: int) -> dict[Kind, tuple[float, float]]:
    """The rate of each stream of a kind: of those of all findings together (or of an input), and of a single finding.

    What goes wrong, rather goes wrong everywhere: streams of all findings together have half of their kind's rate.

    Args:
        rate: of false alarms in a year, over all streams.
        kinds: that are watched.
        findings: how many the model was trained on.

    >>> [round(all_of_them + 14 * one, 4) for all_of_them, one in [levels(0.06, KINDS, 14)["scores"]]]
    [0.02]
    """
    each, many = rate / len(kinds), max(findings, 1)
    shares: dict[Kind, tuple[float, float]] = {
        "inputs": (each / len(INPUTS), 0.0),
        "scores": (each / 2, each / 2 / many),
        "labels": (each / 2 / len(LOSSES), each / 2 / len(LOSSES) / many),
    }
    return {kind: shares[kind] for kind in kinds}


def watch(
    seen: Seen,
    reference: Reference,
    findings: Sequence[str],
    points: Sequence[float | None],
    *,
    weeks: int,
    rate: float,
    kinds: Sequence[Kind] = KINDS,
    tolerance: float = 0.0,
) -> list[Stream]:
    """Look at all streams over the weeks that are over.

    Args:
        seen: the patients; those of later weeks are left out.
        reference: what the gate saw.
        findings: the F names.
        points: for each finding the probability from which it is called; None where there is none.
        weeks: how many are over.
        rate: of false alarms in a year, over all streams.
        kinds: that are watched.
        tolerance: how much more a mean loss may be than what the gate saw.
    """
    trained = [f for f in range(len(findings)) if np.isfinite(reference.scores[:, f]).all()]
    level = levels(rate, kinds, len(trained))
    found: list[Stream] = []
    for name in INPUTS if "inputs" in kinds else ():
        about = Stream(kind="inputs", what=name, finding=None, level=level["inputs"][0])
        found.append(_ranked(seen, seen.inputs.get(name), reference.inputs.get(name, np.empty(0)), weeks, about))
    if "scores" in kinds:
        about = Stream(kind="scores", what="score", finding=None, level=level["scores"][0])
        ours, theirs = (_mean_logit(one.scores[:, trained]) for one in (seen, reference))
        found.append(_ranked(seen, ours, theirs, weeks, about))
        for f in trained:
            about = Stream(kind="scores", what="score", finding=findings[f], level=level["scores"][1])
            found.append(_ranked(seen, seen.scores[:, f], reference.scores[:, f], weeks, about))
    if "labels" in kinds:
        chosen = _Pairs(seen)
        for what in LOSSES:
            of_each = [_Losses.of(what, seen, reference, f, points[f], weeks) for f in trained]
            known = [one for one in of_each if one is not None]
            about = Stream(kind="labels", what=what, finding=None, level=level["labels"][0])
            found.append(_above(chosen, _Losses.mean(known), weeks, tolerance, about))
            for f, one in zip(trained, of_each, strict=True):
                about = Stream(kind="labels", what=what, finding=findings[f], level=level["labels"][1])
                found.append(_above(chosen, one, weeks, tolerance, about))
    return found


def _mean_logit(scores: Floats) -> Floats:
    inside = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)).mean(axis=1)) if scores.shape[1] else np.full(len(scores), np.nan)


# -------------------------------------------------------------------------------------------------- without labels


def _ranked(seen: Seen, values: Floats | None, before: Floats, weeks: int, about: Stream) -> Stream:
    """A stream without labels. An input of which no reference is known begins with the first patients."""
    if values is None or not np.isfinite(values).any():
        return replace(about, unwatched="nothing is known of it")
    before = before[np.isfinite(before)]
    places = [np.flatnonzero((seen.week == week) & np.isfinite(values)) for week in range(weeks)]
    total = sum(one.size for one in places)
    if before.size + total <= monitoring.LEAST:
        return replace(about, unwatched=f"{total} patients are too few: the first {monitoring.LEAST} are the reference")
    money, ranks = monitoring.exchangeable(
        before, [values[one] for one in places], [seen.chance[one] for one in places]
    )
    return _told(about, money.peaks * about.level, money.alarms(about.level), ranks, before.size, total, 0.5)


# ----------------------------------------------------------------------------------------------------- with labels


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """A loss of each patient, NaN where it is not known.

    reference: (R,) what the gate saw; losses: (N,); expected: (N,) by the model, None where nobody says; least: no loss
    less what is expected lies below it.
    """

    reference: Floats
    losses: Floats
    expected: Floats | None
    least: float

    @classmethod
    def of(cls, what: str, seen: Seen, reference: Reference, f: int, point: float | None, weeks: int) -> _Losses | None:
        """Of a finding; None where it has no operating point."""
        if point is None and what != "brier":
            return None
        known = np.where(seen.labelled < weeks, seen.truth[:, f], np.nan)
        old, _ = _loss(what, reference.scores[:, f], reference.truth[:, f], point)
        new, expected = _loss(what, seen.scores[:, f], known, point)
        most = 0.25 if point is None or what == "brier" else max(point, 1 - point)
        return cls(reference=old, losses=new, expected=expected, least=0.0 if expected is None else -most)

    @classmethod
    def mean(cls, each: Sequence[_Losses]) -> _Losses | None:
        """Of all findings: of patients of whom each is known, or where nothing is expected, of those that are known."""
        if not each:
            return None
        expected = [one.expected for one in each if one.expected is not None]
        whole = len(expected) == len(each)
        return cls(
            reference=_mean([one.reference for one in each], whole=whole),
            losses=_mean([one.losses for one in each], whole=whole),
            expected=_mean(expected, whole=True) if whole else None,
            least=float(np.mean([one.least for one in each])),
        )


def _mean(columns: Sequence[Floats], *, whole: bool) -> Floats:
    """The mean of what is known; NaN where nothing is, or with `whole` where something is not."""
    table = np.array(columns)
    known = np.isfinite(table)
    count = known.sum(axis=0)
    enough = known.all(axis=0) if whole else count > 0
    return np.where(enough, np.where(known, table, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


class _Pairs:
    """Who stands beside whom; worked out once for all findings whose labels came together."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self._known: dict[bytes, tuple[Ints, Ints]] = {}

    def of(self, known: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """(K,) patients with a label and (K, B) those beside them."""
        key = known.tobytes()
        if key not in self._known:
            found = monitoring.blocks(self.seen.week, np.where(known, self.seen.labelled, np.inf))
            rows = np.array(sorted(found), dtype=np.int64)
            beside = [found[row] for row in rows.tolist()]
            self._known[key] = rows, np.array(beside, dtype=np.int64).reshape(rows.size, monitoring.BLOCK)
        return self._known[key]


def _above(pairs: _Pairs, one: _Losses | None, weeks: int, tolerance: float, about: Stream) -> Stream:
    """A stream with labels."""
    if one is None:
        return replace(about, unwatched="the model has no operating point")
    seen = pairs.seen
    old = one.reference[np.isfinite(one.reference)]
    known = np.isfinite(one.losses)
    if old.size < monitoring.FEWEST_LOSSES:
        return replace(about, unwatched=f"the gate saw {old.size} such patients: too few")
    if not known.any():
        return replace(about, unwatched="no label has come", reference=int(old.size))
    arrived = np.where(known, np.floor(np.where(known, seen.labelled, 0)), -1)
    alone = [one.losses[arrived == week] for week in range(weeks)]
    more: list[Floats] = []
    if one.expected is not None:
        rows, beside = pairs.of(known)
        made = monitoring.powered(one.losses[rows], one.expected[rows], one.expected[beside].mean(axis=1))
        more = [made[arrived[rows] == week] for week in range(weeks)]
    money = monitoring.above(old, about.level, alone, more, tolerance=tolerance, least=one.least)
    deviation = float(old.std())
    sums = monitoring.cusum(alone, float(old.mean()) + tolerance, deviation) if deviation > 0 else np.zeros(weeks)
    over = np.flatnonzero(sums >= monitoring.cusum_limit(monitoring.WEEKS / about.level))
    told = _told(about, money.shares, money.alarms, alone, old.size, int(known.sum()), money.bound)
    return replace(told, cusum=int(over[0]) if over.size else None)


def _loss(what: str, scores: Floats, truth: Floats, point: float | None) -> tuple[Floats, Floats | None]:
    """The loss of each patient, NaN where it is not known, and what the model expects of it; see `LOSSES`."""
    if what == "brier":
        return (scores - truth) ** 2, scores * (1 - scores)
    called = scores >= (np.inf if point is None else point)
    wrong = np.abs(called - truth)
    if what == "missed":
        return np.where(truth == 1, wrong, np.nan), None
    return wrong, np.where(called, 1 - scores, scores)


def _told(
    about: Stream,
    shares: Floats,
    alarms: Sequence[int],
    weekly: Sequence[Floats],
    reference: int,
    patients: int,
    expected: float,
) -> Stream:
    last = (alarms[-1] if alarms else len(shares) - 1) + 1
    recent = np.concatenate([np.empty(0), *weekly[max(0, last - RECENT) : last]])
    return replace(
        about,
        patients=patients,
        reference=int(reference),
        peaks=tuple(float(one) for one in shares),
        alarms=tuple(alarms),
        recent=float(recent.mean()) if recent.size else None,
        expected=expected,
    )
