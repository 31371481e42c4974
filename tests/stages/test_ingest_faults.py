"""The contract of ingestion, tested by mutation: faults are planted in a good batch, one at a time.

Each must be caught with the row or file that it stands in, and with what to do; the untouched batch must pass. What is
checked is whole: the source, the pictures, duplicates, the data set and the suites, through the stage itself.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicoms import dicom
from PIL import Image

from cxr_ops.data.checking import isolate
from cxr_ops.data.sources import nih
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, format_labels
from cxr_ops.stages import ingest

TABLE, BOXES = nih.ENTRIES[0], nih.BOXES
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
FIRST = 10  # patient of the good batch; those before are in the data set already


def noise(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)


def write_folder(folder: Path, patients: range) -> Path:
    """A folder in the NIH's layout: two pictures a patient, each finding somewhere, two boxes."""
    (folder / "images").mkdir(parents=True)
    rows = [HEADER]
    for number in range(2 * len(patients)):
        patient = patients[number // 2]
        name = f"{patient:08d}_{number % 2:03d}.png"
        positive = {number % 14, (5 * number + 12) % 14} if number % 3 else set()
        labels = format_labels(index in positive for index in range(len(FINDINGS)))
        row = f"{name},{labels},{number % 2},{patient},{20 + patient},{'FM'[patient % 2]},{('PA', 'AP')[number % 2]}"
        rows.append(f"{row},64,64,0.1,0.1")
        cv2.imwrite(str(folder / "images" / name), noise(1000 * patient + number))
    (folder / TABLE).write_text("\n".join(rows) + "\n")
    boxes = [f"{patients[0]:08d}_001.png,Infiltrate,4.5,5,10,12.25,,,", f"{patients[1]:08d}_000.png,Mass,1,2,9,9,,,"]
    (folder / BOXES).write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes]) + "\n")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Home:
    """An installation whose data set holds ten patients."""
    root = tmp_path_factory.mktemp("faults")
    made = Home.find({"CXR_HOME": str(root / "home"), "CXR_PROJECT": str(project)})
    ingest.run("nih", write_folder(root / "held", range(FIRST)), batch="zero", home=made)
    return made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("good") / "nih", range(FIRST, FIRST + 20))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    # to start processes for each fault would take longer than all else; test_isolate.py and test_ingest.py start them
    monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))


Fault = Callable[[Path], None]


def table(line: int, old: str, new: str, file: str = TABLE) -> Fault:
    """Replace text on a line; the header is line 1."""

    def plant(folder: Path) -> None:
        lines = (folder / file).read_text().split("\n")
        assert old in lines[line - 1], lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        (folder / file).write_text("\n".join(lines))

    return plant


