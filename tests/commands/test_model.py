"""`cxr-ops model` and `cxr-ops keys`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished import RUN
from typer.testing import CliRunner

from cxr_ops.commands import app as command
from cxr_ops.edges.home import Home
from cxr_ops.errors import CxrError, RefusedError, StorageError


def test_model_is_fetched_and_checked_by_anybody_with_the_public_key(
    champion: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model fetch champion` leaves a directory that `model verify` accepts here, and elsewhere with `--key`."""
    monkeypatch.setenv("CXR_HOME", str(champion.root))
    monkeypatch.setenv("CXR_PROJECT", str(champion.project))

    def cxr(*arguments: str) -> str:
        done = CliRunner().invoke(command.app, list(arguments))
        if isinstance(done.exception, CxrError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    folder = tmp_path / "model"
    said = cxr("model", "fetch", "champion", str(folder))
    assert "nothing about who" in said
    assert f"on the ledger: {RUN['first']}" in said
    assert "claims plan: name demonstration" in said
    assert json.loads(cxr("model", "verify", str(folder), "--json"))["installation_key"] is True
    assert "of this installation" in cxr("keys", "show")

    key = tmp_path / "mine.pem"
    assert "mode 0600" in cxr("keys", "make", str(key))
    with pytest.raises(RefusedError, match="not believed here"):
        cxr("model", "verify", str(folder), "--key", f"{key}.pub")
    with pytest.raises(StorageError, match="cannot be read"):
        cxr("model", "verify", str(folder), "--key", str(tmp_path / "none"))
    public = champion.root / "keys" / "installation.pem.pub"
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "elsewhere"))
    assert "is what was signed" in cxr("model", "verify", str(folder), "--key", str(public))
    (folder / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(RefusedError, match="MLmodel was changed"):
        cxr("model", "verify", str(folder), "--key", str(public))
