"""How commands find the installation and print: results to standard output, the rest to standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cxr_ops.edges.home import Home

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Withheld = Annotated[
    bool, typer.Option("--withheld", help="For auditors and approvers: also what people who tune are not told.")
]
# Columns where nobody looks: in a file or a pipe a line of a table may be long, and is neither folded nor cut.
_UNBOUNDED: Final = 4000


def find_home(*, restoring: bool = False) -> Home:
    """Find the installation that the environment and the current folder name; see `Home.find`.

    A variable `CXR_*` that nothing reads gives a warning: with a misspelt `CXR_HOME` one works in another installation.
    """
    from cxr_ops.edges.home import Home
    from cxr_ops.settings import unknown

    for name, near in unknown().items():
        typer.echo(f"warning: {name} is not a setting; the nearest one is {near} (docs/settings.md)", err=True)
    return Home.find(restoring=restoring)


def say(text: str) -> None:
    """Print a line of the result."""
    typer.echo(text)


def say_json(value: Any) -> None:
    """Print a result for machines: JSON with sorted keys, in lines that people can read as well."""
    from pydantic_core import to_jsonable_python

    plain = to_jsonable_python(value, inf_nan_mode="constants")  # records inside of dataclasses too
    typer.echo(json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False))


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


class _Unread(io.FileIO):
    """A file whose reader may go: from then on what is written is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # processes that this one starts write there too
            os.close(nowhere)
            return len(data)


def outlive_readers() -> None:
    """See that a command goes on, and ends as its work does, when nobody reads its output any more (`| head -1`)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
            number = stream.fileno()
        except (AttributeError, OSError, ValueError):  # closed from the start, or a test's own
            continue
        made = io.TextIOWrapper(
            io.BufferedWriter(_Unread(number, "w", closefd=False)),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, made)
