"""`cxr-ops lineage`: from one identifier to all the others."""

from __future__ import annotations

from typing import Annotated

import typer

from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import find_home, say

app = verbs()


@app.command()
def lineage(
    identifier: Annotated[str, typer.Argument(help="A run, an MLflow run, a commit, a model version or a digest.")],
) -> None:
    """Show everything that belongs to an Airflow run, MLflow run, commit, model version, package or report."""
    from cxr_ops.edges import lineage as tracer

    say(str(tracer.trace(find_home(), identifier)))
