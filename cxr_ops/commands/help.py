"""What `--help` says: every command in a whole sentence, the stages in their order, and what the exit codes mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import typer
from typer.core import TyperGroup

from cxr_ops import contract

if TYPE_CHECKING:
    # typer carries its own click.
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter

EXIT_CODES: Final = {
    0: "done, whatever the verdict",
    contract.EXIT_FAILED: "failed",
    contract.EXIT_USAGE: "the command line is wrong",
    contract.EXIT_DATA: "the data are wrong",
    contract.EXIT_SETTINGS: "a setting, plan or argument is wrong",
    contract.EXIT_STORAGE: "a folder or store cannot be read or written",
    contract.EXIT_BUSY: "another command holds what this one needs",
    contract.EXIT_CONFLICT: "the ledger has changed since the decision",
    contract.EXIT_REFUSED: "the plan does not allow it",
    contract.EXIT_ALARM: "the monitor is in alarm",
    130: "stopped by Ctrl-C",
    contract.EXIT_STOPPED: "stopped after a checkpoint",
}
EPILOG: Final = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
# A command inherits these from `cxr-ops` itself.
SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
_END_OF_SENTENCE: Final = re.compile(r"(?<=\.)(?=\s|\Z)")


class Group(TyperGroup):
    """A group whose help gives the first sentence of each command whole; typer's own cuts it at the end of the line."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the commands: first those for people, then the stages of the pipeline."""
        commands = {name: command for name, command in self.commands.items() if not command.hidden}
        rows = {name: first_sentence(command.help or "") for name, command in commands.items()}
        if "version" in rows:
            rows["version"] = rows.pop("version")  # last: it is the least of them
        stages = [(name, rows.pop(name)) for name in (*contract.STAGES, "stage") if name in rows and ctx.parent is None]
        for title, part in (("Commands", list(rows.items())), ("Stages, in the order in which they run", stages)):
            if part:
                with formatter.section(title):
                    formatter.write_dl(part)


def group(text: str) -> typer.Typer:
    """A noun of the command line, whose commands follow it.

    Args:
        text: what its commands do, in a sentence.
    """
    return typer.Typer(cls=Group, help=text, no_args_is_help=True, rich_markup_mode=None)


def verbs() -> typer.Typer:
    """Commands that follow `cxr-ops` itself, and no noun."""
    return typer.Typer(rich_markup_mode=None)


def explain_exit_codes(app: typer.Typer) -> None:
    """Let the help of an application, of its groups and of each of their commands end with the exit codes."""
    app.info.epilog = EPILOG
    for command in app.registered_commands:
        command.epilog = EPILOG
    for inner in app.registered_groups:
        inner.epilog = EPILOG
        if inner.typer_instance is not None:
            explain_exit_codes(inner.typer_instance)


def first_sentence(text: str) -> str:
    r"""The first sentence of a help text, on one line.

    >>> first_sentence("Check a plan, and say\n    what it holds. More follows.")
    'Check a plan, and say what it holds.'
    """
    return " ".join(_END_OF_SENTENCE.split(text.strip(), maxsplit=1)[0].split())
