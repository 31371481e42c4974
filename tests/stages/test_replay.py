"""Replays of runs of the smallest project: the real dispatcher, supervisor, git and DVC, stages of a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from evaluations import trained
from projects import make_batch, make_home, make_project

from cxr_ops import plan as plans
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches, runs, snapshots
from cxr_ops.errors import StorageError
from cxr_ops.records.base import tree_digest
from cxr_ops.records.inputs import Champion, Inputs
from cxr_ops.stages import replay

CPU, GPU = "on-cpu", "on-gpu"
# A training that says on what it ran, and a gate; CHANCE is the file that makes them come out otherwise.
TRAIN = """
    import json

    def run(root, params):
        out = root / "train"
        shutil.rmtree(out, ignore_errors=True)
        (out / "package").mkdir(parents=True)
        chance = pathlib.Path("CHANCE")
        noise = float(chance.read_text()) if chance.exists() else 0.0
        (out / "package" / "weights").write_text(f"{params.train.seed} {noise}")
        told = dict(package="a" * 64, best_epoch=1, epochs_run=1, validation_auc=0.8 + noise, train_images=1,
                    validation_images=1, patients=1, seed=0, device=params.train.device, precision="fp32", threads=1)
        (out / "train.json").write_text(json.dumps(told))
"""
GATE = """
    def run(root, params):
        out = root / "gate"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        chance = pathlib.Path("CHANCE")
        noise = float(chance.read_text()) if chance.exists() else 0.0
        (out / "verdict.json").write_text('{"auc": %r, "sha256": "%064d"}' % (0.9 + noise / 100, noise * 1000))
"""


@dataclass(frozen=True)
class Recorded:
    """Runs that were committed, with their commits, and the file that their noise comes from."""

    home: Home
    chance: Path
    commits: dict[str, str]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A run on the CPU and one that says that it was on a GPU."""
    folder = tmp_path_factory.mktemp("replay")
    chance = folder / "chance"
    sources = {"train": TRAIN.replace("CHANCE", str(chance)), "gate": GATE.replace("CHANCE", str(chance))}
    home = make_home(folder / "home", make_project(folder / "project", **sources))
    batches.add_batch(home, make_batch(folder, "one"))
    data, code = batches.data_revision(home), snapshots.snapshot(home)
    commits = {}
    for run, device in ((CPU, "cpu"), (GPU, "cuda")):
        workspace = home.workspace(run)
        runs.make_workspace(home, workspace, run, code, data)
        runs.pull(home, workspace, data)
        settings = workspace / "params.yaml"
        settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text()), "train": {"device": device}}))
        (workspace / "image.json").write_text('{"image": null}\n')
        plan = plans.identify(workspace, "pccp.demo.yaml")
        Inputs(code=code, data=data, champion=Champion(), ledger=None, plan=plan).write(workspace / "inputs.json")
        runs.commit_workspace(home, workspace, "Open")
        dvc.dvc(home, workspace, "repro")
        commits[run] = runs.commit_run(home, run, "Publish")
    return Recorded(home, chance, commits)


def outcomes(found: replay.Replayed) -> dict[str, str]:
    return {one.path: one.outcome for one in found.files}


def test_a_run_is_repeated_from_nothing_and_is_identical(recorded: Recorded, tmp_path: Path) -> None:
    """Every stage runs again, though cache and run cache hold its outputs; the run's own folder is left as it is."""
    home = recorded.home
    before = tree_digest(home.workspace(CPU) / "train")
    recorded.chance.unlink(missing_ok=True)
    found = replay.run(home, CPU, recorded.commits[CPU], keep=tmp_path / "kept")
    assert found.same
    assert outcomes(found) == dict.fromkeys(
        ("validate/names.txt", "train/package/weights", "train/train.json", "gate/verdict.json"), "identical"
    )
    kept = tmp_path / "kept" / "runs" / CPU / "workspace"
    assert tree_digest(kept / "train") == before == tree_digest(home.workspace(CPU) / "train")
    assert not (kept / "train" / "train.json").samefile(home.workspace(CPU) / "train" / "train.json")
    assert not list(home.root.glob(".replay-*"))
    with pytest.raises(StorageError, match="not empty"):
        replay.run(home, CPU, recorded.commits[CPU], keep=tmp_path / "kept")


def test_what_differs_is_named_and_where(recorded: Recorded) -> None:
    """On the CPU one number is enough: file and place are named, and what rests on the model is not run."""
    recorded.chance.write_text("0.0001")
    found = replay.run(recorded.home, CPU, recorded.commits[CPU])
    recorded.chance.unlink()
    assert not found.same
    assert "another model" in (found.ended or "")
    told = {one.path: one.where for one in found.files if one.outcome == "differs"}
    assert set(told) == {"train/package/weights", "train/train.json"}
    assert told["train/train.json"].startswith("validation_auc is 0.8001 and not 0.8")


def test_on_a_gpu_figures_may_differ_as_far_as_is_said(recorded: Recorded) -> None:
    """A training is compared by its validation AUC, the recorded model goes on, and figures have a tolerance."""
    recorded.chance.write_text("0.004")
    found = replay.run(recorded.home, GPU, recorded.commits[GPU])
    assert found.same
    assert outcomes(found) == {
        "validate/names.txt": "identical",
        "train": "within tolerance",
        "gate/verdict.json": "within tolerance",
    }
    assert any("trained on cuda" in note for note in found.notes)
    recorded.chance.unlink()
    other = trained("a" * 64).model_copy(update={"validation_auc": 0.72})
    assert replay.alike(trained("a" * 64), other) == "differs"


def test_a_commit_that_the_store_does_not_hold_is_an_error(recorded: Recorded) -> None:
    """Nothing is made, and the error says what to do."""
    with pytest.raises(StorageError, match="does not hold the run commit 000000000000"):
        replay.run(recorded.home, CPU, "0" * 40)


@pytest.mark.parametrize(
    ("now", "gpu", "outcome"),
    [
        (0.50049, True, "within tolerance"),
        (0.5006, True, "differs"),
        (0.50049, False, "differs"),
        (0.5 + 1e-15, False, "differs"),
    ],
)
def test_a_figure_may_differ_by_a_thousandth_on_a_gpu_and_by_nothing_else(now: float, gpu: bool, outcome: str) -> None:
    """In JSON as in CSV; digests of other files count as equal on a GPU, and never on the CPU."""
    said = b'{"auc": 0.5, "sha256": "%s"}' % (b"a" * 64)
    found = b'{"auc": %s, "sha256": "%s"}' % (repr(now).encode(), b"b" * 64)
    table = b"finding,auc\nMass,%s\n"
    for compared in (
        replay._differs("gate/verdict.json", said, found, gpu=gpu),
        replay._differs("evaluate/scores.csv", table % b"0.5", table % repr(now).encode(), gpu=gpu),
    ):
        assert compared.outcome == outcome
        assert outcome != "differs" or f"auc is {now} and not 0.5" in compared.where


@pytest.mark.parametrize(("auc", "outcome"), [(0.8099, "within tolerance"), (0.7899, "differs"), (0.8101, "differs")])
def test_trainings_on_a_gpu_are_alike_to_a_hundredth(auc: float, outcome: str) -> None:
    """The validation AUC of a second training may be higher or lower by 0.01, and no more."""
    then, now = (trained("a" * 64).model_copy(update={"validation_auc": one}) for one in (0.8, auc))
    assert replay.alike(now, then) == outcome
