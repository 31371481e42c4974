"""`cxr-ops plan`: read, compare and size change-control plans, and put one in force."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.options import PlanFile, SplitTest, TruthFile
from cxr_ops.commands.output import AsJson, find_home, say, say_json, show
from cxr_ops.errors import SettingsError

if TYPE_CHECKING:
    from cxr_ops.data.score_files import Truth
    from cxr_ops.params import Params
    from cxr_ops.plan import ChangePlan

app = group("Read, compare and size change-control plans, and put one in force.")


def _params() -> Params | None:
    """The settings of the current folder; None where it holds none, as on an outsider's machine."""
    from cxr_ops.params import Params

    path = Path("params.yaml")
    return Params.load(path) if path.is_file() else None


def _plan(path: Path | None, params: Params | None) -> tuple[Path, ChangePlan]:
    """Read the plan that was named, or else the one that the settings name."""
    from cxr_ops import plan as plans

    if path is None and params is None:
        raise SettingsError(
            "no plan is named, and this folder has no params.yaml that names one",
            where=Path.cwd(),
            fix="name a plan, or make one: cxr-ops plan template nih-production > pccp.yaml",
        )
    path = path or Path(params.gate.plan if params else "")
    return path, plans.load(path)


def _truth(path: Path, plan: ChangePlan, params: Params | None, *, split_test: bool) -> Truth:
    from cxr_ops.data import score_files

    truth = score_files.read_truth(path)
    if not split_test:
        return truth
    from cxr_ops.params import Params

    bounds = plan.description_of_modifications.bounds.settings
    split = (params or Params()).split.model_dump()
    for key in split:
        bound = bounds.get(f"split.{key}")
        split[key] = bound.equals if bound is not None and bound.equals is not None else split[key]
    return score_files.test_side(truth, **split)


def _labels_of(labels: Truth) -> dict[str, int]:
    from cxr_ops.data import score_files

    return {"images": len(labels.image_ids), "patients": len(set(score_files.owned(labels)))}


@app.command("check")
def plan_check(
    plan: PlanFile = None, truth: TruthFile = None, split_test: SplitTest = False, as_json: AsJson = False
) -> None:
    """Check a plan, and say what it holds and what a reviewer would object to.

    With --truth the margins are compared with those that the positive patients of each finding propose; where an
    equally good model would not keep one nearly always, it is said what a plan can do.
    """
    from dataclasses import asdict

    from cxr_ops.records.base import sha256_file
    from cxr_ops.report import plans

    params = _params()
    path, loaded = _plan(plan, params)
    plans.check_bounds(loaded)
    facts, warnings = plans.facts(loaded, sha256_file(path)), plans.warnings(loaded, params)
    labels, tiers, proposals = None, [], []
    if truth is not None:
        from cxr_ops.data import score_files
        from cxr_ops.stats import power

        labels = _truth(truth, loaded, params, split_test=split_test)
        tiers = plans.tiers(loaded.performance, score_files.positive_patients(labels))
        owners = score_files.owned(labels)
        proposals = power.propose(loaded.performance, labels.truth, owners, power.Assumptions())
    if as_json:
        found: dict[str, Any] = {"facts": dict(facts), "warnings": warnings}
        if labels is not None:
            found |= {"labels": {**_labels_of(labels), "test_side": split_test}, "tiers": [*map(asdict, tiers)]}
            found |= {"proposals": [*map(asdict, proposals)]}
        say_json(found)
        return
    for name, value in facts:
        say(f"{name:<24}{value}")
    for warning in warnings:
        say(f"warning: {warning}")
    if labels is None:
        return
    side = ", the test side of the plan's split" if split_test else ""
    say("{:<24}{images} images of {patients} patients{side}".format("labels", **_labels_of(labels), side=side))
    for note in labels.notes:
        say(f"note: {note}")
    for tier in tiers:
        say(f"{'  ' if tier.margin == tier.proposed else '! '}{tier}")
    other = sum(tier.margin != tier.proposed for tier in tiers)
    say(f"{other or 'no'} margin{'' if other == 1 else 's'} other than proposed")
    for proposal in proposals:
        say(f"too few patients: {proposal}")


