"""Calibration, against scikit-learn and a search of every scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_ops.model import calibration, network

NAN = float("nan")


def made(seed: int, images: int = 400, slope: float = 0.6, offset: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels come with the probability sigmoid(slope z + offset), some of them missing."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1, 2, (images, 3))
    truth = (rng.random(logits.shape) < special.expit(slope * logits + offset)).astype(float)
    truth[rng.random(truth.shape) < 0.1] = NAN
    return logits, truth


def log_likelihood(z: np.ndarray, y: np.ndarray, scale: float, shift: float) -> float:
    known = ~np.isnan(y)
    z, y = scale * z[known] + shift, y[known]
    return float((y * special.log_expit(z) + (1 - y) * special.log_expit(-z)).sum())


@pytest.mark.parametrize(("slope", "offset"), [(0.6, -1.0), (2.5, 4.0), (0.2, -2.0), (1.0, 0.0)])
def test_platt_is_logistic_regression(slope: float, offset: float) -> None:
    """Scale and shift are coefficient and intercept of scikit-learn's unpenalised logistic regression."""
    logits, truth = made(0, slope=slope, offset=offset)
    found = calibration.fit(logits, truth, "platt")
    for finding in range(3):
        known = ~np.isnan(truth[:, finding])
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
        theirs.fit(logits[known, finding, None], truth[known, finding])
        assert found.scale_K[finding] == pytest.approx(theirs.coef_[0, 0], abs=1e-4)
        assert found.shift_K[finding] == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_temperature_is_the_likeliest_of_all_scales() -> None:
    """No scale of a fine grid makes the labels likelier; there is no shift, and one finding does not touch another."""
    logits, truth = made(1, slope=0.4, offset=0.0)
    found = calibration.fit(logits, truth, "temperature")
    assert (found.shift_K == 0).all()
    for finding in range(3):
        z, y = logits[:, finding], truth[:, finding]
        grid = [log_likelihood(z, y, scale, 0) for scale in np.linspace(0.01, 10, 5000)]
        assert log_likelihood(z, y, found.scale_K[finding], 0) >= max(grid) - 1e-9
        assert np.linspace(0.01, 10, 5000)[np.argmax(grid)] == pytest.approx(found.scale_K[finding], abs=0.002)
        alone = calibration.fit(logits[:, [finding]], truth[:, [finding]], "temperature")
        assert alone.scale_K[0] == found.scale_K[finding]


def test_a_well_calibrated_model_is_left_nearly_as_it_is() -> None:
    """Labels that come with the model's own probabilities give a scale near 1 and a shift near 0."""
    logits, truth = made(2, images=40_000, slope=1.0, offset=0.0)
    found = calibration.fit(logits, truth, "platt")
    assert np.allclose(found.scale_K, 1, atol=0.05)
    assert np.allclose(found.shift_K, 0, atol=0.05)


def test_none_changes_nothing() -> None:
    """`none` gives scale 1 and shift 0."""
    found = calibration.fit(*made(3), "none")
    assert (found.scale_K == 1).all()
    assert (found.shift_K == 0).all()


@pytest.mark.parametrize("how", ["temperature", "platt"])
def test_a_finding_of_one_kind_is_left(how: str) -> None:
    """Without a positive, without a negative or without any label a finding keeps its logits."""
    logits = np.random.default_rng(0).normal(0, 1, (20, 3))
    truth = np.stack([np.zeros(20), np.ones(20), np.full(20, NAN)], axis=1)
    truth[3] = NAN
    found = calibration.fit(logits, truth, how)
    assert (found.scale_K == 1).all()
    assert (found.shift_K == 0).all()


@pytest.mark.parametrize("how", ["temperature", "platt"])
def test_what_has_no_likeliest_scale_ends_in_the_range(how: str) -> None:
    """Perfectly ranked labels take the largest scale, reversed ones the smallest, equal logits none; all are finite."""
    z = np.linspace(-2, 2, 10)
    perfect = (z > 0).astype(float)
    logits = np.stack([z, z, np.zeros(10), 900 * z, z + 50], axis=1)
    truth = np.stack([perfect, 1 - perfect, perfect, perfect, perfect], axis=1)
    found = calibration.fit(logits, truth, how)
    assert found.scale_K[:3].tolist() == [10.0, 0.01, 1.0]
    assert (found.scale_K > 0).all()
    assert np.isfinite(found.shift_K).all()
    if how == "platt":  # the best shift for that scale: as many positives expected as there are
        expected = special.expit(logits * found.scale_K + found.shift_K).sum(axis=0)
        assert expected == pytest.approx(truth.sum(axis=0), abs=1e-6)


def test_a_logit_that_is_no_number_is_refused() -> None:
    """A logit that is not finite is an error where its label counts, and nothing where the label is missing."""
    logits, truth = made(4)
    logits[5, 1], truth[5, 1] = NAN, NAN
    calibration.fit(logits, truth, "platt")
    truth[5, 1] = 1
    with pytest.raises(ValueError, match="finding 1 is not finite"):
        calibration.fit(logits, truth, "platt")


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_folds_into_the_last_layer_of_both_heads(
    head: str, net: network.ChestNet, mlp_net: network.ChestNet, terms: dict, mlp_terms: dict
) -> None:
    """With a folded calibration the network's logits are scale times the old plus shift, and ranks stay."""
    old, said = (net, terms) if head == "linear" else (mlp_net, mlp_terms)
    rng = np.random.default_rng(0)
    wanted = calibration.Calibration(scale_K=rng.uniform(0.01, 10, 14), shift_K=rng.normal(0, 3, 14))
    state = old.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    folded = calibration.fold(state, wanted)
    assert list(folded) == list(state)
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert sum(not torch.equal(folded[name], state[name]) for name in state) == 2
    assert all(folded[name].dtype == state[name].dtype for name in state)
    new = network.build(said).eval()
    new.load_state_dict(folded)
    a = torch.rand(300, 1024, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, calibrated = old.head(a).double().numpy(), new.head(a).double().numpy()
    assert np.allclose(calibrated, logits * wanted.scale_K + wanted.shift_K, atol=1e-5, rtol=1e-5)
    truth = rng.random(300) < 0.3
    for finding in range(14):
        area = roc_auc_score(truth, logits[:, finding])
        assert roc_auc_score(truth, calibrated[:, finding]) == pytest.approx(area, abs=1e-3)


def test_nothing_to_fold_leaves_the_bits(net: network.ChestNet) -> None:
    """Scale 1 and shift 0 give the same tensors bit for bit."""
    nothing = calibration.Calibration(scale_K=np.ones(14), shift_K=np.zeros(14))
    folded = calibration.fold(net.state_dict(), nothing)
    assert all(torch.equal(folded[name], tensor) for name, tensor in net.state_dict().items())
