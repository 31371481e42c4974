"""Ports of 127.0.0.1: which one is free, and who listens on one."""

from __future__ import annotations

import socket
from contextlib import suppress

import psutil

from cxr_ops.errors import StorageError


def listens(process: psutil.Process, port: int) -> bool:
    """Whether a process, or one below it, listens on a port."""
    with suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            for socket_ in one.net_connections("tcp"):
                if socket_.status == psutil.CONN_LISTEN and socket_.laddr.port == port:
                    return True
    return False


def free_port(wanted: int) -> int:
    """A port of 127.0.0.1 that nobody listens on: the wanted one if it is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StorageError("no port is free on 127.0.0.1", fix="stop what listens on so many ports, then retry")
