"""The end of a run for people in a terminal: the 14 AUCs, the verdict and its reasons, and where to look.

Everything is read from files of the run, so that the same summary can be printed again later. If the run's results on
the test set are withheld (`Result.restricted`), it shows those on the validation set. It fits 80 columns and does not
rely on colour; what it prints is ASCII, except for text that comes from the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops import contract
from cxr_ops.audit import telling
from cxr_ops.records.data import is_generated
from cxr_ops.records.evidence import Estimate, Evaluation, Figure
from cxr_ops.records.run import Result
from cxr_ops.records.verdict import Check, Reason, Verdict
from cxr_ops.report import words
from cxr_ops.stats.checks import macro_difference

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

STYLES: Final = {
    contract.PROMOTE: "bold green",
    contract.REJECT: "bold red",
    contract.INSUFFICIENT: "bold yellow",
    contract.NO_CHANGE: "bold",
    telling.NOT_PROMOTED: "bold",
}
# A reason for each of 14 findings would push the table off the screen; the report has them all.
_REASONS_SHOWN: Final = 8


def read(run_folder: Path) -> tuple[Result, Evaluation | None, Verdict | None]:
    """Read how a run ended; a run that ended NO_CHANGE has no evidence and no verdict of the gate.

    Raises:
        DataError: a file is missing or is not what it should be.
    """
    result = Result.read(run_folder / "result.json")
    if result.verdict == contract.NO_CHANGE:
        return result, None, None
    workspace = run_folder / "workspace"
    return (
        result,
        Evaluation.read(workspace / "evaluate" / "evaluation.json"),
        Verdict.read(workspace / "gate" / "verdict.json"),
    )


def render(run_folder: Path) -> Group:
    """Make the summary of a finished run, to be printed with rich and `crop=False`: a path is longer than a line.

    Args:
        run_folder: `$CXR_HOME/runs/<run>`.

    Raises:
        DataError: as `read`.
    """
    from rich.console import Group

    result, evaluation, verdict = read(run_folder)
    parts: list[Table | Text] = [_headline(result, verdict, generated=_generated(evaluation))]
    if evaluation is not None and result.restricted:
        parts.append(_validation(evaluation))
    elif evaluation is not None:
        parts += [findings_table(evaluation), _footnotes(evaluation)]
    parts += [_reasons(result), _places(result, run_folder)]
    return Group(*parts)


def as_json(run_folder: Path) -> dict[str, Any]:
    """Give the same as plain values: `result`, and `evaluation` and `verdict` where there are any.

    Where the test set's results are withheld, `validation_macro` (model -> macro-AUC) is given instead.

    Raises:
        DataError: as `read`.
    """
    found = read(run_folder)
    result, evaluation, _ = found
    if result.restricted and evaluation is not None:
        return {"result": result.model_dump(mode="json"), "validation_macro": evaluation.validation_macro}
    records = zip(("result", "evaluation", "verdict"), found, strict=True)
    return {name: record.model_dump(mode="json") for name, record in records if record is not None}


def outcome(result: Result) -> str:
    """Say in a sentence what a run came to.

    >>> outcome(Result(run="r", verdict="PROMOTE", model_version="3", promotion="ab"))
    'Version 3 of cxr-densenet121 is the champion now.'
    """
    version = f"version {result.model_version} of {contract.MODEL_NAME}" if result.model_version else "the challenger"
    if result.verdict == contract.NO_CHANGE and result.repeats:
        return f"Nothing was trained and no look was spent: {result.repeats}."
    if result.verdict == contract.NO_CHANGE:
        return (
            f"Nothing has changed since {_champion(result)} was trained, so nothing was trained and no look was spent."
        )
    if result.promotion:
        return f"{version.capitalize()} is the champion now."
    if result.verdict == contract.PROMOTE and result.approvals:
        people = "one person's approval" if result.approvals == 1 else f"the approval of {result.approvals} persons"
        return f"{version.capitalize()} may become the champion, and waits for {people}."
    if result.verdict == contract.PROMOTE:
        return f"{version.capitalize()} may become the champion, and is not promoted yet."
    stays = f"{_champion(result)} stays in use" if result.champion.package else "no model is in use"
    if result.verdict == telling.NOT_PROMOTED:  # whether it waits for approval is not told
        return f"{version.capitalize()} is not promoted; {stays}."
    return f"{version.capitalize()} was not promoted; {stays}."


def _champion(result: Result) -> str:
    return f"version {result.champion.version}" if result.champion.version else "the champion"


def _generated(evaluation: Evaluation | None) -> bool:
    return evaluation is not None and evaluation.facts is not None and any(map(is_generated, evaluation.facts.sources))


def _headline(result: Result, verdict: Verdict | None, *, generated: bool) -> Text:
    from rich.text import Text

    text = Text("\n")
    text.append(result.verdict, STYLES[result.verdict])
    text.append(f"  {outcome(result)}\n")
    if verdict is not None:
        marked = "" if verdict.clinical_use else ", NOT FOR CLINICAL USE"
        text.append(f"plan {verdict.plan.name}{marked}; test {words.period_text(verdict)}\n")
        if verdict.other_plan is not None:
            text.append(f"{words.other_plan(verdict.plan, verdict.other_plan)}\n", "bold yellow")
    if generated:
        text.append("data: generated pictures of people who do not exist\n")
    if result.limited_findings:
        text.append(f"judged by the widest margin: {', '.join(result.limited_findings).replace('_', ' ')}\n")
    if result.holds:
        text.append(f"held for people: {', '.join(result.holds)}; {result.approvals} must agree\n", "bold")
    return text


def findings_table(evaluation: Evaluation, checks: Sequence[Check] = ()) -> Table:
    """Tabulate the AUCs of the 14 findings and their mean, to be printed with rich on 80 columns.

    Args:
        evaluation: the evidence.
        checks: where they are given, the bound that each margin against the champion was judged by has a column.
    """
    from rich import box
    from rich.table import Table

    with_champion = evaluation.champion is not None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, show_footer=True)
    table.add_column("AUC by finding", f"mean of {len(evaluation.macro_over)}", no_wrap=True)
    bounds = {check.finding: check.low for check in checks if _is_margin(check)}
    table.add_column("challenger", _interval(evaluation.macro_challenger, short=bool(bounds)), no_wrap=True)
    if with_champion:
        table.add_column("champion", _value(evaluation.macro_champion), justify="right", no_wrap=True)
        table.add_column("difference", _signed(evaluation.macro_difference), no_wrap=True)
    if bounds:
        table.add_column("bound", _short(bounds.get(None)), justify="right", no_wrap=True)
    table.add_column("positive", justify="right", no_wrap=True)
    for one in evaluation.findings:
        row = [one.finding.replace("_", " "), _interval(one.challenger, short=bool(bounds))]
        if with_champion:
            row += [_value(one.champion), _signed(one.difference)]
        if bounds:
            row.append(_short(bounds.get(one.finding)))
        table.add_row(*row, f"{one.support.positives}/{one.support.positive_patients}")
    return table


def _footnotes(evaluation: Evaluation) -> Text:
    from rich.text import Text

    text = Text("\n")
    levels = {one.challenger.level for one in evaluation.findings if isinstance(one.challenger, Estimate)}
    level = f"{100 * levels.pop():g} % " if len(levels) == 1 else ""
    text.append(
        f"{level}intervals, clustered by patient; positive: images/patients, of {evaluation.test_images} images of "
        f"{evaluation.test_patients} patients in the locked test set\n",
        "dim",
    )
    if words.compared_with(evaluation):
        text.append("the plan compares a one-sided bound with each margin; the report's checks show it\n", "dim")
    if evaluation.macro_reference_difference is not None:
        text.append(f"mean against the reference: {_signed(evaluation.macro_reference_difference)}\n")
    text.append(_worst_subgroup(evaluation))
    alike: dict[tuple[str, str], list[str]] = {}
    for name, which, why in words.undefined_figures(evaluation):
        alike.setdefault((", ".join(which), why.reason), []).append(name.replace("_", " "))
    for (models, reason), names in alike.items():
        text.append(f"{', '.join(names)}: not evaluable ({models}), because {reason}\n", "dim")
    return text


def _worst_subgroup(evaluation: Evaluation) -> str:
    """Name the subgroup whose mean AUC lost most; nothing where there is no subgroup or nothing to compare with."""
    if not evaluation.subgroups or not words.compared_with(evaluation):
        return ""
    found = [
        (figure.value, group.name, against, figure)
        for against in words.compared_with(evaluation)
        for group in evaluation.subgroups
        if isinstance(figure := macro_difference(group, against), Estimate)
    ]
    if not found:
        return f"subgroups: {words.NOT_EVALUABLE} in any of {len(evaluation.subgroups)}\n"
    _, name, against, figure = min(found, key=lambda one: one[:3])
    return f"worst of {len(evaluation.subgroups)} subgroups: {name}, mean {_signed(figure)} against the {against}\n"


def _validation(evaluation: Evaluation) -> Text:
    from rich.text import Text

    text = Text()
    for model, value in sorted(evaluation.validation_macro.items()):
        text.append(f"mean AUC on the validation set, {model}: {value:.3f}\n")
    text.append("The plan withholds the test set's results from those who tune while its period is open.\n\n", "dim")
    return text


def _reasons(result: Result) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(result.reasons), padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("why", no_wrap=True)
    table.add_column("")
    shown = _joined(words.in_order(result.reasons))
    for sentence, code in shown[:_REASONS_SHOWN]:
        table.add_row("  -", Text.assemble(sentence, " ", (f"[{code}]", "dim")))
    if len(shown) > _REASONS_SHOWN:
        table.add_row("  -", f"and {len(shown) - _REASONS_SHOWN} more, in the report")
    return table


def _joined(reasons: Sequence[Reason]) -> list[tuple[str, str]]:
    """Sentences with their codes; what is said in the same words of several findings is said once, of all of them.

    >>> told = "cannot be judged: 2 more positive patients would be needed. The plan does not require this finding."
    >>> names = ("Mass", "Pleural_Thickening")
    >>> alike = [Reason(code="NOT_EVALUABLE", finding=name, sentence=f"{name} {told}") for name in names]
    >>> _joined(alike)[0][0]  # doctest: +ELLIPSIS
    'Mass, Pleural_Thickening cannot be judged: ... The plan does not require these findings.'
    >>> _joined(alike[:1]) == [(alike[0].sentence, "NOT_EVALUABLE")]
    True
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for reason in reasons:
        name = f"{reason.finding} "
        unjudged = reason.sentence.startswith(f"{name}cannot be judged")
        said = reason.sentence.removeprefix(name) if unjudged else reason.sentence
        alike.setdefault((said, reason.code), []).append(name.strip() if unjudged else "")
    return [
        (
            f"{', '.join(names)} {said}".lstrip()
            if len(names) == 1
            else f"{', '.join(names)} {said.replace('this finding', 'these findings')}",
            code,
        )
        for (said, code), names in alike.items()
    ]


