"""The command `cxr-ops`: one verb a stage, and a few more for people.

Results go to standard output, progress and errors to standard error. What a command needs is imported when it runs, so
that `--help` answers at once. A new command is a function in the file of its noun; a new noun is a file here and a row
of the tables below.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Final

import typer

from cxr_ops import __version__
from cxr_ops.commands import compare, data, epoch, ingest, ledger, lineage, plan, retrain, stages
from cxr_ops.errors import CxrError

app = typer.Typer(
    name="cxr-ops",
    help="Retrain a chest X-ray classifier, and promote it only on evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Files whose commands stand beside each other, and those whose commands follow a noun, in the order of `--help`.
VERBS: Final[tuple[ModuleType, ...]] = (stages, retrain, compare, lineage)
NOUNS: Final[dict[str, typer.Typer]] = {
    "data": data.app,
    "ingest": ingest.app,
    "stage": stages.stage_app,
    "ledger": ledger.app,
    "plan": plan.app,
    "epoch": epoch.app,
}
for _module in VERBS:
    app.add_typer(_module.app)
for _noun, _app in NOUNS.items():
    app.add_typer(_app, name=_noun)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command; an error that a person can mend is told without a traceback, and its exit code says its kind."""
    try:
        app()
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's own voice
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT
