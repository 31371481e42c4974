"""`cxr-ops checkout`: bring back a published run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import verbs
from cxr_ops.commands.options import complete_runs
from cxr_ops.commands.output import find_home, say
from cxr_ops.errors import DataError

app = verbs()


@app.command()
def checkout(
    run: Annotated[
        str,
        typer.Argument(
            help="A run, or another identifier of it that `cxr-ops lineage` takes.", autocompletion=complete_runs
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
) -> None:
    """Bring back a published run: its commit, its data and all that it made, ready for sha256sum and dvc.

    The commits of all other runs are there as well, for `dvc metrics diff` and `dvc plots diff`.
    """
    require("stages")
    from cxr_ops.edges.lineage import trace
    from cxr_ops.edges.store.checkout import check_out

    home = find_home()
    found = trace(home, run)
    if found.run_commit is None:
        raise DataError(
            f"the run {found.run} made nothing: it ended {found.verdict}",
            where=home.run(found.run),
            fix=f"bring back the run that made the champion: cxr-ops checkout {found.made_by} {folder}",
        )
    check_out(home, found.run_commit, folder)
    say(f"{found.run}, commit {found.run_commit}, is in {folder}")
