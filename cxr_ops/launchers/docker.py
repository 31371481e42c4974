"""The `docker` launcher: a stage runs in a container of the image that `docker/` builds.

`CXR_HOME` and the project have the same paths in the container as outside, the first to write, the second to
read, so that a path means the same on both sides. Settings, all from the environment of Airflow's workers:

    CXR_IMAGE           the image by digest (`name@sha256:...`) or by id (`sha256:...`); never a tag, which can move
    CXR_GPUS            `all`, a number, or device ids with commas between; without it a container gets no GPU
    CXR_DOCKER_NETWORK  the container's network; Docker's own default without it
    CXR_SHM_BYTES       the ceiling of /dev/shm; 8 GiB without it
    CXR_MEMORY_BYTES    the most memory that a container may use, without swap; all of it without it
    CXR_CPUS            the most processors, as 4 or 2.5; all without it

The container runs as the user who runs Airflow, or as the image's own user (10001) where that is root, without any
capability, and can gain none. It writes in what is mounted and in `/tmp` and its home, which are memory.
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from docker.errors import APIError, ImageNotFound, NotFound  # noqa: TID253
from docker.types import DeviceRequest, LogConfig, Mount  # noqa: TID253
from requests.exceptions import RequestException

from cxr_ops import attempt, contract
from cxr_ops.launchers.protocol import (
    MARGIN_SECONDS,
    TAIL_LINES,
    Arguments,
    Ended,
    Left,
    Place,
    command_of,
    grace_seconds,
    outcome,
    place_of,
    rendered,
    required,
    to_the_end,
)
from docker import APIClient  # noqa: TID253 - this file is imported only for this launcher

IMAGE_USER = 10001
SHM_BYTES = 8 * 2**30
PIDS = 4096
# All that a container may write besides what is mounted; it counts as memory.
TMPFS = {"/tmp": "rw,nosuid,nodev,mode=1777,size=4g", "/home/cxr": "rw,nosuid,nodev,mode=1777,size=1g"}  # noqa: S108 - in the container
# The pauses between two looks at a container: short stages are not kept waiting, and long ones cost little.
POLL_SECONDS = (0.2, 0.2, 0.3, 0.5, 0.5, 1.0, 1.0, 2.0)
PATIENCE_SECONDS = 600
LABEL_INSTALLATION = "cxr-ops.installation"
LABEL_RECIPE = "cxr-ops.recipe"
LABEL_WISH = "cxr-ops.wish"
LABEL_ATTEMPT = "cxr-ops.attempt"
LABELS_AIRFLOW = ("cxr-ops.airflow.dag", "cxr-ops.airflow.run", "cxr-ops.airflow.task")
# What stages read. What may hold a secret goes through the private environment, which Airflow shows nowhere.
STORES = ("CXR_DVC_REMOTE", "CXR_MLFLOW_ARTIFACTS", "CXR_LEDGER", "CXR_ANCHOR")
KEYS = ("CXR_SIGNING_KEY", "CXR_TRUSTED_KEYS")
PLAIN = (
    *STORES,
    "CXR_S3_ENDPOINT",
    "CXR_AIRFLOW_URL",
    "CXR_GRACE_SECONDS",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "OMP_NUM_THREADS",
)
SECRET = (
    "CXR_AIRFLOW_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a container may use at most: bytes of memory, and processors; None: all that the engine has."""

    memory: int | None = None
    cpus: float | None = None


