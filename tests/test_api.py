"""`cxr_ops.api`: the lines of docs/training.md as they stand, what they leave, and what is refused."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr_ops import api
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.data import splits
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import package

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
LINES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
LABELLED = FINDINGS[:3]  # the table has no column for the others


def make(folder: Path, patients: int = 40, size: int = 64) -> None:
    """Noise as pictures, two a patient, and a table with labels of three findings, some of them missing."""
    (folder / "pictures").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "patient_id", *LABELLED])
        for number in range(2 * patients):
            name = f"{number:03d}.png"
            cv2.imwrite(str(folder / "pictures" / name), rng.integers(0, 256, (size, size), dtype=np.uint8))
            table.writerow(
                [name, f"p{number // 2}", number % 2, "" if number % 5 == 0 else number % 3 % 2, "01"[number % 7 < 3]]
            )


def run(folder: Path, lines: str) -> subprocess.CompletedProcess[str]:
    """Run lines as a file in a folder, as a person would."""
    (folder / "lines.py").write_text(lines)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "lines.py"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the page's lines were run, and what they printed."""
    folder = tmp_path_factory.mktemp("page")
    make(folder)
    ended = run(folder, LINES)
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


@pytest.fixture(scope="module")
def data(done: tuple[Path, str]) -> api.Data:
    """What the lines packed."""
    return api.read(done[0] / "work")


@pytest.fixture(scope="module")
def model(done: tuple[Path, str]) -> api.Model:
    """What the lines trained and saved."""
    return api.load(done[0] / "model")


def test_the_lines_of_the_page_are_ten_and_run(done: tuple[Path, str], model: api.Model) -> None:
    """The page's lines train, save a package, and print a table of findings and one of pictures."""
    assert len(LINES.splitlines()) <= 10
    assert model.loaded.contract["training"]["settings"]["loss"] == "asymmetric"
    assert "mean" in done[1]
    assert "pictures/000.png" in done[1]


def test_what_was_trained_can_be_trained_again_by_the_command(done: tuple[Path, str], model: api.Model) -> None:
    """A training's folder is a workspace: the stage on its params.yaml gives the same package."""
    from cxr_ops.params import Params
    from cxr_ops.stages import train

    (root,) = (done[0] / "work" / "trainings").iterdir()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train.run(root, Params.load(root / "params.yaml"))
    finally:
        torch.set_num_threads(before)
    assert package_digest(root / "train" / "package") == model.loaded.digest


def test_patients_stand_on_the_side_of_the_platforms_split(data: api.Data) -> None:
    """Every picture stands on the side that the platform's hash gives its patient; test pictures are not packed."""
    assert sorted([*data.index["image_id"], *data.test["image_id"]]) == [f"{n:03d}.png" for n in range(80)]
    sides = data.packed.split.model_dump()
    assert {splits.side(patient, **sides) for patient in data.test["patient_id"]} == {"test"}
    for patient, where in zip(data.index["patient_id"], data.index["split"], strict=True):
        assert splits.side(patient, **sides) == where
    assert len(np.load(data.folder / "prepare" / "images.npy", mmap_mode="r")) == len(data.index)


def test_missing_labels_stay_missing(data: api.Data) -> None:
    """An empty label, and a finding without a column, is missing and not 0."""
    rows = pd.concat([data.index, data.test]).set_index("image_id")[list(FINDINGS)]
    assert rows[FINDINGS[1]].isna().sum() == 16
    assert rows[list(FINDINGS[3:])].isna().all(axis=None)
    assert rows.loc["007.png", FINDINGS[0]] == 1


def test_scores_are_the_networks(done: tuple[Path, str], model: api.Model) -> None:
    """A picture's row holds the sigmoid of the network's logits for its pixels, whatever the others are."""
    paths = [done[0] / "pictures" / f"{n:03d}.png" for n in (3, 1)]
    scores = model.score(paths, batch_size=1)
    assert list(scores.columns) == list(FINDINGS)
    assert scores.index.tolist() == [str(path) for path in paths]
    pixels = torch.from_numpy(np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]))
    x = (pixels[:, None].float() / 255 - 0.449) / 0.226
    expected = torch.sigmoid(model.loaded.net(x)).numpy()[:, : len(LABELLED)]
    np.testing.assert_allclose(scores[list(LABELLED)].to_numpy(), expected, atol=1e-5)


def test_a_finding_without_labels_is_not_trained_and_not_scored(done: tuple[Path, str], model: api.Model) -> None:
    """The model says which findings it was trained on; the others have no number, in no column and no row."""
    assert model.trained == LABELLED
    scores = model.score([done[0] / "pictures" / "001.png"])
    assert scores.notna().to_numpy().tolist() == [[name in LABELLED for name in FINDINGS]]


