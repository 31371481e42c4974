"""The model as MLflow serves it: a script that MLflow keeps beside the model and runs to get it back.

It stands alone: whatever else it needs comes with the model, in the package that the evaluation scored, and in this
script, into which the sources of what reads pictures are written (`cxr_ops.edges.mlflow.script`). A row goes in as one
column `image`, the bytes of a PNG, JPEG or DICOM file (or their base64 text); 14 probabilities come out, a column a
finding, and NaN for those that the model was not trained on. Nothing is unpickled, and no byte of the package is used
before the package has shown the digest that it was registered with. Of a DICOM file the pixels are read and nothing
else: that it is a frontal radiograph of a chest is for the caller to know.

    mlflow.pyfunc.load_model("models:/cxr-densenet121@champion").predict(pandas.DataFrame({"image": [png]}))
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
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
# The modules that read pictures: their sources by their names, each after those that it imports.
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

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Score radiographs.

        Args:
            context: MLflow's; not used.
            model_input: a column `image` with a PNG, JPEG or DICOM file a row, as bytes or base64 text.
            params: MLflow's; not used.

        Returns:
            Probabilities in [0, 1], float64: a column a finding, a row for each row that came in, with its index. A
            finding that the model was not trained on is NaN.

        Raises:
            ValueError: a row is no picture that is read, or is damaged; no row is scored then, and the first bad one is
                named.
        """
        del context, params
        images = list(model_input["image"])
        parts = [self._score(images[first : first + BATCH], first) for first in range(0, len(images), BATCH)]
        findings = self.contract["findings"]
        values = np.concatenate(parts) if parts else np.empty((0, len(findings)))
        return pd.DataFrame(values, columns=findings, index=model_input.index)

    def _score(self, images: Iterable[object], first: int) -> npt.NDArray[np.float64]:
        pictures = []
        for row, image in enumerate(images, first):
            try:
                pictures.append(self.network.preprocess(self.decode(_as_bytes(image)), self.contract))
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from error
        with torch.inference_mode():
            logits = self.model(self.network.to_tensor(torch.from_numpy(np.stack(pictures)), self.contract))
            values: npt.NDArray[np.float64] = logits.float().sigmoid().double().numpy()
        values[:, self.untrained] = np.nan
        return values


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
    """Make the modules that this script brings, under a name of their own, and give the last one's `decode_any`.

    Whatever version of this project is installed where the model is served, its modules are not used.
    """
    digest = hashlib.sha256(json.dumps(READERS).encode()).hexdigest()
    root = f"cxr_readers_{digest[:16]}"
    module = ModuleType(root)
    for name, source in READERS.items():
        parent, _, own = name.replace("cxr_ops", root).rpartition(".")
        module = ModuleType(f"{parent}.{own}" if parent else own)
        module.__path__ = []  # a package, as far as imports of what is in it are concerned
        sys.modules[module.__name__] = module
        exec(compile(source.replace("cxr_ops", root), f"{name}.py", "exec"), module.__dict__)  # noqa: S102
        if parent:
            setattr(sys.modules[parent], own, module)
    decode_any: Callable[[bytes], npt.NDArray[np.uint8]] = module.__dict__["decode_any"]
    return decode_any


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
