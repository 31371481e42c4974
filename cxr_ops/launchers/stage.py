"""The operator of a stage, by the launcher that `CXR_LAUNCHER` names.

`process` (the default) starts `python -m cxr_ops stage VERB` on this machine, `docker` does so in a container of
`CXR_IMAGE`.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import BaseOperator

from cxr_ops.launchers.arguments import run_arguments
from cxr_ops.launchers.process import ProcessStage
from cxr_ops.launchers.protocol import Arguments


def stage_operator(
    verb: str,
    *,
    arguments: Arguments = run_arguments,
    gpu: bool = False,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
    **task: Any,
) -> BaseOperator:
    """Return the operator that runs a stage with the launcher that `CXR_LAUNCHER` names.

    Args:
        verb: the stage; also the task's id.
        arguments: gives the command's arguments for a run.
        gpu: whether the stage computes on a GPU where there is one: it then waits for a slot of `CXR_GPU_POOL`, if that
            is set, and its container is given `CXR_GPUS`.
        reads: folders and files besides `CXR_HOME` and the project that the stage reads, as templates; one that comes
            out empty is left out.
        writes: folders besides `CXR_HOME` and the stores that the stage writes, alike.
        task: what every operator takes; `task_id` where it is not the stage's name.

    Raises:
        ValueError: `CXR_LAUNCHER` names no launcher.
    """
    if gpu and os.environ.get("CXR_GPU_POOL"):
        task["pool"] = os.environ["CXR_GPU_POOL"]
    task.setdefault("task_id", verb)
    launcher = os.environ.get("CXR_LAUNCHER") or "process"
    if launcher == "process":
        return ProcessStage(verb=verb, arguments=arguments, **task)
    if launcher == "docker":
        from cxr_ops.launchers.docker import docker_stage

        return docker_stage(verb, arguments=arguments, gpu=gpu, reads=reads, writes=writes, **task)
    raise ValueError(f"CXR_LAUNCHER is {launcher!r}: set it to 'process' or 'docker'")
