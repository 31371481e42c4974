"""Commands as documentation and messages print them: found in Markdown and in the source, and read as a shell would."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer._click.exceptions import ClickException
from typer.main import get_command

from cxr_ops.commands.app import app

ROOT: Any = get_command(app)
_AT_ONCE = ("-h", "--help", "--version", "--install-completion", "--show-completion")
_SHELL = re.compile(r"\s(?:&&|\|\||\|)\s")
_OUTPUT = re.compile(r"\s>\s+\S+")


@dataclass(frozen=True)
class Fence:
    """A block of commands in a page; `lines` are the commands, `shown` what the page says that they print."""

    page: str
    lines: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def name(self) -> str:
        """The page and the first command."""
        return f"{self.page}: {self.lines[0]}"


def fences(path: Path, root: Path) -> list[Fence]:
    """The blocks of commands in a page: fenced ones without a language, and indented ones that begin with a command.

    In a block with a `$`, the lines that begin with one are the commands, and the others are what they print.
    """
    blocks, bare = _blocks(path.read_text(encoding="utf-8"))
    indented = re.findall(r"(?:^ {4}(?:docker|chown|cxr-ops|make|dvc|git) .*\n)+", bare, flags=re.MULTILINE)
    found = []
    for block in [*blocks, *indented]:
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        if any(line.startswith("$ ") for line in lines):
            typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            shown = [line for line in lines if not line.startswith("$ ") and line != "..."]
        else:
            typed, shown = lines, []
        found.append(Fence(path.relative_to(root).as_posix(), tuple(map(without_comment, typed)), tuple(shown)))
    return found


def _blocks(text: str) -> tuple[list[str], str]:
    """What stands in fences without a language, and the page without any fence."""
    blocks: list[str] = []
    bare: list[str] = []
    language: str | None = None
    for line in text.splitlines(keepends=True):
        if line.startswith("```"):
            language = line.strip().removeprefix("```") if language is None else None
            if language == "":
                blocks.append("")
        elif language is None:
            bare.append(line)
        elif language == "":
            blocks[-1] += line
    return blocks, "".join(bare)


def without_comment(line: str) -> str:
    """A command line without the comment at its end."""
    return re.sub(r"\s+#\s.*$", "", line).strip()


def words(line: str) -> list[list[str]]:
    """The commands of a line, each as its words; what a command's output goes to is left out."""
    return [shlex.split(part) for part in _SHELL.split(_OUTPUT.sub("", line)) if part]


def inline(text: str) -> list[str]:
    """Commands of `cxr-ops` in code spans of Markdown: with options in brackets, `train` as VERB, `nih` as KIND."""
    spans = [" ".join(span.split()) for span in re.findall(r"`(cxr-ops [^`]+)`", text)]
    return [re.sub(r"[\[\]]", "", span).replace("stage VERB", "stage train").replace("KIND", "nih") for span in spans]


def messages(path: Path) -> list[str]:
    """Commands of `cxr-ops` that a source file tells people to type, with `X` for what is filled in at run time.

    Where a sentence tells one, it stands behind a colon, or the sentence begins with it; prose that names a command in
    passing is left out.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        else:
            continue
        found += re.findall(r"(?:^|: )(cxr-ops [a-z][^`;,()\n]*)", text)
    return [re.split(r"\s>\s|\. ", command.strip())[0].rstrip(".") for command in found]


def unknown(arguments: list[str]) -> str | None:
    """What is wrong with the words after `cxr-ops`, as the command line itself would say; None where nothing is."""
    if arguments and arguments[-1] in _AT_ONCE:  # these act when they are read, and nothing may follow them
        arguments = arguments[:-1]
        if is_name(arguments):  # help of a noun: without it the noun alone would be wrong
            return None
    if not arguments:
        return None
    try:
        _parse(ROOT, "cxr-ops", list(arguments), None)
    except ClickException as error:
        return error.format_message()
    return None


def is_name(arguments: list[str]) -> bool:
    """Whether words name a command and give it nothing, as prose does."""
    command = ROOT
    for word in arguments:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            return False
    return True


def _parse(command: Any, name: str, arguments: list[str], parent: Any) -> None:
    with command.make_context(name, arguments, parent=parent) as context:
        if hasattr(command, "commands"):
            rest = [*context._protected_args, *context.args]
            if not rest:
                return
            inner_name, inner, left = command.resolve_command(context, rest)
            _parse(inner, inner_name, left, context)
