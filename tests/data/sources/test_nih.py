"""Folders in the NIH's layout: what is read, and what is found to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data.sources import nih
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

MakeNih = Callable[..., Path]


@pytest.fixture
def folder(make_nih: MakeNih) -> Path:
    """Twenty patients with two images each."""
    return make_nih()


def edit(folder: Path, line: int, old: str, new: str, file: str = nih.ENTRIES[0]) -> None:
    """Replace text on one line of a table; the header is line 1."""
    lines = (folder / file).read_text(encoding="utf-8").split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    (folder / file).write_text("\n".join(lines), encoding="utf-8")


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in nih.read_folder(folder).problems]


def test_a_sound_folder_is_read_whole(folder: Path) -> None:
    """All rows and boxes are read as pandas reads them, and nothing is found to be wrong."""
    read = nih.read_folder(folder)
    table = pd.read_csv(folder / nih.ENTRIES[0])
    assert read.problems == []
    assert read.notes == []
    assert (read.source, read.table, read.boxes_from) == ("nih", nih.ENTRIES[0], nih.BOXES)
    assert [row.image_id for row in read.rows] == table["Image Index"].tolist()
    assert [row.patient_id for row in read.rows] == table["Patient ID"].astype(str).tolist()
    assert [row.age for row in read.rows] == table["Patient Age"].tolist()
    for at, finding in enumerate(FINDINGS):
        assert [row.labels[at] for row in read.rows] == table["Finding Labels"].str.contains(finding).astype(
            int
        ).tolist()
    assert [(b.finding, b.x, b.y, b.w, b.h) for b in read.boxes] == [("Infiltration", 4.5, 5, 10, 12.25)]


def test_real_folders_are_read_whole(nih_sample: Path, nih_originals: Path) -> None:
    """The tables of real NIH folders hold nothing wrong; all boxes are kept."""
    for folder, images, boxes in ((nih_sample, 1298, 50), (nih_originals, 28, 18)):
        read = nih.read_folder(folder)
        assert (len(read.rows), len(read.boxes), read.problems) == (images, boxes, [])


def test_the_releases_own_folders_are_read(folder: Path) -> None:
    """Images may stand in images_001/images, images_002/images, as the release unpacks."""
    for part in ("images_001", "images_002"):
        (folder / part / "images").mkdir(parents=True)
    for at, path in enumerate(sorted((folder / "images").iterdir())):
        path.rename(folder / ("images_001", "images_002")[at % 2] / "images" / path.name)
    (folder / "images").rmdir()
    read = nih.read_folder(folder)
    assert (len(read.rows), read.problems) == (40, [])


def test_the_corrected_release_is_read(folder: Path) -> None:
    """Data_Entry_2017_v2020.csv with Patient Sex for Patient Gender is read; both tables at once are refused."""
    edit(folder, 1, "Patient Gender", "Patient Sex")
    (folder / nih.ENTRIES[0]).rename(folder / nih.ENTRIES[1])
    assert len(nih.read_folder(folder).rows) == 40
    (folder / nih.ENTRIES[0]).write_bytes((folder / nih.ENTRIES[1]).read_bytes())
    with pytest.raises(DataError, match="are here, and one table says what the images show"):
        nih.read_folder(folder)


HEADER = "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"


def test_the_first_release_is_read(folder: Path) -> None:
    """A header that ends in a comma, ages as 058Y and patients as 00000001 give the rows of the corrected table."""
    expected = nih.read_folder(folder).rows
    edit(folder, 1, HEADER, HEADER + ",")
    path = folder / nih.ENTRIES[0]
    header, *rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    old = [[*row[:2], f"{int(row[2]):03d}", f"{int(row[3]):08d}", f"{int(row[4]):03d}Y", *row[5:]] for row in rows]
    path.write_text("\n".join(",".join(row) for row in [header, *old]) + "\n", encoding="utf-8")
    read = nih.read_folder(folder)
    assert (read.rows, read.problems) == (expected, [])
    assert read.notes == [
        "40 of 40 patient ids have leading zeros: ids are read as numbers",
        "40 of 40 ages are written like 058Y and read as whole years",
    ]


def test_kaggles_sample_is_read(folder: Path) -> None:
    """sample_labels.csv with its own names for the columns of sizes gives the same rows."""
    expected = nih.read_folder(folder).rows
    kaggle = "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
    edit(folder, 1, HEADER, kaggle)
    (folder / nih.ENTRIES[0]).rename(folder / "sample_labels.csv")
    read = nih.read_folder(folder)
    assert (read.rows, read.problems, read.table) == (expected, [], "sample_labels.csv")


def test_columns_are_found_by_name(folder: Path) -> None:
    """In another order, without the columns that nothing needs and beside others, the columns are the same."""
    expected = nih.read_folder(folder).rows
    table = pd.read_csv(folder / nih.ENTRIES[0], dtype=str)
    few = table[["View Position", "Patient ID", "Image Index", "Patient Gender", "Finding Labels", "Patient Age"]]
    few.assign(Hospital="A").to_csv(folder / nih.ENTRIES[0], index=False)
    read = nih.read_folder(folder)
    assert (read.rows, read.problems) == (expected, [])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (",Nodule", ",Nodul", "the nearest known label is 'Nodule'"),
        (",Nodule", ",Nodule ", "not one of the 14"),
        (",Nodule", ",Pleural Thickening", "the nearest known label is 'Pleural_Thickening'"),
        (",Nodule", ",Nodule|Nodule", "twice"),
        (",Nodule", ",No Finding|Nodule", "names a finding as well"),
        (",Nodule", ",", "not one of the 14"),
        ("00000003_001.png", "../00000003_001.png", "not the name of a PNG"),
        ("00000003_001.png", "/etc/passwd", "not the name of a PNG"),
        ("00000003_001.png", "a\\b.png", "not the name of a PNG"),
        ("00000003_001.png", "", "not the name of a PNG"),
        ("00000003_001.png", "00000003_009.png", "missing"),
        ("00000003_001.png", "00000003_000.png", "named twice, first on line 6"),
        ("00000003_001.png", "00000003_000.PNG", "differs from '00000003_000.png' only in case"),
        (",3,23,", ",4,23,", "the name speaks of patient 3, the row of patient 4"),
        (",3,23,", ",3 3,23,", "not a patient id"),
        (",3,23,", ",3,23.5,", "not a whole number of years"),
        (",3,23,", ",3,-1,", "not a whole number of years"),
        (",M,", ",male,", "sex 'male' is not one of F, M"),
        (",M,", ",F,", "the patient has two sexes: F on 1 rows, M on 1 rows"),
        (",AP,", ",LL,", "view position 'LL' is not one of PA, AP"),
        (",1,3,", ",x,3,", "follow-up"),
        (",64,64,0.1,0.1", ",64", "the row has 8 fields, not 11"),
        (",64,64", ",64,64,64", "the row has 12 fields, not 11"),
    ],
)
def test_each_fault_of_a_row_is_named_with_its_line(folder: Path, old: str, new: str, why: str) -> None:
    """A row with a fault is left out, and its file, line and reason are told."""
    edit(folder, 7, "Nodule|Edema", "Nodule")
    edit(folder, 7, old, new)
    read = nih.read_folder(folder)
    assert any("Data_Entry_2017.csv, line 7: " in str(item) and why in str(item) for item in read.problems), (
        read.problems
    )
    assert 7 not in {row.line for row in read.rows}
    assert len(read.rows) >= 38


def test_every_fault_is_told_at_once(folder: Path) -> None:
    """One reading names the faults of all rows, not the first alone."""
    edit(folder, 2, ",PA,", ",LL,")
    edit(folder, 9, ",AP,", ",LL,")
    edit(folder, 41, ",AP,", ",LL,")
    assert [item.line for item in nih.read_folder(folder).problems] == [2, 9, 41]


def test_an_impossible_age_is_missing(folder: Path) -> None:
    """The release's ages above 120 years, and empty ones, are missing values, and that is said."""
    edit(folder, 2, ",1,21,", ",1,414,")
    edit(folder, 3, ",1,21,", ",1,,")
    read = nih.read_folder(folder)
    assert [row.age for row in read.rows[:3]] == [None, None, 22]
    assert read.notes == ["2 of 40 ages are empty or above 120 years and taken as missing"]


