"""Training on a GPU: `make bench-gpu` writes its section of docs/benchmarks.md; without a GPU it says so and ends.

DenseNet121 is bound by memory traffic, not by arithmetic. So beside its peers a step is held against two roofs: the
memory's measured bandwidth over the bytes that a training image moves when each operation reads and writes memory on
its own (eager), and when everything that can be fused is (fused).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.measure import Row, put, told

if TYPE_CHECKING:
    import torch

    from cxr_ops.model.step import Data
    from cxr_ops.params import Train

PROJECT = Path(__file__).resolve().parents[1]
TITLE = "## Training on a GPU"
# Bytes that a training image of 224 x 224 moves in bf16, forward and backward, counted once for each operation that
# reads or writes them: 314.7 million values eager, 103.6 million fused. They grow with the area of the picture.
EAGER, FUSED, AREA = 629e6, 207e6, 224 * 224

REFERENCE = "torchvision-reference-style script: fp32, PNG files, DataLoader"
RESIDENT, COMPILED = "cxr-ops step on random data that stay on the GPU", "the same, compiled"
LOOP, LOOP_COMPILED = "`cxr-ops train` from its packed cache", "the same loop, compiled"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is measured: epochs of `steps` batches; the script's pictures are `files` PNGs, taken again and again."""

    device: Literal["cpu", "cuda"]
    size: int
    batch: int
    steps: int
    files: int
    file_size: int
    workers: int
    copied: int  # bytes of the copies that measure bandwidth
    repeats: int
    compiled: bool


FULL = Study(
    device="cuda",
    size=224,
    batch=256,
    steps=40,
    files=256,
    file_size=1024,
    workers=os.cpu_count() or 1,
    copied=2**31,
    repeats=3,
    compiled=True,
)
# Runs every line but those of the compiler in seconds on a CPU. Its figures mean nothing and are not written.
TINY = Study(
    device="cpu", size=32, batch=4, steps=2, files=4, file_size=64, workers=0, copied=2**20, repeats=1, compiled=False
)


def main(words: list[str] | None = None) -> int:
    """Measure, print, and write the section."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="try the code on the CPU; writes nothing")
    parser.add_argument("--page", type=Path, default=PROJECT / "docs" / "benchmarks.md", help="where the section goes")
    asked = parser.parse_args(words)
    if asked.tiny:
        print(section(TINY))
        return 0
    if not torch.cuda.is_available():
        print("there is no GPU that torch can use here: nothing was measured, and no figure was changed")
        return 0
    text = section(FULL)
    asked.page.write_text(put(asked.page.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(text)
    return 0


# --------------------------------------------------------------------------------------------- contenders


def section(study: Study) -> str:
    """Measure and write the section."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        contenders = {
            REFERENCE: reference(study, work),
            RESIDENT: resident(study, compiled=False),
            LOOP: lambda: loop(study, work, compiled=False),
        }
        if study.compiled:
            contenders[COMPILED] = resident(study, compiled=True)
            contenders[LOOP_COMPILED] = lambda: loop(study, work, compiled=True)
        for contender in contenders.values():
            contender()  # warm-up: compilation, choice of kernels, page cache
        rows = told(contenders, repeats=study.repeats)
        return describe(study, rows, bandwidth(study))