@app.command("explain")
def plan_explain(
    plan: PlanFile = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say in plain words what a plan lets change, what it asks for, and what follows."""
    from dataclasses import asdict

    from cxr_ops.report import plans

    sections = plans.explain(_plan(plan, None if plan else _params())[1])
    if as_json:
        say_json([asdict(section) for section in sections])
    elif markdown:
        say(plans.markdown(sections))
    else:
        show(plans.render(sections))


@app.command("adopt")
def plan_adopt(
    plan: Annotated[Path, typer.Argument(help="The plan.")],
    by: Annotated[str, typer.Option(help="Name of the person who decided it.")],
    reason: Annotated[str, typer.Option(help="Why; the ledger records it.")],
) -> None:
    """Put a plan in force. Until the next test period opens, the strictest limits of its plans still hold."""
    from cxr_ops import plan as loaded
    from cxr_ops.edges import plans as in_force
    from cxr_ops.report import plans

    plans.check_bounds(loaded.load(plan))
    adopted, before = in_force.adopt(find_home(), plan, by=by, reason=reason)
    say(f"the plan {adopted.name} {'was in force already' if before else 'is in force'}, sha256 {adopted.sha256}")
    if not before:
        say(f"a run is judged by the plan that params.yaml names: gate.plan: {plan}")
    if (held := in_force.held(find_home())) is not None and held != adopted.limits:
        code = ", committed code" if held.require_clean_code else ""
        say(
            f"until the next test period, earlier plans hold too: {held.max_looks} looks, {held.approvals} must agree, "
            f"disclosure {held.disclosure}{code}"
        )
    if in_force.spent_up(find_home()):
        say(
            "the looks of this test period, and what was told of them, leave nothing to spend under this plan: "
            "the next period has it all. Ingest new patients, then: cxr-ops period open --by NAME --reason TEXT"
        )


@app.command("migrate")
def plan_migrate(
    plan: Annotated[Path, typer.Argument(help="A plan, of whatever format.")],
    recycled: Annotated[bool, typer.Option("--recycled", help="Let its looks recycle the period's error.")] = False,
) -> None:
    """Print a plan in the newest format, and say what changed: cxr-ops plan migrate old.yaml > new.yaml."""
    from cxr_ops import plan as plans
    from cxr_ops.plan_migration import migrate

    text, changes = migrate(plans.read_bytes(plan).decode("utf-8"), plan, recycled=recycled)
    for change in changes or ["nothing: it is of the newest format"]:
        typer.echo(f"changed: {change}", err=True)
    say(text.rstrip("\n"))


@app.command("diff")
def plan_diff(
    old: Annotated[Path, typer.Argument(help="A plan.")],
    new: Annotated[Path, typer.Argument(help="The plan to compare it with.")],
    as_json: AsJson = False,
) -> None:
    """Say what changed between two plans, and whether each change asks for less (looser) or for more (stricter)."""
    from dataclasses import asdict

    from cxr_ops import plan as plans
    from cxr_ops.report.plans import diff

    changes = diff(plans.load(old), plans.load(new))
    if as_json:
        say_json([asdict(change) for change in changes])
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
        int | None,
        typer.Option(
            min=1,
            help="Without --truth: how many test patients to draw; if left out, the plan's minimum, or as many as the "
            "findings that it requires need.",
        ),
    ] = None,
    correlation: Annotated[
        float, typer.Option(help="Correlation of two models' scores on an image, within a class.")
    ] = 0.9,
    auc: Annotated[float, typer.Option(help="AUC of champion and reference, for every finding.")] = 0.80,
    difference: Annotated[float, typer.Option(help="The challenger's AUC minus the champion's.")] = 0.0,
    within_patient: Annotated[float, typer.Option(help="Correlation of scores on two images of a patient.")] = 0.5,
    reference: Annotated[
        bool, typer.Option("--reference", help="The reference is another model than the champion.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how probable it is that a challenger meets each check and all checks, and how many patients it needs."""
    from dataclasses import asdict

    from cxr_ops.data import score_files
    from cxr_ops.report import plans
    from cxr_ops.stats import power

    params = _params()
    _, loaded = _plan(plan, params)
    try:
        assumed = power.Assumptions(
            auc=auc, difference=difference, correlation=correlation, within_patient=within_patient
        )
    except ValueError as error:
        raise SettingsError(str(error), where="plan power") from error
    if truth is not None:
        labels = _truth(truth, loaded, params, split_test=split_test)
    else:
        rules = loaded.performance
        labels = score_files.drawn_for(rules) if patients is None else score_files.drawn_truth(patients)
    owners = score_files.owned(labels)
    expected = power.expect(
        loaded.performance,
        labels.truth,
        owners,
        labels.attributes,
        assumed,
        others=("champion", "reference") if reference else ("champion",),
    )
    if as_json:
        say_json({"labels": {**_labels_of(labels), "drawn": not truth}, "assumed": asdict(assumed), **asdict(expected)})
        return
    drawn = "" if truth else " (drawn: the NIH's prevalences and co-occurrence, one to ten images a patient)"
    say(f"labels   {len(owners)} images of {len(set(owners))} patients{drawn}")
    say(f"assumed  {assumed}")
    show(plans.power_table(expected))
    for line in plans.power_summary(loaded.performance, expected):
        say(line)
    if expected.blocked:
        about = _labels_of(score_files.drawn_for(loaded.performance))["patients"]
        say(
            f"with the NIH's prevalences all that the plan requires could be judged from about {about} patients on; "
            f"without --truth, --patients {about} says what could be shown then"
        )


@app.command("template")
def plan_template(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of a template; if left out, all are listed.")
    ] = None,
) -> None:
    """Print a plan to begin with: cxr-ops plan template nih-production > my-plan.yaml. Without a name, list them."""
    from cxr_ops import plan_templates

    if name is None:
        for known in plan_templates.FILES:
            say(f"{known:<18}{plan_templates.purpose(known)}")
    else:
        say(plan_templates.read(name).rstrip("\n"))
