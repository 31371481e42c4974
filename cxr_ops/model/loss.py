"""The loss: binary cross-entropy a finding, rare findings weighted up, missing labels left out.

Shape suffixes: N images, K findings.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional


def positive_weights(truth_NK: npt.ArrayLike, largest: float) -> npt.NDArray[np.float32]:
    """Weight of a finding's positives that gives both its kinds the same say: negatives / positives, at most `largest`.

    Args:
        truth_NK: 1, 0 or NaN (missing), of the training images.
        largest: bound, at least 1. A finding without positives gets it; it has no effect there.

    Returns:
        (K,) weights, in (0, largest].

    >>> positive_weights([[1, 0], [0, 0], [0, float("nan")]], 10.0)
    array([ 2., 10.], dtype=float32)
    """
    truth = np.asarray(truth_NK, dtype=np.float64)
    positives, negatives = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    weights: npt.NDArray[np.float64] = np.minimum(np.maximum(negatives, 1) / np.maximum(positives, 1e-9), largest)
    return weights.astype(np.float32)


def weighted_bce(logits_NK: torch.Tensor, truth_NK: torch.Tensor, positive_weight_K: torch.Tensor) -> torch.Tensor:
    """Mean weighted binary cross-entropy over the labels that are known.

    Args:
        logits_NK: any floating type; computed in float32.
        truth_NK: 1, 0 or NaN (missing). A missing label gives no loss and no gradient.
        positive_weight_K: see `positive_weights`.

    Returns:
        A scalar, at least 0; 0 when no label is known.

    >>> nan = float("nan")
    >>> loss = weighted_bce(torch.zeros(1, 2), torch.tensor([[1.0, nan]]), torch.tensor([3.0, 1.0]))
    >>> round(loss.item() / 3, 4)  # ln 2
    0.6931
    """
    known_NK = ~torch.isnan(truth_NK)
    loss_NK = functional.binary_cross_entropy_with_logits(
        logits_NK.float(), torch.where(known_NK, truth_NK, 0.0), pos_weight=positive_weight_K, reduction="none"
    )
    return torch.where(known_NK, loss_NK, 0.0).sum() / known_NK.sum().clamp(min=1)
