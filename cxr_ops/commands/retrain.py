"""`cxr-ops retrain` and `cxr-ops ui`: the embedded Airflow."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import verbs
from cxr_ops.commands.options import Overrides, parse_overrides
from cxr_ops.commands.output import find_home

app = verbs()


@app.command()
def retrain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why, but run nothing.")] = False,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Retrain even when nothing has changed.")] = False,
) -> None:
    """Retrain once in the embedded Airflow, and print the result."""
    require("stages", "airflow")
    from cxr_ops import retrain as driver

    sys.exit(driver.retrain(find_home(), dry_run=dry_run, overrides=parse_overrides(overrides), force=force))


@app.command()
def ui() -> None:
    """Open Airflow and MLflow on the stores of this installation, until Ctrl-C."""
    require("stages", "airflow")
    from cxr_ops import ui as driver

    sys.exit(driver.ui(find_home()))