class DockerStage(DockerOperator):
    """A stage in the one container of its name, which outlives the worker that started it.

    The operator that it refines knows a container only while its process lives, takes the last line of both streams
    mixed for the result, and leaves or loses the container according to the way in which the task ends. Here the engine
    is the memory: a name belongs to one container, whoever asks for it. What stands there under the name of this stage
    of this run decides what is done:

    * none: one is created, unless an earlier attempt of the same mark left its result;
    * of another recipe: it is stopped, after a checkpoint, and removed;
    * created: it is started, which may be done twice;
    * running: it is followed; its log is told from the beginning;
    * ended: its end is read, if nobody has and it is final; else it is removed, and the stage goes on anew.

    An engine that does not answer is an error. Only its own word that there is no such container counts as that.
    """

    template_fields = ("arguments", "mounts")

    def __init__(self, *, verb: str, arguments: Arguments | list[str], limits: Limits, **kwargs: Any) -> None:
        super().__init__(mount_tmp_dir=False, auto_remove="never", **kwargs)
        self.verb = verb
        self.arguments = arguments
        self.limits = limits
        self._box: str | None = None
        self._stopping = False

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override] # the stock one returns lines
        """Let the container run to its end and return the stage's result."""
        check_owner(Path(required("CXR_HOME")), str(self.user))
        self.mounts = needed(self.mounts)
        self._normalize_mounts()
        recipe = {
            "image": self.image,
            "arguments": rendered(self.arguments),
            "environment": self.environment,
            "mounts": self.mounts,
            "user": self.user,
            "gpus": self.device_requests,
        }
        place = place_of(context, self.verb, recipe)
        return outcome(self, context, self.verb, to_the_end(self, lambda: self._run(place), lambda: self._stopping))

    def on_kill(self) -> None:
        """Have the engine ask the stage to stop, and kill it where its checkpoint takes longer than the grace.

        The engine does so to the end, though Airflow kills this process seconds after it has asked it to stop.
        """
        self._stopping = True
        if self._box is not None:
            # A client of its own: a signal may have come in the middle of a call of the other one.
            end_container(self._client(), self._box)

    # ---------------------------------------------------------------------------------------------------- the container

    def _run(self, place: Place) -> Ended:
        """Find or make the container, follow it to its end, read that, and remove it."""
        taken = self._take(place)
        if isinstance(taken, Ended):
            return taken
        self._box, folder = taken["Id"], Path(taken["Config"]["Labels"][LABEL_ATTEMPT])
        place.go_on(folder)
        found = self._follow(self._box)
        if found is None:  # another try was faster, and has kept its end
            if (code := attempt.exit_code(folder)) is None:
                raise AirflowException(f"the container {self._box[:12]} is gone, and nobody has seen it end")
            return Ended(exit_code=code, folder=folder)
        state, said = found["State"], self._said(self._box)
        keep_end(found)
        remove(self.cli, self._box)
        note = "the container ran out of memory" if state["OOMKilled"] else ""
        return Ended(exit_code=state["ExitCode"], folder=folder, said=said, note=note)

    def _take(self, place: Place) -> dict[str, Any] | Ended:
        """The one container of this name, started; or the end of an attempt that ended well before."""
        installation = attempt.installation(place.home)
        name = f"cxr-{installation[:8]}-{place.run}-{self.verb}"
        while True:
            if self._stopping:
                raise AirflowException(f"stage {self.verb} was stopped before it had started")
            box = inspect(self.cli, name)
            if box is None:
                if (folder := place.finished) is not None:
                    self.log.info("an earlier try of this task has done it: its result is read from %s", folder)
                    place.go_on(folder)
                    return Ended(exit_code=0, folder=folder)
                self._create(name, installation, place)
                continue
            labels, state = box["Config"]["Labels"], box["State"]
            if labels.get(LABEL_INSTALLATION) != installation:
                raise AirflowFailException(
                    f"another's container has the name {name}\n  next:  docker rm it, if it is nobody's"
                )
            if labels[LABEL_RECIPE] != place.mark["recipe"]:
                self.log.info("container %s is of another image or command: it is stopped", box["Id"][:12])
                end_container(self.cli, box["Id"])
            elif state["Status"] == "created":
                self._start(box["Id"])
                self.log.info("container %s is started", box["Id"][:12])
                return box
            elif state["Status"] in ("running", "paused", "restarting"):
                self.log.info("going on with container %s; what it has said so far:", box["Id"][:12])
                return box
            elif state["Status"] == "removing":
                time.sleep(POLL_SECONDS[0])
            elif labels[LABEL_WISH] == place.mark["wish"] and state["ExitCode"] in (0, *contract.NEVER_RETRIED):
                self.log.info("container %s has ended meanwhile: its end is read", box["Id"][:12])
                return box
            else:
                self.log.info("container %s ended with exit code %s: removed", box["Id"][:12], state["ExitCode"])
                remove(self.cli, box["Id"])

    def _create(self, name: str, installation: str, place: Place) -> None:
        """Create the container; whoever creates one of a name that is taken finds that one at the next look."""
        self._fetch_image()
        folder = place.make()
        give_away(folder, str(self.user))
        limits = self.limits
        dag_id, run_id, task_id = place.airflow
        host_config = self.cli.create_host_config(
            mounts=self.mounts,  # type: ignore[arg-type] # a mount that Airflow has rendered is a plain mapping
            network_mode=self.network_mode,
            shm_size=self.shm_size,
            device_requests=self.device_requests,
            # No swap beside it: a training that swaps is slower than one that fails and says why.
            mem_limit=limits.memory,
            memswap_limit=limits.memory,
            nano_cpus=int(limits.cpus * 1e9) if limits.cpus else None,
            pids_limit=PIDS,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            tmpfs=TMPFS,
            log_config=LogConfig(type="json-file", config={"max-size": "50m", "max-file": "3"}),
        )
        try:
            self.cli.create_container(
                name=name,
                image=self.image,
                command=command_of(self.verb, rendered(self.arguments), folder),
                environment={**self.environment, **self._private_environment},
                user=self.user,
                stop_signal="SIGTERM",
                labels={
                    LABEL_INSTALLATION: installation,
                    LABEL_RECIPE: place.mark["recipe"],
                    LABEL_WISH: place.mark["wish"],
                    LABEL_ATTEMPT: str(folder),
                    "cxr-ops.run": place.run,
                    "cxr-ops.stage": self.verb,
                    **dict(zip(LABELS_AIRFLOW, (dag_id, run_id, task_id), strict=True)),
                },
                host_config=host_config,
            )
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise

    def _start(self, box: str) -> None:
        try:
            self.cli.start(box)
        except APIError as error:
            if "device driver" not in str(error.explanation):
                raise
            remove(self.cli, box)
            raise AirflowFailException(
                f"the engine cannot give a container a GPU: {error.explanation}\n"
                "  next:  install the NVIDIA Container Toolkit where the engine runs, or leave CXR_GPUS out"
            ) from error

    def _follow(self, box: str) -> dict[str, Any] | None:
        """Relay the container's log until it has ended, and return what the engine says of it then; None: it is gone.

        The engine may be away for a time: it was started again, or the network was.
        """
        relay, pauses = _Relay(self, box), iter(POLL_SECONDS)
        pause, patience = next(pauses), time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                found = inspect(self.cli, box)  # before the log, so that nothing is said after the last look at that
                if found is None:
                    return None
                relay.go_on()
                patience = time.monotonic() + PATIENCE_SECONDS
            except (RequestException, APIError) as error:
                if time.monotonic() > patience:
                    raise AirflowException(
                        f"the engine has not answered for {PATIENCE_SECONDS} seconds: {error}"
                    ) from error
                self.log.info("the engine does not answer (%s): it is asked again", error)
            else:
                if found["State"]["Status"] in ("exited", "dead"):
                    return found
            time.sleep(pause)
            pause = next(pauses, pause)

    def _said(self, box: str) -> str:
        try:
            return str(self.cli.logs(box, stdout=False, stderr=True, tail=TAIL_LINES).decode(errors="replace"))
        except APIError as error:
            return f"(its log cannot be read: {error.explanation})"

    def _fetch_image(self) -> None:
        try:
            self.cli.inspect_image(self.image)  # type: ignore[no-untyped-call] # its stub says no types
        except ImageNotFound:
            if self.image.startswith("sha256:"):
                raise AirflowFailException(
                    f"the engine has no image {self.image}, and an id alone names no registry to fetch it from\n"
                    "  next:  build it where the engine runs, or set CXR_IMAGE to name@sha256:..."
                ) from None
            self.log.info("fetching the image %s", self.image)
            for line in self.cli.pull(self.image, stream=True, decode=True):
                if "error" in line:
                    raise AirflowException(f"the image cannot be fetched: {line['error']}") from None

    def _client(self) -> APIClient:
        return APIClient(base_url=str(self.docker_url), timeout=self.timeout)


