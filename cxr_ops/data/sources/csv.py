"""Any folder of pictures with a table: a hospital's own export. A mapping file says which columns are what.

    PATH/
      labels.csv                      any CSV; columns are found by name
      pictures/...                    PNG or JPEG, in folders of any depth
      mapping.yaml                    or a file that is named with --mapping

A mapping, with all that it may hold:

    table: labels.csv                 # from the folder
    images: pictures                  # folder that the paths in the table start from; the folder itself if left out
    image: file                       # column with the path of the picture
    patient: pid                      # column with the (pseudonymous) patient id
    age: age                          # whole years, or 058Y
    sex: {column: gender, values: {female: F, male: M}}
    view: {column: projection, values: {pa: PA, ap: AP, lat: LATERAL}}     # or {constant: PA}
    findings:                         # one column a finding ...
      Pneumonia: pneumonia            # holds 1, 0, -1 (uncertain) or nothing
      Effusion: {column: fluid, values: {"yes": 1, "no": 0, "?": -1, "n/a": null}}
    labels:                           # ... or one column with names
      column: diagnoses
      separator: "|"
      names: {pleural effusion: Effusion, pneumonia: Pneumonia, normal: No Finding}
      others: refuse                  # or ignore: names that stand for none of the findings
      unnamed: 0                      # what a finding is that a row does not name: 0, or null (missing)
    attributes: [scanner, ward]       # columns that subgroups may be formed by

What is not mapped is missing, not 0. Images, patients and findings must be mapped; the rest may be left out. A row
whose value has no meaning in the mapping is a problem of that row. Uncertain labels follow `--uncertain`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxr_ops import voice
from cxr_ops.data import side_table, tables
from cxr_ops.data.manifest import IMAGE_ID
from cxr_ops.data.sources.source import (
    Listing,
    Options,
    Problem,
    Row,
    Source,
    flat_name,
    of_row,
    one_each,
    sex_problems,
)
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS, NO_FINDING, OTHER_VIEWS, SEXES, VIEWS, nearest
from cxr_ops.params import explain_validation
from cxr_ops.plan import OneOfEachKey

MAPPING: Final = "mapping.yaml"
_PLAIN: Final = {"1": 1, "1.0": 1, "True": 1, "0": 0, "0.0": 0, "False": 0, "-1": -1, "-1.0": -1}


def _known(name: str) -> str:
    if name not in FINDINGS:
        guess = nearest(name, FINDINGS)
        raise ValueError(f"{name!r} is not a finding" + (f"; did you mean {guess!r}?" if guess else ""))
    return name


def _known_or_none(name: str) -> str:
    return name if name == NO_FINDING else _known(name)


Finding = Annotated[str, AfterValidator(_known)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Part):
    """Where a value stands and what its texts mean: a column, alone or with a meaning for each text, or a constant."""

    column: str | None = None
    values: dict[str, str] = {}
    constant: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give a column or a constant")
        return self


class FindingColumn(_Part):
    """A finding's column, and what its texts mean where they are not 1, 0, -1 and nothing."""

    column: str
    values: dict[str, Literal[1, 0, -1] | None] = {}

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value


class Labels(_Part):
    """A column that names the findings of an image."""

    column: str
    separator: Annotated[str, Field(min_length=1)] = "|"
    names: dict[str, Annotated[str, AfterValidator(_known_or_none)]] = {}
    others: Literal["refuse", "ignore"] = "refuse"
    unnamed: Literal[0] | None = 0

    @model_validator(mode="after")
    def _names_mean_one_thing(self) -> Self:
        meant: dict[str, str] = {}
        for text, finding in self.names.items():
            other = meant.setdefault(text.strip().lower(), finding)
            if other != finding:
                raise ValueError(f"{text!r} stands for {finding} and for {other}: capitals and blanks do not matter")
        return self

    @property
    def meanings(self) -> dict[str, str]:
        """Every name that is understood, in small letters; without `names`, those of the findings themselves."""
        names = self.names or {name: name for name in (*FINDINGS, NO_FINDING)}
        return {text.strip().lower(): finding for text, finding in names.items()}


