"""What talks to this machine itself goes to no proxy, in this process and in those that it starts."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

NAMES: Final = ("localhost", "127.0.0.1", "::1")
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


def environment(environ: Mapping[str, str], servers: Iterable[str] = ()) -> dict[str, str]:
    """An environment in which no program asks a proxy for this machine; with no proxy in it, the same one.

    Both spellings of `NO_PROXY` are written, because programs differ in which of the two they prefer.

    Args:
        environ: the environment.
        servers: addresses that are asked. Those that `NO_PROXY` covers are named in it one by one, because not all
            programs understand a network there.
    """
    if not any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES):
        return dict(environ)
    named = f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}".split(",")
    covered = [urlsplit(url).hostname or "" for url in servers if goes_straight(url, environ)]
    hosts = list(dict.fromkeys(host.strip() for host in (*named, *NAMES, *covered) if host.strip()))
    text = "*" if "*" in hosts else ",".join(hosts)
    return {**environ, "no_proxy": text, "NO_PROXY": text}


def without_socks(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without SOCKS proxies, where nothing that speaks SOCKS is installed.

    Airflow's tasks ask its API with httpx, which then refuses to make any client, even one for this machine.
    """
    if find_spec("socksio") is not None:
        return dict(environ)
    unusable = {
        name
        for name, value in environ.items()
        if name.lower() in _PROXIES and value.lower().startswith(("socks4", "socks5", "socks:"))
    }
    return {name: value for name, value in environ.items() if name not in unusable}


def shield(servers: Iterable[str] = ()) -> None:
    """Do for this process what `environment` does for those that it starts."""
    os.environ.update(environment(os.environ, servers))


def opener(url: str) -> urllib.request.OpenerDirector:
    """What opens an address: straight for this machine and for what `NO_PROXY` names, or else through the proxy."""
    proxies: dict[str, str] | None = {} if goes_straight(url, os.environ) else None
    return urllib.request.build_opener(urllib.request.ProxyHandler(proxies))


def goes_straight(url: str, environ: Mapping[str, str]) -> bool:
    """Whether an address is of this machine, or is named by `NO_PROXY`: by its name, an end of it, or a network.

    >>> goes_straight("http://127.0.0.2:8080", {}), goes_straight("http://10.1.2.3", {"NO_PROXY": "10.0.0.0/8"})
    (True, True)
    >>> goes_straight("http://ml.example.org", {"no_proxy": ".example.org"}), goes_straight("http://example.com", {})
    (True, False)
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
        return True
    named = f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}".split(",")
    return any(_names(entry.strip().lower(), host, address) for entry in named if entry.strip())


def _names(entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if entry == "*":
        return True
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    name = entry.rpartition(":")[0] if entry.rpartition(":")[2].isdigit() else entry
    name = name.removeprefix("*").lstrip(".")
    return host == name or host.endswith(f".{name}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
