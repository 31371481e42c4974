"""The losses, against published formulas written out, torchvision, numerical slopes and brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from cxr_ops.model.loss import BETA, Loss, build
from cxr_ops.params import Train

NAN = float("nan")


def make(rows: int = 12, findings: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of both signs, and labels of which a fifth are missing."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (rows, findings)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    return torch.from_numpy(rng.normal(0, 2, truth.shape).astype(np.float32)), torch.from_numpy(truth)


def written_out(
    loss: Loss, logits: torch.Tensor, truth: torch.Tensor, term: Callable[[float, float], float]
) -> tuple[float, int]:
    """Sum of weight * (target * term(p, 1) + (1 - target) * term(p, 0)) over the known labels, and their number."""
    smoothing, total, known = loss.settings.label_smoothing, 0.0, 0
    for row, labels in zip(logits.tolist(), truth.tolist(), strict=True):
        for z, y, w in zip(row, labels, loss.positive_weight_K.tolist(), strict=True):
            if not math.isnan(y):
                p, target = 1 / (1 + math.exp(-z)), y * (1 - smoothing) + smoothing / 2
                total += (w if y == 1 else 1) * (target * term(p, 1) + (1 - target) * term(p, 0))
                known += 1
    return total, known


def cross_entropy(p: float, y: float) -> float:
    return -math.log(p if y else 1 - p)


def focal(p: float, y: float) -> float:
    at_truth = p if y else 1 - p
    return -((1 - at_truth) ** 2.5) * math.log(at_truth)


def asymmetric(p: float, y: float) -> float:
    shifted = max(p - 0.2, 0)
    return -((1 - p) ** 0.5) * math.log(p) if y else -(shifted**3) * math.log(1 - shifted)


FORMULAS = [
    ({"loss": "bce"}, cross_entropy),
    ({"loss": "focal", "focal_gamma": 2.5}, focal),
    (
        {"loss": "asymmetric", "asymmetric_positive": 0.5, "asymmetric_negative": 3, "asymmetric_clip": 0.2},
        asymmetric,
    ),
]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("settings", "term"), FORMULAS, ids=["bce", "focal", "asymmetric"])
def test_is_the_published_formula(settings: dict, term: Callable[[float, float], float], smoothing: float) -> None:
    """A loss is its formula summed over the known labels, weighted by kind, with labels drawn towards one half."""
    logits, truth = make()
    loss = build(Train(**settings, label_smoothing=smoothing), make(40, seed=1)[1])
    total, known = written_out(loss, logits, truth, term)
    assert loss(logits, truth).item() == pytest.approx(total, rel=1e-5)
    assert loss.terms(truth.numpy()) == known


def test_focal_is_torchvisions() -> None:
    """Without weights the focal loss and its gradient are torchvision's; the asymmetric one holds it as a case."""
    logits, truth = make()
    known = ~torch.isnan(truth)
    for settings in (
        Train(loss="focal", focal_gamma=1.5, class_weights="none"),
        Train(
            loss="asymmetric",
            asymmetric_positive=1.5,
            asymmetric_negative=1.5,
            asymmetric_clip=0,
            class_weights="none",
        ),
    ):
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        loss = build(settings, truth)(ours, truth)
        peer = sigmoid_focal_loss(theirs[known], truth[known], alpha=-1, gamma=1.5, reduction="sum")
        assert loss.item() == pytest.approx(peer.item(), rel=1e-5)
        loss.backward()
        peer.backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_cross_entropy_is_torchs_to_the_bit() -> None:
    """The default, over its terms, has the bits of torch's mean with weighted positives, and of its gradient."""
    logits, truth = make(64, 14)
    loss = build(Train(), truth)
    known = ~torch.isnan(truth)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mean = loss(ours, truth) / loss.terms(truth.numpy())
    peer = torch.nn.BCEWithLogitsLoss(pos_weight=loss.positive_weight_K, reduction="none")(theirs, truth.nan_to_num())
    peer = torch.where(known, peer, 0.0).sum() / known.sum()
    mean.backward()
    peer.backward()
    assert torch.equal(mean, peer)
    assert torch.equal(ours.grad, theirs.grad)


