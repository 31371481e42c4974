"""`cxr-ops ingest KIND`: add a batch to the data set, from any source that is registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import group
from cxr_ops.commands.options import OnBad
from cxr_ops.commands.output import find_home, say
from cxr_ops.data.sources import registry
from cxr_ops.data.sources.source import Options

app = group("Add a batch to the data set.")


def _ingest(kind: str) -> Callable[..., None]:
    def command(
        folder: Annotated[Path, typer.Argument(help="The folder, which is only read.")],
        batch: Annotated[str, typer.Option(help="Name of the batch: small letters, digits, hyphens.")],
        on_bad: Annotated[OnBad, typer.Option(help="Refuse a batch with bad rows, or leave them out.")] = OnBad.REFUSE,
        deidentified: Annotated[
            bool, typer.Option("--deidentified", help="Of DICOM: headers that look as if they named somebody do not.")
        ] = False,
    ) -> None:
        require("stages")
        from cxr_ops.edges.airflow import announce
        from cxr_ops.stages import ingest
        from cxr_ops.voice import steps

        home = find_home()
        with steps("reading radiographs") as progress:
            options = Options(deidentified=deidentified)
            result = ingest.run(
                kind, folder, batch=batch, home=home, on_bad=on_bad.value, options=options, progress=progress
            )
        say(str(result))
        if not result.already:
            say(announce.announce_dataset(home, result.revision))

    return command


for _kind, _takes in registry.SOURCES.items():
    app.command(_kind, help=f"Add {_takes} to the data set, after checking every row and every image.")(_ingest(_kind))
