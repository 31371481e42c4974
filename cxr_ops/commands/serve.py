"""`cxr-ops serve`: answer pictures with a signed model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.ledger import Folder, open_named
from cxr_ops.commands.output import find_home

if TYPE_CHECKING:
    from cxr_ops.audit.entries import Entry

app = typer.Typer()


@app.command()
def serve(
    model: Annotated[
        Path, typer.Argument(help="A model directory, as `cxr-ops model fetch champion FOLDER` leaves it.")
    ],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Believe this public key alone, and ask no installation."),
    ] = None,
    folder: Folder = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", metavar="FILE", help="Add each answer's probabilities to this file, for `cxr-ops monitor`."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8080,
    threads: Annotated[int, typer.Option(help="Threads that score; 0: one a processor.", min=0)] = 0,
    max_bytes: Annotated[int, typer.Option(help="Largest request in bytes.", min=1024)] = 64 * 2**20,
    max_images: Annotated[int, typer.Option(help="Most pictures in a request.", min=1)] = 32,
    max_waiting: Annotated[int, typer.Option(help="Most pictures under way at a time.", min=1)] = 128,
    seconds: Annotated[float, typer.Option(help="Longest time for an answer.", min=0.1)] = 60.0,
) -> None:
    """Serve a model over HTTP, after its signature was checked.

    Send a picture with: curl --data-binary @a.png http://127.0.0.1:8080/predict
    """
    require("serve")
    from cxr_ops.data.checking.isolate import processors
    from cxr_ops.edges import signing
    from cxr_ops.errors import SettingsError
    from cxr_ops.serve import directory, web
    from cxr_ops.serve.engine import Engine
    from cxr_ops.settings import Settings

    if key is None:
        keys = signing.believed(find_home())
    else:
        try:
            keys = signing.believe(key.read_bytes(), key)
        except OSError as error:
            raise SettingsError(
                f"the key cannot be read: {error.strerror}", where=key, fix="name a PEM file"
            ) from error
    found = directory.read(model, keys)
    log = Settings.read().receipts
    if log is not None and not log.parent.is_dir():
        raise SettingsError("the folder of CXR_RECEIPTS is not there", where=log, fix=f"mkdir -p {log.parent}")
    if answers is not None and not answers.parent.is_dir():
        raise SettingsError("the folder of --answers is not there", where=answers, fix=f"mkdir -p {answers.parent}")
    served = found.served(_entries(key, folder))
    limits = web.Limits(body_bytes=max_bytes, images=max_images, waiting=max_waiting, seconds=seconds)
    print(  # noqa: T201 - results go to standard output, and this server has none
        f"serving {found.package.digest[:12]}, signed by {found.key[:12]}, on http://{host}:{port}",
        file=sys.stderr,
        flush=True,
    )
    engine = Engine(found, threads or processors())
    web.serve(web.application(engine, served, log, limits, answers), host, port, limits)


def _entries(key: Path | None, folder: Path | None) -> list[Entry]:
    """The ledger that receipts name an entry of; with a key alone there is none."""
    return [] if key is not None and folder is None else open_named(folder).entries()
