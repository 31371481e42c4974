"""`cxr-ops lineage`: from one identifier to all the others."""

from __future__ import annotations

from typing import Annotated

import typer

from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import AsJson, find_home, say, say_json

app = verbs()


@app.command()
def lineage(
    identifier: Annotated[
        str,
        typer.Argument(
            help="A run or Airflow's id of it; a model version (3, cxr-densenet121/3) or alias (champion, reference); "
            "or the first 7 characters of an MLflow run, a commit or a digest."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show everything that belongs to a run, a commit, a model version, a package or a report."""
    from cxr_ops.edges import lineage as tracer

    found = tracer.trace(find_home(), identifier)
    if as_json:
        say_json(found.model_dump(mode="json"))
    else:
        say(str(found))
