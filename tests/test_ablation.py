"""`cxr-ops train --ablate`: what is compared, the figures against second sources, and that it goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import yaml
from scipy import stats
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from cxr_ops import ablation
from cxr_ops.commands.app import app
from cxr_ops.data import manifest, shards
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
from cxr_ops.data.synthetic import synth
from cxr_ops.errors import DataError, SettingsError, StoppedError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network, package
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file
from cxr_ops.records.evidence import Estimate, Undefined
from cxr_ops.records.inputs import Period
from cxr_ops.report import ablation as report
from cxr_ops.report.ablation import Ablation, Row
from cxr_ops.stages import prepare, split, train
from cxr_ops.stats import bootstrap

SETTINGS = {
    "prepare": {"image_size": 32},
    "split": {"validation": 0.35},
    "train": {
        "weights": "gone.safetensors",
        "weights_sha256": "0" * 64,
        "epochs": 1,
        "batch_size": 16,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    },
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A workspace of 80 small pictures, and a first ablation in it: two seeds, one epoch."""
    root = tmp_path_factory.mktemp("workspace")
    pictures = tmp_path_factory.mktemp("pictures") / "made"
    synth.synthesize(pictures, images=80, seed=0, size=64, min_prevalence=0.25, processes=1)
    build(root / "dataset" / "first", check(nih.read_folder(pictures), "first", processes=1))
    (root / "validate").mkdir()
    frame, _ = manifest.read_dataset(root / "dataset")
    (root / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    Period().write(root / "test-period.json")
    params = Params.check(SETTINGS, "the settings of the test")
    split.run(root, params)
    prepare.run(root, params)
    case = SimpleNamespace(root=root, params=params, out=root / "ablation", read=set())
    with pytest.MonkeyPatch.context() as patch:
        honest = shards._read
        patch.setattr(shards, "_read", lambda file, place: case.read.add(place.image_id) or honest(file, place))
        case.found = again(case, only=["class_weights", "clahe", "two_phases"])
    return case


def again(case: SimpleNamespace, **changes: object) -> Ablation:
    """The same ablation once more, with changes."""
    given = {"seeds": 2, "only": ["class_weights", "clahe"], "out": case.out, "say": lambda _: None} | changes
    return ablation.run(case.root, case.params, **given)


def row(found: Ablation, name: str) -> Row:
    """A choice's row."""
    return next(one for one in found.rows if one.name == name)


def scores(case: SimpleNamespace, name: str) -> list[np.ndarray]:
    """Scores of a choice, a seed each."""
    return [np.load(case.out / "cells" / f"{key}.npy") for key in row(case.found, name).cells]


@pytest.fixture(scope="module")
def labels(measured: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """Truth and patients of the validation side, from the manifest and the split."""
    frame = manifest.read_split(measured.root)
    side = frame[frame["split"] == "validation"]
    return manifest.label_array(side).astype(np.float64), side["patient_id"].to_numpy()


def test_aucs_are_scikit_learns_of_the_validation_side(measured, labels) -> None:
    """Each choice's AUC is the mean of scikit-learn's over the findings and seeds, on the validation patients."""
    truth, _ = labels
    over = [FINDINGS.index(name) for name in measured.found.findings]
    assert measured.found.validation_images == len(truth)
    for name in ("baseline", "class_weights", "clahe"):
        areas = [np.mean([roc_auc_score(truth[:, f], one[:, f]) for f in over]) for one in scores(measured, name)]
        assert row(measured.found, name).aucs == pytest.approx(areas, abs=1e-12)
        assert row(measured.found, name).auc == pytest.approx(np.mean(areas), abs=1e-12)


def test_differences_over_seeds_are_a_paired_t_interval(measured) -> None:
    """Mean and interval of the differences over seeds are those of scipy's paired t-test."""
    base = row(measured.found, "baseline").aucs
    for name in ("class_weights", "clahe"):
        one = row(measured.found, name)
        peer = stats.ttest_rel(one.aucs, base).confidence_interval(0.95)
        assert (one.over_seeds.low, one.over_seeds.high) == pytest.approx(tuple(peer), abs=1e-9)
        assert one.over_seeds.value == pytest.approx(np.mean(one.aucs) - np.mean(base), abs=1e-12)
        assert one.relative == pytest.approx(np.mean(one.aucs) / np.mean(base) - 1, abs=1e-12)


def test_differences_over_patients_are_those_of_a_bootstrap_of_patients() -> None:
    """The error over patients is the spread of a patient bootstrap of the mean over seeds and findings."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(150), 2)
    truth = (rng.random((300, 14)) < 0.3).astype(float)
    truth[:, 3:] = np.nan
    own = rng.standard_normal((150, 14))[patients]
    models = [(gain * truth + own + rng.standard_normal((300, 14))).astype(np.float32) for gain in (1.2, 1.1, 0.8, 0.9)]
    found = ablation.over_patients(truth, patients, models[:2], models[2:], 0.95)
    drawn = bootstrap.replicate_aucs(truth[:, :3], patients, [one[:, :3] for one in models], 2000, rng)
    differences = (drawn[:2].mean(axis=0) - drawn[2:].mean(axis=0)).mean(axis=1)
    assert found.se == pytest.approx(differences.std(), rel=0.1)
    assert found.value == pytest.approx(differences.mean(), abs=0.005)


def test_one_seed_has_no_interval(measured) -> None:
    """With one seed the difference has no interval over seeds, and says so; that over patients stands."""
    found = again(measured, seeds=1)
    one = row(found, "class_weights")
    assert isinstance(one.over_seeds, Undefined)
    assert isinstance(one.over_patients, Estimate)
    assert found.seeds == [0]


def test_what_cannot_be_had_is_skipped_and_says_why(measured) -> None:
    """Without the weights, transfer learning and what builds on it are not measured, and the table says why."""
    for name in ("transfer", "two_phases"):
        assert "cannot be read" in row(measured.found, name).skipped
        assert row(measured.found, name).auc is None
    text = report.markdown(measured.found)
    assert "two_phases (against transfer) | not measured: the weights cannot be read" in text


def test_what_builds_on_transfer_learning_is_compared_with_it(measured, tmp_path: Path) -> None:
    """With a file of weights two phases are compared with one from the same weights; undeclared ones are noted."""
    net = network.build(package.contract(image_size=32, mean=0.0, std=1.0, training={}))
    file = tmp_path / "start.safetensors"
    safetensors.torch.save_file(net.state_dict(), file)
    given = {"weights": str(file), "weights_sha256": sha256_file(file), "weights_data": ("another hospital",)}
    params = measured.params.model_copy(update={"train": measured.params.train.model_copy(update=given)})
    case = SimpleNamespace(root=measured.root, params=params, out=measured.out)
    found = again(case, seeds=1, only=["two_phases"])
    base, transfer, phases = found.rows
    assert (base.name, transfer.against, phases.against) == ("baseline", "baseline", "transfer")
    assert base.cells == row(measured.found, "baseline").cells[:1]
    assert phases.over_patients.value == pytest.approx(phases.auc - transfer.auc, abs=1e-12)
    assert phases.target == [1]
    assert found.notes == [ablation.SEEN]
    assert transfer.says == "transfer learning: starts from start.safetensors, which was trained on another hospital"
    assert not measured.found.notes


def test_no_test_picture_is_read(measured) -> None:
    """Packing with another contrast reads the pictures of training and validation, and no other."""
    frame = manifest.read_split(measured.root)
    assert measured.read == set(frame.loc[frame["split"] != "test", "image_id"])
    assert len(measured.read) < len(frame)


def test_finished_cells_are_not_trained_again(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command reads what is there and gives the same figures; a damaged cell alone is trained again."""
    honest, calls = train.run, []
    monkeypatch.setattr(train, "run", lambda root, params: calls.append(root) or honest(root, params))
    before = {name: row(measured.found, name) for name in ("baseline", "class_weights", "clahe")}
    assert {name: row(again(measured), name) for name in before} == before
    assert not calls
    key = before["class_weights"].cells[1]
    (measured.out / "cells" / f"{key}.npy").write_bytes(b"damaged")
    assert row(again(measured), "class_weights") == before["class_weights"]
    assert [root.name for root in calls] == [key]
    assert not list((measured.out / "work").iterdir())


def test_a_cell_that_was_stopped_goes_on_where_it_was(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that was stopped is started again in the same folder, where its checkpoint is."""
    folders = []

    def stopped(root: Path, params: Params) -> None:
        folders.append(root)
        assert (root / "prepare" / "images.npy").is_file()
        raise StoppedError("stopped")

    monkeypatch.setattr(train, "run", stopped)
    for _ in range(2):
        with pytest.raises(StoppedError):
            again(measured, only=["focal"])
    assert folders[0] == folders[1]


def test_a_choice_that_cannot_be_trained_is_named(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is no longer a number ends that choice alone; at the baseline it ends the ablation."""

    def diverges(root: Path, params: Params) -> None:
        raise SettingsError("the training loss is no longer a number")

    monkeypatch.setattr(train, "run", diverges)
    found = again(measured, only=["focal", "clahe"])
    assert "no longer a number" in row(found, "focal").skipped
    assert row(found, "clahe").auc == row(measured.found, "clahe").auc
    with pytest.raises(SettingsError, match="no longer a number"):
        again(measured, only=["clahe"], seeds=3)


def test_each_choice_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    """A choice's settings are the baseline's but for those in its row."""
    params = Params.check({"train": {"epochs": 8, "loss": "focal", "class_weights": "inverse"}}, "the test")
    base, *others = ablation.choices(params, images=1000)
    plain = ablation._settings(base, params, 3, tmp_path)
    assert (plain.loss, plain.class_weights, plain.weights, plain.seed, plain.epochs) == ("bce", "none", "none", 3, 8)
    for choice in others:
        settings = ablation._settings(choice, params, 3, tmp_path).model_dump()
        changed = {name for name, value in plain.model_dump().items() if settings[name] != value}
        # no erasing, noise or flipping is the default already
        assert changed <= set(choice.train), choice.name
        assert changed or choice.prepare, choice.name
        assert choice.against in ("baseline", "transfer")


@pytest.mark.parametrize(
    ("history", "target", "epoch"), [([0.5, 0.6, 0.7], 0.6, 2), ([0.5, 0.6], 0.61, None), ([0.7], 0.7, 1)]
)
def test_the_target_is_reached_when_it_is_equalled(history: list[float], target: float, epoch: int | None) -> None:
    """The epoch is the first whose AUC is at least the target; it counts from 1."""
    assert ablation.reached(history, target) == epoch


def test_epochs_saved_are_of_those_of_the_other_row(measured) -> None:
    """A choice that reaches the AUC after 2 of 8 and 3 of 6 epochs saves 62.5 %; one that misses it once saves none."""
    assert ablation._saved([2, 3], [8, 6]).value == pytest.approx(0.625)
    assert ablation._saved([2, None], [8, 6]).reason == "not reached with 1 of 2 seeds"


def test_the_page_shows_every_row_and_needs_no_other_file(measured) -> None:
    """The page shows each choice with its figure, as a number and as a drawing; JSON holds the same and reads back."""
    found = Ablation.read(measured.out / "ablation.json")
    page = (measured.out / "ablation.html").read_text()
    assert "src=" not in page
    assert "http" not in page
    drawn = page[page.index("<svg") : page.index("</svg>")]
    for one in found.rows:
        assert one.says in page
        assert one.against is None or f">{one.name}</text>" in drawn
        assert one.skipped is not None or f"{one.auc:.4f}" in page
    assert "No test patient was looked at" in page


def test_an_unknown_choice_is_named_with_the_nearest(measured) -> None:
    """A choice that does not exist is refused before anything is trained."""
    with pytest.raises(SettingsError, match="'clahee' is not a choice; did you mean 'clahe'"):
        again(measured, only=["clahee"])


def test_without_prepared_pictures_the_next_command_is_told(tmp_path: Path) -> None:
    """A workspace in which nothing was prepared is refused with what to type."""
    with pytest.raises(DataError) as caught:
        ablation.run(tmp_path, Params.check({}, "the test"), out=tmp_path / "out")
    assert "dvc repro prepare" in caught.value.fix


def test_options_of_an_ablation_need_it() -> None:
    """`cxr-ops train --seeds 5` trains nothing: it says that --ablate is missing."""
    done = CliRunner().invoke(app, ["train", "--seeds", "5"])
    assert isinstance(done.exception, SettingsError)
    assert "need --ablate" in str(done.exception)


def test_the_command_shows_the_table(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cxr-ops train --ablate` in the workspace reads what is finished, prints the table and says where it stands."""
    settings = measured.params.model_dump(mode="json", by_alias=True)
    settings["train"]["epochs"] = 5
    (measured.root / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(measured.root)
    given = ["--seeds", "2", "--only", "class_weights", "--set", "train.epochs=1"]
    done = CliRunner().invoke(app, ["train", "--ablate", *given])
    assert done.exit_code == 0, done.output
    assert f"{row(measured.found, 'class_weights').auc:.4f}" in done.output
    assert "ablation.html" in done.output
    assert "train: epoch" not in done.output
