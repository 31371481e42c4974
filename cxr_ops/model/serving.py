"""The model as MLflow serves it: a script that MLflow keeps beside the model and runs to get it back.

It stands alone: whatever else it needs comes with the model, in the package that the evaluation scored, and in this
script, into which the sources of what reads pictures, draws heat maps and writes receipts are written
(`cxr_ops.edges.mlflow.script`). A row goes in as one column `image`, the bytes of a PNG, JPEG or DICOM file (or their
base64 text). Out come 14 probabilities, a column a finding, and NaN for those that the model was not trained on;
`flags`, which says of each finding with an operating point whether it is called; and a `receipt`. Nothing is unpickled,
and no byte of the package is used before the package has shown the digest that it was registered with. Of a DICOM file
the pixels are read and nothing else: that it is a frontal radiograph of a chest is for the caller to know.

    model = mlflow.pyfunc.load_model("models:/cxr-densenet121@champion")
    model.predict(pandas.DataFrame({"image": [png]}), params={"maps": True})

The receipts are added to the file that CXR_RECEIPTS names as well, before the answer is given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from safetensors.torch import load

FILES: Final = ("weights.safetensors", "model.json", "network.py", "patients.txt")
BATCH: Final = 32  # rows in memory at a time
RECEIPTS: Final = "CXR_RECEIPTS"
# The modules that this script brings: their sources by their names, each after those that it imports.
READERS: Final[dict[str, str]] = {}


class ChestXrayClassifier(PythonModel):  # type: ignore[misc] # MLflow publishes no types
    """DenseNet121 with its preprocessing, as packaged by the training that made it. Not a medical device."""

    def load_context(self, context: Any) -> None:
        """Check the package and build the network from it; MLflow calls this once.

        Raises:
            ValueError: the package is not the one that was registered.
        """
        files = read_package(Path(context.artifacts["package"]))
        digest = package_digest(files)
        if digest != context.model_config["package"]:
            raise ValueError(
                f"the package has digest {digest}, and {context.model_config['package']} was registered: it was altered"
            )
        self.modules = brought()
        self.decode = readers()
        self.contract = json.loads(files["model.json"])
        # Compiled from the bytes that were checked: an import would prefer a cached file that nobody checks.
        self.network = ModuleType(f"cxr_packaged_network_{digest[:16]}")
        sys.modules[self.network.__name__] = self.network
        exec(compile(files["network.py"], "network.py", "exec"), self.network.__dict__)  # noqa: S102
        self.model = self.network.build(self.contract)
        self.model.load_state_dict(load(files["weights.safetensors"]))
        self.model.eval().to(memory_format=torch.channels_last)
        trained = self.contract.get("trained", self.contract["findings"])
        self.untrained = np.array([name not in trained for name in self.contract["findings"]])
        receipts = self.modules["cxr_ops.data.receipts"]
        self.points: dict[str, float] = context.model_config.get("points") or {}
        self.served = receipts.Served(
            model=digest,
            preprocessing=receipts.digest_of(self.contract["input"]),
            operating_points=receipts.digest_of(self.points) if self.points else None,
        )

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Score radiographs.

        Args:
            context: MLflow's; not used.
            model_input: a column `image` with a PNG, JPEG or DICOM file a row, as bytes or base64 text.
            params: `maps`: whether heat maps are computed as well.

        Returns:
            A row for each row that came in, with its index. Probabilities in [0, 1], float64, a column a finding, NaN
            for a finding that the model was not trained on. `flags`: finding -> whether its probability reaches its
            operating point, of the findings that have one. `receipt`: see `cxr_ops.data.receipts`. With `maps`, a
            column `maps`: finding -> map, rows of numbers of at least 0 in logits.

        Raises:
            ValueError: a row is no picture that is read, or is damaged; no row is scored then, and the first bad one is
                named.
            OSError: the receipts cannot be written; there is no answer then.
        """
        del context
        wanted = bool((params or {}).get("maps"))
        images, findings = list(model_input["image"]), self.contract["findings"]
        parts = [self._score(images[first : first + BATCH], first, wanted) for first in range(0, len(images), BATCH)]
        values = np.concatenate([part[0] for part in parts]) if parts else np.empty((0, len(findings)))
        found = pd.DataFrame(values, columns=findings, index=model_input.index)
        said = [dict(zip(findings, (None if np.isnan(v) else float(v) for v in row), strict=True)) for row in values]
        flags = [{name: (row[name] or 0.0) >= at for name, at in self.points.items()} for row in said]
        receipts = [self.served.receipt(_as_bytes(image), row) for image, row in zip(images, said, strict=True)]
        columns: dict[str, list[dict[str, Any]]] = {"flags": flags, "receipt": receipts}
        if wanted:
            columns["maps"] = [one for part in parts for one in part[1]]
        for name, column in columns.items():
            found[name] = pd.Series(column, index=found.index, dtype=object)
        if path := os.environ.get(RECEIPTS):
            self.modules["cxr_ops.data.receipts"].append(Path(path), receipts)
        return found

    def _score(
        self, images: Iterable[object], first: int, wanted: bool
    ) -> tuple[npt.NDArray[np.float64], list[dict[str, Any]]]:
        pictures = []
        for row, image in enumerate(images, first):
            try:
                pictures.append(self.network.preprocess(self.decode(_as_bytes(image)), self.contract))
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from error
        tensor = self.network.to_tensor(torch.from_numpy(np.stack(pictures)), self.contract)
        maps: list[dict[str, Any]] = []
        if wanted:
            drawn, logits = self.modules["cxr_ops.model.heads"].maps(self.model, tensor, "the registered model")
            trained = [(f, name) for f, name in enumerate(self.contract["findings"]) if not self.untrained[f]]
            maps = [{name: one[f].tolist() for f, name in trained} for one in drawn]
        else:
            with torch.inference_mode():
                logits = self.model(tensor)
        values: npt.NDArray[np.float64] = logits.float().sigmoid().double().numpy()
        values[:, self.untrained] = np.nan
        return values, maps


