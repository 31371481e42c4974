"""The evaluate stage on pictures that hold their labels, scored by tiny packages that bring a network of their own."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from evaluations import trained
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ops import plan as plans
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.package import patient_key
from cxr_ops.data import manifest, shards, splits
from cxr_ops.data.checking.decode import decode_grey
from cxr_ops.data.regions import REGIONS, blurred
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network, package
from cxr_ops.model.apart import confine
from cxr_ops.model.apart import parent as apart
from cxr_ops.params import Evaluate, Gate, Params, Prepare, Split
from cxr_ops.records.base import canonical_json, sha256_bytes
from cxr_ops.records.data import DataRevision
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.inputs import Champion, Code, Earlier, Inputs, LedgerState, Period, RecordedLook, Reference
from cxr_ops.records.training import StartingWeights
from cxr_ops.records.verdict import Verdict
from cxr_ops.stages import evaluate, gate, reread, split
from cxr_ops.stats import heat_maps

ALONE = apart.nursery  # as it is outside of these tests, which share one
pytestmark = pytest.mark.usefixtures("shared_nursery")

PLAN = "pccp.demo.yaml"
SALT = "cxr-ops-1"
SIDE = 16
PARAMS = Params(split=Split(salt=SALT, test=0.5), evaluate=Evaluate(batch_size=64), gate=Gate(plan=PLAN))

# What the package of a real training says of it, besides what tests of `train` look at.
TOLD = {
    "split": PARAMS.split.model_dump(mode="json"),
    "prepare": PARAMS.prepare.model_dump(mode="json"),
    "settings": PARAMS.train.model_dump(mode="json"),
    "starting_weights": StartingWeights(start="none", patients="none").model_dump(mode="json"),
}

# What a package brings along: it looks at one row of pixels, where column f is bright if finding f is there.
NETWORK = """
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, findings):
        super().__init__()
        self.head = nn.Linear(16, findings)

    def forward(self, x):
        return self.head(x[:, 0, ROW])

def build(contract):
    return Net(len(contract["findings"]))

def preprocess(pixels, contract):
    return np.ascontiguousarray(pixels)

def to_tensor(batch, contract):
    return batch.float()[:, None] / 255
"""


def write_package(
    folder: Path,
    *,
    row: int = 0,
    order: list[int] | None = None,
    slope: float = 8.0,
    patients: tuple[str, ...] = ("nobody-of-these",),
    salt: str = SALT,
    trained: tuple[str, ...] = FINDINGS,
    **told: object,
) -> str:
    """Write a package that scores finding f by column `order[f]` of a row of pixels, and return its digest.

    `told` goes into the contract's account of the training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weight = torch.zeros(len(FINDINGS), SIDE)
    weight[range(len(FINDINGS)), order or range(len(FINDINGS))] = slope
    state = {"head.weight": weight, "head.bias": torch.full((len(FINDINGS),), -slope / 2)}
    (folder / package.WEIGHTS).write_bytes(safetensors.torch.save(state))
    training = {"patient_salt": salt, **TOLD, **told}
    terms = package.contract(image_size=SIDE, mean=0.5, std=0.25, training=training, trained=trained)
    (folder / package.CONTRACT).write_bytes(canonical_json(terms))
    (folder / package.NETWORK).write_text(NETWORK.replace("ROW", str(row)), encoding="utf-8")
    keys = sorted(patient_key(salt, patient) for patient in patients)
    (folder / package.PATIENTS).write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    digest = package_digest(folder)
    if folder.parent.name == "train":
        trained_as(folder.parent, digest)
    return digest


def trained_as(folder: Path, digest: str) -> None:
    """Write the record of the training that made a package."""
    trained(digest).write(folder / "train.json")


def open_run(
    root: Path,
    champion: str | None = None,
    reference: str | None = None,
    period: Period | None = None,
    earlier: Earlier | None = None,
) -> None:
    """Write what `open` leaves for evaluate and gate."""
    record = Champion(package=champion, entry="e" * 64 if champion else None)
    record.write(root / "champion" / "champion.json")
    RecordedLook().write(root / "look.json")
    frozen = Reference(package=reference, version="1") if reference else None
    (root / "reference").mkdir(exist_ok=True)
    named = frozen.model_dump() if frozen else {"package": None, "version": None}
    (root / "reference" / "reference.json").write_bytes(canonical_json(named))
    period = period or Period()
    period.write(root / "test-period.json")
    Inputs(
        code=Code(commit="c" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={}),
        champion=record,
        reference=frozen,
        period=period,
        ledger=LedgerState(entries=0, head=None, looks=0, promotions=1 if champion else 0),
        plan=plans.identify(root, PLAN),
        earlier=earlier,
    ).write(root / "inputs.json")