class _Relay:
    """Tells in the task's log what a container says, each line once."""

    def __init__(self, stage: DockerStage, box: str) -> None:
        self._stage, self._box = stage, box
        self._last, self._told = "", set[bytes]()

    def go_on(self) -> None:
        """Tell what is new.

        The engine stamps the lines of each stream for itself, and may write an earlier one behind a later one: the last
        second is read again, and what was told of it passed over.
        """
        since = _seconds(self._last) - 1.0 if self._last else None
        said = list(self._stage.cli.logs(self._box, stream=True, timestamps=True, since=since, follow=False))
        for part in said:
            if part not in self._told:
                when, _, line = part.decode(errors="replace").partition(" ")
                self._last = max(self._last, when)
                if line.strip():
                    self._stage.log.info("%s", line.rstrip())
        self._told = set(said)


def _seconds(when: str) -> float:
    """The time of the engine's log (RFC 3339, to the nanosecond, UTC) in seconds since 1970."""
    return datetime.fromisoformat(f"{when[:26]}+00:00").timestamp()


def inspect(client: APIClient, name: str) -> dict[str, Any] | None:
    """What the engine says of a container; None where it says that there is none.

    Raises:
        APIError, RequestException: the engine does not answer, or something before it answers in its place.
    """
    try:
        return dict(client.inspect_container(name))
    except NotFound as error:
        if "no such container" not in str(error.explanation).lower():
            raise
        return None


