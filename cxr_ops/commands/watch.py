"""`cxr-ops watch`: the registry against the ledger, once or for ever."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from cxr_ops import contract
from cxr_ops.commands.extras import require
from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import AsJson, find_home, say, say_json

app = verbs()


@app.command()
def watch(
    every: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Look again and again, until Ctrl-C.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what in MLflow's registry is not as the ledger says, repair its aliases, and record what was found.

    Ends with 0 where all is as the ledger says or was repaired, and with 1 where something is left to a person.
    """
    require("stages")
    from dataclasses import asdict

    from cxr_ops.edges.mlflow import watch as watching

    home = find_home()
    while True:
        found = watching.watch(home)
        if as_json:
            say_json({**asdict(found), "left": list(found.left)})
        else:
            for one in found.repaired:
                say(f"repaired: {one}")
            for one in found.left:
                say(f"wrong: {one}")
            if not found.found:
                say("the registry is as the ledger says")
        if every is None:
            break
        time.sleep(every)
    if found.left:
        if not as_json:
            say("next: restore MLflow's database and artifacts from a backup, or go back to another champion")
        raise typer.Exit(contract.EXIT_FAILED)