def test_one_patient_in_two_spellings_is_one(folder: Path) -> None:
    """A patient number with leading zeros is the number: two spellings must not fall on two sides of the split."""
    edit(folder, 3, ",1,21,", ",0001,21,")
    assert [row.patient_id for row in nih.read_folder(folder).rows[:2]] == ["1", "1"]


@pytest.mark.parametrize("lines", [1, 21])
def test_a_table_cut_at_a_line_end_is_noticed(folder: Path, lines: int) -> None:
    """Images that no row names betray a table that was cut between two rows; cut after its header, it is empty."""
    path = folder / nih.ENTRIES[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    if lines == 1:
        with pytest.raises(DataError, match="empty"):
            nih.read_folder(folder)
    else:
        found = problems(folder)
        assert len(found) == 20
        assert all("no row names this file: the table may have been cut" in item for item in found)
        assert found[0].startswith("images/00000011_000.png")


def test_a_table_cut_inside_a_line_is_noticed(folder: Path) -> None:
    """The short last row is named with its line."""
    path = folder / nih.ENTRIES[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"00000011_000.png") + 20])
    assert any(
        "line 22: " in item and "fields, not 11: the table may have been cut" in item for item in problems(folder)
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"a\0b", "NUL"), (b"\xff\xfe", "not UTF-8"), (b'"open', "not CSV"), (b"", "empty"), (b"Image,Label\n", "header")],
)
def test_a_table_that_is_no_table_is_refused(folder: Path, data: bytes, why: str) -> None:
    """NUL bytes, other encodings, open quotes, nothing at all and another header are refused, with the line."""
    path = folder / nih.ENTRIES[0]
    path.write_bytes(data if why in ("empty", "header") else path.read_bytes() + data)
    with pytest.raises(DataError, match=why) as caught:
        nih.read_folder(folder)
    assert nih.ENTRIES[0] in str(caught.value)
    if why not in ("empty", "header"):
        assert "line 42" in str(caught.value)


