"""Notices by connections of Airflow, to real servers that keep what they are told."""

from __future__ import annotations

import base64
import json
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from airflow_runs import Apart
from services import Recorder

pytestmark = pytest.mark.airflow

with warnings.catch_warnings():
    # the standard library's own mail server, which is there in the only Python that this project runs on
    warnings.simplefilter("ignore", DeprecationWarning)
    import asyncore
    import smtpd

SEND = "airflow_runs.send_notice"
TEXT = "cxr-ops: REJECT (run r-1)\nhttp://a/dags/d"


def sent(airflow: Apart, connection: str) -> Any:
    """Send a notice by a connection; None, or the error's class and words."""
    return airflow.call(SEND, {"AIRFLOW_CONN_CHAT": connection}, "chat")


def test_a_webhook_gets_the_notice_as_json(airflow: Apart, recorder: Recorder) -> None:
    """A program is told the event, the run and where to look; the connection's extra gives headers."""
    assert sent(airflow, recorder.connection("/hooks/1", extra={"X-Team": "imaging"})) is None
    [(path, headers, body)] = recorder.posts
    assert (path, headers["X-Team"], headers["Content-Type"]) == ("/hooks/1", "imaging", "application/json")
    assert body == {"text": TEXT, "event": "verdict", "run": "manual__1", "url": "http://a/dags/d"}


@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        ({"login": "cxr", "password": "pw"}, f"Basic {base64.b64encode(b'cxr:pw').decode()}"),
        ({"password": "token"}, "Bearer token"),
    ],
)
def test_a_webhook_is_given_its_secret(airflow: Apart, recorder: Recorder, secrets: dict[str, str], says: str) -> None:
    """Login and password go as basic authentication, a password alone as a bearer token."""
    assert sent(airflow, recorder.connection(**secrets)) is None
    assert recorder.posts[0][1]["Authorization"] == says


def test_an_address_may_be_a_connections_uri(airflow: Apart, recorder: Recorder) -> None:
    """A connection that is written as an address posts to that address."""
    assert sent(airflow, f"{recorder.address}/hooks/2") is None
    assert recorder.posts[0][0] == "/hooks/2"


def test_slack_gets_a_text_alone(airflow: Apart, recorder: Recorder) -> None:
    """Slack and what speaks like it are told a text, at an address that ends with the password."""
    assert sent(airflow, recorder.connection("/services", conn_type="slackwebhook", password="T0/B0/x")) is None
    assert [(path, body) for path, _, body in recorder.posts] == [("/services/T0/B0/x", {"text": TEXT})]


def test_what_may_pass_is_tried_again(airflow: Apart, recorder: Recorder) -> None:
    """A server that is overloaded is asked three times."""
    recorder.answers = [503, 429]
    assert sent(airflow, recorder.connection()) is None
    assert len(recorder.posts) == 3


@pytest.mark.parametrize(
    ("answers", "posts", "says"),
    [([403], 1, "answers 403"), ([302], 1, "answers 302"), ([500, 500, 500], 3, "answers 500")],
)
def test_a_refusal_is_told_without_the_address(
    airflow: Apart, recorder: Recorder, answers: list[int], posts: int, says: str
) -> None:
    """A refusal, a move elsewhere and a server that stays broken are errors, which hold no part of the address."""
    recorder.answers = answers
    kind, message = sent(airflow, recorder.connection("/hooks/secret-1f", password="secret-2e"))
    assert (kind, len(recorder.posts)) == ("NotSentError", posts)
    assert says in message
    assert "secret" not in message
    assert "hooks" not in message


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        ('{"conn_type": "http", "host": "http://127.0.0.1:9/secret"}', "does not answer (ConnectionRefusedError)"),
        ('{"conn_type": "http", "host": "file:///etc/secret"}', "does not begin with https://"),
        ('{"conn_type": "ftp", "host": "secret"}', "make it one of http, https, slackwebhook, smtp"),
        ('{"conn_type": "smtp", "host": "secret"}', "from_email"),
        ('{"conn_type": "http", "host": "http://secret host/"}', "of no use (InvalidURL)"),
    ],
)
def test_a_connection_that_is_of_no_use_says_why(airflow: Apart, connection: str, says: str) -> None:
    """A server that is away, another scheme, another type and a mail to nobody are errors that say what to do."""
    kind, message = sent(airflow, connection)
    assert kind == "NotSentError"
    assert says in message
    assert "secret" not in message


def test_a_connection_that_is_missing_is_named(airflow: Apart) -> None:
    """Where there is no such connection, the error says how to make it."""
    kind, message = airflow.call(SEND, {}, "nobody")
    assert kind == "NotSentError"
    assert "airflow connections add nobody" in message


class Mail(smtpd.SMTPServer):
    """A mail server that keeps what it is given."""

    def __init__(self) -> None:
        self.channels: dict[int, Any] = {}
        super().__init__(("127.0.0.1", 0), None, map=self.channels)
        self.got: list[tuple[str, list[str], str]] = []

    def handle_accepted(self, conn: Any, addr: Any) -> None:
        self.channel_class(self, conn, addr, self.data_size_limit, self.channels)

    def process_message(self, peer: Any, mailfrom: str, rcpttos: list[str], data: bytes, **_: Any) -> None:
        self.got.append((mailfrom, rcpttos, data.decode()))


@pytest.fixture
def mail() -> Iterator[Mail]:
    server, over = Mail(), threading.Event()

    def serve() -> None:
        while not over.is_set():
            asyncore.loop(timeout=0.05, map=server.channels, count=1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server
    over.set()
    thread.join()
    asyncore.close_all(server.channels)


def test_a_mail_goes_to_the_people_of_the_connection(airflow: Apart, mail: Mail) -> None:
    """A mail server is given subject and text, from and to whom the connection's extra names."""
    extra = {"from_email": "cxr@example.org", "to": "a@example.org, b@example.org"}
    off = {"disable_ssl": "true", "disable_tls": "true"}
    port = mail.socket.getsockname()[1]
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra | off}
    assert sent(airflow, json.dumps(connection)) is None
    [(sender, people, text)] = mail.got
    assert (sender, people) == ("cxr@example.org", ["a@example.org", "b@example.org"])
    assert "Subject: cxr-ops: REJECT (run r-1)" in text
    assert "http://a/dags/d" in text


def test_mail_is_not_sent_in_the_clear(airflow: Apart, mail: Mail) -> None:
    """Where the server offers no TLS and nobody switched it off, nothing is sent."""
    extra = {"from_email": "cxr@example.org", "to": "a@example.org", "disable_ssl": "true"}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": mail.socket.getsockname()[1], "extra": extra}
    kind, message = sent(airflow, json.dumps(connection))
    assert kind == "NotSentError"
    assert "did not take it (SMTPNotSupportedError)" in message
    assert not mail.got
