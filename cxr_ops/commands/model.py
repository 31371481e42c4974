"""`cxr-ops model` and `cxr-ops keys`: signed model directories, and the keys that they are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, find_home, say, say_json

if TYPE_CHECKING:
    from cxr_ops.audit.signature import Signed
    from cxr_ops.edges.home import Home

app = group("Fetch a model with its signature checked, or check one.")
keys_app = group("Make and show the keys that models are signed with.")


@app.command("verify")
def model_verify(
    folder: Annotated[Path, typer.Argument(help="The model directory: the folder that holds MLmodel.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Believe this public key alone, and ask no installation."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the signature over a whole model directory before anything of it is used.

    Nothing of the directory is loaded. Ends with 15 where a file was changed, added or removed, or where the key is not
    believed.
    """
    from cxr_ops.audit import signature
    from cxr_ops.edges import signing
    from cxr_ops.errors import StorageError

    if key is None:
        home = find_home()
        _tell(signing.check(home, folder), home, as_json=as_json)
        return
    try:
        pem = key.read_bytes()
    except OSError as error:
        raise StorageError(f"the key cannot be read: {error.strerror}", where=key, fix="name a PEM file") from error
    _tell(signature.verify(folder, signing.believe(pem, key)), None, as_json=as_json)


@app.command("fetch")
def model_fetch(
    version: Annotated[str, typer.Argument(help="A model version (3, cxr-densenet121/3), or champion.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
    as_json: AsJson = False,
) -> None:
    """Bring a model out of the registry, and leave it in a folder only if it is what the ledger and its signature say.

    What is in the folder may then be served: mlflow models serve --model-uri FOLDER
    """
    require("stages")
    from cxr_ops.contract import CHAMPION
    from cxr_ops.edges.ledger import open_ledger
    from cxr_ops.edges.lineage import plain_identifier
    from cxr_ops.edges.mlflow import versions
    from cxr_ops.errors import DataError

    home = find_home()
    wanted = plain_identifier(version)
    if wanted == CHAMPION:
        champion = open_ledger(home).champion()
        if champion is None:
            raise DataError("there is no champion yet", where=home.ledger_address, fix="train one: cxr-ops retrain")
        wanted = champion.promotion.model_version
    _tell(versions.fetch_model(home, wanted, folder), home, as_json=as_json)


def _tell(signed: Signed, home: Home | None, *, as_json: bool) -> None:
    from cxr_ops.edges import signing

    own = home is not None and signing.is_installations(home, signed.key)
    decisions = _decisions(home, signed) if home is not None else []
    if as_json:
        found = {"directory": signed.directory, "key": signed.key, "claims": dict(signed.claims)}
        say_json({**found, "installation_key": own, "decided_on_in": decisions})
        return
    say(f"the directory is what was signed, sha256 {signed.directory}")
    say(f"signed by {signing.LITTLE if own else f'the key {signed.key}'}")
    for kind, predicate in signed.claims.items():
        said = ", ".join(f"{name} {value}" for name, value in predicate.items() if value is not None)
        say(f"claims {kind.split(':')[-2] if kind.count(':') > 1 else kind}: {said}")
    if home is not None:
        say(f"on the ledger: {', '.join(decisions) or 'no decision is about this directory'}")


def _decisions(home: Home, signed: Signed) -> list[str]:
    """The runs whose decisions on the ledger name this directory."""
    from cxr_ops.edges.ledger import open_ledger

    entries = [entry for entry in open_ledger(home).entries() if entry.kind == "decision"]
    return [entry.decision.run for entry in entries if entry.decision.directory == signed.directory]


@keys_app.command("make")
def keys_make(
    file: Annotated[Path, typer.Argument(help="A new file outside the project, for the private half.")],
) -> None:
    """Make a key pair: FILE, which you alone can read, and FILE.pub, which you give to those who check."""
    from cxr_ops.edges import signing

    made = signing.make_key(file.absolute(), find_home().project)
    say(f"made {file} (private, mode 0600) and {file}.pub, fingerprint {made}")
    say(f"to sign with it: CXR_SIGNING_KEY={file.absolute()}")
    say("to check elsewhere: cxr-ops model verify FOLDER --key FILE")


@keys_app.command("show")
def keys_show(as_json: AsJson = False) -> None:
    """Show with which key models are signed here, and the keys whose signatures are believed."""
    from cxr_ops.edges import signing

    home = find_home()
    believed, own = signing.believed(home), signing.own_key(home)
    if as_json:
        say_json({"own": str(own) if own else None, "believed": sorted(believed)})
        return
    say(f"signs with  {own or signing.LITTLE}")
    for name in sorted(believed):
        say(f"believes    {name}{' (of this installation)' if signing.is_installations(home, name) else ''}")
    if not believed:
        say("believes    no key yet: the first model that is registered makes the installation's")
