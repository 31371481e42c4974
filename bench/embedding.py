"""Would a network's embedding find near copies that the hash does not? Writes that part of docs/near-copies.md.

A ResNet-18 of 64 x 64 pixels, in the place of the champion's larger network, is trained on the first half of the
patients for some minutes; a picture of the second half that was changed is looked for among all of that half as they
are, by the cosine of the penultimate features, each brought to mean 0 and deviation 1. Beside it stand the same
features with random weights, and the hash. Type: python -m bench.embedding MINUTES (CXR_SHARED names the folder of the
radiographs).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision

from bench import copies
from cxr_ops.data.checking import fingerprints
from cxr_ops.data.checking.copies import RADIOGRAPHS
from cxr_ops.data.sources import nih
from cxr_ops.voice import count

SIDE = 64
NEAR = 10
CHOSEN = (
    "CLAHE, clip 2",
    "windowed: 40 to 210 of 255",
    "cropped by up to 8",
    "cropped by up to 16",
)

Pictures = list[np.ndarray]
Ranks = dict[str, np.ndarray]


def _tensor(pictures: Pictures) -> torch.Tensor:
    small = [cv2.resize(np.ascontiguousarray(p), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures]
    grey = (torch.tensor(np.stack(small)).float()[:, None] / 255 - 0.5) / 0.25
    return grey.repeat(1, 3, 1, 1)


def _features(net: torchvision.models.ResNet, pictures: Pictures) -> np.ndarray:
    net.eval()
    body = torch.nn.Sequential(*list(net.children())[:-1])
    with torch.inference_mode():
        parts = [body(_tensor(pictures[at : at + 32])).flatten(1) for at in range(0, len(pictures), 32)]
    return torch.cat(parts).numpy()


def _by_features(net: torchvision.models.ResNet, half: Pictures, changed: dict[str, Pictures]) -> Ranks:
    held = _features(net, half)
    mean, spread = held.mean(0), held.std(0) + 1e-6

    def unit(features: np.ndarray) -> np.ndarray:
        even = (features - mean) / spread
        return even / np.linalg.norm(even, axis=1, keepdims=True)

    return {name: _ranks(-unit(_features(net, pictures)) @ unit(held).T) for name, pictures in changed.items()}


def _ranks(apart: np.ndarray) -> np.ndarray:
    """How many others are nearer to each changed picture than its own one, of distances changed x held."""
    own = apart[np.arange(len(apart)), np.arange(len(apart)) * copies.EVERY]
    return (apart < own[:, None]).sum(1)


def _by_hash(half: copies.Half, changed: dict[str, Pictures]) -> tuple[Ranks, Ranks]:
    """The ranks by the hash, and whether it is a candidate today."""
    held = np.unpackbits(half.prints().table["hash"], axis=1).astype(np.int16)
    ranks, near = {}, {}
    for name, pictures in changed.items():
        greys = np.stack([fingerprints.grey_copy(np.ascontiguousarray(p)) for p in pictures])
        coming = np.unpackbits(fingerprints.hash_grey(greys), axis=1).astype(np.int16)
        apart = (coming[:, None] != held[None]).sum(2)
        ranks[name] = _ranks(apart)
        near[name] = apart[np.arange(len(apart)), np.arange(len(apart)) * copies.EVERY] <= RADIOGRAPHS.bits
    return ranks, near


def _train(net: torchvision.models.ResNet, half: copies.Half, labels: np.ndarray, seconds: float) -> int:
    """Train for so long, whole epochs; their number."""
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    draw = torch.Generator().manual_seed(0)
    start, epochs = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        net.train()
        order = torch.randperm(len(half.pictures), generator=draw).tolist()
        for first in range(0, len(order) - 15, 16):
            at = order[first : first + 16]
            pictures = _tensor([half.pictures[one] for one in at])
            if torch.rand(1, generator=draw) < 0.5:
                pictures = pictures.flip(3)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(pictures), torch.tensor(labels[at]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epochs += 1
    return epochs


def _measured(half: copies.Half, changes: dict[str, Callable[[np.ndarray], np.ndarray]]) -> dict[str, Pictures]:
    chosen = range(0, len(half.names), copies.EVERY)
    return {name: [change(half.pictures[at]) for at in chosen] for name, change in changes.items()}


def page(rows: list[tuple[str, float, float, float, float]], epochs: int, of: int) -> str:
    """The part of the page.

    Args:
        rows: of each change the shares that are candidates today, and that are among the nearest by hash, by random
            and by trained features.
        epochs: of the training.
        of: pictures of each change.
    """
    table = [f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |" for name, *shares in rows]
    return "\n".join(
        [
            copies.EMBEDDING,
            "",
            f"Written by `python -m bench.embedding`. {of} changed pictures of the second half: is the own one a",
            f"candidate? By the hash within {RADIOGRAPHS.bits} bits, as it is done; or among the {NEAR} nearest of the",
            f"half, by the hash, or by the cosine of the penultimate features of a ResNet-18 of {SIDE} x {SIDE}",
            f"pixels, with random weights and after {count(epochs, 'epoch')} on the first half.",
            "",
            f"| change | hash, {RADIOGRAPHS.bits} bits | hash, {NEAR} nearest | random features | trained features |",
            "|---|---|---|---|---|",
            *table,
            "",
            "Contrast is hardly a matter of candidates: what failed was the confirmation, which local ranks have",
            "mended. Features hold crops of more than 3 % a side that the radius misses, and so do the ten nearest",
            "hashes, without a model. So there is no embedding in the search (decision 0026): it would answer",
            "otherwise with the next model. A network that is trained for long, or a large one, was not tried.",
        ]
    )


def main() -> None:
    """Measure, and write the part of the page."""
    torch.manual_seed(0)
    folder = Path(os.environ.get("CXR_SHARED") or copies.PROJECT.parent / "shared") / "data" / "nih-sample"
    one, two = copies.halves(folder)
    known = {row.image_id: row.labels for row in nih.read_folder(folder).rows}
    labels = np.array([[float(value == 1) for value in known[name]] for name in one.names], np.float32)
    changed = _measured(two, {name: copies.CHANGES[name] for name in CHOSEN})
    net = torchvision.models.resnet18(num_classes=labels.shape[1])
    by_hash, near = _by_hash(two, changed)
    random = _by_features(net, two.pictures, changed)
    print({name: float((ranks < NEAR).mean()) for name, ranks in random.items()}, flush=True)
    epochs = _train(net, one, labels, 60 * float(sys.argv[1] if sys.argv[1:] else 4))
    trained = _by_features(net, two.pictures, changed)
    rows = [
        (name, float(near[name].mean()), *(float((ranks[name] < NEAR).mean()) for ranks in (by_hash, random, trained)))
        for name in CHOSEN
    ]
    said = page(rows, epochs, len(next(iter(changed.values()))))
    before = copies.PAGE.read_text(encoding="utf-8").partition(copies.EMBEDDING)[0].rstrip()
    copies.PAGE.write_text(f"{before}\n\n{said}\n", encoding="utf-8")
    print(said)


if __name__ == "__main__":
    main()