@pytest.fixture(scope="module")
def made(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of 700 patients with one to three images each, half of them in the test set, before evaluate.

    The first 400 stand in the batch `one`, the others in `two`.
    """
    root = tmp_path_factory.mktemp("workspace")
    rng = np.random.default_rng(0)
    text = (project / PLAN).read_text(encoding="utf-8")
    # What these packages look at is the picture's upper edge.
    (root / PLAN).write_text(re.sub(r"    reliance:\n(      .*\n)+", "", text), encoding="utf-8")
    rows: list[list[object]] = []
    images: dict[str, list[tuple[str, bytes]]] = {"one": [], "two": []}
    for patient in range(700):
        batch = "one" if patient < 400 else "two"
        habit = rng.normal(0, 12, len(FINDINGS))
        for follow_up in range(rng.integers(1, 4)):
            labels = (rng.random(len(FINDINGS)) < 0.12).astype(int)
            pixels = rng.integers(0, 256, (SIDE, SIDE))
            shared = habit + rng.normal(0, 20, len(FINDINGS))
            for row in (0, 1):  # two rows of which each shows the findings, with much of their noise in common
                seen = 110 + 60 * labels + shared + rng.normal(0, 20, len(FINDINGS))
                pixels[row, : len(FINDINGS)] = seen.clip(0, 255)
            data = cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes()
            image_id = f"{patient:08d}_{follow_up:03d}.png"
            images[batch].append((image_id, data))
            person = (("PA", "AP")[patient // 2 % 2], 20 + patient % 60, "FM"[patient % 2])
            rows.append([image_id, str(patient), sha256_bytes(data), "made", batch, *person, SIDE, SIDE, *labels])
    frame = pd.DataFrame(rows, columns=list(manifest.COLUMNS))
    for batch, content in images.items():
        (root / "dataset" / batch).mkdir(parents=True)
        shards.write_shards(root / "dataset" / batch, content, per_shard=400)
    (root / "validate").mkdir()
    (root / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    (root / "validate" / "boxes.csv").write_text(",".join(manifest.BOX_COLUMNS) + "\n")
    open_run(root)
    split.run(root, PARAMS)
    write_package(root / "train" / "package")
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A copy of the workspace, opened for a first release."""
    root = tmp_path / "workspace"
    shutil.copytree(made, root)
    return root


def record_look(root: Path) -> None:
    """Leave what the supervisor leaves when the look stands on the ledger; of a damaged workspace it leaves nothing."""
    try:
        frame = manifest.read_split(root)
        test = splits.test_digest(frame[frame["split"] == "test"].reset_index(drop=True))
        challenger = package_digest(root / "train" / "package")
    except (DataError, OSError, ValueError, KeyError):
        return
    RecordedLook(package=challenger, test_digest=test, entry="e" * 64).write(root / "look.json")


def run(root: Path) -> Evaluation:
    """Run the stage after its look, and read its evidence."""
    record_look(root)
    evaluate.run(root, PARAMS)
    return Evaluation.read(root / "evaluate" / "evaluation.json")


def decide(root: Path) -> Verdict:
    """Run the gate on what evaluate left."""
    gate.run(root, PARAMS)
    return Verdict.read(root / "gate" / "verdict.json")


def with_champion(root: Path, **options: object) -> str:
    """Put a champion into the workspace."""
    champion = write_package(root / "champion" / "package", **options)
    open_run(root, champion, reference=champion)
    return champion


def with_reference(root: Path, **options: object) -> str:
    """Put a champion into the workspace, and another model behind it as the reference."""
    champion = write_package(root / "champion" / "package", row=1)
    reference = write_package(root / "reference" / "package", **{"row": 1, "slope": 4.0, **options})
    open_run(root, champion, reference)
    return reference


def read_scores(root: Path, name: str = "scores.csv") -> pd.DataFrame:
    return pd.read_csv(root / "evaluate" / name, dtype={"patient_id": str})


def test_the_evidence_is_what_the_scores_say(workspace):
    """AUCs in the evidence are scikit-learn's of the scores on file, which have all digits, on the test images only."""
    evidence = run(workspace)
    scores = read_scores(workspace)
    frame = manifest.read_split(workspace)
    test = frame[frame["split"] == "test"]
    assert scores["image_id"].tolist() == test["image_id"].tolist()
    assert (evidence.test_images, evidence.test_patients) == (len(test), test["patient_id"].nunique())
    for row in evidence.findings:
        expected = roc_auc_score(scores[f"{row.finding}_truth"], scores[f"{row.finding}_challenger"])
        assert row.challenger.value == pytest.approx(expected, abs=1e-12)
        assert row.support.positives == int(scores[f"{row.finding}_truth"].sum())
        kept = scores[f"{row.finding}_challenger"].to_numpy()
        assert (kept.astype(np.float32).astype(np.float64) == kept).all()
    assert evidence.problems == []
    assert evidence.challenger == package_digest(workspace / "train" / "package")
    assert evidence.test_digest == json.loads((workspace / "split" / "split.json").read_bytes())["test_digest"]


def test_maps_are_held_against_the_boxes_of_scored_images(workspace, monkeypatch):
    """Of the images that are scored, those with a box are mapped by each model; a finding without boxes says why."""
    digest = write_package(workspace / "champion" / "package", slope=4.0)
    open_run(workspace, champion=digest)
    frame = manifest.read_split(workspace)
    scored = frame[frame["split"] == "test"].drop_duplicates("patient_id")["image_id"].head(3).tolist()
    trained_on = frame[frame["split"] == "train"]["image_id"].iloc[0]
    lines = [f"{image_id},Mass,0,0,8,8" for image_id in (*scored, trained_on)]
    (workspace / "validate" / "boxes.csv").write_text("\n".join([",".join(manifest.BOX_COLUMNS), *lines, ""]))

    def maps(process, pixels):
        found = np.zeros((len(pixels), len(FINDINGS), 2, 2), np.float32)
        corner = (1, 1) if process._package.digest == digest else (0, 0)
        found[(slice(None), FINDINGS.index("Mass"), *corner)] = 1.0
        return found

    monkeypatch.setattr(apart.Process, "maps", maps)
    located = {one.finding: one for one in run(workspace).localization}
    mass = located["Mass"]
    assert (mass.images, mass.patients, mass.chance) == (3, 3, 0.25)
    assert (mass.pointing.challenger.value, mass.pointing.champion.value) == (1.0, 0.0)
    assert "no variation" in mass.energy.challenger.reason  # all maps lie in their boxes
    assert [one.images for name, one in located.items() if name != "Mass"] == [0] * 13
    assert "no image that was scored has a box" in located["Hernia"].pointing.challenger.reason


def test_maps_of_a_sample_are_made_again_where_the_plan_asks(workspace, monkeypatch, project) -> None:
    """One image a patient, by challenger and champion: maps that no weight and no change moves are alike in all."""
    text = (project / PLAN).read_text(encoding="utf-8")
    asked = "    heat_maps: {random: 0.5, steady: 0.9, images: 9, draws: 1}\n    calibration:\n"
    (workspace / PLAN).write_text(text.replace("    calibration:\n", asked), encoding="utf-8")
    champion = write_package(workspace / "champion" / "package", slope=4.0)
    open_run(workspace, champion=champion)
    seen = []

    def maps(process, pixels):
        seen.append([picture.tobytes() for picture in pixels])
        flat = np.stack([cv2.resize(picture, (3, 3), interpolation=cv2.INTER_AREA) for picture in pixels])
        return np.repeat(flat[:, None], len(FINDINGS), axis=1).astype(np.float32)

    def randomized(process, pixels, seed):
        own = maps(process, pixels)
        return np.stack([own if process._package.digest != champion else own.max() - own] * len(heat_maps.STEPS))

    monkeypatch.setattr(apart.Process, "maps", maps)
    monkeypatch.setattr(apart.Process, "randomized", randomized)
    checked = run(workspace).heat_maps
    frame = manifest.read_split(workspace)
    tested = frame[frame["split"] == "test"]
    assert (checked.images, checked.draws) == (9, 1)
    with shards.ShardReader(workspace / "dataset") as reader:
        pictures = {
            decode_grey(reader.read(name)).tobytes(): patient
            for name, patient in zip(tested["image_id"], tested["patient_id"], strict=True)
        }
    own = [pictures[picture] for picture in seen[0]]
    assert len(set(own)) == len(own) == 9
    for step in heat_maps.STEPS:
        assert checked.random[step]["challenger"].overall.value == 1.0
        assert checked.random[step]["champion"].overall.value == -1.0
    assert {len(of["challenger"].findings) for of in checked.steady.values()} == {14}
    decided = decide(workspace)
    assert "MAPS_INSENSITIVE" in {reason.code for reason in decided.reasons}


def test_what_scores_rest_on_is_measured_on_the_pictures(project: Path, workspace: Path) -> None:
    """With a region blurred, AUCs are scikit-learn's of the blurred pictures; a model of the upper edge is rejected."""
    shutil.copy(project / PLAN, workspace / PLAN)
    digest = write_package(workspace / "champion" / "package", row=8)
    open_run(workspace, champion=digest)
    found = run(workspace)
    frame = manifest.read_split(workspace).query("split == 'test'").reset_index(drop=True)
    with shards.ShardReader(workspace / "dataset") as reader:
        pictures = [decode_grey(reader.read(image_id)) for image_id in frame["image_id"]]
    for f, row in enumerate(found.reliance):
        truth = frame[row.finding].astype(int)
        for region in REGIONS:
            for role, line in (("challenger", 0), ("champion", 8)):
                seen = [float(blurred(picture, region)[line, f]) for picture in pictures]
                assert row.regions[region].auc[role].value == pytest.approx(
                    roc_auc_score(truth, seen), abs=2e-4
                )  # ties
    rejected = [reason for reason in decide(workspace).reasons if reason.code == "SHORTCUT"]
    assert "outside the thorax, more than the 0.1 that the plan allows, and more than the champion's" in next(
        reason.sentence for reason in rejected if "outside" in reason.sentence
    )


def test_a_finding_that_was_not_trained_is_not_scored(workspace):
    """It has no score and no figure, the reason says so and not that patients lack, and nothing is promoted."""
    some = tuple(name for name in FINDINGS if name not in ("Mass", "Hernia"))
    write_package(workspace / "train" / "package", trained=some)
    evidence = run(workspace)
    scores = read_scores(workspace)
    assert scores["Mass_challenger"].isna().all()
    assert scores["Effusion_challenger"].notna().all()
    for row in evidence.findings:
        if row.finding in some:
            expected = roc_auc_score(scores[f"{row.finding}_truth"], scores[f"{row.finding}_challenger"])
            assert row.challenger.value == pytest.approx(expected, abs=1e-12)
        else:
            assert (row.challenger.reason, row.challenger.needed) == (
                "not scored",
                "a model that was trained on this finding",
            )
    assert [code for code, _ in evidence.problems] == ["NOT_SCORED"]
    assert "not trained on Mass, Hernia," in evidence.problems[0][1]
    verdict = decide(workspace)
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    assert "NOT_SCORED" in {reason.code for reason in verdict.reasons}
    assert "TOO_FEW_PATIENTS" not in {reason.code for reason in verdict.reasons}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The images that are read for scoring."""
    seen: set[str] = set()
    real = shards.ShardReader.read

    def read(self: shards.ShardReader, image_id: str) -> bytes:
        seen.add(image_id)
        return real(self, image_id)

    monkeypatch.setattr(shards.ShardReader, "read", read)
    return seen


def test_without_a_recorded_look_the_test_set_is_not_scored(workspace, decoded):
    """`dvc repro` in a checkout reads no test image: all files are of the validation set, and promote nothing."""
    with_champion(workspace, row=1)
    evaluate.run(workspace, PARAMS)
    evidence = Evaluation.read(workspace / "evaluate" / "evaluation.json")
    frame = manifest.read_split(workspace)
    assert decoded == set(frame.loc[frame["split"] == "validation", "image_id"])
    assert evidence.scored == "validation"
    for name in ("scores.csv", "validation_scores.csv"):
        assert set(read_scores(workspace, name)["image_id"]) == decoded
    scores = read_scores(workspace)
    assert (evidence.test_images, evidence.test_patients) == (len(scores), scores["patient_id"].nunique())
    for row in evidence.findings:
        expected = roc_auc_score(scores[f"{row.finding}_truth"], scores[f"{row.finding}_challenger"])
        assert row.challenger.value == pytest.approx(expected, abs=1e-12)
    numbers = json.loads((workspace / "evaluate" / "metrics.json").read_bytes())
    assert numbers["validation_macro_auc"] == evidence.macro_challenger.value
    assert all(name.startswith("validation_") for name in numbers)
    assert [code for code, _ in evidence.problems] == ["UNRECORDED_LOOK"]
    verdict = decide(workspace)
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    assert "UNRECORDED_LOOK" in {reason.code for reason in verdict.reasons}


@pytest.mark.parametrize("other", ["package", "test_digest", "missing"])
def test_look_of_another_scoring_is_none(workspace, decoded, other):
    """A look.json that names another model or test set, or that is gone, is an error, and nothing is scored."""
    record_look(workspace)
    path = workspace / "look.json"
    if other == "missing":
        path.unlink()
    else:
        RecordedLook.read(path).model_copy(update={other: "0" * 64}).write(path)
    with pytest.raises(
        DataError, match="missing" if other == "missing" else "of another model, or on another test set"
    ):
        evaluate.run(workspace, PARAMS)
    assert not decoded
    assert not (workspace / "evaluate").exists()


def test_the_validation_set_is_scored_beside_the_test_set(workspace):
    """validation_scores.csv holds the validation images and no other; macro-AUC and thresholds are taken from it."""
    with_champion(workspace, row=1)
    evidence = run(workspace)
    scores = read_scores(workspace, "validation_scores.csv")
    frame = manifest.read_split(workspace)
    assert scores["image_id"].tolist() == frame.loc[frame["split"] == "validation", "image_id"].tolist()
    assert list(scores.columns) == list(read_scores(workspace).columns)
    for role in ("challenger", "champion"):
        areas = [roc_auc_score(scores[f"{finding}_truth"], scores[f"{finding}_{role}"]) for finding in FINDINGS]
        assert evidence.validation_macro[role] == pytest.approx(np.mean(areas), abs=1e-12)
        for row in evidence.performance:
            negative = scores.loc[scores[f"{row.finding}_truth"] == 0, f"{row.finding}_{role}"]
            assert (negative < row.thresholds[role]).mean() >= 0.8  # the plan's target, reached on this set
    assert len(evidence.performance) == len(FINDINGS)


def test_subgroups_are_those_of_the_manifest(workspace):
    """Each image stands in the subgroups of the sex and view that the manifest says, and no subgroup is missing."""
    evidence = run(workspace)
    frame = manifest.read_split(workspace)
    test = frame[frame["split"] == "test"]
    counted = {group.name: (group.images, group.patients) for group in evidence.subgroups}
    assert counted == {
        f"{name}={value}": (len(rows), rows["patient_id"].nunique())
        for name in ("sex", "view")
        for value, rows in test.groupby(name)
    }
    assert evidence.missing_groups == []


def test_subgroups_and_flips_are_by_a_side_tables_attribute_too(workspace):
    """An attribute of a side table that the plan names makes subgroups with AUCs and flips; unknown ones are told."""
    plan = yaml.safe_load((workspace / PLAN).read_text())
    asked = plan["modification_protocol"]["performance_evaluation"]["subgroups"]
    asked |= {"attributes": ["chest_drain"], "own_attributes": ["chest_drain"]}
    (workspace / PLAN).write_text(yaml.safe_dump(plan))
    frame = manifest.read_split(workspace)
    frame["chest_drain"] = ["yes" if place % 3 else "no" for place in range(len(frame))]
    known = frame[frame["batch"] == "one"]
    (workspace / "validate" / "attributes.csv").write_bytes(manifest.to_csv(known, ("image_id", "chest_drain")))
    with_champion(workspace, row=1)
    evidence = run(workspace)
    test = known[known["split"] == "test"]
    counts = test["chest_drain"].value_counts()
    assert {group.name: group.images for group in evidence.subgroups} == {
        "chest_drain=no": counts["no"],
        "chest_drain=yes": counts["yes"],
    }
    assert "are in no subgroup by chest_drain, because it is not known for them" in evidence.missing_groups[0]
    flips = evidence.subgroups[0].performance[0].flips
    assert 0 < flips.missed.images + flips.found.images < counts["no"]


def test_a_second_truth_is_held_against_the_scores_that_are_here(workspace, tmp_path):
    """Labels that were read again are matched by image; others, another file of scores, and no match are told."""
    with_champion(workspace, row=1)
    evidence = run(workspace)
    scores, root, path = read_scores(workspace), workspace / "evaluate", tmp_path / "again.csv"
    again = scores[["image_id"]].assign(Mass=1 - scores["Mass_truth"])[:60]
    stranger = pd.DataFrame({"image_id": ["00000009_009.png"], "Mass": [1]})
    pd.concat([again, stranger]).to_csv(path, index=False)
    found = reread.compare(root, path)
    assert (found.images, found.labelled, found.others, found.scored) == (len(scores), 60, 1, "test")
    assert found.evaluation == sha256_bytes((root / "evaluation.json").read_bytes())
    mass = found.findings[FINDINGS.index("Mass")]
    assert (mass.images, mass.both, mass.neither) == (60, 0, 0)
    assert mass.kappa.value < 0
    assert mass.first.auc.challenger.value == pytest.approx(1 - mass.second.auc.challenger.value)
    assert all(one.images == 0 for one in found.findings if one.finding != "Mass")
    stranger.to_csv(path, index=False)
    with pytest.raises(DataError, match="none of the 1 images"):
        reread.compare(root, path)
    scores["Mass_challenger"] = scores["Mass_challenger"][::-1].to_numpy()
    scores.to_csv(root / "scores.csv", index=False)
    with pytest.raises(DataError, match="not what the evidence was made from: Mass"):
        reread.compare(root, path)
    assert evidence.macro_champion is not None


def test_files_for_dvc_are_flat_complete_and_the_same_again(workspace):
    """metrics.json is flat numbers, roc.csv runs from corner to corner, and a second run writes the same bytes."""
    with_champion(workspace, row=1)
    evidence = run(workspace)
    out = workspace / "evaluate"
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(first) == {"evaluation.json", "metrics.json", "roc.csv", "scores.csv", "validation_scores.csv"}
    numbers = json.loads(first["metrics.json"])
    assert numbers["macro_auc"] == evidence.macro_challenger.value
    assert numbers["auc_Hernia"] == evidence.findings[-1].challenger.value
    assert numbers["worst_subgroup_macro_auc_difference"] == min(
        group.macro_difference.value for group in evidence.subgroups
    )
    scores = read_scores(workspace)
    precisions = [average_precision_score(scores[f"{f}_truth"], scores[f"{f}_challenger"]) for f in FINDINGS]
    assert numbers["mean_average_precision"] == pytest.approx(np.mean(precisions), abs=1e-12)
    assert all(isinstance(value, float) for value in numbers.values())
    assert list(numbers) == sorted(numbers)
    curves = pd.read_csv(io.BytesIO(first["roc.csv"]))
    assert list(curves.columns) == ["finding", "fpr", "tpr", "model"]
    for (finding, model), curve in curves.groupby(["finding", "model"]):
        assert curve[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
        row = evidence.findings[FINDINGS.index(finding)]
        assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(getattr(row, model).value, abs=0.01)
    assert curves.groupby(["finding", "model"]).ngroups == 28
    evaluate.run(workspace, PARAMS)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_each_model_is_scored_by_the_network_in_its_package(workspace):
    """A champion that reads another row of pixels is scored by its own code, and the difference is the paired one."""
    champion = with_champion(workspace, row=1)
    evidence = run(workspace)
    assert evidence.champion == champion
    scores = pd.read_csv(workspace / "evaluate" / "scores.csv")
    for row in evidence.findings:
        of_champion = roc_auc_score(scores[f"{row.finding}_truth"], scores[f"{row.finding}_champion"])
        assert row.champion.value == pytest.approx(of_champion, abs=1e-12)
        assert row.difference.value == pytest.approx(row.challenger.value - of_champion, abs=1e-12)
        # Half of the noise is common, so a paired difference is surer than two models apart would be.
        assert row.difference.se < np.hypot(row.challenger.se, row.champion.se)


def test_the_reference_is_a_third_model(workspace):
    """A reference that is not the champion is scored by its own package and compared on the same rows."""
    reference = with_reference(workspace, row=0, order=[*range(13), 12])
    evidence = run(workspace)
    assert evidence.reference == reference != evidence.champion
    scores = read_scores(workspace)
    for row in evidence.findings:
        of_reference = roc_auc_score(scores[f"{row.finding}_truth"], scores[f"{row.finding}_reference"])
        assert row.reference.value == pytest.approx(of_reference, abs=1e-12)
        assert row.reference_difference.value == pytest.approx(row.challenger.value - of_reference, abs=1e-12)
    assert (evidence.findings[0].reference_difference.value, evidence.findings[-1].reference.value) == (
        0,
        pytest.approx(0.5, abs=0.1),
    )
    numbers = json.loads((workspace / "evaluate" / "metrics.json").read_bytes())
    assert numbers["macro_auc_reference_difference"] == evidence.macro_reference_difference.value
    assert "reference" in evidence.validation_macro


def test_a_reference_that_is_the_champion_is_no_third_model(workspace):
    """It is named in the evidence, and there are no scores or figures of it besides the champion's."""
    champion = with_champion(workspace, row=1)
    evidence = run(workspace)
    assert evidence.reference == evidence.champion == champion
    assert evidence.macro_reference is None
    assert not [column for column in read_scores(workspace).columns if column.endswith("_reference")]


def test_a_package_is_scored_once_whatever_its_roles(workspace, monkeypatch):
    """A challenger with the reference's bytes is one model; each image of both sets is seen once by each package."""
    with_reference(workspace, row=0, slope=8.0)
    assert package_digest(workspace / "reference/package") == package_digest(workspace / "train/package")
    seen: Counter[str] = Counter()
    real = apart.Nursery.of

    @contextmanager
    def count(nursery, model, settings):
        with real(nursery, model, settings) as process:
            score = process.score
            process.score = lambda pixels: seen.update({model.digest: len(pixels)}) or score(pixels)
            yield process

    monkeypatch.setattr(apart.Nursery, "of", count)
    evidence = run(workspace)
    sides = manifest.read_split(workspace)["split"]
    images = int(sides.isin(["test", "validation"]).sum())
    assert seen == {evidence.challenger: images, evidence.champion: images}
    assert evidence.macro_reference_difference.value == 0


def test_retired_patients_are_not_scored(workspace):
    """In the second period the test set is the test patients without an image in a closed batch."""
    period = Period(number=2, closed_batches=["one"])
    open_run(workspace, period=period)
    split.run(workspace, PARAMS)
    evidence = run(workspace)
    frame = manifest.read_split(workspace)
    assert (frame["split"] == "retired").sum() > 300
    test = frame[frame["split"] == "test"]
    assert set(test["batch"]) == {"two"}
    assert read_scores(workspace)["image_id"].tolist() == test["image_id"].tolist()
    assert (evidence.period, evidence.test_patients) == (2, test["patient_id"].nunique())
    assert evidence.problems == []


@pytest.fixture(scope="module")
def tested_before(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, str]:
    """The second period against a champion of the first; what the models score in batch one, and that set's digest."""
    root = tmp_path_factory.mktemp("before") / "workspace"
    shutil.copytree(made, root)
    with_champion(root, row=1)
    run(root)
    frame = manifest.read_split(root)
    old = frame[(frame["split"] == "test") & (frame["batch"] == "one")]
    scores = read_scores(root)
    return root, scores[scores["image_id"].isin(old["image_id"])], splits.test_digest(old)


def test_models_are_scored_on_what_the_champion_was_judged_on(tested_before) -> None:
    """In a new period the retired patients are scored for it again, by both models, and in no other figure."""
    root, before, digest = tested_before
    champion, period = package_digest(root / "champion" / "package"), Period(number=2, closed_batches=["one"])
    open_run(root, champion, champion, period, Earlier(run="r", test_digest=digest, period=1, batches=["one"]))
    split.run(root, PARAMS)
    evidence = run(root)
    change = evidence.change
    assert (change.images, change.patients) == (len(before), before["patient_id"].nunique())
    assert (change.shared, change.exact) == (0, True)
    assert change.over == evidence.macro_over
    for of_finding, row in zip(change.findings, evidence.findings, strict=True):
        for role in ("champion", "challenger"):
            expected = roc_auc_score(before[f"{row.finding}_truth"], before[f"{row.finding}_{role}"])
            assert getattr(of_finding, f"{role}_earlier").value == pytest.approx(expected, abs=1e-12)
        assert of_finding.learning.interval == pytest.approx(row.difference.interval)
    assert change.mean.learning.interval == pytest.approx(evidence.macro_difference.interval)
    assert not set(read_scores(root)["image_id"]) & set(before["image_id"])


def test_in_the_same_period_the_earlier_test_set_is_a_part(tested_before) -> None:
    """New images of a period are told from those that the champion was judged on; corrected labels are told."""
    root, before, _ = tested_before
    champion = package_digest(root / "champion" / "package")
    open_run(root, champion, champion, None, Earlier(run="r", test_digest="0" * 64, period=1, batches=["one"]))
    split.run(root, PARAMS)
    change = run(root).change
    assert (change.images, change.shared, change.exact) == (len(before), len(before), False)
    open_run(root, champion, champion, None, Earlier(run="r", test_digest="0" * 64, period=1, batches=["one", "two"]))
    change = run(root).change
    assert "in one of the two test sets alone" in change.mean.potential.reason
    assert change.mean.retention == change.mean.learning


@pytest.mark.parametrize(
    ("earlier", "reason"),
    [
        (None, "the ledger does not say"),
        (Earlier(run="r", test_digest="0" * 64, period=1, batches=["gone"]), "is in the data set"),
    ],
)
def test_a_change_that_cannot_be_told_says_why(tested_before, earlier: Earlier | None, reason: str) -> None:
    """Without an earlier test set there is no figure of the three, and the reason stands in their place."""
    root, _, _ = tested_before
    champion = package_digest(root / "champion" / "package")
    open_run(root, champion, champion, None, earlier)
    split.run(root, PARAMS)
    assert reason in run(root).change.mean.potential.reason


@pytest.mark.parametrize(
    ("of_split", "of_inputs"),
    [(Period(), Period(number=2, closed_batches=["one"])), (Period(closed_batches=["one"]), Period())],
)
def test_a_split_of_another_period_is_found(workspace, of_split, of_inputs):
    """A test set that holds patients scored before, or lacks patients who were not, is not the one on record."""
    open_run(workspace, period=of_split)
    split.run(workspace, PARAMS)
    open_run(workspace, period=of_inputs)
    evidence = run(workspace)
    ((code, sentence),) = evidence.problems
    assert code == "TEST_SET_MISMATCH"
    assert f"not that of period {of_inputs.number}" in sentence
    assert decide(workspace).verdict == "INSUFFICIENT EVIDENCE"


def test_uncertain_labels_count_as_missing_and_in_both_scenarios(workspace):
    """AUCs are of the known labels; the two scenarios are those that scikit-learn gives with 0 and 1 filled in.

    Here most that lack a finding are uncertain, so that with 1 filled in it is lost among them: no release.
    """
    path = workspace / "validate" / "manifest.csv"
    frame = manifest.read_manifest(path)
    negative = frame.index[frame["Mass"] == 0]
    frame.loc[negative[np.arange(len(negative)) % 15 > 0], "Mass"] = -1
    path.write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    split.run(workspace, PARAMS)
    evidence = run(workspace)
    scores = read_scores(workspace)
    truth, values = scores["Mass_truth"], scores["Mass_challenger"]
    assert evidence.uncertain == {"Mass": int((truth == -1).sum())}
    place = FINDINGS.index("Mass")
    known = roc_auc_score(truth[truth >= 0], values[truth >= 0])
    assert evidence.findings[place].challenger.value == pytest.approx(known, abs=1e-12)
    assert [scenario.uncertain_as for scenario in evidence.scenarios] == [0, 1]
    for scenario in evidence.scenarios:
        expected = roc_auc_score(truth.replace(-1, scenario.uncertain_as), values)
        assert scenario.findings[place].challenger.value == pytest.approx(expected, abs=1e-12)
    decided = decide(workspace)
    assert decided.verdict == "INSUFFICIENT EVIDENCE"
    assert "UNCERTAIN_LABELS" in {reason.code for reason in decided.reasons}


def test_the_facts_are_those_of_the_package(workspace):
    """Settings that a plan may bound come from the package, without those of the machine; sources from the data."""
    write_package(workspace / "train/package", split={"salt": "a", "validation": 0.1, "test": 0.5})
    found = run(workspace).facts
    train = {f"train.{key}" for key in PARAMS.train.model_dump()}
    machine = {f"train.{key}" for key in ("device", "devices", "compile", "threads", "precision")}
    weights = {f"train.weights_{key}" for key in ("sha256", "data", "patients")}
    others = {"split.salt", "split.validation", "split.test", *(f"prepare.{key}" for key in Prepare.model_fields)}
    assert set(found.settings) == (train | others) - machine - weights
    assert (found.settings["split.salt"], found.settings["prepare.image_size"]) == ("a", SIDE)
    assert found.settings["prepare.contrast"] == "none"
    assert found.settings["train.epochs"] == PARAMS.train.epochs
    assert (found.architecture, found.findings, found.sources) == ("densenet121", list(FINDINGS), ["made"])
    assert found.starting_weights == StartingWeights(start="none", patients="none")


def test_the_picture_is_told_by_what_is_done_to_it(workspace):
    """Size and contrast are those that the package's code is given, whatever the account of the training says."""
    told = PARAMS.prepare.model_dump(mode="json") | {"contrast": "none", "image_size": 999}
    folder = workspace / "train/package"
    write_package(folder, prepare=told)
    terms = json.loads((folder / package.CONTRACT).read_bytes())
    terms["input"]["contrast"] = {"name": "clahe", "clip": 3.0, "tiles": 8}
    (folder / package.CONTRACT).write_bytes(canonical_json(terms))
    trained_as(folder.parent, package_digest(folder))
    found = run(workspace).facts.settings
    assert (found["prepare.contrast"], found["prepare.clahe_clip"], found["prepare.image_size"]) == ("clahe", 3.0, SIDE)


@pytest.mark.parametrize("said", [None, {}, {"start": "a.safetensors", "patients": "nobody"}])
def test_weights_of_unknown_origin_are_told_and_not_promoted(workspace, said):
    """A package that does not say what its weights started from started from unknown ones, and is not promoted."""
    write_package(workspace / "train/package", starting_weights=said)
    assert run(workspace).facts.starting_weights == StartingWeights(start="unknown", patients="unknown")
    decided = decide(workspace)
    assert decided.verdict == "INSUFFICIENT EVIDENCE"
    assert "UNKNOWN_WEIGHTS" in {reason.code for reason in decided.reasons}


def test_a_champion_compared_with_itself_differs_by_nothing(workspace):
    """The same package as challenger and champion differs by 0 with the interval [0, 0]."""
    with_champion(workspace)
    evidence = run(workspace)
    for figure in [evidence.macro_difference, *(row.difference for row in evidence.findings)]:
        assert (figure.value, figure.low, figure.high) == (0, 0, 0)


def test_from_pixels_to_each_verdict(workspace):
    """A healthy first model is promoted, then an equal one too; one blind to its labels is rejected both times."""
    run(workspace)
    assert decide(workspace).verdict == "PROMOTE"
    with_champion(workspace, row=1)
    run(workspace)
    assert decide(workspace).verdict == "PROMOTE"
    write_package(workspace / "train" / "package", row=9)  # a row of noise, as after training on shuffled labels
    run(workspace)
    assert decide(workspace).verdict == "REJECT"
    open_run(workspace)
    run(workspace)
    assert decide(workspace).verdict == "REJECT"


def test_few_patients_give_insufficient_evidence_against_a_champion(workspace):
    """With a test set of a tenth of the patients, an equal challenger is neither promoted nor rejected."""
    small = PARAMS.model_copy(update={"split": Split(salt=SALT, test=0.08)})
    split.run(workspace, small)
    with_champion(workspace, row=1)
    record_look(workspace)
    evaluate.run(workspace, small)
    assert decide(workspace).verdict == "INSUFFICIENT EVIDENCE"


Change = Callable[[Path], object]


def _test_patient(root: Path) -> str:
    frame = manifest.read_split(root)
    return str(frame.loc[frame["split"] == "test", "patient_id"].iloc[0])


def _relabel(root: Path) -> None:
    frame = manifest.read_manifest(root / "validate" / "manifest.csv")
    split_of = manifest.read_split(root)["split"]
    row = frame.index[split_of == "test"][0]
    frame.loc[row, "Mass"] = 1 - frame.loc[row, "Mass"]
    (root / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))