def _places(result: Result, run_folder: Path) -> Text:
    from rich.text import Text

    rows: list[tuple[str, str]] = []
    if result.report:
        rows.append(("report", _near(Path(result.report))))
    if result.restricted:
        rows.append(("full", "the full report is withheld; auditors and approvers have it"))
    if result.model_version:
        rows.append(("registry", f"{contract.MODEL_NAME} version {result.model_version}"))
    if result.mlflow_run_id:
        rows.append(("MLflow", f"make ui, then run {result.mlflow_run_id}"))
    if result.airflow_run_id:
        rows.append(("Airflow", f"make ui, then run {result.airflow_run_id}"))
    if result.run_commit:
        rows.append(("DVC", f"run commit {result.run_commit}"))
    if result.run_commit and not result.restricted:  # both hold what the test set shows
        rows.append(("", f"in {_near(run_folder.parent.parent / 'store.git')}"))
        rows.append(("", f"to bring it back: cxr-ops checkout {result.run} FOLDER"))
        rows.append(("run", _near(run_folder)))
    rows.append(("lineage", f"cxr-ops lineage {result.run}"))
    rows += _next_step(result)
    text = Text("\n", no_wrap=True, overflow="ignore")  # never folded: it must be possible to copy them
    text.append("where to look\n", "bold")
    for name, place in rows:
        text.append(f"  {name:<9}{place}\n")
    return text


