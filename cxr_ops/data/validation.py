"""Checks a manifest against the expectations in `expectations/`, and writes what was found for people to read.

The suites are great-expectations 1.x files that anyone can review; this module adds what a suite cannot say, since
every expectation on rows holds for no rows: that there are enough images and patients, and that boxes fit their images.

An expectation is of one table (`meta.of` in the suite): `images` (a row an image), `batches` (what each batch's
`batch.json` states, beside what is there) or `comparisons` (a new batch beside the data set; see `data.drift`).

Two audiences: the page, `validation.json` and `failures.csv` hold no image id and no patient id (a row is named as
batch:line, the line of the batch's manifest), and so may be passed on; the error that ends a run names the image too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack

import pandas as pd

from cxr_ops.data import manifest
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS, SEXES, UNCERTAIN, VIEWS
from cxr_ops.records.base import sha256_file
from cxr_ops.records.validation import Checked, Group, Labels, Validated

Severity = Literal["critical", "warning"]

IMAGES: Final = "images"
BATCHES: Final = "batches"
COMPARISONS: Final = "comparisons"
_TABLES: Final = (IMAGES, BATCHES, COMPARISONS)
FAILURES: Final = "failures.csv"
FAILURE_COLUMNS: Final = ("suite", "expectation", "severity", "batch", "line")

_SIZE: Final = "size"  # the suite of the checks of how many there are
_NAMED: Final = 20  # rows that an error or the page names; the rest is a count
AGES: Final = ((0, 19), (20, 39), (40, 59), (60, 79), (80, 120))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation and what came of it.

    `says` is the expectation in words; a failed one with severity `warning` is shown and lets the data pass. `rows` are
    positions in the frame, all of those that failed; `found` is what was observed where the check is of a column as a
    whole, and names every row that failed where it is of another table than the images.
    """

    suite: str
    says: str
    severity: Severity
    passed: bool
    rows: tuple[int, ...] = ()
    found: str = ""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """All checks of one data set, in the order of the suites, and the SHA-256 of each suite's file."""

    checks: tuple[Check, ...]
    suites: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every critical check passed."""
        return not any(not check.passed and check.severity == "critical" for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """The critical checks that failed."""
        return [check for check in self.checks if not check.passed and check.severity == "critical"]

    @property
    def warnings(self) -> list[Check]:
        """The checks that failed and let the data pass."""
        return [check for check in self.checks if not check.passed and check.severity == "warning"]


class Beside(TypedDict, total=False):
    """What is known of a manifest besides its rows and boxes; each may be left out.

    labelled: the findings that the source of each batch labels; all, of a batch that is not named. Where no batch
        labels a finding, nothing is expected of its column, and a warning says so.
    pixels: digest of each image's pixels, in the order of the manifest; "" where there is none. Without it an
        expectation of `pixels_sha256` fails.
    sides: for a patient, the sides that batches with a split of their own give; see `manifest.all_sides`.
    batches: what `manifest.read_stated` gives; without it, nothing is expected of that table.
    comparisons: what `drift.table` gives; without it, nothing is expected of that table.
    drift_alpha: the adjusted p-value below which a share has changed.
    drift_fails: whether a failed expectation of the comparisons is critical, whatever the suite says.
    """

    labelled: Mapping[str, Collection[str]]
    pixels: pd.Series[str]
    sides: Mapping[str, set[str]]
    batches: pd.DataFrame
    comparisons: pd.DataFrame
    drift_alpha: float
    drift_fails: bool


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Suites, and what they are of.

    `tables` are by name; `unasked` are findings that no source labels; `parameters` are what suites leave open.
    """

    tables: Mapping[str, pd.DataFrame]
    suites: Sequence[dict[str, Any]]
    parameters: Mapping[str, float]
    unasked: Sequence[str]


def beside(dataset: Path, frame: pd.DataFrame) -> Beside:
    """What a data set's folder says besides its manifest.

    Raises:
        DataError: a file of a batch is missing or damaged.
    """
    folders = manifest.batch_folders(dataset)
    return Beside(
        labelled={record.name: record.findings for record in manifest.read_records(dataset)},
        pixels=manifest.read_pixels(folders, frame["image_id"].tolist()),
        sides=manifest.all_sides(folders),
        batches=manifest.read_stated(folders),
    )


