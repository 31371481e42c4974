"""What a process may still do after it gave its rights away; each is tried in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ops.model.apart import confine

pytestmark = pytest.mark.skipif(confine.version() == 0, reason="this kernel has no Landlock")

TRIES = """
import os, signal, socket, subprocess, sys
from pathlib import Path
from cxr_ops.model.apart.confine import confine
readable, writable, other, port, outsider = sys.argv[1:]
assert confine(readable=[Path(readable), Path(readable, "missing")], writable=[Path(writable)])
def attempt(name, work):
    try:
        work()
    except OSError as error:
        print(name, type(error).__name__)
    else:
        print(name, "done")
attempt("read", lambda: Path(readable, "file").read_text())
attempt("write beside what is read", lambda: Path(readable, "new").write_text(""))
attempt("write", lambda: Path(writable, "new").write_text(""))
attempt("read another", lambda: Path(other, "file").read_text())
attempt("list another", lambda: os.listdir(other))
attempt("list its parent", lambda: os.listdir(Path(readable).parent))
attempt("write another", lambda: Path(other, "new").write_text(""))
attempt("look at the parent", lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes())
attempt("its memory", lambda: open(f"/proc/{os.getppid()}/mem", "rb"))
attempt("run", lambda: subprocess.run(["/bin/true"]))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", int(port)), 5))
attempt("signal", lambda: os.kill(int(outsider), 0))
"""


def test_what_is_not_named_is_out_of_reach(tmp_path: Path) -> None:
    """Files that are not named, programs, the memory and environment of others, TCP and signals are refused."""
    for name in ("readable", "writable", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    folders = [str(tmp_path / name) for name in ("readable", "writable", "other")]
    with socket.create_server(("127.0.0.1", 0)) as server, subprocess.Popen(["sleep", "60"]) as outsider:
        port = str(server.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", TRIES, *folders, port, str(outsider.pid)], capture_output=True, text=True
        )
        outsider.kill()
    found = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert found.pop("read") == found.pop("write") == "done", done.stderr
    if confine.version() < 6:
        found.pop("signal")
    if confine.version() < 4:
        found.pop("connect")
    assert len(found) >= 8
    assert set(found.values()) == {"PermissionError"}, found


def test_without_landlock_nothing_is_done_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel without it the answer is False, and this process keeps its rights."""
    monkeypatch.setattr(confine, "version", lambda: 0)
    assert confine.confine(readable=[], writable=[]) is False
    assert Path(__file__).read_text()
