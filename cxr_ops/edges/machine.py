"""What a machine must have for an installation to work on it: each function says what it found, or what is wrong."""

from __future__ import annotations

import http.client
import json
import os
import platform
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from cxr_ops.addresses import without_password
from cxr_ops.edges.home import Home
from cxr_ops.errors import CxrError, SettingsError, StorageError

_SECONDS: Final = 10
_SHARED: Final = Path("/dev/shm")  # noqa: S108 - the machine's shared memory, whose size is asked for
_SHARED_BYTES: Final = 64 * 2**20
_AHEAD: Final = timedelta(minutes=5)
_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_SWITCHES: Final = {
    "DVC_NO_ANALYTICS": ("1", "true"),
    "MLFLOW_DISABLE_TELEMETRY": ("true", "1"),
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": ("false", "0"),
}


def python() -> str:
    """The interpreter is one that the locked packages are for."""
    if sys.version_info[:2] != (3, 11):
        raise StorageError(
            f"Python {platform.python_version()} runs this, and the locked packages are for 3.11",
            where=sys.executable,
            fix="make setup, which brings its own",
        )
    return f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"


def gpu(env: Mapping[str, str]) -> str:
    """The GPUs that the driver names; none is no fault, unless they are asked for."""
    program = shutil.which("nvidia-smi")
    if program is None:
        if env.get("CUDA_VISIBLE_DEVICES", "").strip(" -1"):
            raise SettingsError(
                f"CUDA_VISIBLE_DEVICES is {env['CUDA_VISIBLE_DEVICES']}, and this machine has no NVIDIA driver",
                fix="install the driver, or unset CUDA_VISIBLE_DEVICES",
            )
        return "none: training uses the processor"
    asked = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=6 * _SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise StorageError("the NVIDIA driver does not answer", where=program, fix="nvidia-smi says why") from error
    return "; ".join(done.stdout.split("\n")).strip("; ") or "none: the driver names no GPU"


def shared_memory() -> str:
    """`/dev/shm` is there and has room: processes that load data hand it over there."""
    try:
        volume = os.statvfs(_SHARED)
    except OSError:
        return "this system has no /dev/shm"
    size = volume.f_blocks * volume.f_frsize
    if size < _SHARED_BYTES:
        raise StorageError(
            f"{_SHARED} has {size / 2**20:.0f} MiB",
            fix="docker run --shm-size 8g, or: mount -o remount,size=8g /dev/shm",
        )
    return f"{_SHARED} has {size / 2**30:.1f} GiB"


def hard_links(home: Home) -> str:
    """The file system knows hard links, by which an entry of the ledger is made exactly once."""
    first, second = (home.locks / f".probe-{os.getpid()}-{name}" for name in ("a", "b"))
    try:
        first.touch()
        os.link(first, second)
    except OSError as error:
        raise StorageError(
            f"this file system makes no hard link: {error.strerror}",
            where=home.locks,
            fix="set CXR_HOME to a disk that does, such as ext4, xfs or NFS",
        ) from error
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
    return "a second name for a file can be made"


def clock(home: Home) -> str:
    """The clock is not behind what the ledger has seen already."""
    from cxr_ops.edges.ledger import open_ledger

    now = datetime.now(UTC)
    try:
        entries = open_ledger(home).entries()
    except CxrError:  # another check tells what is wrong with it
        entries = []
    if entries and (last := datetime.fromisoformat(entries[-1].at)) > now + _AHEAD:
        raise StorageError(
            f"this clock says {now:%Y-%m-%d %H:%M} UTC, and the ledger's last entry is of {last:%Y-%m-%d %H:%M}",
            fix="set the clock, best by NTP: timedatectl set-ntp true",
        )
    return f"{now:%Y-%m-%d %H:%M} UTC"


def proxies(env: Mapping[str, str]) -> str:
    """Each proxy that is set is an address."""
    found = {name: env.get(name) or env.get(name.lower()) or "" for name in _PROXIES}
    for name, address in found.items():
        if address and (not urlsplit(address).scheme or not urlsplit(address).netloc):
            raise SettingsError(
                f"{name} is {without_password(address)!r}, which is no address", fix=f"{name}=http://host:port"
            )
    told = [f"{name} {without_password(address)}" for name, address in found.items() if address]
    but = env.get("NO_PROXY") or env.get("no_proxy")
    return "; ".join([*told, *([f"not for {but}"] if told and but else [])]) or "none"


def certificates(env: Mapping[str, str]) -> str:
    """Each file of authorities that is named is there, and can be read as one."""
    named = {name: env[name] for name in _CERTIFICATES if env.get(name)}
    for name, path in named.items():
        if not Path(path).exists():
            raise SettingsError(f"{name} names {path}, which is not there", fix=f"unset {name}, or name another file")
        if Path(path).is_file():
            try:
                ssl.create_default_context(cafile=path)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(
                    f"{name} names {path}, which holds no certificate", fix=f"unset {name}, or name a PEM file"
                ) from error
    return "; ".join(f"{name} {path}" for name, path in named.items()) or "those of the system"


def telemetry(home: Home, env: Mapping[str, str]) -> str:
    """No switch lets a program send data on its use; of an Airflow of one's own nothing else is known."""
    for name, off in _SWITCHES.items():
        if env.get(name) and env[name].lower() not in off:
            raise SettingsError(
                f"{name} is {env[name]!r}, which lets data on use be sent", fix=f"export {name}={off[0]}, or unset it"
            )
    told = "off in what cxr-ops starts"
    if home.settings.airflow_url:
        told += "; in your own Airflow set AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False"
    return told


# ----------------------------------------------------------------------------------------------------------- the engine


def docker(home: Home, env: Mapping[str, str]) -> str:
    """Where stages run in containers: the engine answers, has the image, and can give GPUs if they are asked for."""
    if home.settings.launcher != "docker":
        return "not used: CXR_LAUNCHER is process"
    address = env.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    version, image = _engine(address, "/version"), home.settings.image or ""
    if version is None:
        raise _no_engine(address, "it knows no /version")
    if _engine(address, f"/images/{quote(image, safe=':@/')}/json") is None and image.startswith("sha256:"):
        raise StorageError(
            f"the engine has no image {image}", where=address, fix="build or load it where the engine runs"
        )
    if env.get("CXR_GPUS"):
        runtimes = (_engine(address, "/info") or {}).get("Runtimes") or {}
        if "nvidia" not in runtimes:
            raise StorageError(
                "CXR_GPUS is set, and the engine has no NVIDIA runtime",
                where=address,
                fix="install the NVIDIA Container Toolkit: nvidia-ctk runtime configure --runtime=docker",
            )
    return f"engine {version.get('Version')} at {address}"


def _engine(address: str, path: str) -> dict[str, Any] | None:
    """Ask the engine; None where it knows no such thing."""
    parts = urlsplit(address)
    connection = (
        _OverSocket(parts.path)
        if parts.scheme == "unix"
        else http.client.HTTPConnection(parts.netloc, timeout=_SECONDS)
    )
    try:
        connection.request("GET", path, headers={"Host": "docker"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == http.client.NOT_FOUND:
            return None
        if answer.status != http.client.OK:
            raise _no_engine(address, f"it answers {answer.status}")
        return dict(json.loads(body))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise error if isinstance(error, StorageError) else _no_engine(address, str(error)) from error
    finally:
        connection.close()


def _no_engine(address: str, why: str) -> StorageError:
    return StorageError(
        f"no Docker engine answers: {why}",
        where=address,
        fix="start it, and let this user reach it; or set DOCKER_HOST",
    )


class _OverSocket(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._path)
