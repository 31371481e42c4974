"""Near copies at ingestion: refused under two patients, told under one, accepted with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr_ops.data import manifest, near_copies, splits
from cxr_ops.data.checking import batch as building
from cxr_ops.data.checking import fingerprints
from cxr_ops.data.checking.copies import Copy
from cxr_ops.data.sources import nih
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.params import Params, Split
from cxr_ops.records.data import Batch
from cxr_ops.records.inputs import Period
from cxr_ops.stages import ingest, match, portray, split, validate, withdraw

MakeNih = Callable[..., Path]
SPLIT = Split(salt="s", validation=0.2, test=0.3)


def copied(source: Path, target: Path) -> None:
    """The picture of `source` stands at `target` mirrored and as other bytes."""
    cv2.imwrite(str(target), cv2.flip(cv2.imread(str(source), cv2.IMREAD_GRAYSCALE), 1))


def image(folder: Path, name: str) -> Path:
    return folder / "images" / name


@pytest.fixture
def home(tmp_path: Path, project: Path) -> Home:
    """An installation of its own."""
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})


@pytest.fixture
def held(make_nih: MakeNih, tmp_path: Path) -> dict[str, Path]:
    """A batch, `first`: patients 1 to 20."""
    building.build(tmp_path / "built" / "first", building.check(nih.read_folder(make_nih("one")), "first", processes=1))
    return {"first": tmp_path / "built" / "first"}


def matched(folder: Path, home: Home, held: dict[str, Path], accepted: Path | None = None) -> match.Matched:
    listing = nih.read_folder(folder)
    checked = building.check(listing, "second", processes=1)
    return match.run(checked, listing, batch="second", home=home, held=held, accepted=accepted)


def test_a_copy_under_the_same_patient_enters_and_is_told(
    make_nih: MakeNih, home: Home, held: dict[str, Path], tmp_path: Path
) -> None:
    """It is a warning with the pair, in the output, in a list for its owner alone, and in the batch."""
    folder = make_nih("two", patients=10, first=21)
    copied(image(folder, "00000023_000.png"), image(folder, "00000023_001.png"))
    result = matched(folder, home, held)
    assert (len(result.checked.frame), result.refused, result.pairs, result.checked.problems) == (20, 0, 1, [])
    assert "1 near copy under the same patient, such as 00000023_001.png of 00000023_000.png" in result.notes[0]
    assert "mirrored left to right" in result.notes[0]
    assert result.listed == home.pictures / "second" / match.LISTED
    assert str(result.listed) in result.notes[0]
    assert result.listed.parent.stat().st_mode & 0o777 == 0o700
    _, one, other = result.shown[0]
    assert np.array_equal(cv2.flip(one, 1), other)
    building.build(tmp_path / "built" / "second", result.checked)
    pairs = near_copies.read([tmp_path / "built" / "second"])
    assert pairs[["image_id", "other_id", "other_batch", "reason"]].to_numpy().tolist() == [
        ["00000023_001.png", "00000023_000.png", "", ""]
    ]
    image(folder, "00000023_001.png").unlink()
    edited = folder / "Data_Entry_2017.csv"
    edited.write_text("".join(line for line in edited.open() if not line.startswith("00000023_001")))
    assert matched(folder, home, held).listed is None
    assert not result.listed.exists()


def test_a_copy_under_another_patient_is_left_out_unless_a_reason_is_given(
    make_nih: MakeNih, home: Home, held: dict[str, Path], tmp_path: Path, project: Path
) -> None:
    """Both names are told; with a reason it enters, and the two patients are on one side for any salt."""
    folder = make_nih("two", patients=10, first=21)
    copied(image(tmp_path / "one", "00000003_000.png"), image(folder, "00000025_001.png"))
    copied(image(folder, "00000027_000.png"), image(folder, "00000029_000.png"))
    result = matched(folder, home, held)
    assert (len(result.checked.frame), result.refused, result.checked.copies) == (17, 2, None)
    told = {item.image_id: item.what for item in result.checked.problems}
    assert told["00000025_001.png"].startswith(
        "under the patient 25, and a near copy of 00000003_000.png under the patient 3, in the batch 'first'"
    )
    assert "under the patient 27, and a near copy of 00000029_000.png under" in told["00000027_000.png"]
    assert "under the patient 29, and a near copy of 00000027_000.png under" in told["00000029_000.png"]

    table = pd.read_csv(result.listed, dtype=str, keep_default_na=False)
    table.loc[table["other_batch"] == "first", "reason"] = "the registry gave one person two ids"
    table.to_csv(tmp_path / "accepted.csv", index=False)
    result = matched(folder, home, held, tmp_path / "accepted.csv")
    assert (len(result.checked.frame), result.refused) == (18, 1)
    assert "1 accepted near copy under two patients" in result.notes[0]
    building.build(tmp_path / "built" / "second", result.checked)
    both = {**held, "second": tmp_path / "built" / "second"}
    assert manifest.read_sides(both.values()) == {"25": "with:3"}
    again = matched(folder, home, both)
    assert building.tables_of(again.checked) == building.tables_of(result.checked)

    root = tmp_path / "workspace"
    shutil.copytree(project / "expectations", root / "expectations")
    shutil.copytree(tmp_path / "built", root / "dataset")
    Period().write(root / "test-period.json")
    sides = set()
    for salt in ("a", "b", "c"):
        params = Params.check(
            {
                "validate": {"min_images": 20, "min_patients": 10},
                "split": {"salt": salt, "validation": 0.3, "test": 0.3},
            },
            "test",
        )
        validate.run(root, params)
        split.run(root, params)
        given = pd.read_csv(root / "split" / "split.csv", dtype=str).groupby("patient_id")["split"].agg(set)
        assert given["25"] == given["3"]
        sides |= given["25"]
    assert len(sides) > 1
    written = (root / "validate" / "validation.json").read_text()
    assert "near copies: 1, of them under two patients: 1" in written
    assert "00000025" not in written


def test_a_batch_of_an_earlier_version_gets_fingerprints_when_they_are_needed(
    make_nih: MakeNih, home: Home, held: dict[str, Path], tmp_path: Path
) -> None:
    """At ingestion its pictures are compared too; they are decoded once, and the batch itself stays as it is."""
    folder, old = tmp_path / "one", held["first"]
    (old / fingerprints.FILE).unlink()
    record = Batch.read(old / "batch.json")
    files = {name: digest for name, digest in record.files.items() if name != fingerprints.FILE}
    record.model_copy(update={"files": files}).write(old / "batch.json")
    batches.add_batch(home, old)
    before = batches.data_revision(home)
    second = make_nih("two", patients=5, first=21)
    copied(image(folder, "00000004_001.png"), image(second, "00000022_000.png"))
    written = []
    for _ in range(2):
        with pytest.raises(DataError, match=r"a near copy of 00000004_001\.png under the patient 4") as caught:
            ingest.run("nih", second, batch="second", home=home)
        assert f"--accept-copies {home.pictures / 'second' / match.LISTED}" in str(caught.value)
        assert str(home.pictures / "second" / portray.PAGE) in str(caught.value)
        (made,) = home.fingerprints.iterdir()
        written.append(made.stat().st_mtime_ns)
    assert written[0] == written[1]
    assert batches.data_revision(home) == before
    assert ingest.run("nih", folder, batch="first", home=home).already
    result = ingest.run("nih", second, batch="second", home=home, on_bad="quarantine")
    assert (result.images, result.quarantined) == (9, 1)
    assert "accepted with quarantine" in result.picture.read_text()


def test_what_is_there_already_is_compared(
    make_nih: MakeNih, home: Home, held: dict[str, Path], tmp_path: Path
) -> None:
    """Copies under two patients in batches of before are an error with both sides, until one is withdrawn."""
    folder = make_nih("two", patients=5, first=21)
    copied(image(folder, "00000021_000.png"), image(folder, "00000021_001.png"))
    copied(image(tmp_path / "one", "00000004_001.png"), image(folder, "00000022_000.png"))
    building.build(tmp_path / "built" / "second", building.check(nih.read_folder(folder), "second", processes=1))
    for name in ("first", "second"):
        batches.add_batch(home, tmp_path / "built" / name)
    with pytest.raises(DataError) as caught:
        match.survey(home)
    message = str(caught.value)
    split_now = Params.load(home.project / "params.yaml").split.model_dump()
    for one, patient in (("00000022_000.png", "22"), ("00000004_001.png", "4")):
        assert f"{one} of the patient {patient} ({splits.side(patient, **split_now)})" in message
    assert "near copies under two patients: 1, of them" in message
    withdraw.run(home, ["00000022_000.png"], by="A. Tester", reason="a copy of another patient's picture")
    result = match.survey(home)
    assert (result.images, result.same_patient, result.accepted) == (49, 1, 0)
    assert result.listed == home.pictures / match.LISTED
    assert "49 images were compared" in str(result)


def pair(patient: str, other: str, batch: str = "first") -> Copy:
    return Copy(
        image_id=f"{patient}.png",
        patient_id=patient,
        other_id=f"{other}.png",
        other_patient=other,
        other_batch=batch,
        similarity=0.99,
        how="",
    )


def on(side: str, count: int = 2) -> list[str]:
    """Patients whom the hash gives a side."""
    ids = map(str, range(1, 1000))
    return [one for one in ids if splits.side(one, **SPLIT.model_dump()) == side][:count]


def rows(*patients: str) -> pd.DataFrame:
    return pd.DataFrame({"patient_id": patients, "batch": "first", "view": "PA"})


def together(copies: list[Copy], held: tuple[str, ...], closed: tuple[str, ...] = (), **pins: str) -> dict[str, str]:
    return match.going_together(copies, rows=rows(*held), pinned=pins, split=SPLIT, closed_batches=closed)


def test_whoever_comes_goes_with_whoever_is_there() -> None:
    """The new patient takes the other's side; nobody of the data set moves; chains end at one patient."""
    train, test = on("train"), on("test")
    assert together([pair(test[0], train[0])], (train[0],)) == {test[0]: f"with:{train[0]}"}
    assert together([pair(train[0], test[0])], (test[0],)) == {train[0]: f"with:{test[0]}"}
    assert together([pair(train[0], train[1])], (train[0], train[1])) == {train[0]: f"with:{train[1]}"}
    chain = together([pair(test[0], train[0]), pair(test[1], test[0], "")], (train[0],))
    assert {splits.leader(one, chain) for one in (*test, train[0])} == {train[0]}


