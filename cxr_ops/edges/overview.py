"""The runs of an installation and where each stands: from its folder, its lock, and the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cxr_ops import locks
from cxr_ops.audit import standing
from cxr_ops.audit.history import history
from cxr_ops.audit.public import Shown
from cxr_ops.contract import NO_CHANGE
from cxr_ops.edges.home import Home
from cxr_ops.edges.run_names import known_runs
from cxr_ops.errors import DataError
from cxr_ops.records.run import OPENED, Opened, Result

_TAIL_BYTES: Final = 65_536  # a line of progress has a few hundred


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run and where it stands.

    Attributes:
        run: its name; airflow_run_id: Airflow's id of it.
        opened_at: ISO 8601, None where its folder is gone or was not opened whole.
        requested_by: who started it, where that is known.
        state: `running` (a stage is at work on this machine), `open` (not decided, and no stage at work), `decided`,
            or `no change`.
        stage: the stage that reported last, of a run that is running or open; progress: what it said.
        verdict: of a decision, as it is told; outcome: what became of it.
        model_version: its number in the registry, of a run that was decided on.
    """

    run: str
    airflow_run_id: str | None
    opened_at: str | None
    requested_by: str | None
    state: Literal["running", "open", "decided", "no change"]
    stage: str | None = None
    progress: str | None = None
    verdict: str | None = None
    outcome: str | None = None
    model_version: str | None = None


def runs(home: Home, told: Sequence[Shown]) -> list[Run]:
    """The runs that were opened here or are on the ledger, the newest first.

    Args:
        home: the installation.
        told: its ledger, as it is told.
    """
    entries, found = [one.entry for one in told], history(told)
    judged = {one.identifiers.run: one for one in found.judged}
    listed = []
    for name, airflow_run_id in known_runs(home).items():
        opened, decision = _opened(home.run(name) / OPENED), judged.get(name)
        facts: dict[str, Any] = {
            "run": name,
            "airflow_run_id": airflow_run_id,
            "opened_at": opened.opened_at if opened else None,
            "requested_by": opened.requested_by if opened else decision.requested_by if decision else None,
        }
        if decision is not None:
            facts |= {
                "state": "decided",
                "verdict": decision.verdict,
                "outcome": standing.outcome(entries, found, decision),
                "model_version": decision.identifiers.model_version,
            }
        elif _ended_unchanged(home.run(name) / "result.json"):
            facts |= {"state": "no change", "verdict": NO_CHANGE}
        else:
            report = _last_report(home.progress(name))
            facts |= {
                "state": "running" if locks.is_held(home.workspace_lock(name)) else "open",
                "stage": report.get("stage"),
                "progress": _words(report),
            }
        listed.append(Run(**facts))
    return listed


def _opened(path: Path) -> Opened | None:
    try:
        return Opened.read(path)
    except DataError:  # not opened whole, or by a later version; its name is all that is known of it
        return None


def _ended_unchanged(path: Path) -> bool:
    try:
        return Result.read(path).verdict == NO_CHANGE
    except DataError:
        return False


def _last_report(path: Path) -> dict[str, Any]:
    """The last whole line of what the stages of a run report; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().rpartition(b"\n")[0].splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:  # a full disk, or a kill, cut it short
            continue
        if isinstance(found, dict):
            return found
    return {}


def _words(report: dict[str, Any]) -> str | None:
    if not report:
        return None
    if report.get("text"):
        return str(report["text"])
    done, total = (report.get(key) for key in ("done", "total"))
    if not isinstance(done, int | float) or not isinstance(total, int | float):
        return None
    return f"{done:.0f} of {total:.0f} {report.get('unit') or ''}".strip()
