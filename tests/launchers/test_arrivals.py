"""The trigger that watches an incoming folder, or a prefix of a bucket on a real S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow_runs import Apart
from services import S3Server

pytestmark = pytest.mark.airflow

WATCH = "watching.watch"


def deliver(folder: Path, *, ready: str | None = "", files: int = 2) -> Path:
    """A delivery of some files, and its READY."""
    (folder / "images").mkdir(parents=True)
    for number in range(files):
        (folder / "images" / f"{number}.png").write_bytes(b"pixels %d" % number)
    if ready is not None:
        (folder / "READY").write_text(ready)
    return folder


def sums(folder: Path) -> str:
    """What `sha256sum` prints of a delivery's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "READY")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}\n" for path in files]
    return "".join(lines)


def seen(airflow: Apart, where: Path | str, *, seconds: float = 0.6, **more: Any) -> list[dict[str, str]]:
    pace = (more.get("poll", 0.1), more.get("queue", ""))
    said = airflow.call(
        WATCH, str(where), more.get("environ", {}), seconds, more.get("taken", []), more.get("steps"), *pace
    )
    assert isinstance(said, list), said
    return said


def test_what_is_ready_is_announced_once(airflow: Apart, tmp_path: Path) -> None:
    """Folders with READY are announced under a legal batch name; what has none, is hidden or is a link is not."""
    deliver(tmp_path / "March_2026")
    deliver(tmp_path / "unfinished", ready=None)
    deliver(tmp_path / ".hidden")
    (tmp_path / "READY").touch()
    (tmp_path / "linked").symlink_to(deliver(tmp_path.parent / "elsewhere"))
    [said] = seen(airflow, tmp_path)
    assert (said["path"], said["batch"]) == (str(tmp_path / "March_2026"), "march-2026")