def raw(change: Callable[[bytes], bytes], file: str = TABLE) -> Fault:
    def plant(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    return plant


def picture(change: Callable[[Path], object], name: str = "00000011_000.png") -> Fault:
    return lambda folder: change(folder / "images" / name) and None


def content(data: bytes) -> Fault:
    return picture(lambda path: path.write_bytes(data))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def bomb() -> bytes:
    part = b"IHDR" + struct.pack(">IIBBBBB", 14000, 14000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + part + struct.pack(">I", zlib.crc32(part))


def gif(path: Path) -> None:
    Image.new("P", (32, 32)).save(path, "gif")


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def linked(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere.png")
    path.symlink_to(path.parents[2] / "elsewhere.png")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def labels(text: Callable[[int, str], str]) -> Fault:
    """Give each row other labels."""

    def plant(folder: Path) -> None:
        header, *rows = (folder / TABLE).read_text().splitlines()
        changed = []
        for at, row in enumerate(rows):
            name, old, rest = row.split(",", 2)
            changed.append(f"{name},{text(at, old)},{rest}")
        (folder / TABLE).write_text("\n".join([header, *changed]) + "\n")

    return plant


def split_images(folder: Path) -> None:
    for part in ("images_001", "images_002"):
        (folder / part).mkdir()
    shutil.copytree(folder / "images", folder / "images_001" / "images")
    (folder / "images_002" / "images").mkdir()
    shutil.copy(folder / "images" / "00000011_000.png", folder / "images_002" / "images" / "00000011_000.png")
    shutil.rmtree(folder / "images")


def rename_column(old: str, new: str) -> Fault:
    return raw(lambda data: data.replace(old.encode(), new.encode(), 1))


def other_patient(folder: Path) -> None:
    """The picture of one patient under another's name, encoded again."""
    pixels = cv2.imread(str(folder / "images" / "00000012_000.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(folder / "images" / "00000011_000.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])


def near_copy(name: str = "") -> Fault:
    """A picture of another patient, of the batch or of the data set, comes mirrored and with less contrast."""

    def plant(folder: Path) -> None:
        source = folder / "images" / name
        pixels = cv2.imread(str(source), cv2.IMREAD_UNCHANGED) if name else noise(1000 * 3 + 6)
        cv2.imwrite(str(folder / "images" / "00000011_000.png"), 40 + pixels[:, ::-1] // 2)

    return plant


def case_apart(folder: Path) -> None:
    for line, old, new in ((4, "00000011_000.png", "ab.png"), (5, "00000011_001.png", "AB.png")):
        table(line, old, new)(folder)
        raw(lambda data, old=old, new=new: data.replace(old.encode(), new.encode()), BOXES)(folder)
        (folder / "images" / old).rename(folder / "images" / new)


def held_picture(folder: Path) -> None:
    cv2.imwrite(str(folder / "images" / "00000011_000.png"), noise(1000 * 3 + 6))


def held_name(folder: Path) -> None:
    for part in (TABLE, BOXES):
        path = folder / part
        path.write_text(path.read_text().replace("00000011_000.png", "00000003_000.png").replace(",0,11,", ",0,3,"))
    (folder / "images" / "00000011_000.png").rename(folder / "images" / "00000003_000.png")


def held_sex(folder: Path) -> None:
    """A patient of the data set comes back with another sex."""
    table(4, "00000011_000.png", "00000003_009.png")(folder)
    table(4, ",11,31,M", ",3,31,F")(folder)
    (folder / "images" / "00000011_000.png").rename(folder / "images" / "00000003_009.png")
    raw(lambda data: data.replace(b"00000011_000.png", b"00000003_009.png"), BOXES)(folder)


def generated(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.rename(path.with_name(f"generated-{path.name}"))
    for part in (TABLE, BOXES):
        lines = (folder / part).read_text().splitlines()
        (folder / part).write_text("\n".join([lines[0], *(f"generated-{line}" for line in lines[1:])]) + "\n")
    header, *rows = (folder / TABLE).read_text().splitlines()
    fields = [row.split(",") for row in rows]
    named = [",".join([*row[:3], f"generated-{row[3]}", *row[4:]]) for row in fields]
    (folder / TABLE).write_text("\n".join([header, *named]) + "\n")


HERE = f"{TABLE}, line 4: 00000011_000.png: "  # where one row's faults must be told

# What is planted, where it must be told to stand, and what must be said of it.
FAULTS: dict[str, tuple[Fault, str, str]] = {
    # the table
    "unknown label": (table(4, "Consolidation", "Opacity"), HERE, "is not one of the 14 NIH findings"),
    "misspelt label": (table(4, "Consolidation", "Consolidaton"), HERE, "the nearest known label is 'Consolidation'"),
    "label of another spelling": (
        table(4, "Consolidation", "Pleural Thickening"),
        HERE,
        "the nearest known label is 'Pleural_Thickening'",
    ),
    "no label anywhere": (labels(lambda *_: ""), HERE, "not one of the 14"),
    "label with a blank": (table(4, "Consolidation", "Consolidation "), HERE, "not one of the 14"),
    "label twice": (table(4, "Consolidation", "Effusion"), HERE, "twice"),
    "finding beside none": (table(4, "Consolidation", "No Finding"), HERE, "names a finding as well"),
    "no label": (labels(lambda at, old: "" if at == 2 else old), HERE, "not one of the 14"),
    "short row": (table(4, ",64,64,0.1,0.1", ",64"), f"{TABLE}, line 4: ", "the row has 8 fields"),
    "long row": (table(4, ",64,64", ",64,64,64"), f"{TABLE}, line 4: ", "the row has 12 fields"),
    "cut inside a line": (raw(lambda data: data[:-20]), f"{TABLE}, line 41: ", "the table may have been cut"),
    "cut at a line end": (
        raw(lambda data: b"".join(data.splitlines(keepends=True)[:30])),
        "images/00000024_001.png: ",  # the first of eleven: of one reason an error lists five
        "no row names this file: the table may have been cut",
    ),
    "NUL": (raw(lambda data: data.replace(b"64", b"\0" + b"64", 1)), f"{TABLE}, line 2", "NUL"),
    "other encoding": (raw(lambda data: data.replace(b"PA", b"\xff\xfe", 1)), f"{TABLE}, line 2", "not UTF-8"),
    "open quote": (raw(lambda data: data + b'"open'), f"{TABLE}, line 42", "not CSV"),
    "header alone": (raw(lambda data: data.splitlines(keepends=True)[0]), TABLE, "the batch is empty"),
    "nothing": (raw(lambda data: b""), TABLE, "empty"),
    "a column less": (rename_column("Finding Labels", "Finding Label"), f"{TABLE}, line 1", "'Finding Labels'"),
    "a column twice": (rename_column("Follow-up #", "Patient ID"), f"{TABLE}, line 1", "two columns"),
    "a workbook": (raw(lambda data: b"PK\x03\x04" + data), TABLE, "a workbook or an archive"),
    "two tables": (
        lambda folder: shutil.copy(folder / TABLE, folder / nih.ENTRIES[1]) and None,
        "nih",
        "one table says what the images show",
    ),
    "no table": (lambda folder: (folder / TABLE).unlink(), "nih", "is missing"),
    # rows
    "image named twice": (
        table(4, "00000011_000", "00000010_000"),
        f"{TABLE}, line 4: ",
        "named twice, first on line 2",
    ),
    "an ending in capitals": (table(4, "_000.png", "_000.PNG"), f"{TABLE}, line 4: ", "not the name of a PNG"),
    "names that differ in case": (
        case_apart,
        f"{TABLE}, line 5: AB.png: ",
        "the name differs from 'ab.png' only in case",
    ),
    "a path that leads out": (
        table(4, "00000011_000", "../00000011_000"),
        f"{TABLE}, line 4: ",
        "not the name of a PNG",
    ),
    "an absolute path": (table(4, "00000011_000.png", "/etc/passwd"), f"{TABLE}, line 4: ", "not the name of a PNG"),
    "a backslash": (table(4, "00000011_000.png", "a\\b.png"), f"{TABLE}, line 4: ", "not the name of a PNG"),
    "another patient's name": (
        table(4, ",11,31,", ",12,31,"),
        HERE,
        "the name speaks of patient 11, the row of patient 12",
    ),
    "a patient id with a blank": (table(4, ",11,31,", ",1 1,31,"), HERE, "is not a patient id"),
    "a negative age": (table(4, ",11,31,", ",11,-1,"), HERE, "not a whole number of years"),
    "an age in words": (table(4, ",11,31,", ",11,old,"), HERE, "not a whole number of years"),
    "another sex": (table(4, ",M,", ",male,"), HERE, "the sex 'male' is not one of F, M"),
    "a patient of two sexes": (table(4, ",M,", ",F,"), HERE, "the patient has two sexes"),
    "another view": (table(4, ",PA,", ",FRONT,"), HERE, "the view position 'FRONT' is not one of PA, AP"),
    "a follow-up in words": (table(4, ",0,11,", ",first,11,"), HERE, "the follow-up 'first' is not a whole number"),
    # labels
    "no finding anywhere": (labels(lambda *_: "No Finding"), "validation.html", "the labels are not all negative"),
    "a finding everywhere": (
        labels(lambda at, old: "Mass" if old == "No Finding" or "Mass" in old else f"{old}|Mass"),
        "validation.html",
        "Mass is present in at most 95 % of the images",
    ),
    "too many findings": (
        labels(lambda at, old: "|".join(FINDINGS[:11]) if at == 2 else old),
        "00000011_000.png",
        "No image has more than 10 findings",
    ),
    # pictures
    "a picture less": (picture(lambda path: path.unlink()), HERE, "the image is missing"),
    "a picture more": (
        lambda folder: shutil.copy(folder / "images" / "00000011_000.png", folder / "images" / "new.png") and None,
        "images/new.png: ",
        "no row names this file",
    ),
    "no bytes": (content(b""), HERE, "0 bytes"),
    "cut short": (picture(lambda path: path.write_bytes(path.read_bytes()[:300])), HERE, "cut short"),
    "one altered byte": (picture(altered), HERE, "checksum"),
    "bytes after the end": (picture(lambda path: path.write_bytes(path.read_bytes() + b"x")), HERE, "after the end"),
    "a web page": (content(b"<html>503</html>"), HERE, "web page"),
    "a GIF": (picture(gif), HERE, "GIF"),
    "a JPEG under a PNG's name": (content(cv2.imencode(".jpg", noise(1))[1].tobytes()), HERE, "its name says PNG"),
    "a DICOM file under a PNG's name": (content(dicom()), HERE, "DICOM"),
    "an LFS pointer": (content(b"version https://git-lfs.github.com/spec/v1\n"), HERE, "Git LFS"),
    "colours": (content(png(np.dstack([noise(1), noise(2), noise(3)]))), HERE, "colours"),
    "transparency": (content(png(np.dstack([noise(1)] * 3 + [noise(2)]))), HERE, "transparent"),
    "16 bits of no meaning": (content(png(noise(1).astype(np.uint16) * 257)), HERE, "16 bits"),
    "a bomb": (content(bomb()), HERE, "14000 x 14000"),
    "a blank picture": (content(png(np.full((32, 32), 70, np.uint8))), HERE, "the picture is blank"),
    "a thumbnail": (content(png(noise(1, 16))), "00000011_000.png", "32 to 20,000 pixels wide"),
    "an archive under a PNG's name": (content(b"PK\x03\x04" + bytes(40)), HERE, "ZIP"),
    "a link": (picture(linked), HERE, "a link, which may lead anywhere"),
    "a folder in its place": (picture(to_folder), HERE, "not a file"),
    "a second file of its name": (split_images, "images_002/images/00000011_000.png", "second of two files"),
    "no pictures at all": (lambda folder: shutil.rmtree(folder / "images"), "nih", "no folder of images"),
    # boxes
    "a box that reaches out": (table(3, "1,2,9,9", "1,2,90,9", BOXES), BOXES, "reaches out of the picture"),
    "a box of no size": (
        table(3, "1,2,9,9", "1,2,0,9", BOXES),
        f"{BOXES}, line 3: ",
        "not left, top, width and height",
    ),
    "a box at no place": (
        table(3, "1,2,9,9", "nan,2,9,9", BOXES),
        f"{BOXES}, line 3: ",
        "not left, top, width and height",
    ),
    "a box of no finding": (table(3, "Mass", "Masses", BOXES), f"{BOXES}, line 3: ", "the nearest is 'Mass'"),
    "a short box": (table(3, "9,9,,,", "9", BOXES), f"{BOXES}, line 3: ", "fields, not 6"),
    # the data set
    "a picture twice": (other_patient, HERE, "the rows contradict each other"),
    "a near copy": (
        near_copy("00000012_000.png"),
        HERE,
        "under the patient 11, and a near copy of 00000012_000.png under the patient 12",
    ),
    "a near copy of one that is held": (
        near_copy(),
        HERE,
        "a near copy of 00000003_000.png under the patient 3, in the batch 'zero'",
    ),
    "a picture that is held": (held_picture, HERE, "the data set holds this picture as 00000003_000.png"),
    "a name that is held": (held_name, "00000003_000.png: ", "the data set holds an image of this name"),
    "a held patient of another sex": (held_sex, "00000003_009.png: ", "the patient is M in the data set and F here"),
    "people who do not exist": (generated, "home", "the two never mix"),
}


def test_there_are_enough_faults() -> None:
    """At least 40 different faults are planted."""
    assert len(FAULTS) >= 40


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_caught(fault: str, home: Home, good: Path, tmp_path: Path) -> None:
    """The batch is refused with the place, the reason and what to do, and the data set stays as it was."""
    plant, place, why = FAULTS[fault]
    folder = shutil.copytree(good, tmp_path / "nih")
    plant(folder)
    before = batches.data_revision(home)
    with pytest.raises(DataError) as caught:
        ingest.run("nih", folder, batch="good", home=home)
    message = str(caught.value)
    told = [line for line in message.splitlines() if place in line]
    assert told, message
    assert why in message
    assert caught.value.fix, message
    assert batches.data_revision(home) == before


def test_the_untouched_batch_passes(home: Home, good: Path) -> None:
    """Nothing is found in the good batch, which enters; it comes last, since the others need a data set without it."""
    result = ingest.run("nih", good, batch="good", home=home)
    assert (result.images, result.quarantined, result.problems) == (40, 0, None)
