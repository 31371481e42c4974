"""What is going on, what was decided and what is in use, for people: tables and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.audit.standing import Model, Standing
from cxr_ops.contract import MODEL_NAME
from cxr_ops.report import tables
from cxr_ops.report.words import when_text
from cxr_ops.voice import count

if TYPE_CHECKING:
    from rich.table import Table

_TOLD: Final = 5  # deliveries that are told


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate runs, as `edges.overview.runs` gives them."""
    rows = (
        (
            one["run"],
            when_text(one["opened_at"]),
            one["requested_by"] or "-",
            _state(one),
            f"{MODEL_NAME}/{one['model_version']}" if one["model_version"] else "-",
        )
        for one in runs
    )
    return tables.plain(("run", "opened (UTC)", "asked for by", "state", "model"), rows)


def models_table(models: Sequence[Model]) -> Table:
    """Tabulate versions of the model."""
    rows = (
        (
            f"{MODEL_NAME}/{one.version}",
            one.standing + (", the reference" if one.reference else ""),
            when_text(one.since),
            "in use" if one.since and not one.until else when_text(one.until),
            one.verdict,
            when_text(one.decided),
            one.run,
            one.package[:8],
        )
        for one in models
    )
    headings = ("model", "standing", "champion from (UTC)", "until", "verdict", "decided (UTC)", "run", "package")
    return tables.plain(headings, rows)


def lines(
    found: Standing, running: Sequence[Mapping[str, Any]], deliveries: Sequence[Mapping[str, str]] = ()
) -> list[str]:
    """Say where an installation stands, a fact a line.

    Args:
        found: what the ledger tells.
        running: runs of which a stage is at work.
        deliveries: those that did not enter whole, the newest first, as `edges.deliveries.listed` gives them.
    """
    champion = found.champion
    in_use = "none: no model was promoted yet"
    if champion is not None:
        in_use = f"{MODEL_NAME}/{champion.version} since {when_text(champion.since)} UTC; {champion.why}"
    looks = f"{found.looks}" + (f" of {found.max_looks}" if found.max_looks is not None else "")
    said = [
        ("in use", in_use),
        ("reference", f"{MODEL_NAME}/{found.reference}" if found.reference else "none"),
        *_listed("going on", [f"{one['run']}: {_state(one)}" for one in running]),
        *_listed("waiting", [f"{one.identifiers.run}: {outcome}" for one, outcome in found.waiting]),
        *_listed(
            "decided last",
            [
                f"{one.identifiers.run}: {one.verdict}, {outcome}; {when_text(one.at)} UTC"
                for one, outcome in found.last
            ],
        ),
        *(_listed("not taken whole", _delivered(deliveries)) if deliveries else ()),
        ("test period", f"{found.period}, {looks} looks spent"),
        ("ledger", f"{found.entries} entries, chain whole" + (f", head {found.head[:8]}" if found.head else "")),
    ]
    return [f"{name:<15} {value}" for name, value in said]


def _delivered(deliveries: Sequence[Mapping[str, str]]) -> list[str]:
    told = [
        f"{one['batch']}: {one['state']}, {when_text(one['when'])} UTC; see {one['where']}"
        + ("; type its ingestion again (in Airflow, clear the task)" if one["state"] == "cut off" else "")
        for one in deliveries[:_TOLD]
    ]
    more = len(deliveries) - len(told)
    return [*told, *([f"and {count(more, 'earlier one')}: status --json"] if more else [])]


def _state(run: Mapping[str, Any]) -> str:
    if run["state"] == "decided":
        return f"{run['verdict']}, {run['outcome']}"
    if run["state"] == "no change":
        return str(run["verdict"])
    where = " ".join(part for part in (run["stage"], run["progress"]) if part)
    if run["state"] == "running":
        return f"running: {where}" if where else "running"
    return f"open, no stage at work; last: {where}" if where else "open, no stage at work"


def _listed(name: str, values: Sequence[str]) -> list[tuple[str, str]]:
    return [(name if place == 0 else "", value) for place, value in enumerate(values or ["nothing"])]
