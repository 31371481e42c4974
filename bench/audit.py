"""A bundle as large as the NIH's test set: its scores written without names and packed, and all of it verified."""

from __future__ import annotations

import lzma
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.measure import seconds, table

IMAGES, PATIENTS = 25_596, 2_797  # the test list of the NIH's release
VALIDATION = 8_654, 2_800
REPEATS = 3
GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "next" / "bundle.tar.xz"


def scores(images: int, patients: int, seed: int) -> bytes:
    """A table of scores as `evaluate` writes it, of a challenger and a champion."""
    from cxr_ops.labels import FINDINGS

    rng = np.random.default_rng(seed)
    owner = np.sort(rng.integers(0, patients, images))
    truth = (rng.random((images, len(FINDINGS))) < 0.05).astype(int)
    models = [(1 / (1 + np.exp(3 - 2 * truth - rng.standard_normal(truth.shape)))).astype(np.float32) for _ in range(2)]
    head = [f"{finding}_{what}" for finding in FINDINGS for what in ("truth", "challenger", "champion")]
    lines = [",".join(["image_id", "patient_id", *head])]
    for row in range(images):
        parts = zip(truth[row], models[0][row], models[1][row], strict=True)
        values = [text for label, a, b in parts for text in (str(label), repr(float(a)), repr(float(b)))]
        lines.append(",".join([f"{row:08d}.png", f"{owner[row]}", *values]))
    return ("\n".join(lines) + "\n").encode()


def section() -> str:
    """Writing and verifying a bundle whose scores are as many as the NIH's test set has."""
    from cxr_ops.audit import archive, score_table, verification
    from cxr_ops.records.base import sha256_bytes
    from cxr_ops.records.bundle import CONTENTS

    tables = {score_table.TEST: scores(IMAGES, PATIENTS, 0), score_table.VALIDATION: scores(*VALIDATION, 1)}
    attributes = {"sex": ["F", "M"] * (IMAGES // 2), "view": ["AP", "PA"] * (IMAGES // 2)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.tar"
        path.write_bytes(lzma.decompress(GOLDEN.read_bytes()))
        contents, files = archive.unpack(path)

        def written() -> None:
            for name, data in tables.items():
                told = attributes if name == score_table.TEST else None
                files[name] = score_table.without_names(data, attributes=told)
            digests = {name: sha256_bytes(data) for name, data in files.items() if name != CONTENTS}
            files[CONTENTS] = contents.model_copy(update={"files": digests}).sealed().to_bytes()
            path.write_bytes(archive.pack(files))

        def verified() -> None:
            found = verification.verify(path)
            # The ledger of the small run knows nothing of these scores; all is computed and compared all the same.
            assert any("evidence: by the scores" in line.what for line in found.lines)

        def timed(work: Callable[[], object]) -> float:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        written()
        rows = seconds(
            {
                "scores written without names, and packed": lambda: timed(written),
                "the whole bundle verified, all figures and the verdict computed again": lambda: timed(verified),
            },
            repeats=REPEATS,
        )
        size = path.stat().st_size / 2**20
    note = (
        f"Generated scores of two models, {IMAGES:,} images of {PATIENTS:,} patients by 14 findings, and "
        f"{VALIDATION[0]:,} images of a validation set; four subgroups; {size:.0f} MiB."
    )
    return table("An audit bundle as large as the NIH's test set", "s", rows, note=note, repeats=REPEATS)
