"""The `docker` launcher: a stage runs in a container of the image that `docker/` builds.

`CXR_HOME` and the project have the same paths in the container as outside, the first to write, the second to
read, so that a path means the same on both sides. Settings, all from the environment of Airflow's workers:

    CXR_IMAGE           the image by digest (`name@sha256:...`) or by id (`sha256:...`); never a tag, which can move
    CXR_GPUS            `all`, a number, or device ids with commas between; without it a container gets no GPU
    CXR_DOCKER_NETWORK  the container's network; Docker's own default without it
    CXR_SHM_BYTES       the ceiling of /dev/shm; 8 GiB without it

The container runs as the user who runs Airflow, or as the image's own user (10001) where that is root.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException
from docker.errors import APIError, ImageNotFound  # noqa: TID253 - this file is imported only for this launcher
from docker.types import DeviceRequest, Mount  # noqa: TID253

from cxr_ops import attempt, contract
from cxr_ops.launchers.protocol import (
    TAIL_LINES,
    Arguments,
    announce,
    command_of,
    rendered,
    required,
    result_of,
    run_id_of,
)

IMAGE_USER = 10001
SHM_BYTES = 8 * 2**30
# What stages read. What may hold a secret goes through the private environment, which Airflow shows nowhere.
STORES = ("CXR_DVC_REMOTE", "CXR_MLFLOW_ARTIFACTS")
PLAIN = (
    *STORES,
    "CXR_S3_ENDPOINT",
    "CXR_GRACE_SECONDS",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "OMP_NUM_THREADS",
)
SECRET = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


class DockerStage(DockerOperator):
    """DockerOperator whose result is the file that the stage leaves, and whose failures keep their exit code.

    The operator that it refines takes the last line of both streams mixed, and leaves or loses the container according
    to the way in which the task ends. Here the container is kept until its end has been read, then removed.
    """

    template_fields = ("arguments", "mounts")

    def __init__(self, *, verb: str, arguments: Arguments | list[str], **kwargs: Any) -> None:
        super().__init__(mount_tmp_dir=False, auto_remove="never", **kwargs)
        self.verb = verb
        self.arguments = arguments

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override] # the stock one returns lines
        """Run the container to its end and return the stage's result."""
        home, run = Path(required("CXR_HOME")), contract.slug(run_id_of(context))
        check_owner(home, str(self.user))
        folder = attempt.make_folder(home, run, self.verb, context["ti"].try_number)
        give_away(folder, str(self.user))
        self._normalize_mounts()
        self.command = command_of(self.verb, rendered(self.arguments), folder)
        self.labels = {"cxr-ops.stage": self.verb, "cxr-ops.run": run}
        try:
            if self._image_is_here():
                self._run_image()
            elif self.image.startswith("sha256:"):
                raise AirflowFailException(
                    f"the engine has no image {self.image}, and an id alone names no registry to fetch it from\n"
                    "  next:  build it where the engine runs, or set CXR_IMAGE to name@sha256:..."
                )
            else:
                super().execute(context)  # pulls first
        except DockerContainerFailedException:
            self.log.info("the container ended with an error")
        state = self.cli.inspect_container(self.container["Id"])["State"]
        said = self.cli.logs(self.container["Id"], stdout=False, stderr=True, tail=TAIL_LINES).decode(errors="replace")
        self.cli.remove_container(self.container["Id"])
        note = "the container ran out of memory" if state["OOMKilled"] else ""
        result = result_of(self.verb, state["ExitCode"], folder, said, note=note)
        announce(self, context, result)
        return result

    def on_kill(self) -> None:
        """Ask the stage's supervisor to stop; it ends the stage after a checkpoint, however long that takes."""
        if not self.container:  # not yet created
            return
        try:
            self.cli.kill(self.container["Id"], signal="SIGTERM")
        except APIError as error:
            self.log.info("the container has ended already: %s", error)

    def _image_is_here(self) -> bool:
        try:
            self.cli.inspect_image(self.image)  # type: ignore[no-untyped-call] # its stub says no types
        except ImageNotFound:
            return False
        return True


def docker_stage(verb: str, *, arguments: Arguments, gpu: bool, reads: str | None, **task: Any) -> BaseOperator:
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
    written = [folders["CXR_HOME"], *filter(_is_folder_of_ours, (os.environ.get(name, "") for name in STORES))]
    read = [folders["CXR_PROJECT"], *([reads] if reads else [])]
    return DockerStage(
        task_id=verb,
        verb=verb,
        arguments=arguments,
        image=image,
        user=container_user(),
        mounts=[
            *(Mount(source=path, target=path, type="bind") for path in dict.fromkeys(written)),
            *(Mount(source=path, target=path, type="bind", read_only=True) for path in read),
        ],
        environment={
            **folders,
            # The digest alone: the same image from another registry is the same image.
            "CXR_IMAGE": digest.group(1),
            **_from_environment(PLAIN),
        },
        private_environment=_from_environment(SECRET),
        network_mode=os.environ.get("CXR_DOCKER_NETWORK") or None,
        shm_size=int(os.environ.get("CXR_SHM_BYTES") or SHM_BYTES),
        device_requests=device_requests(os.environ.get("CXR_GPUS", "")) if gpu else None,
        **task,
    )


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