def test_smoothing_has_its_optimum_at_the_drawn_label() -> None:
    """With smoothing s the loss is least where the probability is 1 - s / 2 or s / 2, however findings are weighted."""
    truth = torch.tensor([[1.0], [0.0]])
    loss = build(Train(label_smoothing=0.3), np.array([[1], [0], [0], [0], [0]]))
    logits = torch.logit(torch.tensor([[0.85], [0.15]])).requires_grad_()
    loss(logits, truth).backward()
    assert logits.grad.abs().max() < 1e-6
    assert loss.positive_weight_K.item() == 4


def test_pairs_are_counted_by_brute_force() -> None:
    """The AUC loss is the squared hinge of each pair of a known positive and a known negative of one finding."""
    logits, truth = make()
    loss = build(Train(loss="auc", auc_margin=0.8), truth)
    expected, pairs = 0.0, 0
    for k in range(truth.shape[1]):
        for i, j in itertools.product(range(len(truth)), repeat=2):
            if truth[i, k] == 1 and truth[j, k] == 0:
                expected += max(0.0, 0.8 - (logits[i, k] - logits[j, k]).item()) ** 2
                pairs += 1
    assert loss(logits, truth).item() == pytest.approx(expected, rel=1e-5)
    assert loss.terms(truth.numpy()) == pairs > 0


def test_a_perfect_order_costs_nothing() -> None:
    """The AUC loss is 0 exactly when all positives lead by the margin, and a common shift of the logits is free."""
    truth = torch.tensor([[1.0], [1.0], [0.0]])
    loss = build(Train(loss="auc", auc_margin=2), truth)
    assert loss(torch.tensor([[3.0], [2.0], [0.0]]), truth).item() == 0
    assert loss(torch.tensor([[3.0], [1.9], [0.0]]), truth).item() == pytest.approx(0.01, rel=1e-4)
    assert loss(torch.tensor([[13.0], [11.9], [10.0]]), truth).item() == pytest.approx(0.01, rel=1e-4)


ALL = [
    {"loss": "bce"},
    {"loss": "bce", "label_smoothing": 0.1},
    {"loss": "focal", "focal_gamma": 0.5},
    {"loss": "focal"},
    {"loss": "asymmetric", "label_smoothing": 0.1},
    {"loss": "asymmetric", "asymmetric_negative": 0.5},
    {"loss": "asymmetric", "asymmetric_clip": 0},
    {"loss": "auc"},
]


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_gradient_is_the_slope(settings: dict) -> None:
    """The gradient is the central difference of the loss, for every loss."""
    logits, truth = make(6, 3)
    loss = build(Train(**settings), truth)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, truth), logits)
    step = 2e-2  # float32 inside: smaller steps drown in rounding
    for i, k in itertools.product(range(6), range(3)):
        moved = torch.zeros_like(logits)
        moved[i, k] = step
        slope = (loss(logits + moved, truth) - loss(logits - moved, truth)).item() / (2 * step)
        assert gradient[i, k].item() == pytest.approx(slope, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_missing_labels_teach_nothing(settings: dict) -> None:
    """A missing label has no gradient, whatever the logit, and without known labels loss and terms are 0."""
    truth = torch.tensor([[NAN, 1.0], [NAN, 0.0]])
    loss = build(Train(**settings), truth)
    logits = torch.tensor([[1e4, 0.5], [-1e4, 0.7]], requires_grad=True)
    total = loss(logits, truth)
    assert total.item() == pytest.approx(loss(torch.tensor([[0.0, 0.5], [0.0, 0.7]]), truth).item())
    total.backward()
    assert (logits.grad[:, 0] == 0).all()
    assert logits.grad[0, 1] < 0 < logits.grad[1, 1]
    nothing = torch.full((2, 2), NAN)
    assert loss(logits, nothing).item() == 0
    assert loss.terms(nothing.numpy()) == 0


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_sure_mistakes_are_finite(settings: dict) -> None:
    """Sure logits, right or wrong, have a finite loss and gradient, and a mistake is pushed back; bf16 is taken."""
    truth = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    loss = build(Train(**settings), truth)
    logits = torch.tensor([[-150.0], [150.0], [150.0], [-150.0]], dtype=torch.bfloat16, requires_grad=True)
    total = loss(logits, truth)
    total.backward()
    assert total.dtype == torch.float32
    assert math.isfinite(total.item())
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] < 0
    if not loss.settings.asymmetric_clip or settings["loss"] != "asymmetric":
        assert logits.grad[1, 0] > 0
    else:  # its published form: a negative that looks so positive counts as mislabeled
        assert logits.grad[1, 0] >= 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
