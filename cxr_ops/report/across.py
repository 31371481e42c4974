"""Pages over several runs: an index of all of them, and two side by side.

Both are made from what was published, so that they show what the plan lets everybody see: of a run whose test results
are withheld, the validation figures alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ops.errors import DataError
from cxr_ops.records.evidence import Evaluation, Figure, FindingEvidence
from cxr_ops.records.report import Report, SettingChange, Summary
from cxr_ops.records.run import OPENED, Opened, Result
from cxr_ops.report import page, words


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it is published.

    Attributes:
        name: the run's.
        opened_at: when, as ISO 8601; None where nothing says.
        result: how it ended; None where it has not, or the record is damaged.
        document: its report, or its summary where test results are withheld; None where there is none that can be read.
        page: name of the published page beside the index; None where there is none.
        missing: sentences on what cannot be read.
        earlier: whether a version published it that wrote no report for machines.
    """

    name: str
    opened_at: str | None
    result: Result | None
    document: Report | Summary | None
    page: str | None
    missing: tuple[str, ...] = ()
    earlier: bool = False

    @property
    def evaluation(self) -> Evaluation | None:
        """The evidence, where it may be seen."""
        return self.document.evaluation if isinstance(self.document, Report) else None

    @property
    def validation(self) -> float | None:
        """The challenger's mean AUC on the validation set."""
        if isinstance(self.document, Report):
            return self.document.evaluation.validation_macro.get("challenger")
        return self.document.validation_macro.get("challenger") if self.document else None

    @property
    def withheld(self) -> bool:
        """Whether test results are kept from people who tune."""
        return isinstance(self.document, Summary)


def read(runs: Path, reports: Path, name: str) -> Run:
    """Read a run as it is published; what is damaged is said, and hides nothing else.

    Args:
        runs: the folder of the runs' records.
        reports: the folder of the published pages.
        name: the run's.
    """
    missing: list[str] = []
    opened, result, document = None, None, None
    earlier = (reports / f"{name}.html").is_file() and not (reports / f"{name}.json").is_file()
    try:
        opened = Opened.read(runs / name / OPENED)
    except DataError as error:
        missing.append(f"{error.what}.")
    if (runs / name / "result.json").is_file():
        try:
            result = Result.read(runs / name / "result.json")
        except DataError as error:
            missing.append(f"{error.what}.")
    if (reports / f"{name}.json").is_file():
        try:
            document = read_document(reports / f"{name}.json")
        except DataError as error:
            missing.append(f"{error.what}.")
    elif earlier:
        missing.append("It was published by a version that wrote no report for machines.")
    return Run(
        name=name,
        opened_at=opened.opened_at if opened else None,
        result=result,
        document=document,
        page=f"{name}.html" if (reports / f"{name}.html").is_file() else None,
        missing=tuple(missing),
        earlier=earlier,
    )


def read_all(runs: Path, reports: Path) -> list[Run]:
    """Read all runs, the latest first; see `read`."""
    folders = runs.iterdir() if runs.is_dir() else ()
    names = sorted(path.name for path in folders if path.is_dir() and not path.is_symlink())
    found = [read(runs, reports, name) for name in names]
    return sorted(found, key=lambda run: (run.opened_at or "", run.name), reverse=True)


def read_document(path: Path) -> Report | Summary:
    """Read a published report for machines.

    Raises:
        DataError: it is missing or damaged, or a later version wrote it.
    """
    try:
        keys = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path.name} is missing", where=path, fix=f"publish the run again: cxr-ops publish --run {path.stem}"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} is not JSON", where=path, fix=f"publish the run again: cxr-ops publish --run {path.stem}"
        ) from error
    return Report.read(path) if isinstance(keys, dict) and "verdict" in keys else Summary.read(path)


def way(index: Path, reports: Path) -> str:
    """The way from the folder of an index to that of the reports, as the start of an address: "" beside them."""
    found = Path(os.path.relpath(reports.absolute(), index.absolute().parent)).as_posix()
    return "" if found == "." else f"{found}/"


def render_index(found: Sequence[Run], way: str = "") -> str:
    """Write the page of all runs, the first of `found` at the top.

    Args:
        found: the runs.
        way: see `way`.
    """
    return page.fill("index.html.j2", runs=found, way=way)


def render_pair(first: Run, second: Run) -> str:
    """Write the page of two runs side by side.

    Raises:
        DataError: of one of them there is no report that can be read.
    """
    for run in (first, second):
        if run.document is None:
            raise DataError(
                f"there is no report of {run.name} to compare with: {' '.join(run.missing) or 'it is not published'}",
                where=run.name,
                fix=f"compare by DVC: cxr-ops checkout {run.name} FOLDER, and there dvc metrics diff"
                if run.earlier
                else f"cxr-ops publish --run {run.name}",
            )
    return page.fill(
        "pair.html.j2",
        first=first,
        second=second,
        changes=setting_changes(first, second),
        batches=_batches(first, second),
        findings=_findings(first, second),
        same_test=_test(first) is not None and _test(first) == _test(second),
    )


def setting_changes(first: Run, second: Run) -> list[SettingChange] | None:
    """Settings that two runs' challengers were made with differently, `champion` being the first run's.

    None where either does not say.
    """
    before, now = (_settings(run) for run in (first, second))
    if before is None or now is None:
        return None
    return words.changed_settings(before, now)


def _settings(run: Run) -> dict[str, Any] | None:
    facts = run.evaluation.facts if run.evaluation else getattr(run.document, "facts", None)
    return None if facts is None else facts.settings


def _test(run: Run) -> str | None:
    if run.evaluation is not None:
        return run.evaluation.test_digest
    return run.document.digests.get("Test set") if run.document else None


def _batches(first: Run, second: Run) -> dict[str, tuple[bool, bool]]:
    """Batch -> whether the first and the second run had it."""
    had = [_named(run) for run in (first, second)]
    return {name: (name in had[0], name in had[1]) for name in sorted(had[0] | had[1])}


def _named(run: Run) -> set[str]:
    digests = run.document.digests if run.document else {}
    return {what.removeprefix("Batch ") for what in digests if what.startswith("Batch ")}


def _findings(first: Run, second: Run) -> list[tuple[str, Figure | None, Figure | None]]:
    """(Finding or mean, AUC of the first run's challenger, of the second's); nothing where either is withheld."""
    if first.evaluation is None or second.evaluation is None:
        return []

    def of(evaluation: Evaluation) -> dict[str, FindingEvidence]:
        return {one.finding: one for one in evaluation.findings}

    before, now = of(first.evaluation), of(second.evaluation)
    rows: list[tuple[str, Figure | None, Figure | None]] = [
        (name, before[name].challenger if name in before else None, now[name].challenger if name in now else None)
        for name in dict.fromkeys([*before, *now])
    ]
    return [*rows, (words.MEAN, first.evaluation.macro_challenger, second.evaluation.macro_challenger)]
