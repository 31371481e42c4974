"""`cxr-ops ledger`: read the record of looks and decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, find_home, say, say_json, show
from cxr_ops.errors import StorageError

if TYPE_CHECKING:
    from cxr_ops.edges.ledger import Ledger

app = group("Read the record of looks and decisions.")

Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="A copy of a ledger; if left out, the ledger of this installation."),
]


def _ledger(folder: Path | None) -> Ledger:
    """The ledger that was named, or the installation's own.

    Raises:
        StorageError: what was named is no folder, or holds no entry; an empty ledger would be read there otherwise.
    """
    from cxr_ops.edges import ledger

    if folder is None:
        return ledger.open_ledger(find_home())
    if not folder.is_dir():
        raise StorageError("there is no such folder", where=folder, fix="name the folder that holds 00000001.json")
    if not (folder / "00000001.json").is_file():
        raise StorageError(
            "the folder holds no first entry, so it is no copy of a ledger",
            where=folder,
            fix="name the folder that holds 00000001.json",
        )
    return ledger.Ledger(ledger.Folder(folder))


@app.command("verify")
def ledger_verify(folder: Folder = None, as_json: AsJson = False) -> None:
    """Check the hash chain of the ledger, from the first entry to the last."""
    state = _ledger(folder).state()  # reading it checks it
    if as_json:
        say_json({"entries": state.entries, "head": state.head})
    else:
        say(f"{state.entries} entries, chain whole")


@app.command("show")
def ledger_show(folder: Folder = None, as_json: AsJson = False) -> None:
    """Print the entries of the ledger: a table, or with --json every field."""
    from cxr_ops.report import ledger

    entries = _ledger(folder).entries()
    if as_json:
        say_json([{**entry.model_dump(mode="json"), "digest": entry.digest()} for entry in entries])
    elif entries:
        show(ledger.table(ledger.lines(entries)), wide=True)
    else:
        say("the ledger is empty: nothing has been scored, decided or promoted yet")
