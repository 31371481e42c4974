"""The tables of docs/your-data.md: what they say of labels and kinds is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxr_ops.data.sources import chexpert, padchest, registry, vindr
from cxr_ops.labels import FINDINGS


@pytest.fixture(scope="module")
def tables(project: Path) -> dict[str, dict[str, list[str]]]:
    """By the header of its first column, the other cells of each row by the first one."""
    text = (project / "docs" / "your-data.md").read_text(encoding="utf-8")
    found = {}
    for block in re.findall(r"(?m)(?:^\|.*\|\n)+", text):
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        found[header[0]] = {name: cells for name, *cells in rows}
    return found


def test_every_kind_is_told(tables: dict[str, dict[str, list[str]]]) -> None:
    """The table of kinds names each that `ingest` takes."""
    assert {kind.strip("` ") for row in tables["kind"] for kind in row.split(",")} == set(registry.SOURCES)


def test_labels_of_chexpert_and_mimic(tables: dict[str, dict[str, list[str]]]) -> None:
    """What becomes of each label of the labeller, and which findings it does not know, is as told."""
    told = tables["theirs"]
    renamed = {theirs: ours for theirs, ours in chexpert.COUNTERPARTS.items() if theirs != ours}
    by_answer = {cells[0]: theirs for theirs, cells in told.items()}
    same = set(by_answer["the same"].split(", "))
    assert same == set(chexpert.COUNTERPARTS) - set(renamed)
    assert {theirs: told[theirs][0] for theirs in renamed} == renamed
    assert tuple(by_answer["dropped, and counted"].split(", ")) == chexpert.WITHOUT
    missing = told["nothing"][0].removesuffix(": missing").split(", ")
    assert missing == [finding for finding in FINDINGS if finding not in chexpert.COUNTERPARTS.values()]


def test_labels_of_padchest(tables: dict[str, dict[str, list[str]]]) -> None:
    """The names that stand for a finding are the told ones: whole, or with one of the words that are told beside."""
    for finding in FINDINGS:
        names, _, words = tables["finding"][finding][0].partition(", with ")
        whole = names.split(", ")
        told = {*whole, *(f"{word} {whole[0]}" for word in words.split(", ")), *(f"{whole[0]} {words[-5:]}",)}
        known = {name for name, ours in padchest.LABELS.items() if ours == finding}
        assert known <= told, finding
        assert len(known) == len(whole) + len(list(filter(None, words.split(", ")))), finding


def test_labels_of_vindr(tables: dict[str, dict[str, list[str]]]) -> None:
    """A finding has the class that is told; those of PhysioNet's alone are told as such, and all others are empty."""
    theirs = {ours: name for name, ours in vindr.CLASSES.items()}
    theirs |= dict.fromkeys(vindr.PHYSIONET.values(), "PhysioNet's boxes")
    theirs["Pneumonia"] = "PhysioNet's image labels"
    assert {finding: cells[1] for finding, cells in tables["finding"].items()} == {
        finding: theirs.get(finding, "") for finding in FINDINGS
    }
