"""Checks a manifest against the expectations in `expectations/`, and writes what was found for people to read.

The suites are great-expectations 1.x files that anyone can review; this module adds what a suite cannot say, since
every expectation on rows holds for no rows: that there are enough images and patients, and that boxes fit their images.

Two audiences: the page and `validation.json` hold no image id and no patient id (a row is named as batch:line, the line
of the batch's manifest), and so may be passed on; the error that ends a run names the image too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS, SEXES, UNCERTAIN, VIEWS
from cxr_ops.records.base import sha256_file
from cxr_ops.records.validation import Checked, Group, Labels, Validated

Severity = Literal["critical", "warning"]

_SIZE: Final = "size"  # the suite of the checks of how many there are
_NAMED: Final = 20  # rows that an error or the page names; the rest is a count
_DECADES: Final = ((0, 19), (20, 39), (40, 59), (60, 79), (80, 120))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation and what came of it.

    `says` is the expectation in words; a failed one with severity `warning` is shown and lets the data pass. `rows` are
    positions in the frame, `found` what was observed where the check is of a column as a whole.
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


def validate(
    frame: pd.DataFrame,
    boxes: pd.DataFrame,
    suites: Sequence[Path],
    *,
    min_images: int = 1,
    min_patients: int = 1,
    labelled: Mapping[str, Collection[str]] | None = None,
) -> Validation:
    """Check a manifest and its boxes.

    Args:
        frame: as `manifest.read_manifest` gives it.
        boxes: as `manifest.read_boxes` gives it.
        suites: great-expectations suites as JSON files.
        min_images: fewer images fail.
        min_patients: fewer patients fail.
        labelled: the findings that the source of each batch labels; all, of a batch that is not named. Where no batch
            labels a finding, nothing is expected of its column, and a warning says so.

    Raises:
        DataError: the manifest has no rows. (Nearly every expectation holds for no rows.)
        SettingsError: a suite is missing, is not JSON, or holds an expectation that great-expectations does not know.
    """
    if frame.empty:
        raise DataError("the data set is empty: the manifest has no rows")
    documents = [_read_suite(path) for path in suites]
    asked = {name: set((labelled or {}).get(name, FINDINGS)) for name in frame["batch"].unique()}
    unasked = [finding for finding in FINDINGS if not any(finding in names for names in asked.values())]
    checks = [
        *_size_checks(frame, min_images, min_patients),
        *_run(_with_counts(frame, asked), [_without(document, unasked) for document in documents]),
        *([_unlabelled_check(unasked)] if unasked else []),
        _box_check(frame, boxes),
    ]
    return Validation(
        checks=tuple(checks),
        suites={document["name"]: sha256_file(path) for document, path in zip(documents, suites, strict=True)},
    )


def failure(validation: Validation, frame: pd.DataFrame, *, page: Path | None) -> DataError:
    """The error that ends a run on data that failed: each check in words, and the rows by batch, line and image."""
    lines = []
    for check in validation.failures:
        lines.append(f"{check.says} Not so{': ' + check.found if check.found else ''}.")
        for batch, line, image_id in _named_rows(frame, check.rows[:_NAMED]):
            lines.append(f"    {batch}:{line}  {image_id}")
        if len(check.rows) > _NAMED:
            lines.append(f"    and {len(check.rows) - _NAMED:,} more")
    count = len(validation.failures)
    few = any(check.suite == _SIZE for check in validation.failures)
    steps = ["ingest more, or lower validate.min_images and validate.min_patients in params.yaml"] if few else []
    if any(check.suite != _SIZE for check in validation.failures):
        steps.append("correct the rows (batch:line of the manifest) and ingest them under a new batch name")
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
                findings={
                    finding: Labels(
                        positive=int((rows[finding] == 1).sum()),
                        known=int(rows[finding].isin([0, 1]).sum()),
                        uncertain=int((rows[finding] == UNCERTAIN).sum()),
                    )
                    for finding in FINDINGS
                },
            )
        )
    return result


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
        ages=[(f"{low} to {high}", int(ages.between(low, high).sum())) for low, high in _DECADES],
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


def _with_counts(frame: pd.DataFrame, asked: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """The manifest as the suites see it: uncertain findings as missing, and columns counted: see `expectations/`."""
    by_patient = frame.groupby("patient_id", dropna=False)
    labels = frame[list(FINDINGS)]
    given = labels.notna().sum(axis=1).astype("Int64")
    known = {name: frame[name].mask(frame[name] == "") for name in ("view", "sex")}  # "" is a missing one
    # Empty where a source that labels the finding says nothing of it; 0 where the source labels others alone.
    answers = {}
    for name in FINDINGS:
        given_here = labels[name].isin([0, 1])
        labelling = frame["batch"].isin([batch for batch, names in asked.items() if name in names])
        answers[f"{name}_known"] = given_here.astype("Int64").mask(labelling & ~given_here)
    sexes = frame.assign(**known).groupby("patient_id", dropna=False)["sex"].transform("nunique")
    return frame.assign(
        **labels.mask(labels == UNCERTAIN),  # the share of positives is of the labels that are 1 or 0
        **known,
        **answers,
        sexes_of_patient=sexes.mask(sexes == 0),
        images_of_patient=by_patient["image_id"].transform("size"),
        findings_given=given.mask(given == 0),
        findings_present=(labels == 1).sum(axis=1),
    ).reset_index(drop=True)


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
    return suite


def _run(frame: pd.DataFrame, suites: Sequence[dict[str, Any]]) -> list[Check]:
    if not suites:
        return []
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when great-expectations is imported
    import great_expectations as gx
    from great_expectations.exceptions import GreatExpectationsError

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("manifest")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    checks: list[Check] = []
    for suite in suites:
        # great-expectations gives the results in an order of its own: each carries its place
        numbered = [{**item, "meta": {**item["meta"], "at": at}} for at, item in enumerate(suite["expectations"])]
        try:
            known = gx.ExpectationSuite(name=suite["name"], expectations=numbered)
        except (GreatExpectationsError, ValueError, TypeError) as error:
            raise SettingsError(f"great-expectations refuses the suite: {error}", where=suite["name"]) from error
        if lost := {item["meta"]["at"] for item in numbered} - {item.meta["at"] for item in known.expectations}:
            # great-expectations logs an expectation that it does not know, drops it and goes on
            odd = suite["expectations"][min(lost)]
            raise SettingsError(
                f"great-expectations refuses {odd['type']!r} with {odd['kwargs']}",
                where=f"the suite {suite['name']!r}, expectation {min(lost) + 1}",
                fix="its gallery of expectations says what each takes",
            )
        outcome = batch.validate(known, result_format={"result_format": "COMPLETE"})
        results = {item.expectation_config.meta["at"]: item for item in outcome.results}
        for at, item in enumerate(suite["expectations"]):
            checks.append(_as_check(suite["name"], item, results[at].to_json_dict()))
    return checks


def _as_check(suite: str, item: dict[str, Any], outcome: dict[str, Any]) -> Check:
    result: dict[str, Any] = outcome["result"]
    found = ""
    if outcome["exception_info"] and not result:
        found = "it could not be evaluated: is the column there, and of the right kind?"
    elif not outcome["success"] and isinstance(result.get("observed_value"), int | float):
        found = f"{result['observed_value']:.4g}"
    elif not outcome["success"] and result.get("unexpected_count") is not None:
        found = f"{result['unexpected_count']:,} of {result['element_count']:,} rows"
    elif not outcome["success"]:
        found = "nothing to look at: no value is known"
    return Check(
        suite=suite,
        says=item["meta"]["says"],
        severity=item["severity"],
        passed=bool(outcome["success"]),
        rows=() if outcome["success"] else tuple(result.get("unexpected_index_list") or ()),
        found=found,
    )


def _named_rows(frame: pd.DataFrame, rows: Sequence[int]) -> list[tuple[str, int, str]]:
    named = frame.iloc[list(rows)][["batch", "line", "image_id"]]
    return [(str(batch), int(line), str(image_id)) for batch, line, image_id in named.itertuples(index=False)]