def prepare(frame: pd.DataFrame, suites: Sequence[Path], more: Beside) -> Prepared:
    """Read suites, and make the tables that they are of; see `validate`."""
    labelled, pixels = more.get("labelled", {}), more.get("pixels")
    asked = {name: set(labelled.get(name, FINDINGS)) for name in frame["batch"].unique()}
    unasked = [finding for finding in FINDINGS if not any(finding in names for names in asked.values())]
    drift_fails = more.get("drift_fails", False)
    documents = [_as_set(_without(_read_suite(path), unasked), drift_fails=drift_fails) for path in suites]
    tables = {IMAGES: _images(frame, documents, asked, pixels, more.get("sides", {}))}
    others = ((BATCHES, more.get("batches")), (COMPARISONS, more.get("comparisons")))
    tables |= {name: table for name, table in others if table is not None}
    parameters = {"drift_alpha": more.get("drift_alpha", 0.0)}
    return Prepared(tables=tables, suites=documents, parameters=parameters, unasked=unasked)


def validate(
    frame: pd.DataFrame,
    boxes: pd.DataFrame,
    suites: Sequence[Path],
    *,
    min_images: int = 1,
    min_patients: int = 1,
    **more: Unpack[Beside],
) -> Validation:
    """Check a manifest and its boxes.

    Args:
        frame: as `manifest.read_manifest` gives it.
        boxes: as `manifest.read_boxes` gives it.
        suites: great-expectations suites as JSON files.
        min_images: fewer images fail.
        min_patients: fewer patients fail.
        more: see `Beside`.

    Raises:
        DataError: the manifest has no rows. (Nearly every expectation holds for no rows.)
        SettingsError: a suite is missing, is not JSON, or holds an expectation that great-expectations does not know.
    """
    if frame.empty:
        raise DataError(
            "the data set is empty: no batch has an image that is not withdrawn",
            fix="ingest another batch: cxr-ops ingest auto FOLDER --batch NAME",
        )
    prepared = prepare(frame, suites, more)
    checks = [
        *_size_checks(frame, min_images, min_patients),
        *_run(prepared),
        *([_unlabelled_check(prepared.unasked)] if prepared.unasked else []),
        _box_check(frame, boxes),
    ]
    return Validation(
        checks=tuple(checks),
        suites={document["name"]: sha256_file(path) for document, path in zip(prepared.suites, suites, strict=True)},
    )


def failing_rows(validation: Validation, frame: pd.DataFrame) -> pd.DataFrame:
    """Every row of the manifest that failed a check, for each check that it failed: `FAILURE_COLUMNS`.

    Args:
        validation: what `validate` found.
        frame: the manifest that it was given.
    """
    rows = [
        (check.suite, check.says, check.severity, batch, line)
        for check in validation.checks
        if not check.passed
        for batch, line, _ in _named_rows(frame, check.rows)
    ]
    return pd.DataFrame(rows, columns=list(FAILURE_COLUMNS))


def failure(validation: Validation, frame: pd.DataFrame, *, page: Path | None, fix: str) -> DataError:
    """The error that ends a run on data that failed: each check in words, and the rows by batch, line and image.

    It names the first rows of each check; `failing_rows` gives all, and is written beside the page.

    Args:
        validation: what `validate` found.
        frame: the manifest that it was given.
        page: the validation page; None where none was written.
        fix: what to do about rows that are wrong.
    """
    lines = []
    for check in validation.failures:
        lines.append(f"{check.says} Not so{': ' + check.found if check.found else ''}.")
        for batch, line, image_id in _named_rows(frame, check.rows[:_NAMED]):
            lines.append(f"    {batch}:{line}  {image_id}")
        if len(check.rows) > _NAMED:
            lines.append(f"    and {len(check.rows) - _NAMED:,} more" + (f"; all in {FAILURES}" if page else ""))
    count = len(validation.failures)
    few = any(check.suite == _SIZE for check in validation.failures)
    steps = ["ingest more, or lower validate.min_images and validate.min_patients in params.yaml"] if few else []
    if any(check.suite != _SIZE for check in validation.failures):
        steps.append(fix)
    return DataError(
        f"the data failed {count} check{'s' if count > 1 else ''}\n  " + "\n  ".join(lines),
        where=page,
        fix="; ".join(steps),
    )


def record(validation: Validation, frame: pd.DataFrame) -> Validated:
    """What was checked, what was found, and the counts of the data, without identifiers."""
    return Validated(
        passed=validation.passed,
        suites=validation.suites,
        images=len(frame),
        patients=int(frame["patient_id"].nunique()),
        checks=[
            Checked(
                suite=check.suite,
                says=check.says,
                severity=check.severity,
                passed=check.passed,
                rows=len(check.rows),
                first_rows=[f"{batch}:{line}" for batch, line, _ in _named_rows(frame, check.rows[:_NAMED])],
                found=check.found,
            )
            for check in validation.checks
        ],
        groups=groups(frame),
    )


