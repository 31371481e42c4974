"""The explain stage: which cases, where the maps point, and what is drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from evaluations import PROJECT

from cxr_ops import plan as plans
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.data import manifest
from cxr_ops.data.checking.decode import decode_grey
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import cam, network, package, scoring
from cxr_ops.model.apart import parent as apart
from cxr_ops.params import Explain, Params
from cxr_ops.records.base import tree_digest
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.explanation import Explanation
from cxr_ops.stages import evaluate, explain, split, validate
from cxr_ops.stats import evidence

pytestmark = pytest.mark.usefixtures("shared_nursery")


def write_package(folder: Path, seed: int, head: str = "linear") -> str:
    """A package of random weights; its digest."""
    terms = package.contract(image_size=64, mean=0.449, std=0.226, training={}, head=head, head_width=16)
    torch.manual_seed(seed)
    net = network.build(terms)
    net(torch.randn(8, 1, 64, 64))  # warms the statistics of batch normalisation
    return package.write(folder, state=net.state_dict(), contract=terms, patients=set())


def write_evaluation(root: Path, packages: dict[str, str]) -> None:
    """What `evaluate` would leave of packages that stand in the workspace; thresholds are chosen on the same images."""
    rows = manifest.read_split(root)
    test = rows[rows["split"] == "test"].reset_index(drop=True)
    with ShardReader(root / "dataset") as reader:
        pixels = [decode_grey(reader.read(image_id)) for image_id in test["image_id"]]
    folders = {"challenger": root / "train" / "package", "champion": root / "champion" / "package"}
    scores = {role: scoring.score(package.load(folders[role]), pixels) for role in packages}
    (root / "evaluate").mkdir()
    (root / "evaluate" / "scores.csv").write_bytes(evaluate.scores_table(test, scores))
    truth = manifest.label_array(test).astype(np.float64)
    scored = evidence.Scored(truth=truth, patients=test["patient_id"].to_numpy(), scores=scores)
    rules = plans.load(PROJECT / "pccp.demo.yaml").performance
    found = evidence.assess(
        FINDINGS,
        scored,
        validation=scored if "champion" in packages else None,
        attributes={},
        rules=rules,
        level=0.95,
    )
    Evaluation(
        **dict(found.evidence),
        test_digest="",
        test_images=len(test),
        test_patients=1,
        challenger=packages["challenger"],
        champion=packages.get("champion"),
        problems=[],
        performance=found.performance,
    ).write(root / "evaluate" / "evaluation.json")
    boxed = test["image_id"][0]
    (root / "validate" / "boxes.csv").write_text(
        f"image_id,finding,x,y,w,h\n{boxed},Mass,0,0,48,48\nnot-in-test.png,Mass,0,0,9,9\n"
    )


@pytest.fixture
def evaluated(request: pytest.FixtureRequest, workspace: Path, small_params: Params) -> tuple[Path, Params]:
    """A workspace whose test set has been scored by a package of random weights, of the head that the test names."""
    params = small_params.model_copy(update={"explain": Explain(cases_per_finding=2)})
    validate.run(workspace, params)
    split.run(workspace, params)
    digest = write_package(workspace / "train" / "package", 0, getattr(request, "param", "linear"))
    write_evaluation(workspace, {"challenger": digest})
    return workspace, params


def test_the_champion_is_shown_beside_at_each_models_own_operating_point(workspace: Path, small_params: Params) -> None:
    """What flips comes first, with both models' calibrated probabilities, calls and maps; no image more than twice."""
    params = small_params.model_copy(update={"explain": Explain(cases_per_finding=2)})
    validate.run(workspace, params)
    split.run(workspace, params)
    packages = {
        "challenger": write_package(workspace / "train" / "package", 0),
        "champion": write_package(workspace / "champion" / "package", 1),
    }
    write_evaluation(workspace, packages)
    explain.run(workspace, params)
    said = Explanation.read(workspace / "explain" / "explain.json")
    assert said.champion == packages["champion"]
    calls = {
        "missed now": (True, True, False),
        "found now": (True, False, True),
        "false alarm now": (False, False, True),
        "cleared now": (False, True, False),
    }
    seen = [case for case in said.cases if case.kind in calls]
    assert seen
    for case in said.cases:
        assert case.challenger.called == (case.challenger.probability >= case.challenger.threshold)
        if case in seen:
            assert (case.truth, case.champion.called, case.challenger.called) == calls[case.kind]
        assert case.champion.map != case.challenger.map or case.empty
    pictures = [case.sha256 for case in said.cases]
    assert max(pictures.count(picture) for picture in pictures) <= 2


