"""Generated data sets: the NIH's layout and labels, the same bytes for the same seed, and nothing to guess by."""

import csv
import json
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_ops.data.sources import nih
from cxr_ops.data.synthetic import entries, synth
from cxr_ops.errors import SettingsError, StorageError
from cxr_ops.labels import FINDINGS, parse_labels

# The release's headers, as they stand in it.
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"

# How many of the release's 112,120 images have both findings, and on the diagonal how many have the one: counted in
# Data_Entry_2017_v2020.csv (PyPI torchxrayvision 1.5.7).
TOGETHER = (
    (11559,),
    (370, 2776),
    (3275, 1063, 13317),
    (3264, 587, 4000, 19894),
    (739, 102, 1254, 1159, 5782),
    (590, 108, 912, 1546, 906, 6331),
    (262, 41, 269, 605, 71, 70, 1431),
    (774, 49, 996, 946, 431, 341, 41, 5302),
    (1223, 169, 1287, 1221, 610, 428, 123, 223, 4667),
    (221, 127, 593, 981, 129, 131, 340, 33, 162, 2303),
    (424, 44, 359, 449, 215, 115, 23, 747, 103, 30, 2516),
    (220, 52, 188, 345, 117, 166, 11, 80, 79, 9, 36, 1686),
    (496, 111, 849, 750, 452, 411, 48, 289, 251, 64, 151, 176, 3385),
    (40, 7, 21, 33, 25, 10, 3, 9, 4, 3, 4, 8, 8, 227),
)
RELEASED = 112_120
SIDE = 64  # pixels: small pictures are fast


