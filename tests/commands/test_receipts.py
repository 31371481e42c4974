"""`cxr-ops receipts`, as a person types it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxr_ops.commands import app as command
from cxr_ops.data import receipts
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import CxrError, DataError, SettingsError


def test_log_is_checked_against_the_ledger(champion: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`receipts verify` believes receipts of models that were decided on, and `find` names what answered a picture."""
    monkeypatch.setenv("CXR_HOME", str(champion.root))
    monkeypatch.setenv("CXR_PROJECT", str(champion.project))

    def cxr(*arguments: str) -> str:
        done = CliRunner().invoke(command.app, ["receipts", *arguments])
        if isinstance(done.exception, CxrError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    with pytest.raises(SettingsError, match="no log"):
        cxr("verify")
    entry = open_ledger(champion).champion()
    served = receipts.Served(
        model=entry.promotion.package, preprocessing="b" * 64, operating_points=None, ledger_entry=entry.digest()
    )
    log, picture = tmp_path / "receipts.jsonl", tmp_path / "a.png"
    monkeypatch.setenv("CXR_RECEIPTS", str(log))
    picture.write_bytes(b"picture")
    receipts.append(log, [served.receipt(b"picture", {"Mass": 0.5})])
    assert "1 receipts of 1 models, chain whole" in cxr("verify")
    assert json.loads(cxr("verify", "--json"))["head"] == receipts.read(log).head
    assert entry.digest() in cxr("find", str(picture))
    picture.write_bytes(b"another")
    with pytest.raises(DataError, match="no receipt is about this file"):
        cxr("find", str(picture))
    for strange, why in (
        (replace(served, ledger_entry=open_ledger(champion).entries()[0].digest()), "not about its model"),
        (replace(served, model="0" * 64), "never decided on"),
    ):
        other = tmp_path / f"{why[:3]}.jsonl"
        receipts.append(other, [served.receipt(b"1", {}), strange.receipt(b"2", {})])
        with pytest.raises(DataError, match=f"receipt 2 .*{why}"):
            cxr("verify", "--log", str(other))