def groups(frame: pd.DataFrame) -> list[Group]:
    """Count images and patients of all and of each batch, view and sex, and of each finding the labels.

    `known` are the images whose label is 1 or 0. A group without images is left out.
    """
    keys: list[tuple[Literal["all", "batch", "view", "sex"], str, pd.Series[bool]]] = [
        ("all", "all", pd.Series(data=True, index=frame.index))
    ]
    keys += [("batch", str(name), frame["batch"] == name) for name in sorted(frame["batch"].dropna().unique())]
    others = sorted(set(frame["view"].dropna()) - {*VIEWS, ""})
    keys += [("view", name, frame["view"] == name) for name in (*VIEWS, *others)]
    keys += [("view", "unknown", frame["view"].isna() | (frame["view"] == ""))]
    keys += [("sex", name, frame["sex"] == name) for name in SEXES]
    result = []
    for kind, name, members in keys:
        rows = frame[members]
        if rows.empty:
            continue
        result.append(
            Group(
                kind=kind,
                name=name,
                images=len(rows),
                patients=int(rows["patient_id"].nunique()),
                findings={finding: count_labels(rows[finding]) for finding in FINDINGS},
            )
        )
    return result


def count_labels(column: pd.Series[Any]) -> Labels:
    """Count the labels of one finding: 1, 1 or 0, and uncertain ones."""
    return Labels(
        positive=int((column == 1).sum()),
        known=int(column.isin([0, 1]).sum()),
        uncertain=int((column == UNCERTAIN).sum()),
    )


def page(validation: Validation, frame: pd.DataFrame) -> str:
    """The validation page: one HTML file without scripts, addresses or identifiers; equal bytes for equal data."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cxr_ops.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    every, *parts = groups(frame)
    ages = frame["age"].dropna()
    return environment.get_template("validation.html.j2").render(
        validation=validation,
        checks=[
            (check, [f"{batch}:{line}" for batch, line, _ in _named_rows(frame, check.rows[:_NAMED])])
            for check in validation.checks
        ],
        findings=FINDINGS,
        every=every,
        people=[every, *(part for part in parts if part.kind != "batch")],
        batches=[part for part in parts if part.kind == "batch"],
        ages=[(f"{low} to {high}", int(ages.between(low, high).sum())) for low, high in AGES],
        ages_missing=int(frame["age"].isna().sum()),
        named=_NAMED,
    )


def _size_checks(frame: pd.DataFrame, min_images: int, min_patients: int) -> list[Check]:
    counts = (("images", len(frame), min_images), ("patients", int(frame["patient_id"].nunique()), min_patients))
    return [
        Check(
            suite=_SIZE,
            says=f"There are at least {least:,} {what}.",
            severity="critical",
            passed=count >= least,
            found=f"{count:,} {what}",
        )
        for what, count, least in counts
    ]


def _box_check(frame: pd.DataFrame, boxes: pd.DataFrame) -> Check:
    joined = boxes.merge(
        frame[["image_id", "width", "height"]].assign(row=range(len(frame))), on="image_id", how="left"
    )
    inside = (
        (joined["x"] >= 0)
        & (joined["y"] >= 0)
        & (joined["w"] > 0)
        & (joined["h"] > 0)
        & (joined["x"] + joined["w"] <= joined["width"] + 1)  # the release's boxes are rounded: one pixel is given
        & (joined["y"] + joined["h"] <= joined["height"] + 1)
    )
    good = inside & joined["finding"].isin(FINDINGS) & joined["row"].notna()
    return Check(
        suite="boxes",
        says="Every box is around one of the 14 findings and lies in an image of the data set.",
        severity="critical",
        passed=bool(good.all()),
        rows=tuple(sorted({int(row) for row in joined.loc[~good, "row"].dropna()})),
        found="" if good.all() else f"{int((~good).sum()):,} of {len(joined):,} boxes are not",
    )


def _without(document: dict[str, Any], findings: Sequence[str]) -> dict[str, Any]:
    """A suite without what it expects of the columns of these findings."""
    columns = {*findings, *(f"{finding}_known" for finding in findings)}
    kept = [item for item in document["expectations"] if item["kwargs"].get("column") not in columns]
    return {**document, "expectations": kept}


def _unlabelled_check(findings: Sequence[str]) -> Check:
    return Check(
        suite="labels",
        says="Every finding is labelled by some source of the data.",
        severity="warning",
        passed=False,
        found=f"{', '.join(findings)} {'is' if len(findings) == 1 else 'are'} not",
    )


def _as_set(document: dict[str, Any], *, drift_fails: bool) -> dict[str, Any]:
    """A suite in which drift has the severity that the settings give it."""
    severity = "critical" if drift_fails else "warning"
    items = [
        {**item, "severity": severity} if table_of(item) == COMPARISONS else item for item in document["expectations"]
    ]
    return {**document, "expectations": items}


def _images(
    frame: pd.DataFrame,
    documents: Sequence[Mapping[str, Any]],
    asked: Mapping[str, Collection[str]],
    pixels: pd.Series[str] | None,
    sides: Mapping[str, set[str]],
) -> pd.DataFrame:
    """The table `images`: those columns that a suite speaks of, and that there are."""
    made = _counted(frame, asked, pixels, sides)
    wanted = sorted({name for document in documents for name in _spoken_of(document, IMAGES)})
    columns = {name: made[name]() if name in made else frame[name] for name in wanted if name in made or name in frame}
    return pd.DataFrame({name: _plain(column).reset_index(drop=True) for name, column in columns.items()})


def _counted(
    frame: pd.DataFrame,
    asked: Mapping[str, Collection[str]],
    pixels: pd.Series[str] | None,
    sides: Mapping[str, set[str]],
) -> dict[str, Callable[[], pd.Series[Any]]]:
    """The columns of the table `images` that are not the manifest's own, each made when a suite speaks of it."""
    by_patient = frame.groupby("patient_id", dropna=False)
    labels = frame[list(FINDINGS)]

    def count_sexes() -> pd.Series[Any]:
        sexes = frame.assign(sex=_known(frame["sex"])).groupby("patient_id", dropna=False)["sex"].transform("nunique")
        return sexes.mask(sexes == 0)

    def count_given() -> pd.Series[Any]:
        given = labels.notna().sum(axis=1).astype("Int64")
        return given.mask(given == 0)

    def answer(finding: str) -> pd.Series[Any]:
        # Empty where a source that labels the finding says nothing of it; 0 where the source labels others alone.
        given_here = labels[finding].isin([0, 1])
        labelling = frame["batch"].isin([batch for batch, names in asked.items() if finding in names])
        return given_here.astype("Int64").mask(labelling & ~given_here)

    made: dict[str, Callable[[], pd.Series[Any]]] = {
        "view": lambda: _known(frame["view"]),
        "sex": lambda: _known(frame["sex"]),
        "sexes_of_patient": count_sexes,
        "images_of_patient": lambda: by_patient["image_id"].transform("size"),
        "sides_of_patient": lambda: frame["patient_id"].map(lambda patient: len(sides.get(patient, ()))),
        "findings_given": count_given,
        "findings_present": lambda: (labels == 1).sum(axis=1),
    }
    for name in FINDINGS:
        made[name] = partial(_certain, labels[name])  # the share of positives is of the labels that are 1 or 0
        made[f"{name}_known"] = partial(answer, name)
    if pixels is not None:
        made["pixels_sha256"] = lambda: _known(pixels)
    return made