def remove(client: APIClient, box: str) -> None:
    """Remove a container, running or not; one that somebody else removes is none of ours any more."""
    try:
        client.remove_container(box, force=True)
    except APIError as error:
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def end_container(client: APIClient, box: str) -> None:
    """Stop a container, with SIGTERM and, after the grace, SIGKILL; keep how it ended, and remove it."""
    try:
        client.stop(box, timeout=int(grace_seconds() + MARGIN_SECONDS))
    except APIError as error:
        if error.status_code != HTTPStatus.NOT_FOUND:
            raise
    if (found := inspect(client, box)) is not None:
        keep_end(found)
        remove(client, box)


def keep_end(box: dict[str, Any]) -> None:
    """Keep with which exit code a container ended, for whoever follows it as well; one that never ran has none."""
    if box["State"]["Status"] != "created":
        attempt.end(Path(box["Config"]["Labels"][LABEL_ATTEMPT]), box["State"]["ExitCode"])


def containers(home: Path) -> list[Left]:
    """The containers of this installation that the engine has, running or not; others' are not looked at.

    Raises:
        APIError, RequestException: the engine does not answer.
    """
    client = APIClient(base_url=os.environ.get("DOCKER_HOST") or None)
    ours = client.containers(all=True, filters={"label": f"{LABEL_INSTALLATION}={attempt.installation(home)}"})
    return [
        Left(
            name=f"container {box['Names'][0].lstrip('/')}",
            airflow=(labels[LABELS_AIRFLOW[0]], labels[LABELS_AIRFLOW[1]], labels[LABELS_AIRFLOW[2]]),
            end=partial(end_container, client, box["Id"]),
        )
        for box in ours
        for labels in [box["Labels"]]
    ]


def docker_stage(
    verb: str,
    *,
    arguments: Arguments,
    gpu: bool,
    reads: tuple[str, ...],
    writes: tuple[str, ...] = (),
    **task: Any,
) -> BaseOperator:
    """Return the operator for a stage; see `stage.stage_operator`.

    Raises:
        ValueError: `CXR_IMAGE`, `CXR_HOME`, `CXR_PROJECT` or `CXR_GPUS` is missing or of no use, or a store has an
            address that means something else in a container.
    """
    image = os.environ.get("CXR_IMAGE", "")
    digest = re.search(r"(?:^|@)(sha256:[0-9a-f]{64})$", image)
    if digest is None:
        raise ValueError(f"CXR_IMAGE is {image!r}: give the image by digest (name@sha256:...) or by id (sha256:...)")
    folders = {name: os.environ.get(name, "") for name in ("CXR_HOME", "CXR_PROJECT")}
    for name, folder in folders.items():
        if not Path(folder).is_absolute():
            raise ValueError(f"{name} is {folder!r}: set it to an absolute path, the same for every worker")
    _check_stores(Path(folders["CXR_HOME"]))
    memory = _number("CXR_MEMORY_BYTES")
    written = [folders["CXR_HOME"], *filter(_is_folder_of_ours, (os.environ.get(name, "") for name in STORES))]
    # A package's code runs in the deterministic stages, and the code that is trained: they get no key.
    keys = KEYS if verb not in contract.DETERMINISTIC else ()
    files = (path.strip() for name in keys for path in os.environ.get(name, "").split(","))
    read = [folders["CXR_PROJECT"], *filter(None, files), *reads]
    return DockerStage(
        verb=verb,
        arguments=arguments,
        image=image,
        user=container_user(),
        mounts=[
            *(Mount(source=path, target=path, type="bind") for path in dict.fromkeys((*written, *writes))),
            *(Mount(source=path, target=path, type="bind", read_only=True) for path in read),
        ],
        environment={
            **folders,
            # The digest alone: the same image from another registry is the same image.
            "CXR_IMAGE": digest.group(1),
            **_from_environment((*PLAIN, *keys)),
        },
        private_environment=_from_environment(SECRET),
        network_mode=os.environ.get("CXR_DOCKER_NETWORK") or None,
        shm_size=int(os.environ.get("CXR_SHM_BYTES") or SHM_BYTES),
        limits=Limits(memory=int(memory) if memory else None, cpus=_number("CXR_CPUS")),
        device_requests=device_requests(os.environ.get("CXR_GPUS", "")) if gpu else None,
        **task,
    )


