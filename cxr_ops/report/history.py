"""A history of champions for people: a table, a picture, and a page with both."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.audit.history import History, Judged, Reign
from cxr_ops.contract import MODEL_NAME
from cxr_ops.records.evidence import Change, Estimate, Figure, Undefined
from cxr_ops.report import figures, page, tables, words

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS: Final = ("model", "in use from (UTC)", "until", "mean AUC", "why", "who", "run")
TRIED: Final = ("run", "decided (UTC)", "verdict", "mean AUC", "plan", "asked for by")
PARTS: Final = ("run", "champion, earlier", "potential", "champion, now", "learning", "challenger, now", "retention")
PARTS_NOTE: Final = (
    "Learning is what the other model is better by on the test set of its time, retention the same on the earlier test "
    "set. Potential is the champion on the later test set minus the champion on the one that it was judged on. So a "
    "better model is told from an easier test set."
)
NOTE: Final = (
    "Each AUC is the mean over findings with its patient-clustered interval, on the test set of its time: two of "
    "different times are not compared by it."
)
_DAY: Final = timedelta(days=1)

# Digest of a decision -> the mean AUC of its challenger.
Aucs = Mapping[str, Figure]
# Digest of a decision -> what changed since its champion was judged.
Changes = Mapping[str, Change]


def cells(reign: Reign, aucs: Aucs) -> tuple[str, ...]:
    """A champion in words, as under `HEADINGS`."""
    until = words.when_text(reign.until) if reign.until else "in use"
    if reign.ended_by_rollback:
        until += ", by a rollback"
    version, auc = f"{MODEL_NAME}/{reign.version}", _auc(reign.judged, aucs)
    return version, words.when_text(reign.since), until, auc, reign.why, reign.who, reign.run


def tried(judged: Judged, aucs: Aucs) -> tuple[str, ...]:
    """A run that was decided on in words, as under `TRIED`."""
    run, asked = judged.identifiers.run, judged.requested_by or "-"
    return run, words.when_text(judged.at), judged.verdict, _auc(judged, aucs), judged.plan, asked


def table(reigns: tuple[Reign, ...], aucs: Aucs) -> Table:
    """Tabulate champions, the first first, to be printed with rich."""
    return tables.plain(HEADINGS, (cells(reign, aucs) for reign in reigns))


def parts(found: History, changes: Changes) -> list[tuple[str, ...]]:
    """What changed since the champion was judged, of each decision that may tell it, as under `PARTS`."""
    rows: list[tuple[str, ...]] = []
    for judged in found.judged:
        change = changes.get(judged.entry)
        if change is None or not judged.figures_told:
            continue
        mean = change.mean
        cells = (
            words.figure_text(mean.champion_earlier),
            words.difference_text(mean.potential),
            words.figure_text(mean.champion_now),
            words.difference_text(mean.learning),
            words.figure_text(mean.challenger_now),
            words.difference_text(mean.retention),
        )
        rows.append((judged.identifiers.run, *cells))
    return rows


def parts_table(found: History, changes: Changes) -> Table | None:
    """Tabulate `parts`, to be printed with rich; None where there is nothing to tell."""
    rows = parts(found, changes)
    return tables.plain(PARTS, rows) if rows else None


def as_json(found: History, aucs: Aucs, changes: Changes) -> dict[str, Any]:
    """The history for programs: `champions` and `decisions`, the first first; times are ISO 8601 in UTC.

    `auc` is null where no figure may be told or none is here; `auc_undefined` says why. `change` of a decision is as
    `cxr_ops.records.evidence.Change` without its findings; null where there is none to tell.
    """
    return {
        "champions": [champion(reign, aucs) for reign in found.reigns],
        "decisions": [
            {
                **judged.identifiers.model_dump(mode="json"),
                "decision": judged.entry,
                "at": judged.at,
                "verdict": judged.verdict,
                "plan": judged.plan,
                "requested_by": judged.requested_by,
                "promoted": judged.promoted,
                **_numbers(judged, aucs),
                "change": _change(judged, changes),
            }
            for judged in found.judged
        ],
        "periods": [{"number": number, "opened": at} for number, at in found.periods],
    }


def champion(reign: Reign, aucs: Aucs) -> dict[str, Any]:
    """One champion for programs; see `as_json`."""
    return {
        "model": f"{MODEL_NAME}/{reign.version}",
        "package": reign.package,
        "run": reign.run,
        "since": reign.since,
        "until": reign.until,
        "promotion": reign.entry,
        "why": reign.why,
        "requested_by": reign.judged.requested_by if reign.judged else None,
        "approved_by": list(reign.approved_by),
        "rolled_back_by": reign.rolled_back_by,
        "reason": reign.reason,
        "ended_by_rollback": reign.ended_by_rollback,
        **_numbers(reign.judged, aucs),
    }


def draw(found: History, aucs: Aucs, *, now: datetime) -> str:
    """Draw the history, as an SVG for a page.

    Args:
        found: a history with a decision in it.
        aucs: of its decisions.
        now: up to when the model in use is drawn.

    Raises:
        ValueError: nothing was decided yet.
    """
    times = [_time(one.since) for one in found.reigns] + [_time(one.at) for one in found.judged]
    # Of a history of minutes the last model would be a point; what is drawn ends a little after the last event.
    end = max([now, *times]) + max((max(times) - min(times)) / 20 if times else _DAY, timedelta(seconds=1))
    spans = [
        figures.Span(
            label=f"/{reign.version}",
            begin=_time(reign.since),
            end=_time(reign.until) if reign.until else end,
            interval=_interval(reign.judged, aucs),
        )
        for reign in found.reigns
    ]
    marks = [
        figures.Mark(
            kind="rolled back" if reign.rolled_back_by is not None else "promoted",
            at=_time(reign.since),
            interval=_interval(reign.judged, aucs),
        )
        for reign in found.reigns
    ]
    marks += [
        figures.Mark(kind="not promoted", at=_time(judged.at), interval=_interval(judged, aucs))
        for judged in found.judged
        if not judged.promoted
    ]
    return figures.timeline(
        "history",
        spans,
        marks,
        periods=[_time(at) for _, at in found.periods],
        axis="Mean AUC over findings",
        title="Champions over time",
        description=(
            f"{len(found.reigns)} times a model came into use, {sum(not one.promoted for one in found.judged)} runs "
            f"were decided on and not promoted. Lines are models in use with their intervals; dashed lines are new "
            f"test periods. {NOTE}"
        ),
    )


def render(found: History, aucs: Aucs, changes: Changes, *, now: datetime) -> str:
    """Write the page: the picture, the champions, what changed from one to the next, and who was not promoted."""
    return page.fill(
        "history.html.j2",
        headings=HEADINGS,
        tried_headings=TRIED,
        rows=[cells(reign, aucs) for reign in found.reigns],
        tried=[tried(judged, aucs) for judged in found.judged if not judged.promoted],
        figure=draw(found, aucs, now=now) if found.judged or found.reigns else "",
        note=NOTE,
        parts_headings=PARTS,
        parts=parts(found, changes),
        parts_note=PARTS_NOTE,
    )


def _change(judged: Judged, changes: Changes) -> dict[str, Any] | None:
    change = changes.get(judged.entry) if judged.figures_told else None
    return None if change is None else change.model_dump(mode="json", exclude={"findings"})


def _numbers(judged: Judged | None, aucs: Aucs) -> dict[str, Any]:
    figure = _figure(judged, aucs)
    if isinstance(figure, Undefined):
        return {"auc": None, "auc_undefined": figure.reason}
    low, high = figure.ci
    return {"auc": {"value": figure.value, "low": low, "high": high, "level": figure.level}, "auc_undefined": None}


def _auc(judged: Judged | None, aucs: Aucs) -> str:
    figure = _figure(judged, aucs)
    return figure.reason if isinstance(figure, Undefined) else words.figure_text(figure)


def _interval(judged: Judged | None, aucs: Aucs) -> figures.Interval | None:
    figure = _figure(judged, aucs)
    return None if isinstance(figure, Undefined) else (figure.value, *figure.ci)


def _figure(judged: Judged | None, aucs: Aucs) -> Estimate | Undefined:
    if judged is None:
        return Undefined(reason="no decision on record")
    if not judged.figures_told:
        return Undefined(reason="withheld while its test period is open")
    return aucs.get(judged.entry) or Undefined(reason="its evidence is not on this machine")


def _time(at: str) -> datetime:
    return datetime.fromisoformat(at)
