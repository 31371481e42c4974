"""Calibration: the validation set decides what probability a logit stands for, and no image changes its rank.

Of each finding, the logit z becomes scale z + shift. `temperature` (Guo et al., ICML 2017, there of a softmax) has a
scale alone, 1 / T; `platt` (Platt 1999, without his prior on the targets) has a shift too. Both are the maximum of the
likelihood of the validation labels, unweighted, so that they also undo what weights of rare findings did to the
probabilities. Folded into the last layer, they are part of the weights: whoever reads the package needs not know.

Shape suffixes: N images, K findings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, special

# Where the logits rank the labels perfectly, or backwards, the likelihood rises towards a scale of infinity, or falls
# from 0 on: the scale stays in this range. Above it probabilities would round to 0 and 1, and ranks would be lost.
SCALES: Final = (0.01, 10.0)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What each finding's logit is multiplied by, above 0, and then raised by: (K,) each."""

    scale_K: Floats
    shift_K: Floats


def fit(logits_NK: npt.ArrayLike, truth_NK: npt.ArrayLike, how: Literal["none", "temperature", "platt"]) -> Calibration:
    """Find scale and shift of each finding by maximum likelihood.

    The likelihood is concave in both, so the scale is where its slope crosses 0, with the best shift for every scale:
    two nested searches that cannot miss. A finding without both kinds among the known labels keeps scale 1 and shift 0.

    Args:
        logits_NK: finite numbers, of the validation images.
        truth_NK: 1, 0 or NaN (missing, left out).
        how: `none` gives scale 1 and shift 0 throughout.

    Raises:
        ValueError: a logit of a known label is not finite.

    >>> found = fit([[3.0], [3.0], [3.0], [-1.0], [-1.0], [-1.0]], [[1], [0], [1], [0], [0], [1]], "platt")
    >>> special.expit(found.scale_K * np.array([3, -1]) + found.shift_K).round(3)
    array([0.667, 0.333])
    """
    logits = np.asarray(logits_NK, dtype=np.float64)
    truth = np.asarray(truth_NK, dtype=np.float64)
    scale_K, shift_K = np.ones(logits.shape[1]), np.zeros(logits.shape[1])
    for finding in range(logits.shape[1]):
        known_N = ~np.isnan(truth[:, finding])
        z_N, y_N = logits[known_N, finding], truth[known_N, finding]
        if not np.isfinite(z_N).all():
            raise ValueError(f"a logit of finding {finding} is not finite")
        if how != "none" and 0 < y_N.sum() < len(y_N):
            scale_K[finding], shift_K[finding] = _fit_one(z_N, y_N, shifted=how == "platt")
    return Calibration(scale_K=scale_K, shift_K=shift_K)


def _fit_one(z_N: Floats, y_N: Floats, *, shifted: bool) -> tuple[float, float]:
    """The scale in `SCALES`, and the shift, at which the labels, of both kinds, are likeliest."""

    def best_shift(scale: float) -> float:
        if not shifted:
            return 0.0
        # At these ends every probability is below 1 / N, or above 1 - 1 / N: too few or too many positives for sure.
        room = np.log(len(z_N)) + 1
        low, high = -scale * z_N.max() - room, -scale * z_N.min() + room
        return float(optimize.brentq(lambda shift: (special.expit(scale * z_N + shift) - y_N).sum(), low, high))

    def slope(scale: float) -> float:
        return float(z_N @ (y_N - special.expit(scale * z_N + best_shift(scale))))

    low, high = SCALES
    if not (np.ptp(z_N) if shifted else z_N.any()):
        scale = 1.0  # one logit for all: no scale is likelier than another
    elif slope(low) <= 0:
        scale = low
    elif slope(high) >= 0:
        scale = high
    else:
        scale = float(optimize.brentq(slope, low, high, xtol=1e-12))
    return scale, best_shift(scale)


def fold(state: Mapping[str, torch.Tensor], calibration: Calibration) -> dict[str, torch.Tensor]:
    """Put a calibration into the last linear layer of a network of `network.py`, of either head.

    Args:
        state: the network's tensors by name; they are not changed.
        calibration: see `fit`.

    Returns:
        The same names, with tensors of that layer multiplied and shifted, in float64 before they are rounded.
    """
    last = "classifier.last" if "classifier.last.weight" in state else "classifier"
    weight_KC, bias_K = state[f"{last}.weight"], state[f"{last}.bias"]
    scale_K, shift_K = (
        torch.from_numpy(part).to(weight_KC.device) for part in (calibration.scale_K, calibration.shift_K)
    )
    return {
        **state,
        f"{last}.weight": (weight_KC.double() * scale_K[:, None]).to(weight_KC.dtype),
        f"{last}.bias": (bias_K.double() * scale_K + shift_K).to(bias_K.dtype),
    }