def read_package(folder: Path) -> dict[str, bytes]:
    """Read the files of a package.

    Raises:
        ValueError: a file is missing.
    """
    try:
        return {name: (folder / name).read_bytes() for name in FILES}
    except FileNotFoundError as error:
        raise ValueError(f"the package lacks {error.filename}") from error


def package_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the canonical JSON of each file's SHA-256, as `cxr_ops.records.tree_digest`."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True, indent=2).encode() + b"\n").hexdigest()


def readers() -> Callable[[bytes], npt.NDArray[np.uint8]]:
    """What decodes a picture, of the modules that this script brings."""
    decode_any: Callable[[bytes], npt.NDArray[np.uint8]] = brought()["cxr_ops.data.checking.pictures"].decode_any
    return decode_any


def brought() -> dict[str, ModuleType]:
    """Make the modules that this script brings, each under a name of its own, once.

    Whatever version of this project is installed where the model is served, its modules are not used.
    """
    digest = hashlib.sha256(json.dumps(READERS).encode()).hexdigest()
    root = f"cxr_readers_{digest[:16]}"
    found: dict[str, ModuleType] = {}
    for name, source in READERS.items():
        parent, _, own = name.replace("cxr_ops", root).rpartition(".")
        known = f"{parent}.{own}" if parent else own
        if known not in sys.modules:
            module = ModuleType(known)
            module.__path__ = []  # a package, as far as imports of what is in it are concerned
            sys.modules[known] = module
            exec(compile(source.replace("cxr_ops", root), f"{name}.py", "exec"), module.__dict__)  # noqa: S102
            if parent:
                setattr(sys.modules[parent], own, module)
        found[name] = sys.modules[known]
    return found


def _as_bytes(image: object) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str):
        try:
            return base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("this text is not base64") from error
    raise ValueError(f"an image is bytes or base64 text, not {type(image).__name__}")


set_model(ChestXrayClassifier())