EXCHANGED = [1, 0, *range(2, 14)]


@pytest.mark.parametrize(
    ("change", "code", "verdict"),
    [
        (
            lambda root: write_package(root / "train/package", patients=(_test_patient(root),)),
            "SPLIT_MISMATCH",
            "REJECT",
        ),
        (lambda root: write_package(root / "train/package", patients=()), "SPLIT_MISMATCH", "REJECT"),
        (lambda root: write_package(root / "train/package", salt="another"), "SPLIT_MISMATCH", "REJECT"),
        (lambda root: write_package(root / "train/package", order=EXCHANGED), "PERMUTED_FINDINGS", "REJECT"),
        (lambda root: write_package(root / "train/package", slope=0.0), "CONSTANT_SCORES", "REJECT"),
        (_relabel, "TEST_SET_MISMATCH", "INSUFFICIENT EVIDENCE"),
        (
            lambda root: with_champion(root, row=1, patients=(_test_patient(root),)),
            "CHAMPION_SPLIT_MISMATCH",
            "INSUFFICIENT EVIDENCE",
        ),
        (
            lambda root: with_champion(root, row=1, salt="another"),
            "CHAMPION_SPLIT_MISMATCH",
            "INSUFFICIENT EVIDENCE",
        ),
        (lambda root: with_champion(root, row=1, order=EXCHANGED), "CHAMPION_INVALID", "INSUFFICIENT EVIDENCE"),
        (
            lambda root: with_reference(root, patients=(_test_patient(root),)),
            "REFERENCE_SPLIT_MISMATCH",
            "INSUFFICIENT EVIDENCE",
        ),
        (lambda root: with_reference(root, patients=()), "REFERENCE_SPLIT_MISMATCH", "INSUFFICIENT EVIDENCE"),
        (lambda root: with_reference(root, order=EXCHANGED), "REFERENCE_INVALID", "INSUFFICIENT EVIDENCE"),
    ],
)
def test_a_fault_of_the_evidence_is_named_and_not_promoted(workspace, change: Change, code, verdict):
    """Test patients in training, unknown training, exchanged findings, one score for all, other labels: no release."""
    change(workspace)
    evidence = run(workspace)
    assert code in {problem for problem, _ in evidence.problems}
    decided = decide(workspace)
    assert decided.verdict == verdict
    assert code in {reason.code for reason in decided.reasons}


