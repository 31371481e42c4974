"""A model that learned nothing is not promoted, whatever its training says."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cxr_ops.data.synthetic.synth import synthesize
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.records.evidence import Estimate, Evaluation
from cxr_ops.stages import ingest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # one short training


def test_a_model_trained_on_shuffled_labels_is_not_promoted(
    project: Path, tmp_path: Path, run_stages: Callable[..., dict]
) -> None:
    """Labels dealt out at random among the images leave nothing to learn: AUCs near 0.5, no champion."""
    synthesize(tmp_path / "made", images=1200, seed=3, size=64)
    table = tmp_path / "made" / "Data_Entry_2017.csv"
    header, *lines = table.read_text().splitlines()
    rows = [next(csv.reader([line])) for line in lines]
    labels = np.random.default_rng(0).permutation([row[1] for row in rows])
    mixed = [",".join([row[0], label, *row[2:]]) for row, label in zip(rows, labels, strict=True)]
    table.write_text("\n".join([header, *mixed]) + "\n")
    (tmp_path / "made" / "BBox_List_2017.csv").unlink()  # its boxes belong to the labels that were

    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})
    ingest.run("nih", tmp_path / "made", batch="shuffled", home=home)
    results = run_stages(home.root, "shuffled", train__epochs=3, prepare__image_size=64)

    evaluation = Evaluation.read(home.workspace("shuffled") / "evaluate" / "evaluation.json")
    assert isinstance(evaluation.macro_challenger, Estimate)
    assert abs(evaluation.macro_challenger.value - 0.5) < 0.08
    assert results["gate"]["verdict"] in ("REJECT", "INSUFFICIENT EVIDENCE")
    assert open_ledger(home).champion() is None
