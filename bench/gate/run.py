"""Run the studies in several processes, and keep what they find."""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bench.gate import procedures, scores, structure, study
from bench.gate.results import Results, Tally
from cxr_ops import plan as plans
from cxr_ops.labels import FINDINGS
from cxr_ops.plan import ChangePlan
from cxr_ops.voice import steps

PLAN = "pccp.yaml"
PROBE_PATIENTS = 400  # of the small test set that shows whether the code still gives the same numbers


def run(
    project: Path,
    cache: Path,
    labels: Path | None,
    seed: int,
    replicates: int,
    processes: int,
    *,
    deadline: float | None,
    only: Collection[str] = (),
) -> Results:
    """Go on with the studies until all replicates are there, or until the deadline.

    Args:
        project: its `pccp.yaml` is what is simulated.
        cache: for the labels and `results.json`.
        labels: a local copy of the NIH's table, or None to download it.
        seed: of the scores.
        replicates: of the largest study; the others have their share.
        processes: how many at a time.
        deadline: of `time.monotonic`.
        only: studies to go on with; all where none is named.

    Raises:
        StorageError: the labels cannot be downloaded. DataError: they are not the NIH's. SettingsError: the plan.
    """
    cache.mkdir(parents=True, exist_ok=True)
    plan = plans.load(project / PLAN)
    test_set, drawn = structure.likest_official(structure.read(labels or structure.fetch(cache)))
    file = cache / "results.json"
    results = Results.read(file) if file.is_file() else Results()
    for name, mark in fingerprints(plan, test_set, seed).items():
        if name not in results.studies or results.studies[name].fingerprint != mark:
            results.studies[name] = Tally(mark)
    results.about = describe(test_set, plan, drawn)
    todo = [(name, block) for name, block in tasks(results, replicates) if not only or name in only]
    # Of arrays this small, a second thread costs more than it brings; a process reads this when it starts.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    context = get_context("spawn")  # a fork would copy the threads' locks of the parent
    with ProcessPoolExecutor(processes, context, _prepare, (test_set, plan, seed)) as pool, steps("bench-gate") as show:
        found = pool.map(_block, *zip(*todo, strict=True)) if todo else iter(())
        for done, ((name, block), tally) in enumerate(zip(todo, found, strict=True), 1):
            results.studies[name].merge(block, tally)
            results.write(file)
            show(done, len(todo))
            if deadline is not None and time.monotonic() > deadline:
                pool.shutdown(cancel_futures=True)
                break
    return results


def tasks(results: Results, replicates: int) -> list[tuple[str, int]]:
    """(study, block) of what is missing, so ordered that all studies advance together."""
    todo: list[tuple[float, str, int]] = []
    for name, of in study.STUDIES.items():
        blocks = max(1, round(replicates * of.share / of.block))
        held = set(results.studies[name].blocks)
        todo += [(block / blocks, name, block) for block in range(blocks) if block not in held]
    return [(name, block) for _, name, block in sorted(todo)]


def describe(test_set: structure.Structure, plan: ChangePlan, drawn: int) -> dict[str, Any]:
    """What the page says of the test set, the seed that it was drawn with, and the plan."""
    rules = plan.performance
    return {
        "drawn": drawn,
        "patients": test_set.patient_count,
        "images": len(test_set.patients),
        "plan": plan.name,
        "alpha": procedures.share(plan),
        "limited": list(rules.limited_findings),
        "findings": [
            {
                "finding": finding,
                "images": int(test_set.truth[:, f].sum()),
                "official": structure.OFFICIAL[f],
                "patients": int(patients),
                "margin": rules.finding.margin_of(finding),
                "area": scores.AREAS[f],
            }
            for f, (finding, patients) in enumerate(zip(FINDINGS, test_set.positive_patients(), strict=True))
        ],
    }


def fingerprints(plan: ChangePlan, test_set: structure.Structure, seed: int) -> dict[str, str]:
    """Study -> digest of what its numbers depend on: the plan's rules, the test set, the seed, and the code.

    The code by what it does: one replicate on a small generated test set, to nine digits, and for each study also that
    of `look`, which yields more than yes and no. So a change that moves no number keeps the results.
    """
    rules = plan.performance.model_dump_json(exclude={"summary"})
    small = procedures.setup(scores.World(structure.generated(PROBE_PATIENTS)), plan)
    probes = {
        name: " ".join(f"{key}={float(value):.9g}" for key, value in of.replicate(small, random(seed, name, 0)))
        for name, of in study.STUDIES.items()
    }
    common = f"{seed} {test_set.digest()} {rules} {plan.approvals} {probes['look']}"
    return {name: hashlib.sha256(f"{common} {probe}".encode()).hexdigest() for name, probe in probes.items()}


def random(seed: int, name: str, index: int) -> np.random.Generator:
    """Each replicate has its own stream, whatever process it runs in."""
    key = (*name.encode(), index)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


# What a process prepares once; blocks then travel as two words.
_state: dict[str, Any] = {}


def _prepare(test_set: structure.Structure, plan: ChangePlan, seed: int) -> None:
    _state["setup"] = procedures.setup(scores.World(test_set), plan)
    _state["seed"] = seed
    gc.freeze()  # so that collecting the models of a replicate, which know their views, does not look at the libraries


def _block(name: str, block: int) -> Tally:
    of = study.STUDIES[name]
    tally = Tally()
    begun = time.process_time()
    for index in range(block * of.block, (block + 1) * of.block):
        rng = random(_state["seed"], name, index)
        tally.add(of.replicate(_state["setup"], rng))
        gc.collect()
    tally.seconds = time.process_time() - begun
    return tally