def test_a_patient_on_two_sides_is_found(workspace):
    """A split file that puts a patient into training and test is a mismatch, even if no package says so."""
    path = workspace / "split" / "split.csv"
    table = pd.read_csv(path, dtype=str)
    patient = table.loc[table["split"] == "test", "patient_id"].value_counts().index[0]  # has several images
    rows = table.index[table["patient_id"] == patient]
    assert len(rows) > 1
    table.loc[rows[0], "split"] = "train"
    table.to_csv(path, index=False, lineterminator="\n")
    codes = {code for code, _ in run(workspace).problems}
    assert codes == {"SPLIT_MISMATCH", "TEST_SET_MISMATCH"}


def test_another_reference_than_the_one_on_record_is_not_scored(workspace):
    """A reference whose bytes, or whose record, are not those that the run was opened with ends the stage."""
    with_reference(workspace)
    write_package(workspace / "reference" / "package", row=2)
    with pytest.raises(DataError, match="not the one on record"):
        run(workspace)
    record = workspace / "reference" / "reference.json"
    record.write_bytes(Reference(package="f" * 64, version="1").to_bytes())
    with pytest.raises(DataError, match=r"reference\.json names another reference than inputs\.json"):
        run(workspace)
    for content, why in ((b"{", "is not JSON"), (None, "is missing")):
        record.unlink()
        if content is not None:
            record.write_bytes(content)
        with pytest.raises(DataError, match=why):
            run(workspace)
    assert not (workspace / "evaluate").exists()