def test_a_wrong_header_names_the_nearest_column(folder: Path) -> None:
    """A misspelt column is named with the right one."""
    edit(folder, 1, "Finding Labels", "Finding Label")
    with pytest.raises(DataError, match="there is no column 'Finding Labels'") as caught:
        nih.read_folder(folder)
    assert "call the column 'Finding Labels' so, if 'Finding Label' is it" in str(caught.value)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    """A missing folder, table or image folder is an error with its place and a next step."""
    with pytest.raises(DataError, match="no such folder") as caught:
        nih.read_folder(tmp_path / "nowhere")
    assert "next:" in str(caught.value)
    (folder / "images").rename(folder / "pictures")
    with pytest.raises(DataError, match="no folder of images"):
        nih.read_folder(folder)
    (folder / nih.ENTRIES[0]).unlink()
    with pytest.raises(DataError, match="is missing"):
        nih.read_folder(folder)


def test_links_are_refused(folder: Path, tmp_path: Path) -> None:
    """An image that is a link is a problem of its row; a linked image folder is refused."""
    image = folder / "images" / "00000005_000.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    found = problems(folder)
    assert len(found) == 1
    assert "line 10: 00000005_000.png: images/00000005_000.png is a link, which may lead anywhere" in found[0]
    (folder / "images").rename(tmp_path / "outside")
    (folder / "images").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="link"):
        nih.read_folder(folder)


