"""The other side of `parent`: a nursery that has imported torch, and a process of it for each package.

The nursery runs no code of a package: it forks, so that torch is imported once and packages are apart from one another
too. Before a package's code runs, its process gives up what it does not need. It runs in an empty folder, its
environment holds settings of arithmetic and no secret, and where the kernel has Landlock it reads the libraries and no
other file. On a GPU it is not confined, because nobody has seen yet what the driver needs.

Nothing here may import what knows labels, ledgers or services (import-linter holds it).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_ops.audit.package import checked
from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.errors import CxrError, as_record
from cxr_ops.model import cam, package, scoring
from cxr_ops.model.apart import channel
from cxr_ops.model.apart.confine import confine, version
from cxr_ops.model.distributed import end_with_parent
from cxr_ops.model.machine import choose_machine, reproducible
from cxr_ops.params import Train

FORK: Final = b"fork"
END: Final = b"end"
_POLL: Final = 0.01  # seconds
_GPU: Final = "cuda"
_SAID: Final = 2000  # characters of each part of an error

# What arithmetic and libraries look at besides the packages themselves. Nothing of a person's or of the project's.
_SYSTEM: Final = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys", "/sys/devices", "/sys/fs/cgroup"),
    *("/dev/random", "/dev/urandom", "/dev/zero"),
)


def main(control: int) -> None:
    """Be the nursery: fork a process for each socket that comes, and say how each ended, until nobody asks any more.

    Args:
        control: a socket of the kind SEQPACKET. `fork`, with a socket to serve, is answered by the process id; `end`
            with an id and seconds, by the exit code, or minus the signal, after a kill if it took longer.
    """
    end_with_parent()
    if not version():
        sys.stderr.write("this kernel has no Landlock: the models' code can read the files that you can read\n")
    with socket.socket(fileno=control) as asked:
        asked.send(channel.READY)
        while True:
            word, sockets, _, _ = socket.recv_fds(asked, channel.WORD_BYTES, 1)
            if not word:
                return
            if word == FORK:
                asked.send(str(_fork(asked, sockets[0])).encode())
            else:
                _, pid, seconds = word.split()
                asked.send(str(_end(int(pid), float(seconds))).encode())


def _fork(asked: socket.socket, served: int) -> int:
    pid = os.fork()
    if pid:
        os.close(served)
        return pid
    code = 1
    try:
        asked.close()
        os.setsid()
        end_with_parent()
        _serve(Connection(served))
        code = 0
    except (EOFError, ConnectionError):
        code = 0  # the stage needs no more, or is gone
    except BaseException:  # noqa: BLE001 - the end of a process: what a package raises, be it SystemExit, is shown
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # the nursery's own way on would be run twice


def _end(pid: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL)
    os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may have no session of its own yet
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --------------------------------------------------------------------------------------------- of one package


def _serve(stage: Connection) -> None:
    order = json.loads(stage.recv_bytes())
    files = {name: stage.recv_bytes() for name in PACKAGE_FILES}
    try:
        machine = choose_machine(Train.model_validate(order["train"]))
        if machine.device != _GPU:
            confine(readable=_libraries(), writable=(Path.cwd(), Path(os.devnull)))
        stage.send_bytes(channel.READY)
        with reproducible(machine):
            model = package.build(checked(files, Path(), order["digest"]))
            stage.send_bytes(channel.READY)
            answers: dict[bytes, Callable[..., npt.NDArray[np.float32]]] = {
                channel.SCORES: lambda pixels: scoring.score(
                    model, pixels, batch_size=len(pixels), device=machine.device
                ),
                channel.MAPS: lambda pixels, method, size: (
                    cam.grad_cam(model, pixels, batch_size=len(pixels), method=method, size=int(size) or None).maps
                ),
                channel.RANDOM: lambda pixels, seed: cam.randomized(
                    model, pixels, seed=int(seed), batch_size=len(pixels)
                ),
            }
            while True:
                word, *options = stage.recv_bytes().split()
                found = answers[word](channel.unpack(stage.recv_bytes()), *(option.decode() for option in options))
                stage.send_bytes(channel.ARRAY)
                stage.send_bytes(channel.pack([found]))
    except CxrError as error:
        stage.send_bytes(channel.FAULT)
        stage.send_bytes(json.dumps({name: text and text[:_SAID] for name, text in as_record(error).items()}).encode())


def _libraries() -> list[Path]:
    """Where the modules that are loaded stand, and those that they may still load."""
    of_python = {Path(prefix, name) for prefix in (sys.prefix, sys.base_prefix) for name in ("lib", "lib64")}
    of_python |= {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    loaded = {
        Path(file).resolve().parent
        for name, module in list(sys.modules.items())
        if "." not in name and (file := getattr(module, "__file__", None))
    }
    return sorted({*of_python, *loaded, *map(Path, _SYSTEM)})
