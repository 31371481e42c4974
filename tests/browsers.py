"""A real browser for tests: Chromium over its debugging pipe, with nothing but the standard library."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cxr_ops.edges import browser

AXE = "4.14.1"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"


class Browser:
    """One page of a browser: opened, asked, typed into. `errors` is what its console and its network said."""

    def __init__(self, profile: Path) -> None:
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        command = shlex.join([browser.find() or "", *browser.flags(profile), "--remote-debugging-pipe", "about:blank"])
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command} 3<&{theirs} 4>&{ours}"],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        self._last, self._rest = 0, b""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank", alone=True)["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True, alone=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, *, alone: bool = False, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if not alone:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._from, 1 << 20)
            assert data, "the browser ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def open(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Load a page in a window of this size, and wait until it has loaded."""
        self._events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.as_uri())
        while (
            self.ask("location.href").partition("#")[0] != page.as_uri()
            or self.ask("document.readyState") != "complete"
        ):
            pass

    def ask(self, script: str) -> Any:
        """The value of a script, or of its promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    @property
    def errors(self) -> list[str]:
        """What the console said of errors and warnings, and which addresses the page asked for."""
        found = []
        for event in self._events:
            params = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(json.dumps(params["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                    found.append(json.dumps(params["args"]))
                case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                    found.append(params["entry"]["text"])
                case "Network.requestWillBeSent" if not params["request"]["url"].startswith(
                    ("file:", "data:", "about:")
                ):
                    found.append(params["request"]["url"])
        return found

    def screenshot(self, out: Path) -> None:
        """Write a picture of what the window shows."""
        out.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        self._process.wait(timeout=20)


@contextmanager
def running() -> Iterator[Browser]:
    """A browser with a profile of its own; a test is skipped where there is none."""
    if browser.find() is None:
        pytest.skip("no chromium is installed")
    with tempfile.TemporaryDirectory(prefix="cxr-browser-", ignore_cleanup_errors=True) as profile:
        started = Browser(Path(profile))
        try:
            yield started
        finally:
            started.close()


def axe() -> str:
    """The source of axe-core, fetched from npm once and checked; a test is skipped where it cannot be had."""
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cxr-ops" / f"axe-{AXE}.min.js"
    if not kept.is_file() or hashlib.sha256(kept.read_bytes()).hexdigest() != AXE_SHA256:
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed: it fetches axe-core")
        with tempfile.TemporaryDirectory(prefix="cxr-axe-") as folder:
            packed = subprocess.run(
                ["npm", "pack", "--silent", f"axe-core@{AXE}"], cwd=folder, capture_output=True, text=True, timeout=120
            )
            if packed.returncode:
                pytest.skip(f"npm cannot fetch axe-core: {packed.stderr.strip()[-200:]}")
            with tarfile.open(Path(folder) / packed.stdout.strip().splitlines()[-1]) as archive:
                member = archive.extractfile("package/axe.min.js")
                assert member is not None
                source = member.read()
        assert hashlib.sha256(source).hexdigest() == AXE_SHA256
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(source)
    return kept.read_text(encoding="utf-8")
