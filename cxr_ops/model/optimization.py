"""How the weights move: phases, parts of the network, optimizers, learning rates, and the weights' moving average.

Everything here follows from the settings, the step and the validation AUCs so far, so a checkpoint needs no schedule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cxr_ops.params import Train

HEAD: Final = 5  # parts are counted from the input: the stem, four dense blocks, the head

WARM_UP: Final = 0.1  # cosine: share of the steps in which the learning rate rises
FINAL_RATE: Final = 0.01  # cosine: share of the highest learning rate that is left at the end
RISE: Final = 0.3  # one_cycle: share of the steps in which the learning rate rises
FIRST_DIVISOR: Final = 25.0  # one_cycle: the first learning rate is the highest one divided by this
LAST_DIVISOR: Final = 1e4  # one_cycle: the last learning rate is the first one divided by this


# ------------------------------------------------------------------------------------------------ parts and phases


def part_of(name: str) -> int:
    """Part of the network that a parameter or layer is of: 0 the stem, 1 to 4 the dense blocks, 5 the head.

    A transition counts to the block before it, and so does the last normalisation.

    >>> [part_of(f"features.{name}.weight") for name in ("conv0", "denseblock1.denselayer1.conv1", "transition3.conv")]
    [0, 1, 3]
    >>> part_of("features.norm5.bias"), part_of("classifier.bias")
    (4, 5)
    """
    if not name.startswith("features."):
        return HEAD
    if found := re.match(r"features\.(?:denseblock|transition)(\d)\b", name):
        return int(found[1])
    return 4 if name.startswith("features.norm5") else 0


def phase(settings: Train, epoch: int) -> tuple[int, int]:
    """First epoch of the phase that an epoch belongs to, and the first epoch after the phase; epochs count from 0.

    >>> [phase(Train(epochs=6, freeze_epochs=2), epoch) for epoch in (1, 2, 5)]
    [(0, 2), (2, 6), (2, 6)]
    """
    return (0, settings.freeze_epochs) if epoch < settings.freeze_epochs else (settings.freeze_epochs, settings.epochs)


def goes_on(settings: Train, epochs: int, best_epoch: int) -> bool:
    """Whether there is another epoch after so many, of which `best_epoch` (from 1; 0 for none) was the best.

    Patience counts in the last phase only: the first one ends because it was to be short, not because it got nowhere.

    >>> settings = Train(epochs=9, freeze_epochs=4, patience=2)
    >>> [goes_on(settings, epochs, best) for epochs, best in [(4, 1), (5, 1), (6, 1), (6, 5), (9, 9)]]
    [True, True, False, True, False]
    """
    began, _ = phase(settings, settings.epochs - 1)
    return epochs < settings.epochs and epochs - max(best_epoch, began) < settings.patience


def prepare(net: nn.Module, settings: Train, epoch: int) -> None:
    """Put the network into training as the epoch's phase wants it.

    Parts that stand still get no gradient, and their batch normalisation works as in use: with its running statistics,
    which do not change. In the first phase that is the whole backbone, in the second its first `frozen_blocks` parts.
    """
    still = HEAD if epoch < settings.freeze_epochs else settings.frozen_blocks
    net.train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(part_of(name) >= still)
    for name, layer in net.get_submodule("features").named_children():
        layer.train(part_of(f"features.{name}") >= still)


# ------------------------------------------------------------------------------------------------------- optimizers


def optimizer(net: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Make the optimizer, with all parameters of the network; those without a gradient stand still.

    Scales and shifts of batch normalisation, and biases, are not pulled towards 0. A group's `share` is what its
    learning rate is multiplied by: `rate_decay` for each part between it and the head, and once more (discriminative
    learning rates; Howard and Ruder, ACL 2018, section 3.2).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        share = settings.rate_decay ** (HEAD - part_of(name))
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    given: list[dict[str, Any]] = [
        {"params": parameters, "share": share, "weight_decay": decay} for (share, decay), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        made = torch.optim.SGD(given, lr=settings.learning_rate, momentum=settings.momentum, fused=True)
        if settings.momentum:
            # The fused step refuses a group in which only some have a momentum, as after the first phase. From zero the
            # first step is the same.
            made.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in net.parameters()})
        return made
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(given, lr=settings.learning_rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, highest: float) -> None:
    """Give each group its share of the head's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = highest * group["share"]


def moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What the optimizer remembers, by names that `restore` knows."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if value is not None  # of SGD without momentum
    }


def restore(optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Give the optimizer back what it remembered; see `moments`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in saved.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        # The fused step walks parameter and moments side by side in memory: they must be laid out alike.
        laid_out = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(index), {})[key] = laid_out.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# --------------------------------------------------------------------------------------------------- learning rates


def learning_rate(settings: Train, *, epoch: int, step: int, batches: int, aucs: Sequence[float]) -> float:
    """Learning rate of the head at a step. Each phase has a schedule of its own.

    Args:
        settings: `schedule` and what belongs to it.
        epoch: from 0.
        step: within the epoch, from 0.
        batches: steps an epoch.
        aucs: mean validation AUC of each epoch before this one.
    """
    began, end = phase(settings, epoch)
    if settings.schedule == "plateau":
        dropped = drops(aucs[began:epoch], settings.plateau_patience)
        return float(settings.learning_rate * settings.plateau_factor**dropped)
    curve = cosine if settings.schedule == "cosine" else one_cycle
    return curve((epoch - began) * batches + step, (end - began) * batches, settings.learning_rate)


def cosine(step: int, steps: int, highest: float) -> float:
    """A straight rise over the first tenth, then half a cosine down to a hundredth.

    >>> [round(cosine(step, 100, 1.0), 3) for step in (0, 9, 54, 99)]
    [0.1, 1.0, 0.505, 0.01]
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return highest * (step + 1) / rise
    done = (step - rise + 1) / max(1, steps - rise)
    return highest * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


def one_cycle(step: int, steps: int, highest: float) -> float:
    """Half a cosine up from a 25th in three tenths of the steps, then half a cosine down to nearly nothing.

    Smith and Topin 2018 ("Super-convergence"), in the two parts and with the numbers of torch's OneCycleLR. The
    momentum stays as it is set.

    >>> [round(one_cycle(step, 100, 1.0), 3) for step in (0, 29, 99)]
    [0.04, 1.0, 0.0]
    """
    first, top = highest / FIRST_DIVISOR, RISE * steps - 1
    if step < top:
        start, end, done = first, highest, step / top
    else:
        start, end, done = highest, first / LAST_DIVISOR, (step - top) / (steps - 1 - top)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def drops(aucs: Sequence[float], patience: int) -> int:
    """How often the learning rate was lowered: each time that `patience` epochs in a row brought no better AUC.

    >>> drops([0.6, 0.7, 0.7, 0.65, 0.66, 0.69, 0.71], patience=2)
    2
    """
    best, waited, dropped = -math.inf, 0, 0
    for auc in aucs:
        best, waited = (auc, 0) if auc > best else (best, waited + 1)
        if waited == patience:
            dropped, waited = dropped + 1, 0
    return dropped


# --------------------------------------------------------------------------------------------------- moving average


class Average:
    """Exponential moving average of a network's weights, which is what is validated and packaged.

    The n-th step's decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage: a short
    training is not held back by where it started. The running statistics of batch normalisation are averaged with the
    same decay as the layers that they belong to; they stay estimates, as they are in the network itself.

    Args:
        net: the network, on its device for good.
        decay: in (0, 1), or None: then the network's own weights stand in for the average.

    Attributes:
        averages: by the network's names, to be saved; empty without a decay.
    """

    def __init__(self, net: nn.Module, decay: float | None) -> None:
        self._decay = decay
        self._live = net.state_dict()  # shares memory with the network
        # What is not a floating-point number counts batches.
        names = [] if decay is None else [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        self.averages = {name: self._live[name].clone() for name in names}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """What is validated: averages and, where there are none, the network's own tensors."""
        return {**self._live, **self.averages}

    def update(self, step: int) -> None:
        """Take in the weights after a step; steps count from 1 over the whole training."""
        if self._decay is None:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch publishes no type for it
        blend(list(self.averages.values()), [self._live[name] for name in self.averages], None)

    def restore(self, saved: dict[str, torch.Tensor]) -> None:
        """Go on from averages that were saved."""
        _fill(self.averages, saved)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Let the network work with the averages, and give it its own weights back afterwards, bit for bit."""
        own = {name: self._live[name].clone() for name in self.averages}
        _fill(self._live, self.averages)
        try:
            yield
        finally:
            _fill(self._live, own)


def _fill(tensors: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        tensors[name].copy_(value)
