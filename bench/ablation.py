"""What each choice of the training brings, on generated and on real radiographs: `make bench-ablation`.

Runs `cxr-ops train --ablate` on both and writes docs/ablation.md. Transfer learning starts from a model of the other
data set, which needs no download and has seen no patient of this one. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.__main__ import PROJECT, machine
from cxr_ops import ablation
from cxr_ops.contract import PACKAGE, PERIOD
from cxr_ops.data import manifest
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
from cxr_ops.data.synthetic import synth
from cxr_ops.model import package
from cxr_ops.params import Params
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file
from cxr_ops.records.inputs import Period
from cxr_ops.report.ablation import Ablation, markdown, picture
from cxr_ops.stages import prepare, split, train

SEEDS = 3
# Small pictures and few test patients, who are not looked at: the time goes into trainings.
SETTINGS: dict[str, Any] = {
    "prepare": {"image_size": 64},
    "split": {"validation": 0.3, "test": 0.1},
    "train": {"weights": "none", "epochs": 4, "threads": 1},
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set: its folder's name, what the page calls it, and where its pictures are (made, if there is no path)."""

    name: str
    says: str
    path: Path | None = None
    images: int = 0


def main(words: list[str] | None = None) -> int:
    """Measure both data sets and write the page."""
    shared = Path(os.environ.get("CXR_SHARED") or PROJECT.parent / "shared") / "data" / "nih-sample"
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description=__doc__)
    parser.add_argument("--sample", type=Path, default=shared, help="a folder in the NIH's layout")
    parser.add_argument("--images", type=int, default=800, help="generated radiographs")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", action="append", default=[], metavar="CHOICE", help="this choice; once for each")
    parser.add_argument("--cache", type=Path, default=PROJECT / ".cxr" / "ablation", help="data sets and trainings")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where the page is written")
    asked = parser.parse_args(words)
    if not (asked.sample / "images").is_dir():
        print(f"there are no real radiographs in {asked.sample}: nothing was measured; give their folder by --sample")
        return 1
    params = Params.check(SETTINGS, "bench.ablation")
    sources = (
        Source(name="nih-sample", says="Real radiographs", path=asked.sample),
        Source(name="generated", says="Generated radiographs", images=asked.images),
    )
    # Other settings or pictures begin anew, in a folder of their own.
    key = sha256_bytes(canonical_json([SETTINGS, asked.images, str(asked.sample.resolve())]))[:16]
    roots = [_workspace(asked.cache / key / source.name, source, params) for source in sources]
    start = [_trained(root, params) for root in roots]
    found: list[tuple[Source, Ablation]] = []
    for place, (source, root) in enumerate(zip(sources, roots, strict=True)):
        other = sources[1 - place]
        weights = {
            "weights": str(start[1 - place]),
            "weights_sha256": sha256_file(start[1 - place]),
            "weights_data": [other.name],
            "weights_patients": "none",
        }
        own = Params.check(SETTINGS | {"train": SETTINGS["train"] | weights}, "bench.ablation")
        result = ablation.run(root, own, out=root / "ablation", seeds=asked.seeds, only=asked.only, say=_say)
        found.append((source, result))
    write(asked.docs, found)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _workspace(root: Path, source: Source, params: Params) -> Path:
    """A workspace in which `prepare` has run."""
    if (root / "prepare" / "prepare.json").is_file():
        return root
    shutil.rmtree(root, ignore_errors=True)
    pictures = source.path or root / "made"
    if source.path is None:
        synth.synthesize(pictures, images=source.images, seed=0, size=256)
    checked = check(nih.read_folder(pictures), source.name)
    if checked.problems:
        _say(f"{source.name}: {len(checked.problems)} problems; these rows are left out")
    build(root / "dataset" / source.name, checked)
    (root / "validate").mkdir()
    frame, _ = manifest.read_dataset(root / "dataset")
    (root / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    Period().write(root / PERIOD)
    split.run(root, params)
    prepare.run(root, params)
    return root


def _trained(root: Path, params: Params) -> Path:
    """Weights of a plain training in a workspace, from which the other data set's transfer learning starts."""
    weights = root / "train" / PACKAGE / package.WEIGHTS
    if not weights.is_file():
        _say(f"{root.name}: weights to start from")
        train.run(root, params)
    return weights


def write(docs: Path, found: list[tuple[Source, Ablation]]) -> Path:
    """Write `ablation.md` and a picture for each data set."""
    head = (
        "# What each choice of the training brings\n\nWritten by `make bench-ablation`, which runs `cxr-ops train "
        "--ablate` on real radiographs (NIH Clinical Center, ChestX-ray14; Wang et al., CVPR 2017) and on generated "
        "ones. Trainings are short and pictures small, so that it ends in an hour or two on two cores: read it for "
        "what such data can tell, and run it on yours. Transfer learning starts from a model of the other data set "
        f"here, not from ImageNet.\n\nMachine: {machine()}.\n"
    )
    parts = [head]
    docs.mkdir(parents=True, exist_ok=True)
    for source, result in found:
        image = docs / f"ablation-{source.name}.svg"
        image.write_text(picture(result), encoding="utf-8")
        parts.append(f"## {source.says}\n\n![Difference from the row compared with]({image.name})\n")
        parts.append(markdown(result).split("\n\n", 1)[1])
    page = docs / "ablation.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


if __name__ == "__main__":
    sys.exit(main())
