"""What training depends on, named once: `dvc.yaml`, the recipe of a run, checkpoints and the ablation all ask here.

A file of the package that the stages up to `train` can import is either training's own or inert. Training's own can
change a weight: an edit of it, be it of a comment, asks for a new training. An inert one cannot, and says why. A file
that is in neither list stops `make deps` and `make lint`, so that a new module is put into one on purpose.

Settings count by their values and not by the bytes of `params.py`. A value counts where it is not the default that the
setting was introduced with (`defaults/introduced.json`, to which `make deps` adds and from which it takes nothing): a
setting that is new, and has its default, changes nothing until code reads it, and that code is training's own. DVC sees
values in params.yaml, but no defaults: those that are no longer as they were introduced are in
`defaults/changed.json`, on which the stages depend.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cxr_ops.errors import SettingsError
from cxr_ops.params import Params
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file

FORMAT: Final = 2  # of a recipe on record; the first had none, and named every file that training could import
STAGES: Final = ("validate", "split", "prepare", "train")
INTRODUCED: Final = "defaults/introduced.json"
CHANGED: Final = "defaults/changed.json"

# Files of the package that can change a weight.
OWN: Final = frozenset(
    {
        "labels.py",
        "data/cache.py",
        "data/checking/decode.py",
        "data/checking/grey.py",
        "data/checking/jpeg.py",
        "data/checking/png.py",
        "data/contrast.py",
        "data/events.py",
        "data/manifest.py",
        "data/packed.py",
        "data/shards.py",
        "data/splits.py",
        "data/validation.py",
        "model/augment.py",
        "model/batches.py",
        "model/calibration.py",
        "model/checkpoint.py",
        "model/distributed.py",
        "model/loss.py",
        "model/machine.py",
        "model/network.py",
        "model/optimization.py",
        "model/package.py",
        "model/pretrained.py",
        "model/step.py",
        "model/training.py",
        "stages/validate.py",
        "stages/split.py",
        "stages/prepare.py",
        "stages/train.py",
        "stats/ranking.py",
    }
)

# Files, and folders (with a slash at the end), that the same stages import and that cannot change a weight, and why.
INERT: Final[Mapping[str, str]] = {
    "__init__.py": "a version number",
    "audit/": "digests of packages and names of patients in them; what is checked and not what is computed",
    "contract.py": "names of stages, files and exit codes; another name is another path, and so another command",
    "data/__init__.py": "a docstring",
    "data/checking/__init__.py": "a docstring",
    "data/checking/isolate.py": "in how many processes work is done, and which of them die; not what the work is",
    "data/near_copies.py": "checks that stop a run or warn, and change no row",
    "data/room.py": "whether a disk has room; not what is written there",
    "data/templates/": "how a page looks",
    "errors.py": "sentences for people, and exit codes",
    "model/__init__.py": "how threads wait for one another, not what they compute",
    "model/progress.py": "what a person is told",
    "params.py": "names, ranges and defaults of settings; their values count",
    "recipe.py": "these lists; a file that enters or leaves them changes the recipe by itself",
    "records/": "the shape of files; what a stage writes into them comes from its own code",
    "stages/__init__.py": "a docstring",
    "stages/__main__.py": "starts a stage and says how it ended",
    "stats/__init__.py": "a docstring",
    "voice.py": "what a person is told",
}


def reason(path: str) -> str | None:
    """Why a file of the package, by its path in it, cannot change a weight; None where nothing says so.

    >>> reason("records/base.py") == INERT["records/"], reason("model/loss.py")
    (True, None)
    """
    folders = [f"{parent.as_posix()}/" for parent in Path(path).parents]
    return next((INERT[name] for name in (path, *folders) if name in INERT), None)


def unnamed(paths: Iterable[str]) -> list[str]:
    """Those of some files of the package that are neither training's own nor inert, sorted."""
    return sorted(path for path in paths if path not in OWN and reason(path) is None)


def code_digest() -> str:
    """SHA-256 over training's own files, as they are installed. A checkpoint or a cell of other code is not used."""
    package = Path(__file__).parent
    return sha256_bytes(canonical_json({path: sha256_file(package / path) for path in sorted(OWN)}))


# ------------------------------------------------------------------------------------------------------- settings


def defaults() -> dict[str, dict[str, Any]]:
    """The default of every setting, by section, of the sections that training depends on."""
    values = Params().model_dump(mode="json", by_alias=True)
    return {section: values[section] for section in STAGES}


def introduced(folder: Path) -> dict[str, dict[str, Any]]:
    """The default that every setting was introduced with, by section, as a project has it; empty without the file."""
    path = folder / INTRODUCED
    found: dict[str, dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def with_new(before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`introduced` with the settings that are new since, by today's defaults. None is changed, and none leaves."""
    return {section: {**values, **before.get(section, {})} for section, values in defaults().items()}


def changed(before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Today's defaults that are not those of `introduced`, by section; a section without any is left out."""
    return differing(defaults(), before)


def differing(
    sections: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The settings that are not as they were introduced, by section; a section without any is left out.

    >>> differing({"train": {"epochs": 3, "seed": 0}, "split": {}}, {"train": {"epochs": 6, "seed": 0}})
    {'train': {'epochs': 3}}
    """
    found = {
        section: {
            key: value
            for key, value in values.items()
            if key not in before.get(section, {}) or before[section][key] != value
        }
        for section, values in sections.items()
    }
    return {section: values for section, values in found.items() if values}


def check_defaults(folder: Path) -> None:
    """Check that a project's `defaults/changed.json` is of its own `params.py`, where that is the installed one.

    If a default was changed and DVC does not know, it takes an earlier training for this one.

    Raises:
        SettingsError: it is not.
    """
    installed, theirs = Path(__file__).with_name("params.py"), folder / "cxr_ops" / "params.py"
    path = folder / CHANGED
    if not path.is_file() or not theirs.is_file() or theirs.read_bytes() != installed.read_bytes():
        return
    if json.loads(path.read_bytes()) != changed(introduced(folder)):
        raise SettingsError(
            "a setting of params.py is new or has another default, and the stages that depend on it do not know",
            where=path,
            fix="make deps",
        )