def test_another_champion_than_the_one_on_record_is_not_scored(workspace):
    """A champion whose bytes, or whose record, are not those that the run was opened with ends the stage."""
    with_champion(workspace, row=1)
    write_package(workspace / "champion" / "package", row=2)
    with pytest.raises(DataError, match="not the one on record"):
        run(workspace)
    Champion(package="f" * 64).write(workspace / "champion" / "champion.json")
    with pytest.raises(DataError, match="another champion"):
        run(workspace)
    assert not (workspace / "evaluate").exists()


def test_an_altered_image_ends_the_stage(workspace):
    """A test image whose bytes are not those of the manifest is an error that names it, and there is no evidence."""
    shard = workspace / "dataset" / "one" / "shard-00000.tar"
    frame = manifest.read_split(workspace)
    victim = frame.loc[frame["split"] == "test", "image_id"].iloc[0]
    with shards.ShardReader(workspace / "dataset") as reader:
        data = reader.read(victim)
    shard.write_bytes(shard.read_bytes().replace(data, data[:40] + bytes([data[40] ^ 1]) + data[41:]))
    with pytest.raises(DataError, match="not those on record") as caught:
        run(workspace)
    assert victim in str(caught.value)
    assert not (workspace / "evaluate").exists()


def test_another_plan_than_the_runs_is_refused(workspace):
    """A plan edited after the run was opened is refused before anything is scored."""
    with (workspace / PLAN).open("a") as file:
        file.write("# a lower floor\n")
    with pytest.raises(SettingsError, match="not the plan"):
        run(workspace)