def bandwidth(study: Study) -> float:
    """Bytes a second that the device reads and writes while it copies: the best of ten."""
    import torch

    source = torch.empty(study.copied, dtype=torch.uint8, device=study.device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(10):
        began = _now(study)
        target.copy_(source)
        best = max(best, 2 * study.copied / (_now(study) - began))
    return best


def _now(study: Study) -> float:
    import torch

    if study.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def resident(study: Study, *, compiled: bool) -> Callable[[], float]:
    """The step of `train` (augmentation, network, loss, optimizer) on a batch that stays on the device."""
    import torch

    from cxr_ops.model import loss, machine, network, optimization, step

    data, settings, terms = _given(study, compiled=compiled)
    device = torch.device(study.device)
    net = network.build(terms).to(device).to(memory_format=torch.channels_last)
    optimization.prepare(net, settings, epoch=0)
    optimizer = optimization.optimizer(net, settings)
    job = step.Job(
        data=data,
        settings=settings,
        contract=terms,
        machine=machine.choose_machine(settings),
        net=net,
        forward=torch.compile(net, dynamic=False) if compiled else net,
        loss=loss.build(settings, data.truth_RK).to(device),
        say=print,
    )
    rows = data.train[: study.batch]
    batch = step.gather(job, rows, 1)
    parts = [
        replace(part, pixels_NSS=part.pixels_NSS.to(device), truth_NK=part.truth_NK.to(device)) for part in batch.parts
    ]
    batch = replace(batch, parts=parts)

    def epoch() -> float:
        with machine.reproducible(job.machine):
            began = _now(study)
            for number in range(study.steps):
                step.learn_within_memory(job, batch, rows, 1, epoch=0, step=number)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            return study.steps * study.batch / (_now(study) - began)

    return epoch


def loop(study: Study, work: Path, *, compiled: bool) -> float:
    """The loop of `train` over a packed cache: the rate that it tells at the end of its second epoch."""
    from cxr_ops.model import machine, training

    data, settings, terms = _given(study, compiled=compiled)
    np.save(work / "images.npy", data.pixels_RSS)
    progress = work / "progress.jsonl"
    progress.unlink(missing_ok=True)
    before = os.environ.get("CXR_PROGRESS")
    os.environ["CXR_PROGRESS"] = str(progress)
    try:
        training.train(
            replace(data, pixels_RSS=np.load(work / "images.npy", mmap_mode="r")),
            settings,
            contract=terms,
            machine=machine.choose_machine(settings),
            start={},
            checkpoints=work / f"checkpoints-{time.monotonic_ns()}",
            inputs={},
        )
    finally:
        if before is None:
            del os.environ["CXR_PROGRESS"]
        else:
            os.environ["CXR_PROGRESS"] = before
    lines = [json.loads(line) for line in progress.read_text(encoding="utf-8").splitlines()]
    return float([line["images_per_second"] for line in lines if line.get("epoch") == 2][-1])


def _given(study: Study, *, compiled: bool) -> tuple[Data, Train, dict[str, Any]]:
    """Random pictures of an epoch and a few to validate on, settings, and a contract."""
    from cxr_ops.labels import FINDINGS
    from cxr_ops.model import package
    from cxr_ops.model.step import Data
    from cxr_ops.params import Train

    images, rng = study.steps * study.batch, np.random.default_rng(0)
    truth = rng.integers(0, 2, (images + 4, len(FINDINGS))).astype(np.float32)
    truth[-4:] = [[0.0], [1.0], [0.0], [1.0]]
    data = Data(
        pixels_RSS=rng.integers(0, 256, (images + 4, study.size, study.size), dtype=np.uint8),
        truth_RK=truth,
        train=np.arange(images),
        validation=np.arange(images, images + 4),
    )
    settings = Train(weights="none", batch_size=study.batch, epochs=2, device=study.device, compile=compiled)
    return data, settings, package.contract(image_size=study.size, mean=0.449, std=0.226, training={})


def reference(study: Study, work: Path) -> Callable[[], float]:
    """A script as torchvision's references are written: three channels, SGD, and the loss looked at after each step."""
    import torch
    import torchvision
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from cxr_ops.data.synthetic.synth import synthesize
    from cxr_ops.labels import FINDINGS

    synthesize(work / "made", images=study.files, seed=0, size=study.file_size)
    files = sorted((work / "made" / "images").glob("*.png"))
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(study.size, scale=(0.8, 1.0), antialias=True),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    class Pictures(Dataset[tuple["torch.Tensor", "torch.Tensor"]]):
        def __len__(self) -> int:
            return study.steps * study.batch

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            with Image.open(files[index % len(files)]) as picture:
                x = transform(picture.convert("RGB"))
            return x, torch.full((len(FINDINGS),), float(index % 2))

    loader = DataLoader(
        Pictures(),
        batch_size=study.batch,
        shuffle=True,
        num_workers=study.workers,
        pin_memory=study.device == "cuda",
        persistent_workers=study.workers > 0,
    )
    net = torchvision.models.densenet121(weights=None, num_classes=len(FINDINGS)).to(study.device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    criterion = torch.nn.BCEWithLogitsLoss()

    def epoch() -> float:
        began, images = _now(study), 0
        for pictures, labels in loader:
            x, truth = (part.to(study.device, non_blocking=True) for part in (pictures, labels))
            loss = criterion(net(x), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(x)
            loss.item()
        return images / (_now(study) - began)

    return epoch


# ------------------------------------------------------------------------------------------------ results


def roofs(bytes_a_second: float, size: int) -> tuple[float, float]:
    """Images a second that memory allows, eager and fused.

    >>> [round(roof) for roof in roofs(3.35e12, 224)]
    [5326, 16184]
    """
    share = size * size / AREA
    return bytes_a_second / (EAGER * share), bytes_a_second / (FUSED * share)


def describe(study: Study, rows: list[Row], bytes_a_second: float) -> str:
    """Write the section."""
    import torch

    name = torch.cuda.get_device_name() if study.device == "cuda" else "the CPU, to try the code"
    eager, fused = roofs(bytes_a_second, study.size)
    says = (
        f"Written by `make bench-gpu` on {name}, torch {torch.__version__}. DenseNet121, 14 findings, {study.size} "
        f"pixels, batch {study.batch}; ours in bf16 and channels_last, with augmentation on the device. Memory moves "
        f"{bytes_a_second / 1e12:.3g} TB/s (copies, measured), so {eager:,.0f} images/s are the eager roof, and "
        f"{fused:,.0f} that of a step whose every operation is fused."
    )
    head = (
        f"| contender | images/s, median of {study.repeats} | range | ratio | of the eager roof | of the fused roof |"
    )
    lines = [TITLE, "", says, "", head, "|---|---|---|---|---|---|"]
    for row in rows:
        shares = f"{row.median / eager:.0%} | {row.median / fused:.0%}" if row.name != REFERENCE else "|"
        rate = f"{row.median:,.0f} | {row.low:,.0f} to {row.high:,.0f} | {row.ratio:.2f}"
        lines.append(f"| {row.name} | {rate} | {shares} |")
    return "\n".join([*lines, "", "| goal | measured | |", "|---|---|---|", *goals(rows, eager)]) + "\n"


def goals(rows: list[Row], eager: float) -> list[str]:
    """What the step was to reach, beside what it reached, as rows of a table.

    >>> goals([Row(REFERENCE, 1, 1, 1, 1), Row(RESIDENT, 5, 5, 5, 5), Row(LOOP, 4, 4, 4, 4)], 10)[0]
    '| the loop: 95 % of the step on resident data | 80 % | missed |'
    """
    rate = {row.name: row.median for row in rows}
    wanted = [
        ("the loop: 95 % of the step on resident data", rate[LOOP] / rate[RESIDENT], 0.95),
        ("the loop: 3 times the reference-style script", rate[LOOP] / rate[REFERENCE], 3.0),
        ("the step: 60 % of the eager roof without compilation", rate[RESIDENT] / eager, 0.6),
    ]
    if COMPILED in rate:
        wanted.append(("the step: the eager roof with compilation", rate[COMPILED] / eager, 1.0))
    return [f"| {what} | {100 * got:.0f} % | {'met' if got >= least else 'missed'} |" for what, got, least in wanted]


if __name__ == "__main__":
    sys.exit(main())