def test_negatives_below_the_clip_are_left_alone(gamma: float) -> None:
    """The asymmetric loss of a negative up to the clip is 0 with no gradient, at the clip itself too."""
    settings = Train(loss="asymmetric", asymmetric_clip=0.5, asymmetric_negative=gamma)
    logits = torch.tensor([[0.0], [-0.1], [-30.0]], requires_grad=True)
    total = build(settings, torch.zeros(3, 1))(logits, torch.zeros(3, 1))
    total.backward()
    assert total.item() == 0
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1:] == 0).all()


def test_parts_make_the_step_of_the_whole() -> None:
    """Sums of parts over their terms together are the whole batch's loss; `auc` has the pairs within each part."""
    logits, truth = make(13)
    for settings in (Train(), Train(loss="focal", label_smoothing=0.1), Train(loss="asymmetric")):
        loss = build(settings, truth)
        cut = [slice(0, 5), slice(5, 6), slice(6, 13)]
        assert sum(loss.terms(truth[part].numpy()) for part in cut) == loss.terms(truth.numpy())
        total = sum(loss(logits[part], truth[part]).item() for part in cut)
        assert total == pytest.approx(loss(logits, truth).item(), rel=1e-5)
    loss = build(Train(loss="auc"), truth)
    assert sum(loss.terms(truth[part].numpy()) for part in (slice(0, 6), slice(6, 13))) < loss.terms(truth.numpy())


def test_both_kinds_weigh_the_same_up_to_a_bound() -> None:
    """`inverse` makes positives together weigh as much as negatives together, unless that takes more than the bound."""
    truth = np.array([[1, 1, 0, NAN]] + [[0, 1, 0, 0]] * 3 + [[0, 0, 0, 1]] * 16)
    assert build(Train(), truth).positive_weight_K.tolist() == pytest.approx([10.0, 16 / 4, 10.0, 3 / 16])
    assert build(Train(max_positive_weight=2), truth).positive_weight_K.tolist() == pytest.approx([2, 2, 2, 3 / 16])
    assert build(Train(class_weights="none"), truth).positive_weight_K.tolist() == [1, 1, 1, 1]


def test_effective_numbers_are_the_expected_coverage() -> None:
    """`effective` weighs by how many of 1 / (1 - BETA) prototypes n images cover: the ratio of that recurrence."""

    def covered(n: int) -> float:
        volume = 0.0
        for _ in range(n):  # a new image overlaps with the volume covered so far (Cui et al., proof of proposition 1)
            volume = 1 + BETA * volume
        return volume

    truth = np.zeros((5000, 3))
    truth[:20, 0] = truth[:900, 1] = 1
    truth[100:, 2] = NAN
    weights = build(Train(class_weights="effective", max_positive_weight=100), truth).positive_weight_K.tolist()
    assert weights[:2] == pytest.approx([covered(4980) / covered(20), covered(4100) / covered(900)], rel=1e-5)
    assert weights[2] == 100  # no positives: the bound
    few = np.array([[1.0]] + [[0.0]] * 5)
    assert build(Train(class_weights="effective"), few).positive_weight_K.item() == pytest.approx(5, rel=5e-3)
