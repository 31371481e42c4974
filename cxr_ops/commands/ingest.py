"""`cxr-ops ingest`: add a batch to the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.options import OnBad
from cxr_ops.commands.output import find_home, say

app = group("Add a batch to the data set.")


@app.command()
def nih(
    folder: Annotated[Path, typer.Argument(help="A folder in the NIH's layout.")],
    batch: Annotated[str, typer.Option(help="Name of the batch: small letters, digits, hyphens.")],
    on_bad: Annotated[OnBad, typer.Option(help="Refuse a batch with bad rows, or leave them out.")] = OnBad.REFUSE,
) -> None:
    """Add a folder of NIH radiographs to the data set, after checking every row and every image."""
    from cxr_ops.edges.airflow import announce
    from cxr_ops.report.terminal import steps
    from cxr_ops.stages import ingest

    home = find_home()
    with steps("reading radiographs") as progress:
        result = ingest.run(folder, batch=batch, home=home, on_bad=on_bad.value, progress=progress)
    say(str(result))
    if not result.already:
        say(announce.announce_dataset(home, result.revision))