def test_evaluation_is_scikit_learns_on_the_test_side(done: tuple[Path, str], data: api.Data, model: api.Model) -> None:
    """AUCs are scikit-learn's on the pictures of the test side; what cannot be had says why."""
    found = model.evaluate(data, min_patients=2)
    scores = model.score([done[0] / "pictures" / name for name in data.test["image_id"]]).to_numpy()
    for f, finding in enumerate(LABELLED):
        known = data.test[finding].notna().to_numpy()
        expected = roc_auc_score(data.test[finding][known], scores[known, f])
        row = found.loc[finding]
        assert row["auc"] == pytest.approx(expected, abs=1e-6)
        assert row["low"] < row["auc"] < row["high"]
        assert row["positives"] == (data.test[finding] == 1).sum()
    assert found.loc["mean", "auc"] == pytest.approx(found["auc"][list(LABELLED)].mean())
    assert found.loc["Hernia", "undefined"] == "the model was not trained on this finding"
    assert np.isnan(found.loc["Hernia", "auc"])


def test_a_model_is_not_tested_on_whom_it_was_trained_on(data: api.Data, model: api.Model) -> None:
    """Test rows of patients whom the package names are refused."""
    rows = data.index[data.index["split"] == "train"].head(2).assign(sha256="")
    with pytest.raises(DataError, match=r"trained or tuned on 1 of the 1 test patients"):
        model.evaluate(replace(data, test=rows))


def test_an_altered_test_picture_is_refused(done: tuple[Path, str], data: api.Data, model: api.Model) -> None:
    """A test picture that is not the one that was packed ends the evaluation."""
    path = done[0] / "pictures" / data.test["image_id"].iloc[0]
    kept = path.read_bytes()
    path.write_bytes((done[0] / "pictures" / data.index["image_id"].iloc[0]).read_bytes())
    try:
        with pytest.raises(DataError, match="not the one that was packed"):
            model.evaluate(data)
    finally:
        path.write_bytes(kept)


def test_nothing_is_saved_over(done: tuple[Path, str], model: api.Model, tmp_path: Path) -> None:
    """A model is saved into an empty folder only, and what was saved is the model."""
    assert model.save(tmp_path / "copy") == package.load(tmp_path / "copy").digest == model.loaded.digest
    with pytest.raises(StorageError, match="empty folder"):
        model.save(tmp_path / "copy")


def _other_bytes(folder: Path) -> None:
    (folder / "pictures" / "001.png").write_bytes(b"GIF89a neither PNG nor JPEG")


def _gone(folder: Path) -> None:
    (folder / "pictures" / "001.png").unlink()


def _twice(folder: Path) -> None:
    (folder / "pictures" / "001.png").write_bytes((folder / "pictures" / "003.png").read_bytes())


def _no_patients(folder: Path) -> None:
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(re.sub(r",p(\d+|atient_id)", "", text))


def _column(folder: Path) -> None:
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("Effusion", "Efusion"))


def _outside(folder: Path) -> None:
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("001.png", "../001.png"))


def _few(folder: Path) -> None:
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(lines[:3]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_gone, r"1 of 6 pictures are not there: 001\.png"),
        (_other_bytes, r"001\.png: .*neither PNG nor JPEG"),
        (_twice, r"003\.png: the same pixels are another patient's too"),
        (_no_patients, r"does not say whose image"),
        (_column, r"'Efusion' is not one of the 14 findings; the nearest is 'Effusion'"),
        (_outside, r"'\.\./001\.png' leads out of the folder"),
        (_few, r"no patient falls to .*: 1 patients are too few"),
    ],
)
def test_bad_data_are_named(tmp_path: Path, change, said: str) -> None:
    """What is wrong with pictures or labels is told with its name, and nothing is packed."""
    make(tmp_path, patients=3, size=32)
    change(tmp_path)
    with pytest.raises(DataError, match=said):
        api.pack(tmp_path / "pictures", tmp_path / "labels.csv", tmp_path / "work")
    with pytest.raises(DataError, match="nothing was packed here"):
        api.read(tmp_path / "work")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda data: api.train(data, epoch=3), r"train\.epoch is not a setting; did you mean 'epochs'\?"),
        (lambda data: api.train(data, epochs=0), r"train\.epochs: Input should be greater than or equal to 1"),
        (lambda _: api.pack("a", "b", "c", image_sise=64), r"prepare\.image_sise .* did you mean 'image_size'\?"),
        (lambda _: api.pack("a", "b", "c", test=0.95), r"validation \+ test must leave patients"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest(data: api.Data, call, said: str) -> None:
    """A setting that is unknown or out of range is refused before anything is read."""
    with pytest.raises(SettingsError, match=said):
        call(data)


def test_lines_without_a_guard_are_told_what_they_lack(tmp_path: Path) -> None:
    """A script whose lines are not under `if __name__ == "__main__":` ends with that as the next step."""
    make(tmp_path, patients=3, size=32)
    ended = run(tmp_path, "from cxr_ops import api\napi.pack('pictures', 'labels.csv', 'work')\n")
    assert ended.returncode != 0
    assert 'put your lines under `if __name__ == "__main__":`' in ended.stderr
