"""The command `cxr-ops`: one verb for each stage, and a few more for people.

Results go to standard output, progress and errors to standard error. What a command needs is imported when it runs, so
that `--help` answers at once. A new command is a function in the file of its noun; a new noun is a file here and a row
of the tables below.
"""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Final

import typer

from cxr_ops import __version__
from cxr_ops.commands import (
    backup,
    bundle,
    checkout,
    compare,
    data,
    doctor,
    history,
    ingest,
    ledger,
    lineage,
    model,
    monitor,
    overview,
    period,
    plan,
    receipts,
    retrain,
    serve,
    stages,
    watch,
)
from cxr_ops.commands.help import SETTINGS, Group, explain_exit_codes
from cxr_ops.commands.output import outlive_readers
from cxr_ops.errors import CxrError, SettingsError

app = typer.Typer(
    name="cxr-ops",
    cls=Group,
    help="Retrain a chest X-ray classifier, and promote it only on evidence.",
    context_settings=SETTINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Applications whose commands follow `cxr-ops` itself, and those whose commands follow a noun, in the order of `--help`.
VERBS: Final = (
    retrain.app,
    compare.app,
    overview.app,
    history.app,
    lineage.app,
    checkout.app,
    bundle.app,
    backup.app,
    watch.app,
    serve.app,
    monitor.app,
    doctor.app,
    stages.app,
)
NOUNS: Final = {
    "data": data.app,
    "ingest": ingest.app,
    "plan": plan.app,
    "ledger": ledger.app,
    "model": model.app,
    "keys": model.keys_app,
    "receipts": receipts.app,
    "period": period.app,
    "stage": stages.stage_app,
}
for _verbs in VERBS:
    app.add_typer(_verbs)
for _noun, _app in NOUNS.items():
    app.add_typer(_app, name=_noun)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Retrain a chest X-ray classifier, and promote it only on evidence."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command("epoch", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def _epoch(words: typer.Context) -> None:
    """Say the new name of a command of earlier versions."""
    raise SettingsError(
        "`cxr-ops epoch` is called `cxr-ops period` now: an epoch is a pass of training",
        fix=shlex.join(["cxr-ops", "period", *words.args]),
    )


explain_exit_codes(app)


def main() -> None:
    """Run the command. An error that a person can mend is printed without a traceback, and has an exit code."""
    outlive_readers()
    try:
        app()
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's own voice
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT
