"""Tables that people bring along: columns by name, and what editions and programs write differently."""

from __future__ import annotations

import csv
import gzip
import io
import os
from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data import tables
from cxr_ops.errors import DataError

RELEASE = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = (
    "00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,No Finding,1,1,59,M,AP,2894,2729,0.143,0.143",
)


def table(folder: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> tables.Table:
    path = folder / "table.csv"
    path.write_bytes(("\n".join(lines) + end).encode(encoding))
    return tables.read(path)


def as_pandas_writes(*lines: str) -> list[str]:
    """The same table, read and written by pandas, with its index."""
    out = io.StringIO()
    pd.read_csv(io.StringIO("\n".join(lines)), dtype=str).to_csv(out)
    return out.getvalue().splitlines()


def quoted(*lines: str) -> list[str]:
    """The release's header with each name quoted, as a program writes it that knows which name holds a comma."""
    names = [*RELEASE.split(",")[:7], "OriginalImage[Width,Height]", "OriginalImagePixelSpacing[x,y]"]
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerow(names)
    return [out.getvalue().strip(), *lines]


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        ([RELEASE, *ROWS], None),
        ([RELEASE + ",", *ROWS], None),
        ([RELEASE + ",", *(row + "," for row in ROWS)], None),
        ([RELEASE, *(row + ",,," for row in ROWS)], None),
        (quoted(*ROWS), None),
        (as_pandas_writes(RELEASE, *ROWS), None),
        ([RELEASE.replace("Gender", "Sex"), *ROWS], None),
        ([RELEASE.replace("[Width,Height]", "Width,OriginalImageHeight"), *ROWS], None),
        ([RELEASE, *ROWS, ",,,,,,,,,,", "", ",,"], "2 empty rows left out"),
        ([line.replace(",", ";") for line in (RELEASE, *ROWS)], "fields are separated by semicolons"),
        (["sep=;", *(line.replace(",", ";") for line in (RELEASE, *ROWS))], "fields are separated by semicolons"),
        ([line.replace(",", "\t") for line in (RELEASE, *ROWS)], "fields are separated by tabs"),
    ],
    ids=[
        *("corrected", "first", "both commas", "rows alone", "quoted", "pandas", "sex", "kaggle", "excel's empty rows"),
        *("semicolons", "declared", "tabs"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_edition_of_a_table_reads_the_same(
    tmp_path: Path, lines: list[str], note: str | None, encoding: str
) -> None:
    """What the NIH, Kaggle, Excel and pandas write differently gives the same columns, and the change is told."""
    read = table(tmp_path, *lines, encoding=encoding).whole()
    assert read.columns["image_id"] == ("00000001_000.png", "00000001_001.png")
    assert read.columns["Finding Labels"] == ("Cardiomegaly", "No Finding")
    assert [read.columns[name] for name in ("patient_id", "age", "sex", "view")] == [
        *(("1", "1"), ("58", "59"), ("M", "M"), ("PA", "AP"))
    ]
    told = ["the file is UTF-16"] if encoding == "utf-16" else []
    assert list(read.notes) == told + ([note] if note else [])
    first = 3 if lines[0].startswith("sep=") else 2
    assert read.lines[:2] == (first, first + 1)
    assert read.at(0).endswith(f"table.csv, line {first}")


def test_values_stay_as_they_stand(tmp_path: Path) -> None:
    """No blank is taken away, no number is made of a text, and a word such as NA is one."""
    read = table(tmp_path, "image_id,Mass,patient_id", " a.png ,NA,007")
    assert read.columns == {"image_id": (" a.png ",), "Mass": ("NA",), "patient_id": ("007",)}


@pytest.mark.parametrize(
    ("lines", "end", "line", "fields", "expected"),
    [
        ([RELEASE, ROWS[0], ROWS[1][:40]], "\n", 3, 8, 11),
        ([RELEASE, ROWS[0] + ",9", ROWS[1]], "\n", 2, 12, 11),
        ([RELEASE, *ROWS, "00000002"], "", 4, 1, 11),
        (["Image Index,Mass,,,", "a.png,1,,,", "b.png,1"], "", 3, 2, 5),
    ],
    ids=["short", "long", "the last", "the last, with enough fields"],
)
def test_a_row_that_was_cut_is_named(
    tmp_path: Path, lines: list[str], end: str, line: int, fields: int, expected: int
) -> None:
    """A row with too few or too many fields is left out and told with its line, or ends the reading."""
    read = table(tmp_path, *lines, end=end)
    assert [(cut.line, cut.fields, cut.expected) for cut in read.cut] == [(line, fields, expected)]
    assert line not in read.lines
    with pytest.raises(
        DataError, match=f"the row has {fields} fields, not {expected}: the table may have been cut"
    ) as caught:
        read.whole()
    assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["image_id,Mass,Mass", "a,1,0"], "two columns are called 'Mass'"),
        (["Image Index,image_id", "a,a"], "'Image Index' and 'image_id' hold the same"),
        (["Image Index,Patient Sex,Patient Gender", "a,F,F"], "'Patient Sex' and 'Patient Gender' hold the same"),
        ([""], "the table is empty"),
        (["image_id,Mass", "a\0,1"], "NUL"),
        (['image_id,"Mass', "a,1"], "not CSV"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, lines: list[str], what: str) -> None:
    """A column twice, by one name or two, nothing at all, a NUL byte and an open quote are errors with their place."""
    with pytest.raises(DataError, match=what) as caught:
        table(tmp_path, *lines)
    assert "table.csv" in str(caught.value)


def test_other_encodings_and_missing_files_are_refused(tmp_path: Path) -> None:
    """Latin-1, half of a UTF-16 character and an absent file are errors that name the file."""
    path = tmp_path / "table.csv"
    path.write_bytes("image_id\nä.png\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8") as caught:
        tables.read(path)
    assert "line 2" in str(caught.value)
    path.write_bytes("image_id\na\n".encode("utf-16")[:-1])
    with pytest.raises(DataError, match="UTF-16 and cut short"):
        tables.read(path)
    with pytest.raises(DataError, match="is missing"):
        tables.read(tmp_path / "nowhere.csv")


def test_a_packed_table_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in gzip is read up to a bound; one that unpacks to more, is packed twice or cut short is refused."""
    path = tmp_path / "table.csv.gz"
    data = b"image_id\n" + b"a.png\n" * 2000
    path.write_bytes(gzip.compress(data))
    assert len(tables.read(path)) == 2000
    with monkeypatch.context() as patch:
        patch.setattr(tables, "_LARGEST", len(data) - 1)
        with pytest.raises(DataError, match="unpacks to more than"):
            tables.read(path)
    path.write_bytes(gzip.compress(gzip.compress(data)))
    with pytest.raises(DataError, match="the file is compressed, not text"):
        tables.read(path)
    path.write_bytes(gzip.compress(data)[:-9])
    with pytest.raises(DataError, match="no gzip, or cut short"):
        tables.read(path)


def test_numbers_are_read_as_the_table_writes_them(tmp_path: Path) -> None:
    """0,5 is a half where semicolons separate fields, and no number where commas do; a missing one is NaN."""
    german, plain = table(tmp_path, "image_id;Mass", "a;0,5"), table(tmp_path, "image_id,Mass", "a,0.5")
    assert german.number(german.columns["Mass"][0]) == german.number("0.5") == plain.number("0.5") == 0.5
    assert all(pd.isna(plain.number(text)) for text in ("", "nan", "NA", "None"))
    for text in ("0,5", "half"):
        with pytest.raises(ValueError, match="could not convert"):
            plain.number(text)


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *(("58", 58), ("058Y", 58), ("58.0", 58), ("0", 0), ("011M", 0), ("023M", 1), ("009D", 0), ("400D", 1)),
        *(("053W", 1), ("", None), ("nan", None), ("121", None), ("414Y", None), ("120", 120)),
    ],
)
def test_ages_are_whole_years_that_have_passed(text: str, years: int | None) -> None:
    """Ages of DICOM, of pandas and of the release are years; none, and more than 120, are missing."""
    read = tables.read_ages([text])
    assert (read.years, read.bad) == ((years,), ())
    assert bool(read.notes) == (text != str(years))


def test_what_is_no_age_is_told_apart_from_a_missing_one() -> None:
    """A part of a year, a negative number and a word are no ages."""
    assert tables.read_ages(["5", "23.5", "-1", "old", "5X", "²"]).bad == (1, 2, 3, 4, 5)


def test_notes_count_what_was_read_in_another_way() -> None:
    """Each way of writing an age is told with how many have it."""
    assert tables.read_ages(["058Y", "060Y", "006M", "61.0", "", "414"]).notes == (
        "2 of 6 ages are written like 058Y and read as whole years",
        "1 of 6 ages is in months, weeks or days and became whole years",
        "1 of 6 ages is written like 58.0 and read as whole years",
        "2 of 6 ages are empty or above 120 years and taken as missing",
    )


@pytest.mark.parametrize(
    ("ids", "are", "note"),
    [
        (["12.0", "12", "0012"], ["12"] * 3, "1 of 3 patient ids is written like 1.0: ids are read as numbers"),
        (["12.5", "v1.0", "1.0.0"], ["12.5", "v1.0", "1.0.0"], None),
        (["03-Jan", "Jan-03", "x"], ["03-Jan", "Jan-03", "x"], "2 of 3 patient ids look like dates, such as 03-Jan"),
        (["2026-01-03", "3-1", "x"], ["2026-01-03", "3-1", "x"], "1 of 3 patient ids looks like a date, such as 2026"),
    ],
)
def test_ids_that_other_programs_changed(ids: list[str], are: list[str], note: str | None) -> None:
    """pandas makes 12.0 of 12, which is the same patient; what a spreadsheet made a date of, nobody knows."""
    found, notes = tables.read_patients(ids)
    assert list(found) == are
    assert any(told.startswith(note) for told in notes) if note else notes == ()


def test_a_pipe_of_the_shell_is_read(tmp_path: Path) -> None:
    """`<(...)` gives a pipe without a name, which is waited for as the person who typed it wants."""
    reader, writer = os.pipe()
    os.write(writer, b"a,b\n1,2\n")
    os.close(writer)
    try:
        assert tables.read(Path(f"/dev/fd/{reader}")).columns == {"a": ("1",), "b": ("2",)}
    finally:
        os.close(reader)
