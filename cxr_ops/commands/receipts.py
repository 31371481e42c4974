"""`cxr-ops receipts`: check the log of a served model's predictions, and find those about a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.ledger import Folder, open_named
from cxr_ops.commands.output import AsJson, say, say_json
from cxr_ops.errors import DataError, SettingsError, StorageError

if TYPE_CHECKING:
    from cxr_ops.data.receipts import Log

app = group("Check the log of a served model's predictions.")

LogFile = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="The log; if left out, that which CXR_RECEIPTS names.")
]


def _read(log: Path | None) -> tuple[Path, Log]:
    from cxr_ops.data import receipts
    from cxr_ops.settings import Settings

    path = log or Settings.read().receipts
    if path is None:
        raise SettingsError("no log of receipts is named", where="CXR_RECEIPTS", fix="name one: --log FILE")
    try:
        return path, receipts.read(path)
    except OSError as error:
        raise StorageError(f"the receipts cannot be read: {error.strerror}", where=path, fix="name the log") from error
    except ValueError as error:
        raise DataError(str(error), where=path, fix="compare it with a copy of the log from before") from error


@app.command("verify")
def receipts_verify(log: LogFile = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """Check the chain of a log of receipts, and that the ledger knows each model and entry that it names.

    Ends with 10 where a receipt was altered, removed or put in, or names what the ledger does not hold.
    """
    path, found = _read(log)
    ledger = open_named(folder)
    packages = _packages(ledger.entries())
    models = sorted({one["model"] for one in found.receipts})
    for number, one in enumerate(found.receipts, 1):
        entry = one["ledger_entry"]
        if one["model"] not in packages.values():
            raise DataError(
                f"receipt {number} is of the model {one['model'][:12]}, which the ledger never decided on",
                where=path,
                fix="name the ledger of that model: --folder FOLDER",
            )
        if entry is not None and packages.get(entry) != one["model"]:
            raise DataError(
                f"receipt {number} names the entry {entry[:12]}, which is not about its model on the ledger", where=path
            )
    if as_json:
        say_json({"receipts": len(found.receipts), "head": found.head, "cut": found.cut, "models": models})
        return
    say(
        f"{len(found.receipts)} receipts of {len(models)} models, chain whole, all of models that the ledger decided on"
    )
    if found.cut:
        say(f"{len(found.cut)} lines were cut off by a crash, before an answer was given")
    say(f"head {found.head}: who keeps it sees later whether the log's end was cut off")


def _packages(entries: list[Any]) -> dict[str, str]:
    """The entries that a receipt may name, by their digests, with the package that each is about."""
    found = {entry.digest(): entry.decision.package for entry in entries if entry.kind == "decision"}
    return found | {entry.digest(): entry.promotion.package for entry in entries if entry.kind == "promotion"}


@app.command("find")
def receipts_find(
    picture: Annotated[Path, typer.Argument(help="The file that was sent.")],
    log: LogFile = None,
    as_json: AsJson = False,
) -> None:
    """List the receipts about a picture: when, and which model answered. Ends with 10 where there is none."""
    from cxr_ops.records.base import sha256_file

    path, found = _read(log)
    try:
        digest = sha256_file(picture)
    except OSError as error:
        raise StorageError(f"the picture cannot be read: {error.strerror}", where=picture) from error
    about = [one for one in found.receipts if one["input"] == digest]
    if not about:
        raise DataError(f"no receipt is about this file, sha256 {digest}", where=path)
    if as_json:
        say_json(about)
        return
    for one in about:
        say(f"{one['at']}  model {one['model']}  entry {one['ledger_entry'] or 'not named'}")