def needed(mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rendered mounts, those of folders here, each once: an option that nobody gave has no source, nor has a bucket.

    >>> needed([{"Source": "/a", "Target": "/a"}, {"Source": "", "Target": ""}, {"Source": "/a", "Target": "/a"}])
    [{'Source': '/a', 'Target': '/a'}]
    """
    here = [mount for mount in mounts if mount["Source"].startswith("/")]
    return list({mount["Target"]: mount for mount in reversed(here)}.values())[::-1]


def container_user() -> str:
    """The user and group that a container runs as: the caller's, or the image's own where the caller is root."""
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{IMAGE_USER}:{IMAGE_USER}"


def check_owner(home: Path, user: str) -> None:
    """Refuse a `CXR_HOME` in which the container could write nothing.

    Raises:
        AirflowFailException: another user owns the folder.
    """
    owner = home.stat()
    if f"{owner.st_uid}:{owner.st_gid}" != user:
        raise AirflowFailException(
            f"CXR_HOME belongs to {owner.st_uid}:{owner.st_gid}, but containers run as {user}\n"
            f"  where: {home}\n  next:  chown -R {user} {home}"
        )


def give_away(folder: Path, user: str) -> None:
    """Let the container write in an attempt's folder, where root has made it for a container without rights.

    Args:
        folder: the attempt's, which is in `CXR_HOME` in folders of its verb, its run and of all runs.
        user: user and group of the container, as ids with a colon between.
    """
    if os.getuid() == 0:
        owner, group = (int(part) for part in user.split(":"))
        for path in (folder, *folder.parents[:3]):
            os.chown(path, owner, group)


def device_requests(gpus: str) -> list[DeviceRequest] | None:
    """Read `CXR_GPUS`.

    Raises:
        ValueError: it is neither `all`, nor a number, nor device ids.
    """
    if not gpus:
        return None
    if gpus == "all":
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    if gpus.isdigit():
        return [DeviceRequest(count=int(gpus), capabilities=[["gpu"]])]
    ids = [part.strip() for part in gpus.split(",") if part.strip()]
    if "," in gpus or gpus.startswith(("GPU-", "MIG-")):
        return [DeviceRequest(device_ids=ids, capabilities=[["gpu"]])]
    raise ValueError(f"CXR_GPUS is {gpus!r}: set it to 'all', to a number, or to device ids with commas between")


def _from_environment(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _number(name: str) -> float | None:
    """Read a limit; None where it is not set.

    Raises:
        ValueError: it is no number above 0.
    """
    text = os.environ.get(name)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {text!r}: set it to a number above 0, or leave it out")
    return number


def _check_stores(home: Path) -> None:
    """Refuse addresses that lead elsewhere in a container: it has another home and another file system."""
    for name in STORES:
        value = os.environ.get(name, "")
        if value and not value.lower().startswith(("/", "s3://")):
            raise ValueError(f"{name} is {value!r}: containers need the whole path of a folder, or s3://bucket/path")
    scheme, _, path = os.environ.get("MLFLOW_TRACKING_URI", "").partition("://")
    if scheme.startswith("sqlite") and not Path(unquote(path.removeprefix("/"))).is_relative_to(home):
        raise ValueError(
            "MLFLOW_TRACKING_URI names an SQLite file outside CXR_HOME, which containers do not see: name a server, or "
            "leave it out"
        )


def _is_folder_of_ours(value: str) -> bool:
    """Whether a setting is a folder outside `CXR_HOME` that a container needs as well."""
    return value.startswith("/") and not Path(value).is_relative_to(os.environ["CXR_HOME"])