def test_a_finding_without_labels_is_undefined_and_has_no_metric(workspace):
    """A finding that nobody labelled is Undefined with a reason, is not in metrics.json, and stops the release."""
    path = workspace / "validate" / "manifest.csv"
    frame = manifest.read_manifest(path)
    frame["Hernia"] = pd.NA
    path.write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    split.run(workspace, PARAMS)
    evidence = run(workspace)
    assert evidence.findings[-1].challenger.reason == "0 positive patients, and at least 2 are needed"
    assert "Hernia" not in evidence.macro_over
    assert "auc_Hernia" not in json.loads((workspace / "evaluate" / "metrics.json").read_bytes())
    assert decide(workspace).verdict == "INSUFFICIENT EVIDENCE"


def test_the_real_network_is_scored_as_torch_scores_it(workspace):
    """A package of the real network gets the probabilities that the same network gives outside of the stage."""
    folder = workspace / "train" / "package"
    shutil.rmtree(folder)
    terms = package.contract(image_size=32, mean=0.5, std=0.25, training={"patient_salt": SALT})
    torch.manual_seed(0)
    net = network.build(terms).eval()
    digest = package.write(folder, state=dict(net.state_dict()), contract=terms, patients={patient_key(SALT, "x")})
    trained_as(folder.parent, digest)
    small = PARAMS.model_copy(update={"split": Split(salt=SALT, test=0.08)})
    split.run(workspace, small)
    record_look(workspace)
    evaluate.run(workspace, small)
    scores = pd.read_csv(workspace / "evaluate" / "scores.csv")
    with shards.ShardReader(workspace / "dataset") as reader:
        data = reader.read(scores["image_id"][5])
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    prepared = network.preprocess(pixels, terms)
    with torch.inference_mode():
        expected = torch.sigmoid(net(network.to_tensor(torch.from_numpy(prepared[None]), terms)))[0].numpy()
    found = [scores[f"{finding}_challenger"][5] for finding in FINDINGS]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("where", ["package", "train.json"])
