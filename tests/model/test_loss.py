"""The loss, against sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cxr_ops.model.loss import positive_weights, weighted_bce

NAN = float("nan")


def test_is_the_mean_over_known_labels() -> None:
    """The loss is the mean of w y log(1/p) + (1 - y) log(1/(1 - p)) over the labels that are known."""
    logits = [[0.3, -1.2, 2.0], [1.0, 0.0, -3.0]]
    truth = [[1, 0, NAN], [NAN, 1, 0]]
    weight = [2.0, 5.0, 1.0]
    terms = []
    for row, labels in zip(logits, truth, strict=True):
        for z, y, w in zip(row, labels, weight, strict=True):
            if not math.isnan(y):
                p = 1 / (1 + math.exp(-z))
                terms.append(-w * y * math.log(p) - (1 - y) * math.log(1 - p))
    loss = weighted_bce(torch.tensor(logits), torch.tensor(truth), torch.tensor(weight))
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_missing_labels_teach_nothing() -> None:
    """A missing label has no gradient, whatever the logit, and a batch without labels has the loss 0."""
    logits = torch.tensor([[1e4, 0.5]], requires_grad=True)
    weighted_bce(logits, torch.tensor([[NAN, 1.0]]), torch.ones(2)).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] == 0
    assert logits.grad[0, 1] < 0
    assert weighted_bce(logits, torch.full((1, 2), NAN), torch.ones(2)).item() == 0


def test_both_kinds_weigh_the_same_up_to_a_bound() -> None:
    """Positives together weigh as much as negatives together, unless that takes more than the bound."""
    truth = np.array([[1, 1, 0, NAN]] + [[0, 1, 0, 0]] * 3 + [[0, 0, 0, 1]] * 16)
    assert positive_weights(truth, 10.0).tolist() == pytest.approx([10.0, 16 / 4, 10.0, 3 / 16])
