"""`cxr-ops backup` and `cxr-ops restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import find_home, say

app = verbs()


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(help="A folder of backups: new, empty, or with earlier ones.")],
    check: Annotated[
        bool, typer.Option("--check", help="Make none: read the newest one, and compare every byte with its digest.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Also where the DVC remote lacks an object that is needed.")
    ] = False,
) -> None:
    """Copy store, ledger, registry, reports and data into a folder, while runs go on; one more costs what is new."""
    require("stages")
    from cxr_ops.stages import backup as stage
    from cxr_ops.voice import steps

    if check:
        with steps("reading the backup, MiB", unit=2**20) as progress:
            told = stage.check(out, progress=progress)
        say(told)
        return
    with steps("copying, MiB", unit=2**20) as progress:
        saved = stage.run(find_home(), out, allow_missing=allow_missing, progress=progress)
    say(str(saved))


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A folder that `cxr-ops backup` was given.")],
    name: Annotated[str | None, typer.Option("--backup", help="Which of its backups; if left out, the newest.")] = None,
) -> None:
    """Make the installation that CXR_HOME names from a backup; nothing may be there yet."""
    require("stages")
    from cxr_ops.stages import restore as stage
    from cxr_ops.voice import steps

    with steps("writing, MiB", unit=2**20) as progress:
        restored = stage.run(find_home(restoring=True), source, name=name, progress=progress)
    say(str(restored))