def test_a_champion_whose_network_gives_no_maps_is_shown_without_one(
    workspace: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A champion that cannot be explained stops no run: its maps are missing, and it is said why."""
    validate.run(workspace, small_params)
    split.run(workspace, small_params)
    packages = {
        "challenger": write_package(workspace / "train" / "package", 0),
        "champion": write_package(workspace / "champion" / "package", 1),
    }
    write_evaluation(workspace, packages)
    real = apart.Process.maps

    def maps(process: apart.Process, pixels: Sequence[np.ndarray], **asked: object) -> np.ndarray:
        if process._package.digest == packages["champion"]:
            raise DataError("the package's network has no head that can be explained")
        return real(process, pixels, **asked)

    monkeypatch.setattr(apart.Process, "maps", maps)
    explain.run(workspace, small_params)
    said = Explanation.read(workspace / "explain" / "explain.json")
    assert {len(case.champion.map) for case in said.cases} == {0}
    assert said.missing[0].startswith("The champion has no heat maps: the package's network has no head")


@pytest.mark.parametrize("evaluated", ["linear", "mlp"], indirect=True)
def test_explains_the_evaluated_model(evaluated: tuple[Path, Params]) -> None:
    """Every case names a picture that is there, probabilities are those of the evaluation, and no id travels."""
    root, params = evaluated
    explain.run(root, params)
    said = Explanation.read(root / "explain" / "explain.json")
    scores = pd.read_csv(root / "evaluate" / "scores.csv")
    rows = manifest.read_manifest(root / "validate" / "manifest.csv")
    known = dict(zip(rows["sha256"].str[:12], rows["image_id"], strict=True))
    [boxed] = [sha256 for sha256, image_id in known.items() if image_id == scores["image_id"][0]]
    assert said.package == package_digest(root / "train" / "package")
    assert {path.name for path in (root / "explain").glob("*.png")} == {case.picture for case in said.cases}
    for case in said.cases:
        row = scores[scores["image_id"] == known[case.sha256]].iloc[0]
        assert case.probability == case.challenger.probability == row[f"{case.finding}_challenger"]
        assert case.truth == (row[f"{case.finding}_truth"] == 1) == (case.kind in ("true positive", "false negative"))
        assert case.peak_in_box is None or case.finding == "Mass"
        assert np.shape(case.challenger.map) == said.grid == (2, 2)
        assert max(max(row) for row in case.challenger.map) <= 2 * said.scale
        assert case.champion is None
        grey = cv2.imread(str(root / "explain" / case.picture), cv2.IMREAD_UNCHANGED)
        assert grey.ndim == 2
        assert case.boxes == ([(0.0, 0.0, 0.75, 0.75)] if case.finding == "Mass" and case.sha256 == boxed else [])
    text = (root / "explain" / "explain.json").read_text() + " ".join(case.picture for case in said.cases)
    assert not any(image_id in text for image_id in rows["image_id"])

    digest = tree_digest(root / "explain")
    explain.run(root, params)
    assert tree_digest(root / "explain") == digest


def test_another_method_and_a_larger_input_are_used_and_said(evaluated: tuple[Path, Params]) -> None:
    """Maps are those of the method at the resolution that is asked, probabilities the model's own, and it is said."""
    root, params = evaluated
    asked = Explain(cases_per_finding=1, method="grad_cam_plus_plus", resolution=128)
    explain.run(root, params.model_copy(update={"explain": asked}))
    said = Explanation.read(root / "explain" / "explain.json")
    assert (said.grid, said.image_size, said.method, said.resolution) == ((4, 4), 64, "grad_cam_plus_plus", 128)
    assert "Grad-CAM++ on the last layer" in said.rule
    assert "on another grid than the model's own" in said.rule
    assert "trained at 64 pixels read the picture at 128 pixels here" in said.rule
    scores = pd.read_csv(root / "evaluate" / "scores.csv").set_index("image_id")
    rows = manifest.read_manifest(root / "validate" / "manifest.csv")
    known = dict(zip(rows["sha256"].str[:12], rows["image_id"], strict=True))
    case = next(case for case in said.cases if not case.empty)
    assert case.probability == scores[f"{case.finding}_challenger"][known[case.sha256]]
    with ShardReader(root / "dataset") as reader:
        pixels = [decode_grey(reader.read(known[case.sha256]))]
    model = package.load(root / "train" / "package")
    expected = cam.grad_cam(model, pixels, method="grad_cam_plus_plus", size=128).maps[0, FINDINGS.index(case.finding)]
    assert np.allclose(case.challenger.map, expected, atol=1e-3)


def test_refuses_another_model_than_the_evaluated_one(evaluated: tuple[Path, Params]) -> None:
    """Maps are of the package that was evaluated, or there are none; without an evaluation there are none either."""
    root, params = evaluated
    path = root / "train" / "package" / "model.json"
    terms = json.loads(path.read_bytes())
    path.write_text(json.dumps({**terms, "intended_use": "other"}))
    with pytest.raises(DataError, match="not the one on record"):
        explain.run(root, params)
    (root / "evaluate" / "evaluation.json").unlink()
    with pytest.raises(DataError, match=r"evaluation\.json is missing"):
        explain.run(root, params)
    assert not (root / "explain").exists()
