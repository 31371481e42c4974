"""`cxr-ops ingest KIND`: add a batch to the data set, from any source that is registered."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cxr_ops import contract
from cxr_ops.commands.extras import require
from cxr_ops.commands.help import group
from cxr_ops.commands.options import OnBad, parse_uncertain
from cxr_ops.commands.output import find_home, say
from cxr_ops.data.sources import registry
from cxr_ops.data.sources.source import Options

app = group("Add a batch to the data set.")


def _ingest(kind: str) -> Callable[..., None]:
    # Annotations are made here and not read later, so that each kind shows in its help the options that it takes.
    shown = registry.TAKES.get(kind, tuple(registry.OPTIONS))

    def command(
        folder: Annotated[Path, typer.Argument(help="The folder to read; nothing in it is changed.")],
        batch: Annotated[str, typer.Option(help="Name of the batch: small letters, digits, hyphens.")],
        on_bad: Annotated[OnBad, typer.Option(help="Refuse a batch with bad rows, or leave them out.")] = OnBad.REFUSE,
        attributes: Annotated[
            Path | None, typer.Option(help="A CSV by image_id or patient_id: more columns for subgroups.")
        ] = None,
        accept_copies: Annotated[
            Path | None, typer.Option(help="A CSV of near copies under two patients that are right, with reasons.")
        ] = None,
        uncertain: Annotated[
            list[str] | None,
            typer.Option(
                metavar="[FINDING=]POLICY",
                help="What -1 becomes: ignore (it stays uncertain), zeros or ones; may be repeated.",
                hidden="uncertain" not in shown,
            ),
        ] = None,
        mapping: Annotated[
            Path | None,
            typer.Option(help="A file that says what each column means.", hidden="mapping" not in shown),
        ] = None,
        view: Annotated[
            str,
            typer.Option(help="The view (PA or AP) of images that have none on record.", hidden="view" not in shown),
        ] = "",
        own_split: Annotated[
            bool,
            typer.Option("--own-split", help="Keep the folder's own split.", hidden="own_split" not in shown),
        ] = False,
        deidentified: Annotated[
            bool,
            typer.Option(
                "--deidentified",
                help="You checked that DICOM headers which seem to name a person do not.",
                hidden="deidentified" not in shown,
            ),
        ] = False,
    ) -> None:
        require("stages")
        from cxr_ops.edges.airflow import announce
        from cxr_ops.stages import ingest
        from cxr_ops.voice import steps

        home = find_home()
        options = Options(
            uncertain=parse_uncertain(uncertain),
            mapping=mapping,
            view=view,
            own_split=own_split,
            deidentified=deidentified,
        )
        with steps("reading radiographs") as progress:
            result = ingest.run(
                kind,
                folder,
                batch=batch,
                home=home,
                on_bad=on_bad.value,
                progress=progress,
                options=options,
                attributes=attributes,
                accept_copies=accept_copies,
                doing=lambda what: typer.echo(what, err=True),
            )
        say(str(result))
        if not result.already or result.finished:
            say(announce.announce_dataset(home, result.revision))

    return command


app.command(contract.AUTO, help="Find out what kind of folder it is, say why, and add it to the data set.")(
    _ingest(contract.AUTO)
)
for _kind, _takes in registry.SOURCES.items():
    app.command(_kind, help=f"Add {_takes} to the data set, after checking every row and every image.")(_ingest(_kind))
