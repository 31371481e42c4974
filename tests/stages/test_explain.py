"""The explain stage: which cases, where the maps point, and what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxr_ops.audit.package import digest as package_digest
from cxr_ops.data import manifest
from cxr_ops.data.checking.decode import decode_grey, to_square
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network, package, scoring
from cxr_ops.params import Explain, Params
from cxr_ops.records.base import tree_digest
from cxr_ops.records.evidence import Evaluation, Undefined
from cxr_ops.records.explanation import Explanation
from cxr_ops.stages import evaluate, explain, split, validate

MASS = FINDINGS.index("Mass")

pytestmark = pytest.mark.usefixtures("shared_nursery")


def table(truth: list[float], scores: list[float]) -> pd.DataFrame:
    """A table of scores in which every finding has the same."""
    ids = [f"{row:08d}_000.png" for row in range(len(truth))]
    columns = {f"{finding}_truth": truth for finding in FINDINGS}
    columns |= {f"{finding}_challenger": scores for finding in FINDINGS}
    return pd.DataFrame({"image_id": ids, **columns})


def test_chooses_the_surest_of_each_kind() -> None:
    """With 3 positives the 3 highest scores count as positive; missing labels are no case; the surest come first."""
    nan = float("nan")
    truth = [1, 0, 1, 0, 1, 0, nan, 0, -1]  # the high scores of labels that nobody knows, or is sure of, count nowhere
    scores = [0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.99, 0.0, 0.98]
    cases, missing = explain.select(table(truth, scores), 2)
    mass = [(case.kind, int(case.image_id[:8]), case.probability) for case in cases if case.finding == "Mass"]
    assert mass == [
        ("true positive", 0, 0.9),
        ("true positive", 2, 0.7),
        ("false positive", 1, 0.8),
        ("false negative", 4, 0.1),
    ]
    assert missing == []
    assert len({case.picture for case in cases}) == len(cases) == 4 * len(FINDINGS)


def test_kinds_that_do_not_exist_are_said() -> None:
    """A perfect ranking has no false positive and no false negative; a finding without positives has no case."""
    cases, missing = explain.select(table([1, 0, 0], [0.9, 0.2, 0.1]), 1)
    assert {case.kind for case in cases} == {"true positive"}
    assert "Mass: there is no false positive." in missing
    assert "Mass: there is no false negative." in missing
    cases, missing = explain.select(table([0, 0], [0.9, 0.2]), 1)
    assert cases == []
    assert missing == [f"{finding}: no test image has it." for finding in FINDINGS]


def test_a_finding_that_was_not_trained_has_no_cases() -> None:
    """Where the challenger has no score, that is the reason, and not want of images that have the finding."""
    scores = pd.DataFrame({"image_id": ["a", "b"]})
    for finding in FINDINGS:
        scores[f"{finding}_truth"], scores[f"{finding}_challenger"] = [1, 0], [0.9, 0.1]
    scores["Mass_challenger"] = np.nan
    cases, missing = explain.select(scores, 1)
    assert "Mass: the challenger was not trained on it." in missing
    assert "Mass" not in {case.finding for case in cases}


def test_ties_are_broken_by_the_image_id() -> None:
    """Of equal scores the smaller image id comes first, whatever the order of the rows."""
    scores = table([1, 1, 0, 0], [0.5, 0.5, 0.5, 0.5])
    expected = explain.select(scores, 1)
    assert explain.select(scores.iloc[::-1], 1) == expected
    assert expected[0][0].image_id == "00000000_000.png"


@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (64, 40)])
def test_cells_lie_where_the_network_sees_them(shape: tuple[int, int]) -> None:
    """A cell is in a box when its centre is, or when it holds the box's centre, in the square that the network sees."""
    rng = np.random.default_rng(0)
    side = max(shape)
    left, top = (side - shape[1]) // 2, (side - shape[0]) // 2
    for _ in range(20):
        x, y = int(rng.integers(0, shape[1] - 8)), int(rng.integers(0, shape[0] - 8))
        w, h = int(rng.integers(1, shape[1] - x)), int(rng.integers(1, shape[0] - y))
        mask = np.zeros((side, side), bool)
        mask[top + y : top + y + h, left + x : left + x + w] = True
        expected = mask[8::16, 8::16].copy()  # 4 x 4 cells of 16 pixels
        expected[int(top + y + h / 2) // 16, int(left + x + w / 2) // 16] = True
        assert np.array_equal(explain.cells_in_boxes([(x, y, w, h)], (4, 4), shape), expected)


def test_pointing_counts_hits_misses_and_empty_maps() -> None:
    """Of three boxed images one peak hits, one misses and one map is empty; chance is the boxes' share of cells."""
    maps = {name: np.zeros((14, 2, 2), np.float32) for name in ("a", "b", "c", "other")}
    maps["a"][MASS] = [[0, 3], [1, 0]]
    maps["b"][MASS] = [[2, 0], [0, 1]]
    top_right = (32.0, 0.0, 32.0, 32.0)
    material = explain.Material(
        sha256={},
        shapes=dict.fromkeys(maps, (64, 64)),
        boxes={("a", "Mass"): [top_right], ("b", "Mass"): [top_right], ("c", "Mass"): [(0.0, 0.0, 64.0, 32.0)]},
    )
    found = explain.point("Mass", maps, material)
    assert (found.images, found.hits, found.empty) == (3, 1, 1)
    assert found.share == pytest.approx(1 / 3)
    assert found.chance == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)
    none = explain.point("Nodule", maps, material)
    assert (none.images, none.share, none.chance) == (0, None, None)


