"""The evaluate stage on pictures that hold their labels, scored by tiny packages that bring a network of their own."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from sklearn.metrics import roc_auc_score

from cxr_ops import plan as plans
from cxr_ops.data import manifest, shards
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network, package
from cxr_ops.params import Evaluate, Gate, Params, Split
from cxr_ops.records import (
    Champion,
    Code,
    DataRevision,
    Evaluation,
    Inputs,
    LedgerState,
    Verdict,
    canonical_json,
    sha256_bytes,
)
from cxr_ops.stages import evaluate, gate, split

PLAN = "pccp.demo.yaml"
SALT = "cxr-ops-1"
SIDE = 16
PARAMS = Params(split=Split(salt=SALT, test=0.5), evaluate=Evaluate(batch_size=64), gate=Gate(plan=PLAN))

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
) -> str:
    """Write a package that scores finding f by column `order[f]` of a row of pixels, and return its digest."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weight = torch.zeros(len(FINDINGS), SIDE)
    weight[range(len(FINDINGS)), order or range(len(FINDINGS))] = slope
    state = {"head.weight": weight, "head.bias": torch.full((len(FINDINGS),), -slope / 2)}
    (folder / package.WEIGHTS).write_bytes(safetensors.torch.save(state))
    terms = package.contract(image_size=SIDE, mean=0.5, std=0.25, training={"patient_salt": salt})
    (folder / package.CONTRACT).write_bytes(canonical_json(terms))
    (folder / package.NETWORK).write_text(NETWORK.replace("ROW", str(row)), encoding="utf-8")
    keys = sorted(package.patient_key(salt, patient) for patient in patients)
    (folder / package.PATIENTS).write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    return package.digest(folder)


def open_run(root: Path, champion: str | None = None) -> None:
    """Write what `open` leaves for evaluate and gate."""
    record = Champion(package=champion, entry="e" * 64 if champion else None)
    record.write(root / "champion" / "champion.json")
    Inputs(
        code=Code(commit="c" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={}),
        champion=record,
        ledger=LedgerState(entries=0, head=None, looks=0),
        plan=plans.identify(root, PLAN),
    ).write(root / "inputs.json")


@pytest.fixture(scope="module")
def made(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of 700 patients with one to three images each, half of them in the test set, before evaluate."""
    root = tmp_path_factory.mktemp("workspace")
    rng = np.random.default_rng(0)
    shutil.copy(project / PLAN, root / PLAN)
    rows, images = [], []
    for patient in range(700):
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
            images.append((image_id, data))
            identity = (image_id, str(patient), sha256_bytes(data), "made", "one", "PA", 50, "F", SIDE, SIDE)
            rows.append([*identity, *labels])
    frame = pd.DataFrame(rows, columns=list(manifest.COLUMNS))
    batch = root / "dataset" / "one"
    batch.mkdir(parents=True)
    shards.write_shards(batch, images, per_shard=400)
    (root / "validate").mkdir()
    (root / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    split.run(root, PARAMS)
    write_package(root / "train" / "package")
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A copy of the workspace, opened for a first release."""
    root = tmp_path / "workspace"
    shutil.copytree(made, root)
    open_run(root)
    return root


def run(root: Path) -> Evaluation:
    """Run the stage and read its evidence."""
    evaluate.run(root, PARAMS)
    return Evaluation.read(root / "evaluate" / "evaluation.json")


def decide(root: Path) -> Verdict:
    """Run the gate on what evaluate left."""
    gate.run(root, PARAMS)
    return Verdict.read(root / "gate" / "verdict.json")


def with_champion(root: Path, **options: object) -> str:
    """Put a champion into the workspace."""
    champion = write_package(root / "champion" / "package", **options)
    open_run(root, champion)
    return champion


def test_the_evidence_is_what_the_scores_say(workspace):
    """AUCs in the evidence are scikit-learn's of the scores on file, which have all digits, on the test images only."""
    evidence = run(workspace)
    scores = pd.read_csv(workspace / "evaluate" / "scores.csv", dtype={"patient_id": str})
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
    assert evidence.challenger == package.digest(workspace / "train" / "package")
    assert evidence.test_digest == json.loads((workspace / "split" / "split.json").read_bytes())["test_digest"]


def test_files_for_dvc_are_flat_complete_and_the_same_again(workspace):
    """metrics.json is flat numbers, roc.csv runs from corner to corner, and a second run writes the same bytes."""
    with_champion(workspace, row=1)
    evidence = run(workspace)
    out = workspace / "evaluate"
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(first) == {"evaluation.json", "metrics.json", "roc.csv", "scores.csv"}
    numbers = json.loads(first["metrics.json"])
    assert numbers["macro_auc"] == evidence.macro_challenger.value
    assert numbers["auc_Hernia"] == evidence.findings[-1].challenger.value
    assert all(isinstance(value, float) for value in numbers.values())
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
    package.write(folder, state=dict(net.state_dict()), contract=terms, patients={package.patient_key(SALT, "x")})
    small = PARAMS.model_copy(update={"split": Split(salt=SALT, test=0.08)})
    split.run(workspace, small)
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
