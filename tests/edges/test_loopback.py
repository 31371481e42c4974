"""What talks to this machine itself goes to no proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cxr_ops.edges import loopback
from cxr_ops.edges.airflow.client import Api

DEAD = "http://127.0.0.1:9"  # nobody listens there
# Each library that a child of ours asks with: Airflow's tasks, MLflow, boto3, the standard library.
ASK = """
import sys, urllib.request
import httpx, requests
from botocore.utils import get_environ_proxies
url = sys.argv[1]
answers = httpx.get(url).text, requests.get(url).text, urllib.request.urlopen(url).read().decode()
print(*answers, get_environ_proxies(url))
"""


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"me": "here"}')

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


PROXIES = [
    {"http_proxy": DEAD},
    {"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD, "ALL_PROXY": DEAD, "NO_PROXY": "10.0.0.0/8,example.org"},
    {"all_proxy": "socks5h://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"},
    {"http_proxy": DEAD, "no_proxy": "", "NO_PROXY": "localhost"},
    {"http_proxy": DEAD, "no_proxy": "*"},
]


@pytest.mark.parametrize("proxies", PROXIES)
def test_our_client_asks_straight(url: str, proxies: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy in the environment that answers nobody, Airflow on this machine is asked and answers."""
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    assert Api(url).health() == {"me": "here"}


def test_children_ask_straight(url: str) -> None:
    """In the environment of Airflow's processes, each HTTP library reaches this machine, whatever proxy is set."""
    for proxies in PROXIES[1:3]:
        environ = loopback.without_socks(loopback.environment({**os.environ, **proxies}))
        done = subprocess.run([sys.executable, "-c", ASK, url], env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == '{"me": "here"} {"me": "here"} {"me": "here"} {}'


def test_what_the_caller_excepts_stays_excepted() -> None:
    """The caller's own exceptions, of both spellings, are kept; without a proxy nothing is added."""
    found = loopback.environment({"http_proxy": DEAD, "no_proxy": "a.org, b.org", "NO_PROXY": "10.0.0.0/8"})
    assert found["no_proxy"] == found["NO_PROXY"] == "a.org,b.org,10.0.0.0/8,localhost,127.0.0.1,::1"
    assert loopback.environment({"HTTPS_PROXY": DEAD, "NO_PROXY": "*"})["no_proxy"] == "*"
    assert loopback.environment({"PATH": "/bin"}) == {"PATH": "/bin"}


def test_servers_in_an_excepted_network_are_named() -> None:
    """A server that a network in NO_PROXY covers is named there, for programs that know no networks; others are not."""
    environ = {"http_proxy": DEAD, "NO_PROXY": "10.0.0.0/8"}
    found = loopback.environment(environ, ["http://10.1.2.3:9000", "https://ml.example.org", "http://127.0.0.2"])
    assert found["NO_PROXY"] == "10.0.0.0/8,localhost,127.0.0.1,::1,10.1.2.3,127.0.0.2"
    done = subprocess.run(
        [sys.executable, "-c", "from botocore.utils import get_environ_proxies as p; print(p('http://10.1.2.3:9000'))"],
        env={**os.environ, **found},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "{}"


@pytest.mark.parametrize(
    ("url", "no_proxy", "straight"),
    [
        ("http://localhost:8080", "", True),
        ("http://[::1]:8080", "", True),
        ("http://127.8.8.8", "", True),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://10.1.2.3", "192.168.0.0/16", False),
        ("http://10.1.2.3", "10.1.2.3", True),
        ("http://[fd00::1]", "fd00::/8", True),
        ("http://ml.example.org:5000", "example.org", True),
        ("http://ml.example.org:5000", "*.example.org", True),
        ("http://ml.example.org", "ml.example.org:5000", True),
        ("http://badexample.org", "example.org", False),
        ("http://localhost.example.org", "", False),
        ("http://ml.example.org", "*", True),
    ],
)
def test_exceptions_are_names_ends_of_names_and_networks(url: str, no_proxy: str, straight: bool) -> None:
    """NO_PROXY names hosts, ends of hosts' names and networks, and this machine needs no naming."""
    assert loopback.goes_straight(url, {"http_proxy": DEAD, "NO_PROXY": no_proxy}) is straight