def test_an_odd_delivery_keeps_no_other_waiting(airflow: Apart, tmp_path: Path) -> None:
    """A READY that is a folder, a link to itself or a pipe, and a name that is no text, are passed over."""
    for name in ("folder", "loop", "pipe"):
        deliver(tmp_path / name, ready=None)
    (tmp_path / "folder" / "READY").mkdir()
    (tmp_path / "loop" / "READY").symlink_to("READY")
    os.mkfifo(tmp_path / "pipe" / "READY")
    deliver(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    deliver(tmp_path / "good")
    [said] = seen(airflow, tmp_path)
    assert said["batch"] == "good"


def test_a_folder_that_moves_waits(airflow: Apart, tmp_path: Path) -> None:
    """While files still arrive in a folder whose READY came first, it is not announced; afterwards it is, once."""
    folder = deliver(tmp_path / "first")
    steps = [[0.08, str(folder / "images" / f"{number}.png"), "late"] for number in range(10, 22)]
    assert seen(airflow, tmp_path, steps=steps, seconds=0.0) == []
    assert len(seen(airflow, tmp_path, steps=steps[:3])) == 1


def test_what_ready_names_must_be_there(airflow: Apart, tmp_path: Path) -> None:
    """A READY with checksums holds a delivery back until every file that it names has arrived."""
    folder = deliver(tmp_path / "first")
    (folder / "READY").write_text(sums(folder) + f"{'0f' * 32}  late.csv\n")
    assert seen(airflow, tmp_path) == []
    (folder / "late.csv").touch()
    assert [one["batch"] for one in seen(airflow, tmp_path)] == ["first"]


def test_a_ready_that_cannot_be_read_is_announced(airflow: Apart, tmp_path: Path) -> None:
    """A READY whose lines are no checksums is for ingestion to refuse: somebody is told, and nothing waits for ever."""
    deliver(tmp_path / "first", ready="done!\n")
    assert [one["batch"] for one in seen(airflow, tmp_path)] == ["first"]


def test_what_was_taken_is_not_announced_again(airflow: Apart, tmp_path: Path) -> None:
    """After a restart, what is written down as taken stays quiet, and what is not is announced again."""
    deliver(tmp_path / "first")
    deliver(tmp_path / "second")
    first, second = seen(airflow, tmp_path)
    assert seen(airflow, tmp_path, taken=[first["key"]]) == [second]


def test_a_mended_delivery_is_another(airflow: Apart, tmp_path: Path) -> None:
    """READY written anew makes another delivery of the folder; a file that changes beside an old READY does not."""
    folder = deliver(tmp_path / "first")
    [before] = seen(airflow, tmp_path)
    (folder / "images" / "0.png").write_bytes(b"mended")
    assert seen(airflow, tmp_path, taken=[before["key"]]) == []
    os.utime(folder / "READY", ns=(1, 1))
    [after] = seen(airflow, tmp_path, taken=[before["key"]])
    assert after["key"] != before["key"]
    (folder / "READY").write_text(sums(folder))
    os.utime(folder / "READY", ns=(1, 1))  # a copy that keeps the time
    [named] = seen(airflow, tmp_path, taken=[before["key"], after["key"]])
    assert named["path"] == str(folder)


def test_a_folder_that_is_away_is_waited_for(airflow: Apart, tmp_path: Path) -> None:
    """Where the incoming folder is not mounted the trigger lives on, and sees what arrives when it is."""
    where = tmp_path / "mount"
    said = seen(airflow, where, steps=[[0.3, str(where / "first" / "READY"), ""]])
    assert [one["batch"] for one in said] == ["first"]


def test_what_is_no_place_is_refused(airflow: Apart) -> None:
    """A relative folder and another store are refused with what to write."""
    for wrong in ("incoming", "gs://bucket/prefix", "s3://"):
        kind, message = airflow.call("cxr_ops.launchers.arrivals.place_of", wrong)
        assert kind == "ValueError"
        assert "s3://bucket/prefix" in message


def test_the_triggerer_can_make_it_anew(airflow: Apart) -> None:
    """Class and arguments are what a triggerer needs to make the same trigger in another process."""
    path, arguments, where = airflow.call("watching.rebuilt", "/srv/incoming")
    assert path == "cxr_ops.launchers.arrivals.BatchTrigger"
    assert arguments == {"where": "/srv/incoming", "poll_seconds": 7.0}
    assert where == "/srv/incoming"


def test_each_delivery_starts_one_run(airflow: Apart) -> None:
    """Two events of one delivery start one run, whose id holds the key; events of other senders start none."""
    first = {"path": "/in/a", "batch": "a", "key": "0f"}
    second = {"path": "/in/b", "batch": "b", "key": "1e"}
    assert airflow.call("watching.arguments_of", [first, second, first, None]) == [
        {"trigger_run_id": "arrival__a__0f", "conf": {"path": "/in/a", "batch": "a"}},
        {"trigger_run_id": "arrival__b__1e", "conf": {"path": "/in/b", "batch": "b"}},
    ]


def test_what_started_a_run_is_marked_by_its_key(airflow: Apart) -> None:
    """What is written down is what the trigger asks for: the key of each delivery, with its run and its place."""
    first = {"path": "/in/a", "batch": "a", "key": "0f"}
    marked = airflow.call("watching.marked", [first, {"path": "/in/b", "batch": "b", "key": "1e"}])
    assert list(marked) == ["0f", "1e"]
    assert marked["0f"] == {"run_id": "arrival__a__0f", "path": "/in/a"}


def test_a_bucket_is_watched_alike(airflow: Apart, tmp_path: Path, s3_server: S3Server) -> None:
    """Under a prefix of a bucket whole deliveries are announced, mended ones anew, and what is named is waited for."""
    client, bucket = s3_server.client(), s3_server.make_bucket()
    folder = deliver(tmp_path / "first")

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"new/{name}", Body=data)

    for path in (folder / "images").iterdir():
        put(f"First_1/images/{path.name}", path.read_bytes())
    put("no-end/images/0.png", b"pixels")
    put(".hidden/READY", b"")
    where, environ = f"s3://{bucket}/new/", s3_server.environ
    assert seen(airflow, where, environ=environ, seconds=1.5) == []
    put("First_1/READY", (sums(folder) + f"{'0f' * 32}  late.csv\n").encode())
    assert seen(airflow, where, environ=environ, seconds=1.5) == []
    put("First_1/late.csv", b"")
    [said] = seen(airflow, where, environ=environ, seconds=10)
    assert (said["path"], said["batch"]) == (f"s3://{bucket}/new/First_1", "first-1")
    put("First_1/READY", sums(folder).encode())
    [mended] = seen(airflow, where, environ=environ, seconds=10, taken=[said["key"]])
    assert mended["key"] != said["key"]