def test_a_pair_that_would_move_somebody_cannot_be_accepted() -> None:
    """Two patients of the data set on two sides stay there, by the hash or by a source's own split."""
    train, test = on("train"), on("test")
    with pytest.raises(DataError, match=r"on two sides \(train and test\)"):
        together([pair(train[0], test[0])], (train[0], test[0]))
    with pytest.raises(DataError, match="on two sides"):
        together([pair("x", "y")], (), x="train", y="test")
    assert together([pair("x", "y")], (), x="train", y="train") == {}


def test_a_picture_that_was_tested_is_not_tested_again_under_another_name() -> None:
    """A new patient cannot go with one who was in the test set of an earlier period."""
    train, test = on("train"), on("test")
    with pytest.raises(DataError, match="tested again"):
        together([pair("9999", test[0])], (test[0],), ("first",))
    assert together([pair("9999", train[0])], (train[0],), ("first",)) == {"9999": f"with:{train[0]}"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image_id,other_id\na.png,b.png\n", "no column 'reason'"),
        ("image_id,other_id,reason\na.png,b.png\n", "2 fields, not 3"),
        ("", "no column 'image_id'"),
        ("image_id,other_id,reason\na.png,b.png, \n", "no row of the table of accepted pairs has a reason"),
    ],
    ids=["column", "short", "empty", "no reason"],
)
def test_a_wrong_table_of_accepted_pairs_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """A table without reasons, a cut row and an empty file are errors that name the file."""
    (tmp_path / "accepted.csv").write_text(text)
    with pytest.raises(SettingsError, match=why) as caught:
        match.read_accepted(tmp_path / "accepted.csv")
    assert "accepted.csv" in str(caught.value)


def test_rows_without_a_reason_accept_nothing(tmp_path: Path) -> None:
    """Of a list with one reason filled in that pair is accepted, whichever of the two stands first."""
    (tmp_path / "accepted.csv").write_text("image_id,x,other_id,reason\nb.png,,a.png, one person \nc.png,,a.png, \n")
    assert match.read_accepted(tmp_path / "accepted.csv") == {frozenset({"a.png", "b.png"}): "one person"}
    with pytest.raises(SettingsError, match=r"b\.png are no near copies of each other"):
        match._refuse_others(match.read_accepted(tmp_path / "accepted.csv"), [], tmp_path / "accepted.csv")