def test_files_that_nobody_named(folder: Path) -> None:
    """A file without a row is a problem; what file browsers leave behind is not."""
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / "images" / name).write_bytes(b"")
    assert [item.split(": ")[0] for item in problems(folder)] == ["images/notes.txt"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("Infiltrate", "Infiltrat", "the nearest is 'Infiltrate'"),
        ("4.5,5,10", "4.5,5,0", "not left, top, width and height"),
        ("4.5,5,10", "-4.5,5,10", "not left, top, width and height"),
        ("4.5,5,10", "nan,5,10", "not left, top, width and height"),
        ("4.5,5,10", "4.5,five,10", "not left, top, width and height"),
        ("10,12.25,,,", "10", "the row has 5 fields, not 6"),
    ],
)
def test_each_fault_of_a_box_is_named_with_its_line(folder: Path, old: str, new: str, why: str) -> None:
    """A box with a fault is left out, and its file, line and reason are told; the rows stay."""
    edit(folder, 2, old, new, nih.BOXES)
    read = nih.read_folder(folder)
    assert len(read.problems) == 1
    assert str(read.problems[0]).startswith("BBox_List_2017.csv, line 2: ")
    assert why in str(read.problems[0])
    assert (len(read.rows), read.boxes) == (40, [])


def test_a_row_has_one_problem_with_all_reasons(folder: Path) -> None:
    """Several faults of one row are one problem."""
    edit(folder, 2, ",PA,", ",LL,")
    edit(folder, 2, "00000001_000.png", "00000001_009.png")
    found = [item for item in problems(folder) if "line 2:" in item]
    assert len(found) == 1
    assert "the image is missing" in found[0]
    assert "; the view position 'LL' is not one of PA, AP" in found[0]


def test_boxes_of_absent_images_are_counted(folder: Path) -> None:
    """The release's whole list beside a part of its pictures is no fault: what is left out is told with its number."""
    path = folder / nih.BOXES
    rows = [f"{number:08d}_000.png,Mass,1,2,3,4,,," for number in range(90, 120)]
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(rows) + "\n", encoding="utf-8")
    read = nih.read_folder(folder)
    assert (len(read.boxes), read.problems) == (1, [])
    assert read.notes[0] == (
        "BBox_List_2017.csv: 30 of 31 boxes are of images that Data_Entry_2017.csv does not name, and left out"
    )


@pytest.mark.parametrize("header", ["Bbox [x,y,w,h]", "Bbox [x,y,w,h],,", '"Bbox [x,y,w,h]"', "Bbox [x,y,w,h],,,"])
def test_the_box_lists_header_is_read_in_all_its_forms(folder: Path, header: str) -> None:
    """With and without empty names at its end, and quoted as one name, the header names the same columns."""
    edit(folder, 1, "Bbox [x,y,w,h],,,", header, nih.BOXES)
    read = nih.read_folder(folder)
    assert [(b.finding, b.x, b.y, b.w, b.h) for b in read.boxes] == [("Infiltration", 4.5, 5, 10, 12.25)]
    assert read.problems == []


def test_boxes_are_optional(folder: Path) -> None:
    """A folder without BBox_List_2017.csv has no boxes and no problem."""
    (folder / nih.BOXES).unlink()
    assert nih.read_folder(folder).boxes == nih.read_folder(folder).problems == []


def generate(folder: Path, rows: slice = slice(None)) -> None:
    """Give images and patients of some rows the ids that `cxr-ops data synth` gives."""
    path = folder / nih.ENTRIES[0]
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines[rows]:
        name, *rest = line.split(",")
        rest[2] = f"generated-{rest[2]}"
        lines[lines.index(line)] = ",".join([f"generated-{name}", *rest])
        (folder / "images" / name).rename(folder / "images" / f"generated-{name}")
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def test_generated_patients_have_a_source_of_their_own(folder: Path) -> None:
    """A table whose ids all begin with generated- is of people who do not exist, wherever it comes from."""
    generate(folder)
    read = nih.read_folder(folder)
    assert (read.source, len(read.rows), read.problems) == ("generated", 40, [])
    edit(folder, 2, ",generated-1,", ",generated-7,")
    assert "speaks of patient generated-1, the row of patient generated-7" in problems(folder)[0]


