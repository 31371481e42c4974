"""Has packages score pictures in processes of their own: this side has no torch, and runs no code of theirs.

    with nursery() as processes, processes.of(package, params.train) as model:
        scores = model.score(pixels)

A package's process gets the package's four files and decoded pixels: no name of an image, no label, no path of the run,
no secret in its environment. What it gives back are numbers, whose shape and range are checked here; `child` says what
else it is kept from. With the same machine and threads, they are bit for bit those of one process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cxr_ops import errors
from cxr_ops.audit.package import Package
from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.errors import CxrError, DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model.apart import channel
from cxr_ops.params import MapMethod, Train

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

START_SECONDS: Final = 600.0  # torch comes from a cold disk in minutes
# A process that gives no answer for so long hangs: an image takes seconds even where others want the same processors.
IMAGE_SECONDS: Final = 60.0
_RANDOM_PASSES: Final = 6  # of each image, where weights are drawn at random
_END_SECONDS: Final = 5.0  # in which a process that hung up is gone
_START: Final = (
    "import sys; control, *sys.path = sys.argv[1:]; from cxr_ops.model.apart.child import main; main(int(control))"
)
_AGAIN: Final = "run the stage again; if it ends so again, free memory or lower evaluate.batch_size"

# Of the environment a process gets what arithmetic depends on, and the supervisor's mark, by which it is found.
_NAMES: Final = ("CXR_SUPERVISED", "LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "LC_ALL", "LC_CTYPE")
_PREFIXES: Final = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_", "ONEDNN_", "DNNL_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "PYTORCH_CUDA_", "PYTORCH_ALLOC_"),
)


@contextmanager
def nursery() -> Iterator[Nursery]:
    """Start the process that all packages' processes are forked from; it ends with the block.

    It reads torch while the caller goes on, once for all packages.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-apart-", ignore_cleanup_errors=True) as folder:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Isolated, it does not read what the environment says of byte code.
        python = [sys.executable, "-I", *(["-B"] if sys.dont_write_bytecode else []), "-X", "utf8"]
        path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 - a Path would resolve what is linked
        with ours, theirs:
            process = subprocess.Popen(
                [*python, "-c", _START, str(theirs.fileno()), *path],
                cwd=folder,
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a package prints is for people
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            theirs.close()
            try:
                yield Nursery(ours)
            finally:
                process.kill()
                process.wait()


def _environment(folder: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _NAMES or name.startswith(_PREFIXES)}
    return {**kept, "HOME": folder, "TMPDIR": folder}


class Nursery:
    """The process that packages' processes come from."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ready = False

    @contextmanager
    def of(self, package: Package, settings: Train) -> Iterator[Process]:
        """Run a package in a process of its own, which is killed when the block ends.

        Args:
            package: what runs; its code and its weights are checked in the process.
            settings: `device` and `threads` are used.

        Raises:
            DataError: the package's code cannot be imported or does not fit its contract, or its weights do not fit.
            SettingsError: a GPU is asked for, and there is none.
            CxrError: the process died, or did not answer.
        """
        self._wait_for_start()
        ours, theirs = socket.socketpair()
        stage = Connection(ours.detach())
        with stage:
            with theirs:
                pid = int(self._ask(b"fork", theirs))
            process = Process(package, stage, lambda seconds: int(self._ask(f"end {pid} {seconds}".encode())), pid)
            try:
                process.start(settings)
                yield process
            finally:
                process.end()

    def _wait_for_start(self) -> None:
        if self._ready:
            return
        self._control.settimeout(START_SECONDS)
        try:
            self._ready = self._control.recv(channel.WORD_BYTES) == channel.READY
        except (TimeoutError, ConnectionError):
            self._ready = False
        if not self._ready:
            raise CxrError(
                "the process that scores did not start; if it said why, it stands above",
                fix="cxr-ops doctor; then run the stage again",
            )
        self._control.settimeout(None)

    def _ask(self, word: bytes, handed: socket.socket | None = None) -> bytes:
        try:
            socket.send_fds(self._control, [word], [handed.fileno()] if handed else [])
            answer = self._control.recv(channel.WORD_BYTES)
        except ConnectionError:
            answer = b""
        if not answer:
            raise CxrError("the process that scoring processes come from was killed", fix=_AGAIN)
        return answer


class Process:
    """A package in a process of its own; `Nursery.of` makes one."""

    def __init__(self, package: Package, stage: Connection, ended: Callable[[float], int], pid: int) -> None:
        self._package = package
        self._stage = stage
        self._ended = ended
        self._pid = pid
        self._code: int | None = None
        self._silent = False

    def score(self, pixels: Sequence[Pixels]) -> Array:
        """Score decoded radiographs as one batch; see `cxr_ops.model.scoring.score`.

        Args:
            pixels: uint8 H x W each, 0 black, in their own size; at least one.

        Returns:
            (N, 14) float32 probabilities in [0, 1], in the order of `FINDINGS`; NaN where the model was not trained.

        Raises:
            DataError: the model cannot read an image, or what it gives is no probability for each image and finding.
            CxrError: the process died, or did not answer.
        """
        found = self._answer(channel.SCORES, pixels)
        trained = np.array([name in self._package.trained for name in FINDINGS])
        if found.shape != (len(pixels), len(FINDINGS)):
            raise self._refusal(f"the model's code gives {_shape(found)} numbers for {len(pixels)} images")
        judged = found[:, trained]
        if not (np.isfinite(judged).all() and (judged >= 0).all() and (judged <= 1).all()):
            raise self._refusal("the model's code gives numbers that are no probabilities")
        if not np.isnan(found[:, ~trained]).all():
            raise self._refusal("the model's code gives a number for a finding that it was not trained on")
        return found

    def maps(self, pixels: Sequence[Pixels], *, method: MapMethod = "grad_cam", size: int | None = None) -> Array:
        """Compute heat maps of decoded radiographs as one batch; see `cxr_ops.model.cam.grad_cam`.

        Args:
            pixels: uint8 H x W each, in their own size; at least one.
            method: of `cam`.
            size: side of the input in pixels; None for the model's own.

        Returns:
            (N, 14, h, w) float32, at least 0.

        Raises:
            DataError: the package's network has no head that can be explained, an image is not grey 8-bit, or what
                comes back are no maps.
            CxrError: the process died, or did not answer.
        """
        found = self._answer(channel.MAPS, pixels, method, str(size or 0))
        if found.ndim != 4 or found.shape[:2] != (len(pixels), len(FINDINGS)) or not found.size:
            raise self._refusal(f"the model's code gives {_shape(found)} numbers as maps of {len(pixels)} images")
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise self._refusal("the model's code gives maps that are not finite, or below 0")
        return found

    def randomized(self, pixels: Sequence[Pixels], seed: int) -> Array:
        """Compute the maps with weights drawn at random, a part more at each step; see `cxr_ops.model.cam.randomized`.

        Args:
            pixels: uint8 H x W each, in their own size; at least one.
            seed: of the draw.

        Returns:
            (steps, N, 14, h, w) float32, at least 0, a step a name in `stats.heat_maps.STEPS`.

        Raises:
            DataError: as `maps`, or the network has no such parts.
            CxrError: the process died, or did not answer.
        """
        found = self._answer(channel.RANDOM, pixels, str(seed), passes=_RANDOM_PASSES)
        expected = (_RANDOM_PASSES, len(pixels), len(FINDINGS))
        if found.ndim != 5 or found.shape[:3] != expected or not found.size:
            raise self._refusal(f"the model's code gives {_shape(found)} numbers as maps of {len(pixels)} images")
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise self._refusal("the model's code gives maps that are not finite, or below 0")
        return found

    # ------------------------------------------------------------------------------------------ start and end

    def start(self, settings: Train) -> None:
        """Hand the package over, and wait until it is built; see `Nursery.of` for the errors."""
        order = {
            "digest": self._package.digest,
            "train": settings.model_dump(mode="json", include={"device", "threads"}),
        }
        with self._watched(START_SECONDS):
            self._stage.send_bytes(json.dumps(order).encode())
            for name in PACKAGE_FILES:
                self._stage.send_bytes(self._package.files[name])
            self._receive(trusted=True)  # nothing of the package has run yet
            self._receive()

    def end(self) -> int | None:
        """Kill the process and what it started; return how it had ended, None where that cannot be known."""
        self._stage.close()
        if self._code is None:
            with suppress(CxrError):  # the nursery is gone, and so is the process
                self._code = self._ended(0.0)
        return self._code

    # ------------------------------------------------------------------------------------------------ answers

    def _answer(self, wanted: bytes, pixels: Sequence[Pixels], *options: str, passes: int = 1) -> Array:
        with self._watched(IMAGE_SECONDS * len(pixels) * passes):
            self._stage.send_bytes(b" ".join([wanted, *(option.encode() for option in options)]))
            self._stage.send_bytes(channel.pack(pixels))
            data = self._receive()
        try:
            [found] = channel.unpack(data)
        except ValueError as error:
            raise self._refusal("the model's code gives no array") from error
        if found.dtype != np.float32:
            raise self._refusal(f"the model's code gives {found.dtype} and not float32")
        return found.astype(np.float32)

    def _receive(self, *, trusted: bool = False) -> bytes:
        """What the process says next: nothing when it is ready, or an array.

        Raises:
            CxrError: what it says went wrong. What the package's code had a part in is said of the package alone.
        """
        kind = self._stage.recv_bytes(channel.WORD_BYTES)
        if kind == channel.READY:
            return b""
        if kind == channel.ARRAY:
            return self._stage.recv_bytes(channel.ARRAY_BYTES)
        try:
            record = json.loads(self._stage.recv_bytes(channel.WORD_BYTES))
            error = errors.from_record(record)
        except (ValueError, KeyError, TypeError, RecursionError) as wrong:
            raise self._refusal("the model's code gives no answer that can be read") from wrong
        if trusted:
            raise error
        raise self._refusal("".join(letter if letter.isprintable() else " " for letter in error.what))

    def _refusal(self, what: str) -> DataError:
        return DataError(what, where=self._package.folder)

    @contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        """Kill the process if the block takes longer, and say how it ended if it does."""
        timer = threading.Timer(seconds, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        except CxrError:
            raise
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is None:  # how a Connection says that a message is too long
                raise self._refusal("the model's code gives an answer that is too long") from error
            raise self._death(seconds) from error
        finally:
            timer.cancel()

    def _kill(self) -> None:
        self._silent = True
        with suppress(OSError):
            os.killpg(self._pid, signal.SIGKILL)

    def _death(self, seconds: float) -> CxrError:
        where = self._package.folder
        with suppress(CxrError):
            self._code = self._ended(_END_SECONDS)
        if self._silent:
            what = f"the model's code gave no answer for {seconds:.0f} s, and was ended"
        elif self._code is None:
            what = "the process that the model's code ran in is gone"
        elif self._code < 0:
            what = f"the process that the model's code ran in was killed by {signal.Signals(-self._code).name}"
        elif self._code:
            what = "the model's code failed; its traceback stands above"
        else:
            what = "the model's code ended its process"
        return CxrError(what, where=where, fix=_AGAIN)


def _shape(array: npt.NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape))