class Mapping(_Part):
    """A mapping file."""

    table: str
    images: str = "."
    image: str
    patient: str
    age: str | None = None
    sex: Column | None = None
    view: Column | None = None
    findings: dict[Finding, FindingColumn] = {}
    labels: Labels | None = None
    attributes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _labels_something(self) -> Self:
        if bool(self.findings) == (self.labels is not None):
            raise ValueError("give either findings (a column each) or labels (one column of names)")
        return self

    @property
    def labelled(self) -> tuple[str, ...]:
        """The findings that this table can speak of, in the order of `FINDINGS`."""
        names = self.findings if self.labels is None else set(self.labels.meanings.values())
        return tuple(finding for finding in FINDINGS if finding in names)

    def columns(self) -> list[str]:
        """All columns that the table must have."""
        parts = [self.sex, self.view, self.labels, *self.findings.values()]
        named = [part.column for part in parts if part is not None and part.column is not None]
        age = [self.age] if self.age is not None else []
        return [self.image, self.patient, *age, *named, *self.attributes]


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """Read a folder as its mapping file says.

    Raises:
        SettingsError: the mapping is missing, is no mapping, or names a column that the table does not have.
        DataError: the folder or its table is missing or damaged, or there are no rows. What concerns single rows is
            not raised but listed in `problems`.
    """
    options = options or Options()
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, fix="name the folder that holds the table")
    path = options.mapping or folder / MAPPING
    mapping = read_mapping(path)
    table = tables.read(folder / mapping.table, {})
    absent = [name for name in mapping.columns() if name not in table.columns]
    if absent:
        guess = nearest(absent[0], table.columns)
        raise SettingsError(
            f"the mapping names the column {absent[0]!r}, which {mapping.table} does not have"
            + (f"; did you mean {guess!r}?" if guess else f"; it has {', '.join(table.columns)}"),
            where=path,
            fix=f"edit {path}",
        )
    result = Listing(
        source="csv",
        table=mapping.table,
        total=len(table) + len(table.cut),
        notes=list(table.notes),
        findings=mapping.labelled,
    )
    if not result.total:
        raise DataError("the batch is empty: the table has a header and no rows", where=folder / mapping.table)
    problems = [Problem(str(cut), mapping.table, cut.line, cut.first) for cut in table.cut]
    rows: list[Row] = []
    for row, found in _Reader(folder, mapping, table, options).rows(result):
        problems += [of_row(what, mapping.table, row) for what in found]
        if not found:
            rows.append(row)
    problems += sex_problems(result, rows)
    result.problems = one_each(problems)
    bad = {problem.line for problem in result.problems}
    result.rows = [row for row in rows if row.line not in bad]
    return result


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file.

    Raises:
        SettingsError: it is missing, not YAML, or a key is unknown, missing or of the wrong kind.
    """
    tables.refuse_pipe(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=OneOfEachKey)  # noqa: S506 - it is a safe loader
    except FileNotFoundError as error:
        raise SettingsError(
            "the mapping is missing",
            where=path,
            fix="write it (docs/your-data.md shows one), or name it: --mapping FILE",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"the mapping is not YAML: {error}", where=path) from error
    if not isinstance(document, dict):
        raise SettingsError("the mapping is empty", where=path, fix=f"edit {path}")
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        raise explain_validation(error, Mapping, path) from error


def recognise(folder: Path) -> str | None:
    """Whether a folder holds a mapping file; see `Source.recognise`."""
    return f"{MAPPING} is here" if (folder / MAPPING).is_file() else None


SOURCE: Final = Source(
    kind="csv",
    read=read_folder,
    looks_for=f"{MAPPING}, which says which columns of a table are what",
    recognise=recognise,
    takes=("mapping", "uncertain", "view"),
)


class _Reader:
    """Reads the rows of a table as a mapping says."""

    def __init__(self, folder: Path, mapping: Mapping, table: tables.Table, options: Options) -> None:
        self._folder, self._mapping, self._table, self._options = folder, mapping, table, options
        self._root = folder / mapping.images
        self._attributes = {
            column: side_table.attribute_name(column, folder / mapping.table) for column in mapping.attributes
        }
        self._ignored: Counter[str] = Counter()

    def rows(self, result: Listing) -> list[tuple[Row, list[str]]]:
        """Each row and what is wrong with it; notes and attributes go to `result`."""
        mapping, columns = self._mapping, self._table.columns
        nothing = ("",) * len(self._table)
        ages = tables.read_ages(columns[mapping.age] if mapping.age else nothing)
        patients, told = tables.read_patients(columns[mapping.patient])
        result.notes += [*told, *(ages.notes if mapping.age else ())]
        bad_ages = set(ages.bad)
        read: list[tuple[Row, list[str]]] = []
        for at, line in enumerate(self._table.lines):
            found: list[str] = []
            image_id, path = self._image(columns[mapping.image][at], found)
            if why := tables.no_patient(columns[mapping.patient][at]):
                found.append(why)
            if at in bad_ages:
                found.append(f"the age {columns[mapping.age or ''][at]!r} is not a whole number of years")
            sex = self._value(mapping.sex, at, SEXES, "sex", found)
            view = self._value(mapping.view, at, (*VIEWS, *OTHER_VIEWS), "view", found) or self._options.view
            labels = self._labels(at, found)
            read.append((Row(line, image_id, patients[at], labels, ages.years[at], sex, view, path), found))
            if self._attributes:
                said = {name: columns[column][at].strip() for column, name in self._attributes.items()}
                result.attributes[image_id] = {
                    name: "" if tables.missing(value) else value for name, value in said.items()
                }
        self._refuse_twice(read)
        if self._ignored:
            most = ", ".join(f"{name} ({count:,})" for name, count in self._ignored.most_common(5))
            result.notes.append(
                f"{voice.count(self._ignored.total(), 'name stands', 'names stand')} for none of the findings: {most}"
            )
        return read

    def _refuse_twice(self, read: list[tuple[Row, list[str]]]) -> None:
        """Images that are named twice, or whose paths give one id: which of the rows is right cannot be told."""
        places = dict(zip(self._table.lines, map(str.strip, self._table.columns[self._mapping.image]), strict=True))
        named: defaultdict[str, list[tuple[Row, list[str]]]] = defaultdict(list)
        for row, found in read:
            named[row.image_id.lower()].append((row, found))
        for rows in named.values():
            for row, found in rows if len(rows) > 1 else ():
                twin = next(other for other, _ in rows if other is not row)
                if places[row.line] == places[twin.line]:
                    found.append(f"the image is named twice, also on line {twin.line}")
                else:
                    found.append(
                        f"its path gives the image id {row.image_id}, and so does {places[twin.line][:120]!r} on line "
                        f"{twin.line}: rename one of them"
                    )

    def _image(self, text: str, found: list[str]) -> tuple[str, Path]:
        place = text.strip().replace("\\", "/")
        parts = place.split("/")
        if not place or place.startswith("/") or ".." in parts:
            found.append(f"{text[:120]!r} is not the path of a picture in {self._mapping.images}")
            return flat_name(place)[:100], Path()
        path = self._root / place
        image_id = flat_name(place)
        if not IMAGE_ID.fullmatch(image_id):
            found.append(f"{text[:120]!r} cannot name an image: up to 100 letters and digits, ending in .png or .jpg")
        elif any(
            part.is_symlink()
            for part in (path, *path.parents)
            if part != self._folder and part.is_relative_to(self._folder)
        ):
            found.append("the picture, or its folder, is a link, which may lead anywhere")
        elif not path.is_file():
            found.append(f"the image is missing: there is no {self._mapping.images}/{place}")
        return image_id, path

    def _value(self, column: Column | None, at: int, known: tuple[str, ...], what: str, found: list[str]) -> str:
        if column is None:
            return ""
        text = (column.constant or self._table.columns[column.column or ""][at]).strip()
        value = column.values.get(text, text)
        if tables.missing(value):
            return ""
        if value not in known:
            found.append(f"the {what} {text!r} is not one of {', '.join(known)}, and the mapping gives it no meaning")
        return value

    def _labels(self, at: int, found: list[str]) -> tuple[int | None, ...]:
        if self._mapping.labels is not None:
            said = self._named(self._mapping.labels, at, found)
        else:
            said = {name: self._one(name, column, at, found) for name, column in self._mapping.findings.items()}
        return tuple(self._options.settle(name, said.get(name)) for name in FINDINGS)

    def _one(self, finding: str, column: FindingColumn, at: int, found: list[str]) -> int | None:
        text = self._table.columns[column.column][at].strip()
        if text in column.values:
            return column.values[text]
        if tables.missing(text):
            return None
        if text not in _PLAIN:
            found.append(
                f"{finding} is {text!r}, which is not 1, 0, -1 or nothing, and the mapping gives it no meaning"
            )
        return _PLAIN.get(text)

    def _named(self, labels: Labels, at: int, found: list[str]) -> dict[str, int | None]:
        text = self._table.columns[labels.column][at]
        meanings = labels.meanings
        names = [name for part in text.split(labels.separator) if (name := part.strip())]
        if all(tables.missing(name) and name.lower() not in meanings for name in names):
            return {}  # where nothing is said, nothing is known
        named: set[str] = set()
        for name in names:
            if name.lower() in meanings:
                named.add(meanings[name.lower()])
            elif labels.others == "ignore":
                self._ignored[name] += 1
            else:
                guess = nearest(name, meanings)
                hint = f"; the nearest is {guess!r}" if guess else ""
                found.append(f"{name!r} stands for none of the findings in the mapping{hint}")
        if NO_FINDING in named and len(named) > 1:
            found.append(f"{text!r} says {NO_FINDING!r} and names a finding as well")
        absent = 0 if NO_FINDING in named else labels.unnamed
        return {name: 1 if name in named else absent for name in self._mapping.labelled}
