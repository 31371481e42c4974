"""How the weights move: parts and phases on the real network, schedules and averages against torch's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

from cxr_ops.model import network, optimization, package
from cxr_ops.params import Train


@pytest.fixture(scope="module")
def fresh() -> network.ChestNet:
    """The real network with random weights. Not to be changed: copy it."""
    torch.manual_seed(0)
    return network.build(package.contract(image_size=32, mean=0.0, std=1.0, training={}))


def moved_parts(net: nn.Module, before: nn.Module) -> tuple[set[int], set[int]]:
    """Parts of which a parameter differs, and parts of which a statistic of batch normalisation does."""
    old_parameters, old_buffers = dict(before.named_parameters()), dict(before.named_buffers())
    return (
        {optimization.part_of(name) for name, p in net.named_parameters() if not torch.equal(p, old_parameters[name])},
        {optimization.part_of(name) for name, b in net.named_buffers() if not torch.equal(b, old_buffers[name])},
    )


def test_parts_are_the_layers_of_the_paper(fresh: network.ChestNet) -> None:
    """Each block counts its published layers (Huang et al. 2017, table 1: 6, 12, 24, 16) of two convolutions each."""
    convolutions = [name for name, p in fresh.named_parameters() if p.ndim == 4]
    counts = [sum(optimization.part_of(name) == part for name in convolutions) for part in range(6)]
    assert counts == [1, 2 * 6 + 1, 2 * 12 + 1, 2 * 24 + 1, 2 * 16, 0]  # and a transition behind the first three
    assert optimization.part_of("classifier.last.weight") == optimization.HEAD


@pytest.mark.parametrize(
    ("epoch", "parts", "statistics"),
    [(0, {5}, set()), (1, {2, 3, 4, 5}, {2, 3, 4})],
    ids=["first phase", "second phase, two parts frozen"],
)
def test_what_stands_still_does_not_move(
    fresh: network.ChestNet, epoch: int, parts: set[int], statistics: set[int]
) -> None:
    """A step changes the parts of its phase; in the others no weight and no statistic changes, for all weight decay."""
    settings = Train(epochs=2, freeze_epochs=1, frozen_blocks=2, weight_decay=1.0)
    net = copy.deepcopy(fresh)
    optimizer = optimization.optimizer(net, settings)
    optimization.prepare(net, settings, epoch)
    net(torch.randn(2, 1, 32, 32)).square().sum().backward()
    optimizer.step()
    assert moved_parts(net, fresh) == (parts, statistics)


def test_rates_fall_from_the_head_to_the_stem(fresh: network.ChestNet) -> None:
    """Each part learns at `rate_decay` times the rate of the next; biases and normalisation are not decayed."""
    optimizer = optimization.optimizer(fresh, Train(rate_decay=0.5, weight_decay=0.25))
    optimization.set_rate(optimizer, 0.32)
    names = {id(p): name for name, p in fresh.named_parameters()}
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[names.pop(id(parameter))] = (group["lr"], group["weight_decay"])
    assert not names
    assert seen["features.conv0.weight"] == (pytest.approx(0.01), 0.25)
    assert seen["features.denseblock3.denselayer7.norm1.weight"] == (pytest.approx(0.08), 0.0)
    assert seen["features.norm5.bias"] == (pytest.approx(0.16), 0.0)
    assert seen["classifier.weight"] == (pytest.approx(0.32), 0.25)
    assert seen["classifier.bias"] == (pytest.approx(0.32), 0.0)
    assert len(optimization.optimizer(fresh, Train()).param_groups) == 2  # few kernels where all rates are equal


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_are_torchs(name: str) -> None:
    """Steps are torch's plain ones, for a layer that begins later too, and with moments saved and given back."""
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    options = {"momentum": 0.8} if name == "sgd" else {}
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2, bias=False))
    net[0].bias.data.zero_()
    plain = copy.deepcopy(net)
    net.to(memory_format=torch.channels_last)
    settings = Train(optimizer=name, momentum=0.8, weight_decay=0.1, learning_rate=0.05)
    optimizer = optimization.optimizer(net, settings)
    groups = [
        {"params": [plain[0].weight, plain[2].weight], "weight_decay": 0.1},
        {"params": [plain[0].bias], "weight_decay": 0.0},
    ]
    expected = kinds[name](groups, lr=0.05, foreach=False, fused=False, **options)
    for step in range(4):
        x = torch.randn(4, 3, 3, 3)
        for model, one in ((net, optimizer), (plain, expected)):
            one.zero_grad()
            model[0].requires_grad_(step > 0)
            model(x).square().sum().backward()
            one.step()
        if step < 2:  # as if killed here
            saved = {key: tensor.contiguous().clone() for key, tensor in optimization.moments(optimizer).items()}
            optimizer = optimization.optimizer(net, settings)
            optimization.restore(optimizer, saved)
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def rates(settings: Train, batches: int, aucs: list[float] | None = None) -> list[float]:
    return [
        optimization.learning_rate(settings, epoch=epoch, step=step, batches=batches, aucs=(aucs or [])[:epoch])
        for epoch in range(settings.epochs)
        for step in range(batches)
    ]


