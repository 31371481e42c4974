"""What `make setup` tells the tools that it starts, and what it says when they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
# Answers for Python 3.11 up to the making of the environment, in which uv is the second script.
PYTHON = """#!/bin/sh
[ "$2" != venv ] || { mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "${0%/*}/uv" .venv/bin/uv; }
"""
UV = """#!/bin/sh
echo "certs=$UV_SYSTEM_CERTS file=$SSL_CERT_FILE"
echo 'invalid peer certificate: UnknownIssuer' >&2
exit 2
"""


def setup(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `make setup` where the network's firewall opens TLS with a root that uv does not know."""
    for name in ("Makefile", "pyproject.toml", "requirements"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, folder / name)
    tools = folder / "tools"
    tools.mkdir()
    for name, text in (("python3.11", PYTHON), ("uv", UV)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    names = ("UV_SYSTEM_CERTS", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "MAKEFLAGS", "MAKEOVERRIDES")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    command = ["make", "setup", f"PYTHON={tools / 'python3.11'}"]
    return subprocess.run(command, cwd=folder, env=kept | environ, capture_output=True, text=True)


def test_error_of_the_installer_is_told_with_what_to_set(tmp_path: Path) -> None:
    """A certificate that uv does not know ends `make setup` with what to type, and nothing counts as installed."""
    done = setup(tmp_path)
    assert done.returncode != 0
    assert "UnknownIssuer" in done.stderr
    assert "make setup SSL_CERT_FILE=/path/to/the/roots.pem" in done.stderr
    assert not (tmp_path / ".venv" / ".ready").exists()


@pytest.mark.skipif(not any(Path("/etc/ssl/certs").glob("*")), reason="the system has no store of certificates")
def test_the_systems_certificates_are_used(tmp_path: Path) -> None:
    """uv is told to trust what the system trusts, unless the caller says otherwise."""
    assert "certs=true file=\n" in setup(tmp_path).stdout


def test_certificates_of_the_caller_are_handed_on(tmp_path: Path) -> None:
    """The caller's word on uv's switch holds, and the roots that pip was given are uv's as well."""
    roots = tmp_path / "roots.pem"
    roots.touch()
    said = setup(tmp_path, UV_SYSTEM_CERTS="false", PIP_CERT=str(roots)).stdout
    assert f"certs=false file={roots}\n" in said