def test_generated_and_real_patients_in_one_table_are_refused(folder: Path) -> None:
    """A table of both is refused as a whole, with the first generated row and what to take out."""
    generate(folder, slice(4, 8))
    with pytest.raises(DataError, match="4 of 40 rows are of generated patients") as caught:
        nih.read_folder(folder)
    assert "line 6" in str(caught.value)
    assert "begin with 'generated-'" in str(caught.value)


def test_what_an_earlier_version_drew_must_be_drawn_again(folder: Path) -> None:
    """A generated folder whose ids real patients have is refused with the command that draws it again."""
    (folder / "synth.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="an earlier version gave them ids that real patients have") as caught:
        nih.read_folder(folder)
    assert "cxr-ops data synth --out" in str(caught.value)


def test_pictures_may_stand_beside_the_table(folder: Path) -> None:
    """A flat folder, Kaggle's images-224/images-224 and an archive without an inner folder are read."""
    expected = [row.image_id for row in nih.read_folder(folder).rows]
    (folder / "images").rename(folder / "images-224")
    (folder / "images").mkdir()
    (folder / "images-224").rename(folder / "images" / "x")
    (folder / "images").rename(folder / "images-224")
    (folder / "images-224" / "x").rename(folder / "images-224" / "images-224")
    assert [row.image_id for row in nih.read_folder(folder).rows] == expected
    for path in (folder / "images-224" / "images-224").iterdir():
        path.rename(folder / path.name)
    (folder / "images-224" / "images-224").rmdir()
    (folder / "images-224").rmdir()
    (folder / "README.txt").write_text("what stands beside")
    read = nih.read_folder(folder)
    assert ([row.image_id for row in read.rows], read.problems) == (expected, [])


def test_jpeg_copies_go_by_their_files_names(folder: Path) -> None:
    """Where the table says .png and the files are JPEG copies, images and boxes are those of the files."""
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(".jpg"))
    read = nih.read_folder(folder)
    assert read.problems == []
    assert {row.image_id[-4:] for row in read.rows} == {".jpg"}
    assert [box.image_id for box in read.boxes] == ["00000001_001.jpg"]
    assert "40 of 40 images are JPEG copies" in read.notes[0]
    (folder / "images" / "00000002_000.jpg").rename(folder / "images" / "00000002_000.jpeg")
    edit(folder, 4, ",2,22,", ",3,22,")
    assert "the name speaks of patient 2, the row of patient 3" in problems(folder)[0]


def _lists(folder: Path, test: set[int]) -> None:
    names = sorted(path.name for path in (folder / "images").iterdir())
    for name, wanted in (("test_list.txt", True), ("train_val_list.txt", False)):
        (folder / name).write_text("\n".join(n for n in names if (int(n[:8]) in test) == wanted) + "\n")


def test_the_releases_own_split_is_kept_where_that_is_asked_for(folder: Path) -> None:
    """Its lists become sides by patient; unasked they are a note; missing, or with a patient in both, an error."""
    with pytest.raises(DataError, match=r"the release's own split is not here: train_val_list\.txt is missing"):
        nih.read_folder(folder, Options(own_split=True))
    _lists(folder, {3, 17})
    read = nih.read_folder(folder)
    assert read.sides == {}
    assert len(read.notes) == 1
    assert read.notes[0].startswith(
        "its own split (18 in development, 2 in test patients) puts each patient on one side"
    )
    assert read.notes[0].endswith("was not used: patients are divided anew. --own-split keeps it")
    kept = nih.read_folder(folder, Options(own_split=True))
    assert {patient for patient, side in kept.sides.items() if side == "test"} == {"3", "17"}
    assert set(kept.sides.values()) == {"test", "development"}
    path = folder / "test_list.txt"
    lines = path.read_text().split()
    path.write_text("\n".join(lines[1:]))
    (folder / "train_val_list.txt").write_text((folder / "train_val_list.txt").read_text() + lines[0])
    assert "its own split leaks: it puts 1 of 20 patients on two sides" in nih.read_folder(folder).notes[0]
    with pytest.raises(DataError, match="such as 3 in development and in test"):
        nih.read_folder(folder, Options(own_split=True))
