"""One training step of the network on the CPU: images a second, beside the plain float32 step of the same network."""

from __future__ import annotations

from collections.abc import Callable

from bench.measure import Row, rates, table

BATCH = 16
REPEATS = 5
STEPS = 2


def section() -> str:
    """Measure at the demonstration's size and at 224."""
    import torch

    from cxr_ops.labels import FINDINGS
    from cxr_ops.model import loss, network
    from cxr_ops.model.machine import choose_machine
    from cxr_ops.params import Train

    machine = choose_machine(Train(device="cpu"))
    torch.set_num_threads(1)

    def step(size: int, *, layout: torch.memory_format, bf16: bool) -> Callable[[], int]:
        torch.manual_seed(0)
        net = network.ChestNet(len(FINDINGS)).to(memory_format=layout).train()
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        x_N1SS = torch.randn(BATCH, 1, size, size).contiguous(memory_format=layout)
        truth_NK = torch.randint(0, 2, (BATCH, len(FINDINGS))).float()
        criterion = loss.build(Train(), truth_NK)

        def work() -> int:
            for _ in range(STEPS):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    logits_NK = net(x_N1SS)
                (criterion(logits_NK, truth_NK) / truth_NK.numel()).backward()
                optimizer.step()
            return STEPS * BATCH

        return work

    rows: list[Row] = []
    for size in (96, 224):
        plain, last = torch.contiguous_format, torch.channels_last
        contenders = {
            f"{size} px: float32, NCHW": step(size, layout=plain, bf16=False),
            f"{size} px: float32, channels_last": step(size, layout=last, bf16=False),
            f"{size} px: bf16, channels_last": step(size, layout=last, bf16=True),
        }
        rows += rates(contenders, repeats=REPEATS)
    note = (
        f"DenseNet121, 14 findings, batch {BATCH}, one thread: forward, loss, backward, AdamW. `train` runs in "
        f"channels_last, and takes {machine.precision} on this machine; the ratio is to float32 NCHW of the same size."
    )
    return table("Training step", "images/s", rows, note=note, repeats=REPEATS)
