"""`cxr-ops plan`: read, compare and size change-control plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.options import PlanFile, SplitTest, TruthFile
from cxr_ops.commands.output import say, show
from cxr_ops.errors import SettingsError

if TYPE_CHECKING:
    from cxr_ops.data.score_files import Truth
    from cxr_ops.params import Params
    from cxr_ops.plan import ChangePlan

app = group("Read, compare and size change-control plans.")


def _plan(path: Path | None) -> tuple[Path, ChangePlan, Params]:
    from cxr_ops import plan as plans
    from cxr_ops.params import Params

    params = Params.load(Path("params.yaml"))
    path = path or Path(params.gate.plan)
    return path, plans.load(path), params


def _truth(path: Path, plan: ChangePlan, params: Params, *, split_test: bool) -> Truth:
    from cxr_ops.data import score_files

    truth = score_files.read_truth(path)
    if not split_test:
        return truth
    bounds = plan.description_of_modifications.bounds.settings
    split = params.split.model_dump()
    for key in split:
        bound = bounds.get(f"split.{key}")
        split[key] = bound.equals if bound is not None and bound.equals is not None else split[key]
    return score_files.test_side(truth, **split)


@app.command("check")
def plan_check(plan: PlanFile = None, truth: TruthFile = None, split_test: SplitTest = False) -> None:
    """Check a plan, and say what it holds and what a reviewer would object to.

    With --truth the margins are compared with those that the positive patients of each finding propose.
    """
    from cxr_ops.records.base import sha256_file
    from cxr_ops.report import plans

    path, loaded, params = _plan(plan)
    plans.check_bounds(loaded)
    for name, value in plans.facts(loaded, sha256_file(path)):
        say(f"{name:<24}{value}")
    for warning in plans.warnings(loaded, params):
        say(f"warning: {warning}")
    if truth is None:
        return
    from cxr_ops.data import score_files

    labels = _truth(truth, loaded, params, split_test=split_test)
    tiers = plans.tiers(loaded.performance, score_files.positive_patients(labels))
    patients = len(set(score_files.owned(labels)))
    side = ", the test side of the plan's split" if split_test else ""
    say(f"{'labels':<24}{len(labels.image_ids)} images of {patients} patients{side}")
    for tier in tiers:
        say(f"{'  ' if tier.margin == tier.proposed else '! '}{tier}")
    other = sum(tier.margin != tier.proposed for tier in tiers)
    say(f"{other or 'no'} margin{'' if other == 1 else 's'} other than proposed")


@app.command("explain")
def plan_explain(
    plan: PlanFile = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Say in plain words what a plan lets change, what it asks for, and what follows."""
    from cxr_ops.report import plans

    sections = plans.explain(_plan(plan)[1])
    if markdown:
        say(plans.markdown(sections))
    else:
        show(plans.render(sections))


@app.command("diff")
def plan_diff(
    old: Annotated[Path, typer.Argument(help="A plan.")],
    new: Annotated[Path, typer.Argument(help="The plan that it became.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what changed between two plans, and whether each change asks for less (looser) or for more (stricter)."""
    from dataclasses import asdict

    from cxr_ops import plan as plans
    from cxr_ops.report.plans import diff

    changes = diff(plans.load(old), plans.load(new))
    if as_json:
        say(json.dumps([asdict(change) for change in changes], indent=2))
        return
    for change in changes:
        say(str(change))
    if not changes:
        say("the plans say the same")


@app.command("power")
def plan_power(
    plan: PlanFile = None,
    truth: TruthFile = None,
    split_test: SplitTest = False,
    patients: Annotated[
        int | None, typer.Option(min=1, help="Without --truth: test patients to draw; the plan's fewest if left out.")
    ] = None,
    correlation: Annotated[float, typer.Option(help="Of two models' scores on an image, within a class.")] = 0.9,
    auc: Annotated[float, typer.Option(help="Of champion and reference, for every finding.")] = 0.80,
    difference: Annotated[float, typer.Option(help="The challenger's AUC minus that.")] = 0.0,
    within_patient: Annotated[float, typer.Option(help="Correlation of scores on two images of a patient.")] = 0.5,
    reference: Annotated[
        bool, typer.Option("--reference", help="The reference is another model than the champion.")
    ] = False,
) -> None:
    """Say how probable it is that a challenger meets each check and all of them, and how many patients that takes."""
    from cxr_ops.data import score_files
    from cxr_ops.report import plans
    from cxr_ops.stats import power

    _, loaded, params = _plan(plan)
    try:
        assumed = power.Assumptions(
            auc=auc, difference=difference, correlation=correlation, within_patient=within_patient
        )
    except ValueError as error:
        raise SettingsError(str(error), where="plan power") from error
    if truth is not None:
        labels = _truth(truth, loaded, params, split_test=split_test)
    else:
        labels = score_files.drawn_truth(patients or loaded.performance.min_test_patients)
    owners = score_files.owned(labels)
    expected = power.expect(
        loaded.performance,
        labels.truth,
        owners,
        labels.attributes,
        assumed,
        others=("champion", "reference") if reference else ("champion",),
    )
    drawn = "" if truth else " (drawn: the NIH's prevalences and co-occurrence, one to ten images a patient)"
    say(f"labels   {len(owners)} images of {len(set(owners))} patients{drawn}")
    say(f"assumed  {assumed}")
    show(plans.power_table(expected))
    for line in plans.power_summary(loaded.performance, expected):
        say(line)