def _known(column: pd.Series[str]) -> pd.Series[str]:
    """A column of text, "" as a missing value."""
    return column.mask(column == "")


def _certain(labels: pd.Series[Any]) -> pd.Series[Any]:
    """Labels, uncertain ones as missing values."""
    return labels.mask(labels == UNCERTAIN)


def _spoken_of(document: Mapping[str, Any], table: str) -> set[str]:
    """The columns of a table that a suite speaks of."""
    return {
        item["kwargs"][key]
        for item in document["expectations"]
        if table_of(item) == table
        for key in ("column", "column_A", "column_B")
        if key in item["kwargs"]
    }


def table_of(item: Mapping[str, Any]) -> str:
    """The table that an expectation of a suite is of."""
    return str(item["meta"].get("of", IMAGES))


def _plain(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers as great-expectations compares them as an array; those with missing values it takes one at a time."""
    return column.astype("float64") if isinstance(column.dtype, pd.Int64Dtype) else column


def _read_suite(path: Path) -> dict[str, Any]:
    try:
        suite: dict[str, Any] = json.loads(path.read_bytes())
        expectations = suite["expectations"]
        _ = suite["name"], [(item["type"], item["kwargs"], item["meta"]["says"]) for item in expectations]
    except FileNotFoundError as error:
        raise SettingsError(
            "the expectations are missing", where=path, fix="name existing files in params.yaml, validate.suites"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise SettingsError(
            f"the file is not a suite whose expectations have a type, kwargs and meta.says: {error!r}", where=path
        ) from error
    odd = [item["severity"] for item in expectations if item.get("severity") not in ("critical", "warning")]
    if odd or not expectations:
        raise SettingsError(
            "every expectation needs the severity critical or warning, and there must be one", where=path
        )
    if strange := {table_of(item) for item in expectations} - set(_TABLES):
        raise SettingsError(
            f"an expectation is of the table {min(strange)!r}",
            where=path,
            fix=f"meta.of is one of {', '.join(_TABLES)}; without it an expectation is of the images",
        )
    return suite


def _run(prepared: Prepared) -> list[Check]:
    """Each expectation that is of one of the tables, in the order of the suites."""
    asked = [
        (suite["name"], item)
        for suite in prepared.suites
        for item in suite["expectations"]
        if table_of(item) in prepared.tables
    ]
    outcomes: dict[int, dict[str, Any]] = {}
    for name, table in prepared.tables.items():
        of_table = {at: one for at, one in enumerate(asked) if table_of(one[1]) == name}
        if of_table:
            found = evaluate(name, table, of_table, prepared.parameters, "COMPLETE")
            outcomes |= {one.expectation_config.meta["at"]: one.to_json_dict() for one in found.results}
    return [
        _as_check(suite, item, outcomes[at], prepared.tables[table_of(item)]) for at, (suite, item) in enumerate(asked)
    ]


def evaluate(
    name: str,
    table: pd.DataFrame,
    items: Mapping[int, tuple[str, dict[str, Any]]],
    parameters: Mapping[str, float],
    detail: Literal["COMPLETE", "SUMMARY"],
) -> Any:
    """Let great-expectations look at a table.

    Args:
        name: what the table is called.
        table: its rows.
        items: expectations, each with the name of its suite, under a number of their own.
        parameters: values of what the expectations leave open.
        detail: how much is told of what failed: every row, or a few values.

    Returns:
        great-expectations' own ExpectationSuiteValidationResult; `meta["at"]` of an expectation is its number.

    Raises:
        SettingsError: great-expectations refuses an expectation.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when great-expectations is imported
    import great_expectations as gx
    from great_expectations.exceptions import GreatExpectationsError

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    # great-expectations gives the results in an order of its own: each carries its place
    numbered = [{**item, "meta": {**item["meta"], "at": at}} for at, (_, item) in items.items()]
    try:
        suite = gx.ExpectationSuite(name=name, expectations=numbered)
    except (GreatExpectationsError, ValueError, TypeError) as error:
        named = ", ".join(sorted({suite for suite, _ in items.values()}))
        raise SettingsError(f"great-expectations refuses the suite: {error}", where=named) from error
    if lost := items.keys() - {one.meta["at"] for one in suite.expectations}:
        # great-expectations logs an expectation that it does not know, drops it and goes on
        of_suite, odd = items[min(lost)]
        place = [at for at, (one, _) in items.items() if one == of_suite].index(min(lost)) + 1
        raise SettingsError(
            f"great-expectations refuses {odd['type']!r} with {odd['kwargs']}",
            where=f"the suite {of_suite!r}, expectation {place} of the {name}",
            fix="its gallery of expectations says what each takes",
        )
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    return batch.validate(suite, expectation_parameters=dict(parameters), result_format={"result_format": detail})


def _as_check(suite: str, item: dict[str, Any], outcome: dict[str, Any], table: pd.DataFrame) -> Check:
    names = table["name"].tolist() if table_of(item) != IMAGES else None
    result: dict[str, Any] = outcome["result"]
    found = ""
    if outcome["exception_info"] and not result:
        found = "it could not be evaluated: is the column there, and of the right kind?"
    elif not outcome["success"] and isinstance(result.get("observed_value"), int | float):
        found = f"{result['observed_value']:.4g}"
    elif not outcome["success"] and names is not None:
        failed = [names[at] for at in result.get("unexpected_index_list") or ()]
        found = f"{len(failed):,} of {len(names):,}: {'; '.join(failed)}"
    elif not outcome["success"] and result.get("unexpected_count") is not None:
        found = f"{result['unexpected_count']:,} of {result['element_count']:,} rows"
    elif not outcome["success"]:
        found = "nothing to look at: no value is known"
    return Check(
        suite=suite,
        says=item["meta"]["says"],
        severity=item["severity"],
        passed=bool(outcome["success"]),
        rows=() if outcome["success"] or names is not None else tuple(result.get("unexpected_index_list") or ()),
        found=found,
    )


def _named_rows(frame: pd.DataFrame, rows: Sequence[int]) -> list[tuple[str, int, str]]:
    named = frame.iloc[list(rows)][["batch", "line", "image_id"]]
    return [(str(batch), int(line), str(image_id)) for batch, line, image_id in named.itertuples(index=False)]