def torchs(schedule: type, steps: int, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = schedule(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_rises_then_falls() -> None:
    """The rate rises to its highest in a tenth of the steps, and falls to a hundredth as torch's cosine does."""
    found = rates(Train(epochs=10, learning_rate=0.5), 20)
    assert np.allclose(found[:20], np.arange(1, 21) * 0.025)
    expected = torchs(lr_scheduler.CosineAnnealingLR, 181, T_max=180, eta_min=0.005)
    assert np.allclose(found[19:], expected)


@pytest.mark.parametrize("epochs", [2, 5, 30])
def test_one_cycle_is_torchs(epochs: int) -> None:
    """Every rate of one cycle is that of torch's OneCycleLR."""
    found = rates(Train(epochs=epochs, learning_rate=0.5, schedule="one_cycle"), 7)
    expected = torchs(lr_scheduler.OneCycleLR, 7 * epochs, max_lr=0.5, total_steps=7 * epochs, cycle_momentum=False)
    assert np.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_plateau_is_torchs(patience: int) -> None:
    """Every rate is that of torch's ReduceLROnPlateau, whose patience counts the epochs before the one that lowers."""
    aucs = np.random.default_rng(patience).integers(50, 60, 40) / 100
    settings = Train(epochs=40, learning_rate=0.5, schedule="plateau", plateau_patience=patience, plateau_factor=0.5)
    found = rates(settings, 1, list(aucs))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience - 1, threshold=0.0, eps=0.0
    )
    expected = []
    for auc in aucs:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(auc)
    assert np.allclose(found, expected)
    assert found[-1] < 0.5


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "plateau"])
def test_each_phase_has_its_own_schedule(schedule: str) -> None:
    """The rates of both phases are those of two trainings, one after the other; a plateau forgets the first phase."""
    aucs = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    together = Train(epochs=6, freeze_epochs=2, schedule=schedule, plateau_patience=1)
    apart = [Train(epochs=epochs, schedule=schedule, plateau_patience=1) for epochs in (2, 4)]
    assert rates(together, 5, aucs) == rates(apart[0], 5, aucs[:2]) + rates(apart[1], 5, aucs[2:])


def test_the_average_is_torchs() -> None:
    """Weights and statistics of normalisation are averaged as torch's AveragedModel does it at the same decays."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = optimization.Average(net, 0.6)
    decays = iter([min(0.6, (1 + n) / (10 + n)) for n in range(1, 21)])
    theirs = swa_utils.AveragedModel(
        net,
        multi_avg_fn=lambda averages, now, _: swa_utils.get_ema_multi_avg_fn(decay)(averages, now, None),
        use_buffers=False,
    )
    theirs.n_averaged += 1  # else the first update copies
    mean = net[1].running_mean.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(1, 21):
        net(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        decay = next(decays)
        ours.update(step)
        theirs.update_parameters(net)
        mean = decay * mean + (1 - decay) * net[1].running_mean
    found = ours.state
    for name, tensor in theirs.module.named_parameters():
        assert torch.allclose(found[name], tensor, atol=1e-6)
    assert torch.allclose(found["1.running_mean"], mean, atol=1e-6)
    assert found["1.num_batches_tracked"] == 20


def test_the_average_leaves_no_trace_in_the_network() -> None:
    """While the average is in charge the network is it; afterwards it has its own bits again, even after an error."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = optimization.Average(net, 0.9)
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for tensor in net.state_dict().values():
        tensor.mul_(3)
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def look() -> None:
        with average.in_charge():
            assert torch.equal(net[0].weight, start["0.weight"])
            assert torch.equal(net[1].running_var, start["1.running_var"])
            raise KeyError

    with pytest.raises(KeyError):
        look()
    assert all(torch.equal(tensor, own[name]) for name, tensor in net.state_dict().items())
    other = optimization.Average(net, 0.9)
    other.restore(average.averages)
    assert all(torch.equal(tensor, start[name]) for name, tensor in other.averages.items())


def test_without_a_decay_the_network_stands_in() -> None:
    """Without a decay there is nothing to save, and what is validated is the network."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = optimization.Average(net, None)
    net[0].weight.data.fill_(7)
    average.update(1)
    assert average.averages == {}
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in average.state.items())
    with average.in_charge():
        assert (net[0].weight == 7).all()
