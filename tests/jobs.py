"""A step's job for tests: the real network, 12 noisy pictures of 32 pixels, and labels of which many are missing."""

from __future__ import annotations

import numpy as np
import torch

from cxr_ops.labels import FINDINGS
from cxr_ops.model import loss, package, step, training
from cxr_ops.model.machine import Machine
from cxr_ops.params import Train

ROWS = np.array([9, 4, 0, 7, 2, 5, 11, 1])  # a batch


def make_job(device: str = "cpu", precision: str = "fp32", **settings: object) -> step.Job:
    """On one thread, with batches of 8. One picture has no label at all."""
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, np.nan], (12, len(FINDINGS))).astype(np.float32)
    truth[4] = np.nan
    data = step.Data(
        pixels_RSS=rng.integers(0, 256, (12, 32, 32), dtype=np.uint8),
        truth_RK=truth,
        train=np.arange(12),
        validation=np.arange(12),
    )
    chosen = Train(batch_size=8, device=device, **settings)
    options = {"head": chosen.head, "head_width": chosen.head_width, "dropout": chosen.dropout}
    contract = package.contract(image_size=32, mean=0.449, std=0.226, training={}, **options)
    net = training.fresh_network(contract, {}, 0).to(device).to(memory_format=torch.channels_last)
    return step.Job(
        data=data,
        settings=chosen,
        contract=contract,
        machine=Machine(device=device, precision=precision, threads=1),
        net=net,
        forward=net,
        loss=loss.build(chosen, truth).to(device),
        say=lambda _: None,
    )
