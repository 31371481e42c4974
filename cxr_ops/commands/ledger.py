"""`cxr-ops ledger`: read the record of looks and decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, Withheld, find_home, say, say_json, show
from cxr_ops.errors import DataError, SettingsError, StorageError

if TYPE_CHECKING:
    from cxr_ops.edges.ledger import Ledger

app = group("Read the record of looks and decisions.")

Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="A copy of a ledger; if left out, the ledger of this installation."),
]


def open_named(folder: Path | None) -> Ledger:
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
    """Check the hash chain of the ledger, from the first entry to the last, and compare it with its anchors.

    Of an installation's own ledger, where each run in the store found it is compared as well.
    """
    from dataclasses import asdict

    from cxr_ops.edges.ledger import anchors
    from cxr_ops.edges.store import runs

    ledger = open_named(folder)
    entries = ledger.entries(anew=True)
    kept = ledger.witness if isinstance(ledger.witness, anchors.Anchors) else None
    found = kept.check(entries) if kept is not None else None
    pinned = runs.pinned_ledgers(find_home()) if folder is None else {}
    for state in pinned.values():
        ledger.compare(entries, state)
    head = entries[-1].digest() if entries else None
    if as_json:
        told = {"entries": len(entries), "head": head, "anchors": asdict(found) if found else None}
        say_json({**told, "runs": len(pinned)})
    else:
        say(f"{len(entries)} entries, chain whole")
        if pinned:
            upto = max(state.entries for state in pinned.values())
            say(f"{len(pinned)} runs in the store found it as it is, the last of them after entry {upto}")
        say(str(found or anchors.NONE))


@app.command("anchor")
def ledger_anchor() -> None:
    """Put the head of the ledger into CXR_ANCHOR now, as each decision and promotion does."""
    from cxr_ops.edges import ledger

    home = find_home()
    entries, kept = ledger.open_ledger(home).entries(), ledger.open_anchors(home)
    if kept is None:
        raise SettingsError("no place for anchors is named", where="CXR_ANCHOR", fix="CXR_ANCHOR=s3://bucket/path")
    if not entries:
        raise DataError("the ledger is empty", where=home.ledger_address, fix="anchor it after the first decision")
    kept.check(entries)
    kept.put(entries)
    say(str(kept.check(entries)))


@app.command("show")
def ledger_show(
    folder: Folder = None,
    withheld: Withheld = False,
    as_json: AsJson = False,
) -> None:
    """Print the entries of the ledger: a table, or with --json every field.

    While a test period is open, decisions are told as far as its plans tell them.
    """
    from cxr_ops.audit import public
    from cxr_ops.report import ledger

    entries = open_named(folder).entries()
    found = public.whole(entries) if withheld else public.shown(entries)
    if as_json:
        say_json([one.as_json() for one in found])
    elif entries:
        show(ledger.table(ledger.lines(found)), wide=True)
    else:
        say("the ledger is empty: nothing has been scored, decided or promoted yet")
