"""The script that MLflow keeps with a model: `model/serving.py`, and in it the sources of what else it needs.

A served model stands alone, and must read pictures exactly as the evaluation did that it was promoted on. So it brings
the evaluation's own readers, as text, and not a second version of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parents[2]
_SERVING: Final = _PACKAGE / "model" / "serving.py"
# What the last of each group imports of this package, itself included; a test compares with their imports.
MODULES: Final = (
    "cxr_ops",
    "cxr_ops.contract",
    "cxr_ops.errors",
    "cxr_ops.data",
    "cxr_ops.data.checking",
    "cxr_ops.data.checking.grey",
    "cxr_ops.data.checking.jpeg",
    "cxr_ops.data.checking.png",
    "cxr_ops.data.checking.decode",
    "cxr_ops.data.checking.identity",
    "cxr_ops.data.checking.dicom",
    "cxr_ops.data.checking.pictures",
    "cxr_ops.data.receipts",
    "cxr_ops.model",
    "cxr_ops.model.heads",
)
_EMPTY: Final = "READERS: Final[dict[str, str]] = {}"


def script() -> str:
    """The whole script, the same for the same version of this package."""
    text = _SERVING.read_text(encoding="utf-8")
    if text.count(_EMPTY) != 1:
        raise RuntimeError(f"{_SERVING} has no one place for the readers")
    sources = {name: _source(name).read_text(encoding="utf-8") for name in MODULES}
    return text.replace(_EMPTY, f"READERS: Final[dict[str, str]] = {json.dumps(sources, indent=2)}")


def _source(module: str) -> Path:
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
