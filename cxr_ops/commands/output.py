"""How commands find the installation and print: results to standard output, the rest to standard error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cxr_ops.edges.home import Home


def find_home() -> Home:
    """Find the installation that the environment and the current folder name; see `Home.find` for the errors."""
    from cxr_ops.edges.home import Home

    return Home.find()


def say(text: str) -> None:
    """Print a line of the result."""
    typer.echo(text)


def result_line(values: dict[str, Any]) -> None:
    """Print identifiers and digests as the last line of standard output, for Airflow's XCom."""
    typer.echo(json.dumps(values, sort_keys=True))


def show(what: RenderableType) -> None:
    """Print a table or a text with rich; without a terminal, wide enough that nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 120
    console.print(what)
