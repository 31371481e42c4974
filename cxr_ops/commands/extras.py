"""What a command needs besides the base install, and what to type if it is missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, Literal

from cxr_ops.errors import SettingsError

Extra = Literal["stages", "serve", "airflow"]
# The modules that the packages of each extra in pyproject.toml bring.
MODULES: Final[dict[Extra, tuple[str, ...]]] = {
    "stages": (
        "boto3",
        "dvc",
        "great_expectations",
        "mlflow",
        "cv2",
        "PIL",
        "psutil",
        "pydicom",
        "gdcm",
        "safetensors",
        "sklearn",
        "torch",
        "torchvision",
        "vl_convert",
    ),
    "serve": (
        "cv2",
        "PIL",
        "pydicom",
        "gdcm",
        "safetensors",
        "starlette",
        "torch",
        "torchvision",
        "uvicorn",
    ),
    "airflow": ("airflow",),  # alone: to look for one of its providers takes three seconds
}


def require(*extras: Extra) -> None:
    """See that the packages of some extras are installed, before a command does half of its work without them.

    Nothing is imported.

    Raises:
        SettingsError: a package is missing; the extra that brings it is named.
    """
    missing = {extra: next((name for name in MODULES[extra] if find_spec(name) is None), None) for extra in extras}
    lacking = [extra for extra, name in missing.items() if name]
    if lacking:
        first = missing[lacking[0]]
        raise SettingsError(
            f"this command needs {first}, which is not installed",
            where="the base install has only what compare, plan, verify, ledger and lineage need",
            fix=f'in the project\'s folder: pip install ".[{",".join(lacking)}]"',
        )
