"""Tests of cxr_ops.records.base."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cxr_ops.errors import DataError
from cxr_ops.records import base, inputs


def test_canonical_bytes_do_not_depend_on_the_order_of_keys() -> None:
    """Equal values give equal bytes, which JSON reads back, and NaN is refused."""
    assert base.canonical_json({"b": [1], "a": "ä"}) == base.canonical_json({"a": "ä", "b": [1]})
    assert json.loads(base.canonical_json({"a": 0.1})) == {"a": 0.1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        base.canonical_json({"a": float("nan")})


def test_tree_digest_sees_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    """Renaming or changing a file changes the digest of its folder; the order of creation does not."""
    for order, folder in ((("a", "b"), "one"), (("b", "a"), "two")):
        (tmp_path / folder).mkdir()
        for name in order:
            (tmp_path / folder / name).write_text(name)
    digest = base.tree_digest(tmp_path / "one")
    assert base.tree_digest(tmp_path / "two") == digest
    by_hand = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    assert digest == hashlib.sha256(base.canonical_json(by_hand)).hexdigest()
    (tmp_path / "two" / "b").rename(tmp_path / "two" / "c")
    assert base.tree_digest(tmp_path / "two") != digest


def test_record_that_was_altered_is_refused(tmp_path: Path) -> None:
    """A record with an unknown key, a missing key or no JSON is not read."""
    path = tmp_path / "inputs.json"
    record = inputs.LedgerState(entries=1, head="ab", looks=0)
    record.write(path)
    assert inputs.LedgerState.read(path) == record
    for text in ('{"entries": 1, "head": "ab", "looks": 0, "more": 1}', '{"entries": 1, "head": "ab"}', "{"):
        path.write_text(text)
        with pytest.raises(DataError, match="is not a LedgerState"):
            inputs.LedgerState.read(path)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        inputs.LedgerState.read(path)


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails before the rename leaves the file as it was, and nothing beside it."""
    path = tmp_path / "file"
    base.write_atomic(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        base.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