def labels_of(entries):
    return np.array([[finding in entry.findings for finding in FINDINGS] for entry in entries])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def bytes_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,200 small images, made as `cxr-ops data synth` makes them."""
    out = tmp_path_factory.mktemp("synth") / "data"
    synth.synthesize(out, images=1200, seed=0, size=SIDE, processes=2)
    return out


# ---------------------------------------------------------------------------------------------------- layout


def test_the_folder_has_the_nih_layout(folder):
    """Headers, columns, names and formats are the release's; every row has its picture and every picture a row."""
    text = (folder / "Data_Entry_2017.csv").read_text()
    assert text.splitlines()[0] == ENTRY_HEADER
    assert "\r" not in text
    assert (folder / "BBox_List_2017.csv").read_text().splitlines()[0] == BOX_HEADER
    rows = rows_of(folder / "Data_Entry_2017.csv")[1:]
    assert sorted(row[0] for row in rows) == sorted(path.name for path in (folder / "images").iterdir())
    for row in rows:
        name, labels, follow_up, patient, age, sex, view = row[:7]
        assert len(row) == 11
        number = int(patient.removeprefix("generated-"))
        assert (patient, name) == (f"generated-{number}", f"generated-{number:08d}_{int(follow_up):03d}.png")
        assert labels.split("|") == sorted(labels.split("|"))
        parse_labels(labels)
        assert 0 < int(age) < 100
        assert sex in "FM"
        assert view in ("PA", "AP")
    picture = cv2.imread(str(folder / "images" / rows[0][0]), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (SIDE, SIDE)
    assert picture.dtype == np.uint8


def test_headers_are_those_of_the_real_release(folder, nih_sample):
    """The first lines of both tables are byte for byte those of real NIH tables."""
    for name in ("Data_Entry_2017.csv", "BBox_List_2017.csv"):
        first = [(place / name).read_bytes().split(b"\n")[0] for place in (folder, nih_sample)]
        assert first[0] == first[1]
    commas = [{line.count(b",") for line in (place / name).read_bytes().splitlines()} for place in (folder, nih_sample)]
    assert commas[0] == commas[1]


def test_ingestion_reads_it_without_a_problem(folder):
    """The reader of real NIH folders finds every row and box and nothing to complain of."""
    found = nih.read_folder(folder)
    assert (found.source, found.problems, found.notes) == ("generated", [], [])
    assert len(found.rows) == 1200
    assert len(found.boxes) == len(rows_of(folder / "BBox_List_2017.csv")) - 1


def test_the_data_sheet_says_what_the_tables_hold(folder):
    """`synth.json` states seed, sizes, prevalences and that the data are generated, as counted in the tables."""
    sheet = json.loads((folder / "synth.json").read_text())
    rows = rows_of(folder / "Data_Entry_2017.csv")[1:]
    values = np.array([parse_labels(row[1]) for row in rows])
    assert (sheet["seed"], sheet["size"], sheet["images"], sheet["min_prevalence"]) == (0, SIDE, 1200, 0.08)
    assert sheet["patients"] == len({row[3] for row in rows})
    assert [sheet["prevalence"][name] for name in FINDINGS] == pytest.approx(values.mean(axis=0))
    assert sheet["no_finding"] == pytest.approx((values.sum(axis=1) == 0).mean())
    assert sheet["boxes"] == len(rows_of(folder / "BBox_List_2017.csv")) - 1
    assert "not for clinical use" in sheet["notice"]


def test_each_present_finding_has_a_box_inside_the_picture(folder):
    """The boxes name the findings of their image and no other, and none leaves the picture."""
    present = {row[0]: set(row[1].split("|")) - {"No Finding"} for row in rows_of(folder / "Data_Entry_2017.csv")[1:]}
    boxed = {name: set() for name in present}
    for name, label, x, y, width, height, *rest in rows_of(folder / "BBox_List_2017.csv")[1:]:
        assert rest == ["", "", ""]
        boxed[name].add({"Infiltrate": "Infiltration"}.get(label, label))
        assert 0 <= float(x) < float(x) + float(width) <= SIDE
        assert 0 <= float(y) < float(y) + float(height) <= SIDE
    assert boxed == present


# ---------------------------------------------------------------------------------------------- reproducible


def test_the_same_seed_gives_the_same_bytes_with_one_process_or_two(tmp_path):
    """Pictures and tables depend on the seed and not on how many processes draw."""
    for processes in (1, 2):
        synth.synthesize(tmp_path / str(processes), images=60, seed=5, size=64, processes=processes)
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")


def test_another_seed_gives_other_people(tmp_path):
    """Labels and every picture differ between two seeds."""
    for seed in (1, 2):
        synth.synthesize(tmp_path / str(seed), images=20, seed=seed, size=64, processes=1)
    one, two = (bytes_of(tmp_path / str(seed)) for seed in (1, 2))
    assert one["Data_Entry_2017.csv"] != two["Data_Entry_2017.csv"]
    assert not {one[name] for name in one if name.endswith("png")} & {two[name] for name in two}


def test_a_smaller_set_is_the_start_of_a_larger_one(tmp_path):
    """With the NIH's own prevalences, the first images do not depend on how many follow."""
    for images in (10, 20):
        synth.synthesize(tmp_path / str(images), images=images, seed=3, min_prevalence=0, size=64, processes=1)
    small, large = (bytes_of(tmp_path / str(images)) for images in (10, 20))
    pictures = {name: data for name, data in small.items() if name.endswith("png")}
    assert len(pictures) == 10
    assert pictures.items() <= large.items()


def test_a_second_batch_has_new_patients(tmp_path):
    """A batch that starts after the last patient of the first shares no patient and no picture with it."""
    first = synth.synthesize(tmp_path / "1", images=20, seed=0, size=64, processes=1)
    after = first.first_patient + first.patients
    synth.synthesize(tmp_path / "2", images=20, seed=0, size=64, processes=1, first_patient=after)
    one, two = (bytes_of(tmp_path / name) for name in ("1", "2"))
    patients = [{row[3] for row in rows_of(tmp_path / name / "Data_Entry_2017.csv")[1:]} for name in ("1", "2")]
    assert not patients[0] & patients[1]
    assert not {one[name] for name in one if name.endswith("png")} & {two[name] for name in two}


# ---------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("images", [13, 400, 2000])
@pytest.mark.parametrize("least", [0.08, 0.3])
def test_each_finding_reaches_the_least_prevalence(images, least):
    """No finding is rarer than was asked for, whatever the number of images and the luck of the draw."""
    for seed in range(3):
        labels = labels_of(entries.draw_entries(images=images, seed=seed, min_prevalence=least))
        assert (labels.mean(axis=0) >= least).all()


@pytest.fixture(scope="module")
def natural():
    """The labels of 25,000 images with the NIH's own prevalences."""
    return entries.draw_entries(images=25_000, seed=1, min_prevalence=0)


def test_without_a_least_prevalence_it_is_the_nihs_own(natural):
    """Each finding is as frequent as in the release, within the error of a sample of clustered images."""
    expected = np.array([row[-1] for row in TOGETHER]) / RELEASED
    error = np.sqrt(2 * expected * (1 - expected) / len(natural))  # 2: images of a patient are alike
    assert (np.abs(labels_of(natural).mean(axis=0) - expected) < 4 * error).all()


def test_findings_occur_together_as_often_as_the_nihs(natural):
    """The number of images with two findings is the release's, in proportion, for all 91 pairs."""
    labels = labels_of(natural).astype(float)
    together = labels.T @ labels
    for row, counts in enumerate(TOGETHER):
        for column, count in enumerate(counts[:-1]):
            expected = count * len(natural) / RELEASED
            assert abs(together[row, column] - expected) < 4.5 * np.sqrt(2 * expected) + 1, (row, column)


def test_the_correlations_are_those_of_the_counts():
    """SciPy's bivariate normal probability of each pair is the share of images that was counted in the release."""
    cuts = norm.isf([row[-1] / RELEASED for row in TOGETHER])
    matrix = entries._MIX @ entries._MIX.T
    for row, counts in enumerate(TOGETHER):
        for column, count in enumerate(counts[:-1]):
            both = multivariate_normal.cdf(
                [-cuts[row], -cuts[column]], cov=[[1, matrix[row, column]], [matrix[row, column], 1]]
            )
            assert both * RELEASED == pytest.approx(count, rel=0.03, abs=3), (row, column)


def test_patients_come_back_as_often_as_the_nihs(natural):
    """The share of patients with one image is that of the release's patients with at most ten, and none has more."""
    _, visits = np.unique([entry.patient for entry in natural], return_counts=True)
    assert visits.max() == 10
    assert (visits == 1).mean() == pytest.approx(17503 / 28580, abs=0.015)


def test_findings_stay_with_their_patients(natural):
    """A finding of one image is in the next of the same patient several times as often as in any image."""
    labels = labels_of(natural)
    same = [a.patient == b.patient for a, b in pairwise(natural)]
    before, after = labels[:-1][same], labels[1:][same]
    again = (before & after).sum(axis=0) / before.sum(axis=0)
    assert (again > 2 * labels.mean(axis=0)).all()
    assert (again < 0.9).all()


def test_a_patient_keeps_sex_and_grows_older(natural):
    """From one image to the next, sex stays, age does not fall, and the follow-up counts up from 0."""
    for a, b in pairwise(natural):
        if a.patient == b.patient:
            assert a.sex == b.sex
            assert a.age <= b.age <= a.age + 4
            assert b.follow_up == a.follow_up + 1
        else:
            assert b.follow_up == 0


# --------------------------------------------------------------------------------------------------- honesty


def mean_auc(features, labels, patients):
    """Mean over the findings, and over four splits by patient, of a logistic regression's test AUC."""
    people = np.unique(patients)
    scores = []
    for split in range(4):
        test = np.isin(patients, np.random.default_rng(split).permutation(people)[: len(people) // 4])
        for column in range(len(FINDINGS)):
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            model.fit(features[~test], labels[~test, column])
            scores.append(roc_auc_score(labels[test, column], model.decision_function(features[test])))
    return float(np.mean(scores))


@pytest.fixture(scope="module")
def guesses(folder):
    """What could be guessed from without looking: features, labels and patients."""
    rows = rows_of(folder / "Data_Entry_2017.csv")[1:]
    files = [folder / "images" / row[0] for row in rows]
    pixels = np.array([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files])
    light = [
        (image.mean(), image.std(), path.stat().st_size, order, int(row[2]), int(row[4]), row[5] == "F", row[6] == "AP")
        for order, (image, path, row) in enumerate(zip(pixels, files, rows, strict=True))
    ]
    bins = np.array([np.histogram(image, 16, (0, 256))[0] for image in pixels]) / pixels[0].size
    labels = np.array([parse_labels(row[1]) for row in rows])
    return np.array(light, float), bins, labels, np.array([row[3] for row in rows])


def test_metadata_and_brightness_tell_nothing(guesses):
    """Mean, deviation, file size, order, follow-up, age, sex and view give a mean AUC of at most 0.55."""
    light, _, labels, patients = guesses
    assert mean_auc(light, labels, patients) <= 0.55


def test_each_picture_is_exposed_in_its_own_way(guesses):
    """Mean and deviation of the grey values fill their ranges: no two patients share the draw of an exposure."""
    light, *_ = guesses
    for column, (low, high) in enumerate([(112, 148), (48, 66)]):
        counts, _ = np.histogram(light[:, column], 18, (low, high))
        assert counts.min() > 0.5 * 1200 / 18
        assert counts.max() < 1.6 * 1200 / 18


def test_the_histogram_tells_little(guesses):
    """A 16-bin histogram gives a mean AUC of at most 0.70."""
    _, bins, labels, patients = guesses
    assert mean_auc(bins, labels, patients) <= 0.70


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": 0},
        {"seed": -1},
        {"min_prevalence": -0.01},
        {"min_prevalence": 0.51},
        {"min_prevalence": float("nan")},
        {"size": 32},
        {"first_patient": 0},
        {"first_patient": 100_000_000},
        {"processes": 0},
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path, wrong):
    """The error names the setting and its range, and nothing is made."""
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        synth.synthesize(tmp_path / "out", **({"images": 3, "seed": 0} | wrong))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    """What is in the folder stays, and nothing is added to it."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        synth.synthesize(tmp_path, images=3, seed=0)
    assert bytes_of(tmp_path) == {"thesis.txt": b"mine"}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    """A file that stands in the way is named as the place of the error."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made") as caught:
        synth.synthesize(tmp_path / "file" / "out", images=3, seed=0)
    assert str(tmp_path / "file") in str(caught.value)


def test_too_little_disk_is_said_before_anything_is_drawn(tmp_path):
    """A set that no disk holds is refused at once, with what it needs."""
    with pytest.raises(StorageError, match="MB free"):
        synth.synthesize(tmp_path / "out", images=90_000_000, seed=0, size=1024)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_run_leaves_an_empty_folder(tmp_path):
    """Half a data set is never left behind, and the same command then works."""

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth.synthesize(tmp_path / "out", images=80, seed=0, size=64, processes=2, progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    seen = []
    synth.synthesize(
        tmp_path / "out", images=30, seed=0, size=64, processes=1, progress=lambda *counts: seen.append(counts)
    )
    assert seen[-1] == (30, 30)
