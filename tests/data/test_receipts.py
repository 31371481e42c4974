"""The log of receipts: its chain, crashes, and many writers at once."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ops.data import receipts

SERVED = receipts.Served(model="a" * 64, preprocessing="b" * 64, operating_points=None, ledger_entry="c" * 64)


def receipt(number: int) -> dict:
    return SERVED.receipt(b"%d" % number, {"Mass": 0.25, "Hernia": None})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "receipts.jsonl"
    for number in range(3):
        receipts.append(path, [receipt(2 * number), receipt(2 * number + 1)])
    return path


def test_each_line_names_the_one_before(log: Path) -> None:
    """`sha256sum` of each line without its end is what the next names, nobody else may read the file, and nothing of
    the picture or answer but digests is in it."""
    lines = log.read_bytes().splitlines()
    for before, line in itertools.pairwise(lines):
        assert json.loads(line)["prev"] == hashlib.sha256(before).hexdigest()
    found = receipts.read(log)
    assert [one["input"] for one in found.receipts] == [hashlib.sha256(b"%d" % n).hexdigest() for n in range(6)]
    assert (found.head, found.cut) == (hashlib.sha256(lines[-1]).hexdigest(), ())
    assert log.stat().st_mode & 0o077 == 0
    assert b"0.25" not in log.read_bytes()


@pytest.mark.parametrize("attack", ["altered", "removed", "put in", "swapped", "made a cut line"])
def test_a_changed_log_is_told(log: Path, attack: str) -> None:
    """A receipt that was altered, removed, put in, moved or made to look cut off breaks the chain behind it."""
    lines = log.read_bytes().splitlines(keepends=True)
    changed = {
        "altered": [*lines[:2], lines[2].replace(b'"model":"a', b'"model":"d'), *lines[3:]],
        "removed": [*lines[:2], *lines[3:]],
        "put in": [*lines[:2], lines[1], *lines[2:]],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "made a cut line": [*lines[:2], lines[2][:90] + b"\n", *lines[3:]],
    }
    log.write_bytes(b"".join(changed[attack]))
    with pytest.raises(ValueError, match="does not name the line before"):
        receipts.read(log)


@pytest.mark.parametrize("kept", [1, 9, 300, -1])
def test_a_line_that_a_crash_cut_off_is_passed_over(log: Path, kept: int) -> None:
    """After a crash within a line the next receipt stands on a line of its own, and the log is whole; a line that lacks
    its end alone counts."""
    last = log.read_bytes().splitlines(keepends=True)[-1]
    log.write_bytes(log.read_bytes()[: -len(last)] + last[:kept])
    assert len(receipts.read(log).receipts) == 5 + (kept == -1)
    receipts.append(log, [receipt(9)])
    found = receipts.read(log)
    assert len(found.receipts) == 6 + (kept == -1)
    assert found.cut == (() if kept == -1 else (6,))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"what is this", "no receipt"),
        (b'{"format": 9}', "take a newer one"),
        (b'{"format": 1}', "answer, at, input"),
        (b"", "empty"),
        (b"{" + b" " * 5000 + b"}", "more than 4096"),
    ],
)
def test_a_line_that_is_no_receipt_is_named(log: Path, line: bytes, why: str) -> None:
    """What was written by somebody else, or by a newer version, is refused by its line."""
    log.write_bytes(log.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match=why):
        receipts.read(log)


def test_processes_append_in_turn(tmp_path: Path) -> None:
    """Four processes that add 50 receipts each at once lose none, and leave one chain."""
    code = (
        "import sys; from pathlib import Path; from cxr_ops.data import receipts\n"
        "served = receipts.Served(model='a' * 64, preprocessing='b' * 64, operating_points=None)\n"
        "for n in range(50): receipts.append(Path(sys.argv[1]), [served.receipt(b'%d' % n, {})])"
    )
    path = tmp_path / "receipts.jsonl"
    started = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [one.wait() for one in started] == [0] * 4
    assert len(receipts.read(path).receipts) == 200
