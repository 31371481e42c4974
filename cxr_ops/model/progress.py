"""How far a training is: a bar in a terminal, and JSON lines for whoever reads the file of `CXR_PROGRESS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

from cxr_ops import contract, voice

Show = Callable[..., None]


@contextmanager
def progress(console: Console, epochs: int, images: int, *, tells: bool = True) -> Iterator[Show]:
    """Show how far a training of so many epochs is, each of so many images, unless another process `tells`.

    Yields:
        A function of keywords: `epoch` (from 0), `done` (images of the epoch), `loss` (mean over them), `rate` (of
        learning), `auc` (last mean validation AUC, or None), `pace` (images a second), `waiting` (share of the
        time in which the loop waited for data) and, at the end of an epoch, its row of `history`.
    """
    total = epochs * images
    with voice.bar("train", console, transient=True) as draw:

        def show(
            *,
            epoch: int,
            done: int,
            loss: float,
            rate: float,
            auc: float | None,
            pace: float,
            waiting: float,
            history: Mapping[str, float] | None = None,
        ) -> None:
            text = f"epoch {epoch + 1}/{epochs}  loss {loss:.3f}  {pace:.0f} images/s"
            draw(epoch * images + done, total, text)
            if not tells:
                return
            contract.report_progress(
                "train",
                epoch * images + done,
                total,
                unit="images",
                text=text,
                epoch=epoch + 1,
                epochs=epochs,
                loss=round(loss, 4),
                learning_rate=float(f"{rate:.4g}"),
                validation_auc=None if auc is None else round(auc, 4),
                images_per_second=round(pace, 1),
                data_wait=round(waiting, 4),
                **({} if history is None else {"history": dict(history)}),
            )

        yield show
