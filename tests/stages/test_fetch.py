"""Fetching the NIH's archives: from a server of our own that breaks off, changes its mind and lies."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cxr_ops.edges import download
from cxr_ops.errors import DataError, StorageError
from cxr_ops.stages import fetch


def pack(names: list[str], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    """An archive as the NIH's are: images/NAME, gzipped."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for at, name in enumerate(names):
            member = tarfile.TarInfo(name)
            content = hashlib.sha256(name.encode()).digest() * 2000
            member.size, member.type = (len(content), kind) if kind == tarfile.REGTYPE else (0, kind)
            member.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            member.mtime = at
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


class Server(ThreadingHTTPServer):
    """Serves bytes by path; `breaks` answers break off after half of what is left, `refuses` answers say 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks = self.refuses = 0
        self.ranges, self.etag = True, '"one"'
        self.asked: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server, data = self.server, self.server.files.get(self.path)
        wanted = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
        server.asked.append(self.headers.get("Range", ""))
        if data is None:
            self.send_error(404)
            return
        if server.refuses:
            server.refuses -= 1
            self.send_error(503)
            return
        start = int(wanted[1]) if wanted and server.ranges and self.headers.get("If-Range") == server.etag else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", server.etag)
        self.end_headers()
        rest = data[start:]
        if server.breaks:
            server.breaks -= 1
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine, which no proxy stands before."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


@pytest.fixture
def archives(server: Server) -> list[fetch.Archive]:
    """Two archives of three pictures."""
    made = []
    for number in (1, 2):
        data = pack([f"images/{number:08d}_{k:03d}.png" for k in range(3)])
        server.files[f"/{number}.gz"] = data
        md5 = hashlib.md5(data).hexdigest()
        made.append(fetch.Archive(f"images_{number:03d}", server.url(f"/{number}.gz"), md5))
    return made


def run(out: Path, archives: list[fetch.Archive], **more: object) -> fetch.Fetched:
    return fetch.run(out, archives=archives, pause=lambda _: None, **more)


def test_archives_come_whole_over_a_line_that_breaks(
    server: Server, archives: list[fetch.Archive], tmp_path: Path
) -> None:
    """Broken answers and 503 are asked for again from where they stood; what is here is not asked for twice."""
    server.breaks, server.refuses = 5, 2
    seen: list[tuple[str, int, int]] = []
    done = run(tmp_path, archives, progress=lambda *told: seen.append(told))
    assert (done.archives, done.images, done.missing) == (2, 6, fetch.TABLES)
    content = (tmp_path / "images_002" / "images" / "00000002_001.png").read_bytes()
    assert content == hashlib.sha256(b"images/00000002_001.png").digest() * 2000
    assert sum(asked.startswith("bytes=") for asked in server.asked) == 5
    whole = len(server.files["/1.gz"])
    assert ("images_001", whole, whole) in seen
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images_001", "images_002"]
    asked = len(server.asked)
    (tmp_path / fetch.TABLES[0]).write_text("")
    again = run(tmp_path, archives)
    assert (again.archives, again.images, again.missing, len(server.asked)) == (0, 6, fetch.TABLES[1:], asked)
    assert f"cxr-ops ingest nih {tmp_path}" in str(again)


def test_what_came_is_kept_and_gone_on_with(server: Server, archives: list[fetch.Archive], tmp_path: Path) -> None:
    """After a server that gives nothing more, the same command later asks for the rest alone."""
    server.breaks = 1
    server.refuses = 0
    with pytest.raises(StorageError, match="broke off 1 times without a byte") as caught:
        server_breaks_then_refuses(server, archives, tmp_path)
    assert "bytes are here, and it goes on from there" in str(caught.value)
    half = (tmp_path / "images_001.tar.gz.part").stat().st_size
    server.refuses = 0
    run(tmp_path, archives, parts=[1])
    assert server.asked[-1] == f"bytes={half}-"


def server_breaks_then_refuses(server: Server, archives: list[fetch.Archive], out: Path) -> None:
    def refuse(_: float) -> None:
        server.refuses = 9

    fetch.run(out, archives=archives, parts=[1], attempts=1, pause=refuse)


def test_a_file_that_changed_and_a_server_without_ranges_send_all(
    server: Server, archives: list[fetch.Archive], tmp_path: Path
) -> None:
    """What an earlier file left is not joined to another one's rest."""
    part = tmp_path / "images_001.tar.gz.part"
    part.write_bytes(b"another file's beginning")
    part.with_name("images_001.tar.gz.etag").write_text('"zero"')
    assert run(tmp_path, archives, parts=[1]).images == 3
    server.ranges, server.breaks = False, 2
    assert run(tmp_path, archives, parts=[2]).images == 6


def test_a_wrong_sum_is_thrown_away(server: Server, archives: list[fetch.Archive], tmp_path: Path) -> None:
    """Bytes that are not the publisher's never stand under the archive's name, and are not gone on with."""
    server.files["/1.gz"] = server.files["/1.gz"][:-9] + b"different"
    with pytest.raises(DataError, match="it was altered on the way, or at its source"):
        run(tmp_path, archives)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_told_at_once(server: Server, archives: list[fetch.Archive], tmp_path: Path) -> None:
    """An address that is gone, a part that there is not, and a full disk are no cause to try again."""
    del server.files["/1.gz"]
    with pytest.raises(StorageError, match="the server refuses: 404"):
        run(tmp_path, archives)
    assert len(server.asked) == 1
    with pytest.raises(DataError, match="there is no part 3: there are 1 to 2"):
        run(tmp_path, archives, parts=[3])
    with pytest.raises(StorageError, match=r"too little disk: 1\.0 GiB are free"):
        run(tmp_path, archives, free_bytes=lambda _: 2**30)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pack(["images/../../evil.sh"]), "which is no picture"),
        (pack(["images/00000001_000.png"], kind=tarfile.SYMTYPE), "which is no picture"),
        (pack(["images/00000001_000.png", "x/00000001_000.png"]), "holds a name twice"),
        (pack(["images/00000001_000.png"])[:-40], "the archive is damaged"),
    ],
    ids=["leads out", "link", "twice", "cut"],
)
def test_what_an_archive_must_not_hold(tmp_path: Path, data: bytes, why: str) -> None:
    """A path that leads out, a link, a name twice and a cut end leave no folder of images."""
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(DataError, match=why):
        fetch.unpack(tmp_path / "a.tar.gz", tmp_path / "images_001")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_the_list_of_archives_is_sound() -> None:
    """Twelve archives, each with an address of its own and a sum of its own."""
    assert [one.name for one in fetch.ARCHIVES] == [f"images_{number:03d}" for number in range(1, 13)]
    assert len({one.url for one in fetch.ARCHIVES}) == len({one.md5 for one in fetch.ARCHIVES}) == 12
    assert all(re.fullmatch("[0-9a-f]{32}", one.md5) for one in fetch.ARCHIVES)


def test_a_file_that_is_here_is_checked(tmp_path: Path) -> None:
    """A file under the final name is taken where its sum is right, and never written over."""
    path = tmp_path / "a"
    path.write_bytes(b"x")
    assert not download.download("http://127.0.0.1:1/a", path, md5=hashlib.md5(b"x").hexdigest())
    with pytest.raises(DataError, match="is here with another checksum"):
        download.download("http://127.0.0.1:1/a", path, md5="0" * 32)