def _next_step(result: Result) -> list[tuple[str, str]]:
    """What a person types where the gate decided PROMOTE and the model is not in use yet."""
    if result.verdict != contract.PROMOTE or result.promotion:
        return []
    if not result.approvals:
        return [("promote", f"cxr-ops promote --run {result.run}")]
    return [
        ("approve", f"cxr-ops promote --run {result.run} --approved-by NAME"),
        ("", "or make ui, and answer the request there"),
    ]


def _near(path: Path) -> str:
    """Write a path below the current folder relative to it: short enough for one line."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _is_margin(check: Check) -> bool:
    return check.kind == "margin" and check.against == "champion" and check.subgroup is None


def _interval(figure: Figure | None, *, short: bool = False) -> str:
    if not isinstance(figure, Estimate):
        return "not evaluable"
    low, high = figure.ci
    text = f"{figure.value:.3f} [{low:.3f},{high:.3f}]"
    return text.replace("0.", ".") if short else text


def _short(bound: float | None) -> str:
    return "-" if bound is None else f"{bound:+.3f}".replace("0.", ".")


def _value(figure: Figure | None) -> str:
    return f"{figure.value:.3f}" if isinstance(figure, Estimate) else "-"


def _signed(figure: Figure | None) -> str:
    """Write a difference without the zeros before the points: 80 columns are few."""
    if not isinstance(figure, Estimate):
        return "-"
    low, high = figure.ci
    return f"{figure.value:+.3f} [{low:+.3f},{high:+.3f}]".replace("0.", ".")
