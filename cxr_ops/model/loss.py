"""The losses: binary cross-entropy, focal, asymmetric and pairwise AUC; missing labels left out of each.

A loss is a sum over terms, and `terms` counts them from the labels alone. A batch that is worked through in parts, or
by several processes, takes the sums of its parts divided by their terms together, and so makes the step of the whole
batch (of `auc`: of those pairs that a part holds together).

Shape suffixes: N images, K findings, P positives of a pair, Q negatives of a pair (both run over the N images).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from cxr_ops.params import Train

BETA: Final = 0.999  # of effective numbers: beyond some 1,000 images, more of a kind hardly show anything new


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss with its weights. Made by `build`.

    Attributes:
        settings: the `train` section of params.yaml.
        positive_weight_K: weight of each finding's positives; a negative weighs 1. `auc` has none.
    """

    settings: Train
    positive_weight_K: torch.Tensor

    def __call__(self, logits_NK: torch.Tensor, truth_NK: torch.Tensor) -> torch.Tensor:
        """Sum the loss over its terms.

        Args:
            logits_NK: any floating type; computed in float32.
            truth_NK: 1, 0 or NaN (missing). A missing label gives no loss and no gradient.

        Returns:
            A float32 scalar, at least 0; 0 when there is no term.

        >>> loss = build(Train(class_weights="none"), np.empty((0, 2)))
        >>> round(loss(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]])).item(), 4)  # ln 2
        0.6931
        """
        settings, logits_NK = self.settings, logits_NK.float()
        if settings.loss == "auc":
            return _pairs(logits_NK, truth_NK, settings.auc_margin)
        known_NK = ~torch.isnan(truth_NK)
        label_NK = torch.where(known_NK, truth_NK, 0.0)
        if settings.loss == "bce" and not settings.label_smoothing:  # the same, in one kernel
            loss_NK = functional.binary_cross_entropy_with_logits(
                logits_NK, label_NK, pos_weight=self.positive_weight_K, reduction="none"
            )
        else:
            positive_NK, negative_NK = _by_kind(logits_NK, *_focus(settings))
            target_NK = label_NK * (1 - settings.label_smoothing) + settings.label_smoothing / 2
            weight_NK = torch.where(label_NK == 1, self.positive_weight_K, 1.0)
            loss_NK = weight_NK * (target_NK * positive_NK + (1 - target_NK) * negative_NK)
        return torch.where(known_NK, loss_NK, 0.0).sum()

    def terms(self, truth_NK: npt.ArrayLike) -> int:
        """Count the terms of the sum: known labels, or for `auc` pairs of a positive and a negative of one finding.

        >>> truth = [[1, 0], [0, float("nan")], [0, 0]]
        >>> build(Train(), truth).terms(truth), build(Train(loss="auc"), truth).terms(truth)
        (5, 2)
        """
        truth = np.asarray(truth_NK)
        positives_K, negatives_K = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
        each_K = positives_K * negatives_K if self.settings.loss == "auc" else positives_K + negatives_K
        return int(each_K.sum())

    def to(self, device: torch.device | str) -> Loss:
        """Put the weights where the logits are."""
        return replace(self, positive_weight_K=self.positive_weight_K.to(device))


def build(settings: Train, truth_NK: npt.ArrayLike) -> Loss:
    """Make the loss that the settings ask for.

    Args:
        settings: the `train` section of params.yaml.
        truth_NK: 1, 0 or NaN (missing), of the training images: the weights follow from them.
    """
    weight_K = class_weights(truth_NK, settings.class_weights, settings.max_positive_weight)
    return Loss(settings=settings, positive_weight_K=torch.from_numpy(weight_K))


def class_weights(truth_NK: npt.ArrayLike, how: str, largest: float) -> npt.NDArray[np.float32]:
    """Weight of a finding's positives beside its negatives, which weigh 1.

    Args:
        truth_NK: 1, 0 or NaN (missing), of the training images.
        how: `none`: 1. `inverse`: negatives / positives, so that both kinds have the same say. `effective`: the same
            of their effective numbers, (1 - BETA ** n) / (1 - BETA) of n images (Cui et al., CVPR 2019, section 3.2).
            It is `inverse` for a few images, and nears 1 where there are thousands of both kinds.
        largest: bound, at least 1. A finding without positives gets it; it has no effect there.

    Returns:
        (K,) weights, in (0, largest].

    >>> class_weights([[1, 0], [0, 0], [0, float("nan")]], "inverse", 10.0)
    array([ 2., 10.], dtype=float32)
    """
    truth = np.asarray(truth_NK, dtype=np.float64)
    positives_K, negatives_K = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    if how == "none":
        return np.ones(truth.shape[1], np.float32)
    if how == "effective":
        positives_K, negatives_K = (-np.expm1(n * np.log(BETA)) / (1 - BETA) for n in (positives_K, negatives_K))
    weight_K: npt.NDArray[np.float64] = np.minimum(np.maximum(negatives_K, 1) / np.maximum(positives_K, 1e-9), largest)
    return weight_K.astype(np.float32)


def _focus(settings: Train) -> tuple[float, float, float]:
    """How strongly easy positives and easy negatives are played down, and the clip of negatives."""
    if settings.loss == "focal":
        return settings.focal_gamma, settings.focal_gamma, 0.0
    if settings.loss == "asymmetric":
        return settings.asymmetric_positive, settings.asymmetric_negative, settings.asymmetric_clip
    return 0.0, 0.0, 0.0


def _by_kind(
    logits: torch.Tensor, gamma_positive: float, gamma_negative: float, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each logit if its label is positive, and if it is negative.

    With p = sigmoid(logit) and q = max(p - clip, 0) these are -(1 - p) ** gamma_positive * log(p) and
    -q ** gamma_negative * log(1 - q): asymmetric (Ridnik et al., ICCV 2021, section 2). Equal gammas without
    clip are focal (Lin et al., ICCV 2017, equation 4, with weights of the classes for alpha), and gammas of 0
    cross-entropy. Logarithms are taken of logits, so that a sure mistake has a finite loss and a gradient.
    """
    missed, hit = functional.softplus(-logits), functional.softplus(logits)  # -log(p), -log(1 - p)
    positive = torch.exp(-gamma_positive * hit) * missed
    if not clip:
        return positive, torch.exp(-gamma_negative * missed) * hit
    q = functional.relu(torch.sigmoid(logits) - clip)  # no gradient at 0, where the power's may be infinite
    return positive, -(q**gamma_negative) * torch.log((torch.sigmoid(-logits) + clip).clamp(max=1))


def _pairs(logits_NK: torch.Tensor, truth_NK: torch.Tensor, margin: float) -> torch.Tensor:
    """Squared hinge, max(0, margin - (positive's logit - negative's)) ** 2, over all pairs of one finding.

    Yan et al., ICML 2003 (power 2, on logits). It is 0 when every positive leads every negative by the margin, and sees
    differences of logits only: their common shift is left free, which calibration by `platt` then fits. Takes memory
    for N * N * K numbers.
    """
    lead_PQK = logits_NK[:, None] - logits_NK[None]
    pair_PQK = (truth_NK == 1)[:, None] & (truth_NK == 0)[None]
    return torch.where(pair_PQK, functional.relu(margin - lead_PQK) ** 2, 0.0).sum()