def test_exchanged_network_is_not_run(workspace: Path, where: str) -> None:
    """A network.py that was exchanged after training, whether or not its digest was made to fit, never runs."""
    folder = workspace / "train" / "package"
    own = workspace / "cxr_ops" / "model" / "network.py"
    own.parent.mkdir(parents=True)
    shutil.copyfile(folder / "network.py", own)
    with (folder / "network.py").open("a", encoding="utf-8") as file:
        file.write(f"\nopen({str(workspace / 'ran')!r}, 'w').close()\n")
    if where == "train.json":
        trained_as(workspace / "train", package_digest(folder))
    with pytest.raises(DataError, match=r"network\.py is not the code that it was trained with"):
        evaluate.run(workspace, PARAMS)
    shutil.rmtree(workspace / "cxr_ops")
    if where == "package":
        with pytest.raises(DataError, match="the package is not the one on record"):
            evaluate.run(workspace, PARAMS)
    assert not (workspace / "ran").exists()


# Looks for the labels wherever code in a process can look, tells what it found, and scores by noise.
SPY = (
    NETWORK.replace("ROW", "9")
    + """
import gc, json, os, re, socket, sys

GIVEN = json.loads(GIVEN_TEXT)
IMAGE = re.compile(r"[0-9]{8}_[0-9]{3}[.]png")


def tables(values):
    for value in values:
        if type(value).__name__ in ("DataFrame", "Series") or (type(value) is np.ndarray and 14 in value.shape[1:]):
            yield type(value).__name__
        if isinstance(value, str) and IMAGE.fullmatch(value):
            yield value


def frames():
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") != __name__:
            yield from tables(frame.f_locals.values())
        frame = frame.f_back


def objects():
    for thing in gc.get_objects():
        if isinstance(thing, dict):
            yield from tables(list(thing.values()) + list(thing))
        elif isinstance(thing, (list, tuple, set, frozenset)):
            yield from tables(thing)
        elif type(thing).__name__ == "DataFrame":
            yield "DataFrame"


def modules():
    unwanted = r"pandas|mlflow|boto3|dvc|cxr_ops[.](data|stages|edges|stats|commands|records[.](data|evidence))"
    return [name for name in sys.modules if re.match(unwanted, name)]


def environment():
    return [name for name, value in os.environ.items() if GIVEN["secret"] in value or GIVEN["workspace"] in value]


def open_files():
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(GIVEN["workspace"]):
            yield target


def folder():
    return [name for name in os.listdir(".") if not name.startswith("torchinductor_")]  # torch makes that itself


def files():
    for name in ("validate/manifest.csv", "split/split.csv", "dataset/one/shard-00000.tar", "train/package/model.json"):
        try:
            open(f"{GIVEN['workspace']}/{name}", "rb").read()
        except PermissionError:
            continue
        yield name


def stage():
    for name in ("environ", "mem", "cwd", "fd", "maps"):
        path = f"/proc/{GIVEN['stage']}/{name}"
        try:
            os.readlink(path) if name == "cwd" else os.listdir(path) if name == "fd" else open(path, "rb").read(1)
        except (PermissionError, FileNotFoundError):
            continue
        except OSError:
            pass
        yield name


def network():
    try:
        socket.create_connection(("127.0.0.1", GIVEN["port"]), 5).close()
    except PermissionError:
        return
    yield "connected"


LOOKS = (frames, objects, modules, environment, open_files, folder, files, stage, network)
sys.stderr.write("SPY " + json.dumps({look.__name__: sorted(set(map(str, look())))[:5] for look in LOOKS}) + "\\n")
"""
)


def test_the_packages_code_finds_no_labels(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A network.py that looks in memory, frames, modules, environment, open files and its folder finds no label there.

    Where the kernel has Landlock it reads no file of the run, looks into no other process and reaches no server either.
    """
    monkeypatch.setattr(apart, "nursery", ALONE)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-run")
    folder = workspace / "train" / "package"
    write_package(folder)
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = {
            "secret": "a-secret-of-the-run",
            "workspace": str(workspace),
            "stage": os.getpid(),
            "port": server.getsockname()[1],
        }
        spy = SPY.replace("GIVEN_TEXT", repr(json.dumps(given)))
        (folder / package.NETWORK).write_text(spy, encoding="utf-8")
        trained_as(folder.parent, package_digest(folder))
        evidence = run(workspace)
    [told] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("SPY ")]
    found = json.loads(told.removeprefix("SPY "))
    if confine.version() < 4:
        for name in ("files", "stage", "network"):
            found.pop(name)
    assert not any(found.values()), found
    assert 0.4 < evidence.macro_challenger.value < 0.6