def test_a_server_that_is_away_is_waited_for(airflow: Apart) -> None:
    """An S3 server that does not answer is what a folder that cannot be read is, so the trigger lives on."""
    environ = {"CXR_S3_ENDPOINT": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    environ["AWS_DEFAULT_REGION"] = "us-east-1"
    kind, message = airflow.call("watching.looked", "s3://cxr-incoming/new", environ)
    assert kind == "OSError"
    assert "the bucket cannot be read" in message


class FakeQueue(BaseHTTPRequestHandler):
    """Three requests of SQS over HTTP, as boto3 sends them. It is a fake: no server of SQS that is real can be had."""

    waiting: list[str]
    asked: list[str]

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        what = self.headers["X-Amz-Target"].removeprefix("AmazonSQS.")
        self.asked.append(what)
        answer: dict[str, Any] = {}
        if what == "ReceiveMessage":
            until = time.monotonic() + said["WaitTimeSeconds"]
            while not self.waiting and time.monotonic() < until:
                time.sleep(0.05)
            told = self.waiting[: said["MaxNumberOfMessages"]]
            answer["Messages"] = [{"MessageId": one, "ReceiptHandle": one, "Body": "{}"} for one in told]
        elif what == "DeleteMessageBatch":
            for one in said["Entries"]:
                self.waiting.remove(one["ReceiptHandle"])
            answer = {"Successful": [{"Id": one["Id"]} for one in said["Entries"]], "Failed": []}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def queue() -> Iterator[tuple[str, type[FakeQueue]]]:
    """The address of a queue, and what is in it."""
    handler = type("Queue", (FakeQueue,), {"waiting": [], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/000000000000/arrivals", handler
    server.shutdown()
    server.server_close()


AWS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu-central-1"}


def test_a_message_wakes_it_and_the_listing_is_the_truth(
    airflow: Apart, tmp_path: Path, queue: tuple[str, type[FakeQueue]]
) -> None:
    """With ten minutes between two looks a message brings the delivery at once; all messages are taken out, and what
    they say does not matter."""
    url, held = queue
    deliver(tmp_path / "first")
    held.waiting += [f"message {number}" for number in range(13)]
    [said] = seen(airflow, tmp_path, environ=AWS, poll=600, queue=url, seconds=60)
    assert said["batch"] == "first"
    assert held.waiting == []
    assert held.asked[:5] == ["ReceiveMessage", "DeleteMessageBatch"] * 2 + ["ReceiveMessage"]


def test_a_queue_that_is_away_delays_nothing(airflow: Apart, tmp_path: Path) -> None:
    """Where the queue does not answer, the trigger looks as often as without it."""
    deliver(tmp_path / "first")
    [said] = seen(airflow, tmp_path, environ=AWS, poll=1.2, queue="http://127.0.0.1:9/0/arrivals", seconds=60)
    assert said["batch"] == "first"


def test_what_is_no_queue_is_refused(airflow: Apart) -> None:
    """A name, an ARN and an address without a path are refused with what to write."""
    for wrong in ("arrivals", "arn:aws:sqs:eu-central-1:0:arrivals", "https://sqs.eu-central-1.amazonaws.com"):
        kind, message = airflow.call("cxr_ops.launchers.arrivals.Queue", wrong)
        assert (kind, "https://sqs" in message) == ("ValueError", True)
