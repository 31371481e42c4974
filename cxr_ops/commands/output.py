"""How commands find the installation and print: results to standard output, the rest to standard error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cxr_ops.edges.home import Home

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# Columns where nobody looks: in a file or a pipe a line of a table may be long, and is neither folded nor cut.
_UNBOUNDED: Final = 4000


def find_home() -> Home:
    """Find the installation that the environment and the current folder name; see `Home.find` for the errors.

    A variable `CXR_*` that nothing reads gives a warning: with a misspelt `CXR_HOME` one works in another installation.
    """
    from cxr_ops.edges.home import Home
    from cxr_ops.settings import unknown

    for name, near in unknown().items():
        typer.echo(f"warning: {name} is not a setting; the nearest one is {near} (docs/settings.md)", err=True)
    return Home.find()


def say(text: str) -> None:
    """Print a line of the result."""
    typer.echo(text)


def say_json(value: Any) -> None:
    """Print a result for machines: JSON with sorted keys, in lines that people can read as well."""
    typer.echo(json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False))


def result_line(values: dict[str, Any]) -> None:
    """Print identifiers and digests as the last line of standard output, for Airflow's XCom."""
    typer.echo(json.dumps(values, sort_keys=True))


def show(what: RenderableType, *, wide: bool = False, errors: bool = False, fold: bool = True) -> None:
    """Print a table or a text with rich.

    Args:
        what: what to print.
        wide: whether, without a terminal, lines are as long as they come; else they are folded at 120 columns.
        fold: whether lines are folded at all; those with paths and commands are not.
        errors: whether it goes to standard error, because the output holds something else.
    """
    from rich.console import Console

    console = Console(highlight=False, stderr=errors)
    if not console.is_terminal:
        console.width = _UNBOUNDED if wide else 120
    console.print(what, soft_wrap=not fold)
