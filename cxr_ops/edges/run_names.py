"""Which run a person means: the runs of an installation by their names, and by Airflow's ids of them."""

from __future__ import annotations

import json
from pathlib import Path

from cxr_ops import contract
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import SettingsError
from cxr_ops.records.run import OPENED

_SHOWN = 5  # of the runs that there are, where none is the one that was asked for


def known_runs(home: Home) -> dict[str, str | None]:
    """The runs that were opened here or are on the ledger, newest first: name -> Airflow's id of it, or None."""
    folders = [
        path
        for path in (home.root / "runs").glob("*")
        if contract.is_run_name(path.name) and path.is_dir() and not path.is_symlink()
    ]
    newest_first = sorted(folders, key=lambda path: (path.stat().st_mtime, path.name), reverse=True)
    found = {folder.name: _airflow_run_id(folder / OPENED) for folder in newest_first}
    for entry in reversed(open_ledger(home).entries()):
        if entry.kind == "decision":  # also of runs whose folders were removed
            found.setdefault(entry.decision.run, entry.decision.airflow_run_id)
    return found


def find_run(home: Home, text: str) -> str:
    """The name of the run that a person means.

    Args:
        home: the installation.
        text: its name, or Airflow's id of it.

    Raises:
        SettingsError: there is no such run (those that there are are named), or Airflow's id is that of several.
        StorageError: the ledger is damaged.
    """
    wanted = text.strip()
    if contract.is_run_name(wanted) and home.run(wanted).is_dir():
        return wanted
    known = known_runs(home)
    names = [name for name, airflow_run_id in known.items() if wanted in (name, airflow_run_id)]
    if len(names) == 1:
        return names[0]
    if names:
        raise SettingsError(
            f"{wanted!r} is Airflow's id of several runs", where="--run", fix=f"name one of them: {', '.join(names)}"
        )
    others = [*known][:_SHOWN]
    if not others:
        raise SettingsError(
            f"there is no run {wanted!r}, and no other", where=home.root / "runs", fix="make one: cxr-ops retrain"
        )
    more = f", and {len(known) - len(others)} older" if len(known) > len(others) else ""
    raise SettingsError(
        f"there is no run {wanted!r}", where="--run", fix=f"the runs are, newest first: {', '.join(others)}{more}"
    )


def _airflow_run_id(path: Path) -> str | None:
    try:
        opened = json.loads(path.read_bytes())
    except (OSError, ValueError):  # not opened whole; its name is all that is known of it
        return None
    found = opened.get("airflow_run_id") if isinstance(opened, dict) else None
    return found if isinstance(found, str) else None