def test_draws_heat_where_the_map_is_hot_and_the_box_where_it_is() -> None:
    """The left half is the radiograph, the right half is coloured at the map's peak only, and both have the box."""
    pixels = np.full((128, 128), 90, np.uint8)
    heat = np.array([[0, 0], [0, 5]], np.float32)
    data = explain.draw(pixels, heat, [(16.0, 32.0, 32.0, 16.0)], 0.5)
    assert data == explain.draw(pixels, heat, [(16.0, 32.0, 32.0, 16.0)], 0.5)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    side = explain.SIDE
    assert picture.shape == (side, 2 * side, 3)
    coloured = np.ptp(picture.astype(int), axis=2) > 20
    corners = [(round(32 * side / 128), round(16 * side / 128)), (round(48 * side / 128), round(48 * side / 128))]
    for offset in (0, side):
        for row, column in corners:
            assert tuple(picture[row, offset + column]) == explain.BOX_COLOUR
    assert coloured[-40:, -40:].all()
    assert not coloured[-40:, side - 40 : side].any()
    assert not coloured[:40, side : side + 30].any()


def test_an_empty_map_colours_nothing() -> None:
    """A map of zeros leaves the radiograph as it is."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80), dtype=np.uint8)
    data = explain.draw(pixels, np.zeros((3, 3), np.float32), [], 1.0)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    grey = to_square(pixels, explain.SIDE)
    assert np.array_equal(picture, np.repeat(np.concatenate([grey, grey], axis=1)[..., None], 3, axis=2))


@pytest.fixture
def evaluated(request: pytest.FixtureRequest, workspace: Path, small_params: Params) -> tuple[Path, Params]:
    """A workspace whose test set has been scored by a package of random weights, of the head that the test names."""
    params = small_params.model_copy(update={"explain": Explain(cases_per_finding=2)})
    validate.run(workspace, params)
    split.run(workspace, params)
    head = getattr(request, "param", "linear")
    terms = package.contract(image_size=64, mean=0.449, std=0.226, training={}, head=head, head_width=16)
    torch.manual_seed(0)
    net = network.build(terms)
    net(torch.randn(8, 1, 64, 64))  # warms the statistics of batch normalisation
    digest = package.write(workspace / "train" / "package", state=net.state_dict(), contract=terms, patients=set())
    rows = manifest.read_split(workspace)
    test = rows[rows["split"] == "test"].reset_index(drop=True)
    with ShardReader(workspace / "dataset") as reader:
        pixels = [decode_grey(reader.read(image_id)) for image_id in test["image_id"]]
    scores = scoring.score(package.load(workspace / "train" / "package"), pixels)
    (workspace / "evaluate").mkdir()
    (workspace / "evaluate" / "scores.csv").write_bytes(evaluate.scores_table(test, {"challenger": scores}))
    nothing = Undefined(reason="made up")
    Evaluation(
        findings=[],
        macro_challenger=nothing,
        macro_champion=None,
        macro_difference=None,
        macro_over=[],
        test_digest="",
        test_images=len(test),
        test_patients=1,
        challenger=digest,
        champion=None,
        problems=[],
    ).write(workspace / "evaluate" / "evaluation.json")
    boxed = test["image_id"][0]
    (workspace / "validate" / "boxes.csv").write_text(
        f"image_id,finding,x,y,w,h\n{boxed},Mass,0,0,48,48\nnot-in-test.png,Mass,0,0,9,9\n"
    )
    return workspace, params


@pytest.mark.parametrize("evaluated", ["linear", "mlp"], indirect=True)
def test_explains_the_evaluated_model(evaluated: tuple[Path, Params]) -> None:
    """Every case names a picture that is there, probabilities are those of the evaluation, and no id travels."""
    root, params = evaluated
    explain.run(root, params)
    said = Explanation.read(root / "explain" / "explain.json")
    scores = pd.read_csv(root / "evaluate" / "scores.csv")
    rows = manifest.read_manifest(root / "validate" / "manifest.csv")
    known = dict(zip(rows["sha256"].str[:12], rows["image_id"], strict=True))
    assert said.package == package_digest(root / "train" / "package")
    assert {path.name for path in (root / "explain").glob("*.png")} == {case.picture for case in said.cases}
    for case in said.cases:
        row = scores[scores["image_id"] == known[case.sha256]].iloc[0]
        assert case.probability == row[f"{case.finding}_challenger"]
        assert case.truth == (row[f"{case.finding}_truth"] == 1) == (case.kind != "false positive")
        assert case.peak_in_box is None or case.finding == "Mass"
    pointing = {row.finding: row for row in said.pointing}
    assert list(pointing) == list(FINDINGS)
    assert pointing["Mass"].images == 1
    assert pointing["Mass"].hits + pointing["Mass"].empty == 1  # the box is the whole picture
    assert pointing["Mass"].chance == 1.0
    text = (root / "explain" / "explain.json").read_text() + " ".join(case.picture for case in said.cases)
    assert not any(image_id in text for image_id in rows["image_id"])

    digest = tree_digest(root / "explain")
    explain.run(root, params)
    assert tree_digest(root / "explain") == digest


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
