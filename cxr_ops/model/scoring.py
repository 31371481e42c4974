"""Probabilities of the 14 findings from source pixels, through a package's own preprocessing and network.

A finding that the model was not trained on has no probability: its column is NaN.

Shape suffixes: N images, S side of the picture in pixels, K findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model.machine import full_precision
from cxr_ops.model.package import LoadedModel


def score(
    model: LoadedModel,
    pixels: Iterable[npt.NDArray[np.uint8]],
    *,
    batch_size: int = 64,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Score decoded radiographs, in float32 whatever precision the model was trained in.

    The same list gives the same bits. In other company an image's probability may differ in the last digits (by less
    than 1e-5), because a processor sums in another order.

    Args:
        model: a loaded package.
        pixels: uint8 H x W each, 0 black, in their own size; read once, a batch at a time.
        batch_size: images at a time.
        device: `cpu` or `cuda`; the network goes there.
        progress: called with the number of images done after each batch.

    Returns:
        (N, 14) float32 probabilities in [0, 1], in the order of `FINDINGS`; NaN where the model was not trained.

    Raises:
        DataError: an image is not grey 8-bit, or a probability is not a number.

    Example:
        score(package.load(folder, digest), (decode_grey(reader.read(i)) for i in ids))
    """
    return _probabilities(model, batches(model, pixels, batch_size), device, progress)


def score_packed(
    model: LoadedModel, pixels_NSS: npt.NDArray[np.uint8], *, batch_size: int = 64, device: str = "cpu"
) -> npt.NDArray[np.float32]:
    """Score pictures as `prepare` packs them: contrast and size are those of the network already.

    Args:
        model: a loaded package.
        pixels_NSS: uint8, of the contract's size.
        batch_size: images at a time.
        device: `cpu` or `cuda`; the network goes there.

    Returns:
        (N, 14) float32 probabilities in [0, 1], in the order of `FINDINGS`; NaN where the model was not trained.

    Raises:
        DataError: a probability is not a number.
    """
    parts = (pixels_NSS[first : first + batch_size] for first in range(0, len(pixels_NSS), batch_size))
    tensors = (_laid_out(model.to_tensor(torch.from_numpy(np.array(part)))) for part in parts)
    return _probabilities(model, tensors, device, None)


def _probabilities(
    model: LoadedModel, tensors: Iterable[torch.Tensor], device: str, progress: Callable[[int], None] | None
) -> npt.NDArray[np.float32]:
    scores = [np.empty((0, len(FINDINGS)), np.float32)]
    done = 0
    untrained = np.array([name not in model.trained for name in FINDINGS])
    net = model.net.to(device)
    for x_N1SS in tensors:
        with torch.inference_mode(), full_precision():
            scores_NK = torch.sigmoid(net(x_N1SS.to(device)).float()).cpu().numpy()
        scores_NK[:, untrained] = np.nan
        if not np.isfinite(scores_NK[:, ~untrained]).all():
            raise DataError(f"the model gives no number for an image among {done} to {done + len(scores_NK) - 1}")
        scores.append(scores_NK)
        done += len(scores_NK)
        if progress is not None:
            progress(done)
    return np.concatenate(scores)


def batches(model: LoadedModel, pixels: Iterable[npt.NDArray[np.uint8]], batch_size: int) -> Iterator[torch.Tensor]:
    """Prepare images in the package's own way: normalised, N x 1 x S x S, `batch_size` at a time and the rest."""
    stream = iter(pixels)
    while prepared := [model.preprocess(image) for image in islice(stream, batch_size)]:
        yield _laid_out(model.to_tensor(torch.from_numpy(np.stack(prepared))))


def _laid_out(x_N1SS: torch.Tensor) -> torch.Tensor:
    return x_N1SS.contiguous(memory_format=torch.channels_last)
