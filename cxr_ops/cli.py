"""The command `cxr-ops`: one verb a stage, and a few more for people.

Results go to standard output, progress and errors to standard error. What a command needs is imported when it runs, so
that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_ops import __version__, contract
from cxr_ops.errors import CxrError, SettingsError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cxr_ops.data.score_files import Truth
    from cxr_ops.edges.home import Home
    from cxr_ops.params import Params
    from cxr_ops.plan import ChangePlan

app = typer.Typer(
    name="cxr-ops",
    help="Retrain a chest X-ray classifier, and promote it only on evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Make data.", no_args_is_help=True, rich_markup_mode=None)
ingest_app = typer.Typer(help="Add a batch to the data set.", no_args_is_help=True, rich_markup_mode=None)
stage_app = typer.Typer(help="Run one stage of an opened run, supervised.", no_args_is_help=True, rich_markup_mode=None)
ledger_app = typer.Typer(help="Read the record of looks and decisions.", no_args_is_help=True, rich_markup_mode=None)
epoch_app = typer.Typer(help="Count looks on patients never scored.", no_args_is_help=True, rich_markup_mode=None)
plan_app = typer.Typer(help="Read, compare and size change-control plans.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(ingest_app, name="ingest")
app.add_typer(stage_app, name="stage")
app.add_typer(ledger_app, name="ledger")
app.add_typer(plan_app, name="plan")
app.add_typer(epoch_app, name="epoch")

Run = Annotated[str, typer.Option("--run", help="Name of the run, as `open` was given it.")]
PlanFile = Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A plan; params.yaml's own if it is left out.")]
TruthFile = Annotated[
    Path | None, typer.Option("--truth", help="Labels: the NIH's Data_Entry_2017.csv, a manifest, or a CSV.")
]
SplitTest = Annotated[
    bool, typer.Option("--split-test", help="Of the labels take the patients whom the plan's split puts to the test.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of params.yaml for this run only.")
]


class OnBad(StrEnum):
    """What ingestion does with a batch in which some rows are bad."""

    REFUSE = "refuse"
    QUARANTINE = "quarantine"


def main() -> None:
    """Run the command; an error that a person can mend is told without a traceback, and its exit code says its kind."""
    try:
        app()
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's own voice
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT


def _home() -> Home:
    from cxr_ops.edges.home import Home

    return Home.find()


def _say(text: str) -> None:
    typer.echo(text)


def _result(values: dict[str, Any]) -> None:
    """Print identifiers and digests as the last line of standard output, for Airflow's XCom."""
    typer.echo(json.dumps(values, sort_keys=True))


def parse_overrides(items: list[str] | None) -> dict[str, Any]:
    """Read `train.epochs=3` as a key and a YAML value.

    Raises:
        SettingsError: an item without `=`, or a value that is not YAML.

    >>> parse_overrides(["train.epochs=3", "train.weights=none"])
    {'train.epochs': 3, 'train.weights': 'none'}
    """
    import yaml

    values: dict[str, Any] = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or "." not in key:
            raise SettingsError(f"--set wants SECTION.KEY=VALUE, not {item!r}", fix="for example --set train.epochs=3")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"the value of {key} is not YAML: {value!r}", where="--set") from error
    return values


# --------------------------------------------------------------------------------------------------- data


@data_app.command()
def synth(
    out: Annotated[Path, typer.Option(help="A folder that is new or empty.")],
    images: Annotated[int, typer.Option(help="How many radiographs.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
    min_prevalence: Annotated[float, typer.Option(help="Raise each finding to this; 0: the NIH's own.")] = 0.08,
    size: Annotated[int | None, typer.Option(help="Side of the pictures in pixels.")] = None,
    first_patient: Annotated[int, typer.Option(help="Number of the first patient: a later batch starts higher.")] = 1,
) -> None:
    """Write generated frontal chest radiographs in the NIH's layout. Not for clinical use."""
    from cxr_ops.data.synthetic import synth as generator
    from cxr_ops.report.terminal import steps

    with steps("drawing radiographs") as progress:
        summary = generator.synthesize(
            out,
            images=images,
            seed=seed,
            min_prevalence=min_prevalence,
            size=size or generator.DEFAULT_SIZE,
            first_patient=first_patient,
            progress=progress,
        )
    rare = min(summary.prevalence, key=lambda finding: summary.prevalence[finding])
    _say(
        f"{summary.images} radiographs of {summary.patients} generated patients in {out}; the rarest finding is {rare} "
        f"({summary.prevalence[rare]:.1%}, the NIH's own prevalence is {summary.nih_prevalence[rare]:.1%})\n"
        f"{summary.notice}\nnext: cxr-ops ingest nih {out} --batch NAME"
    )


@ingest_app.command()
def nih(
    folder: Annotated[Path, typer.Argument(help="A folder in the NIH's layout.")],
    batch: Annotated[str, typer.Option(help="Name of the batch: small letters, digits, hyphens.")],
    on_bad: Annotated[OnBad, typer.Option(help="Refuse a batch with bad rows, or leave them out.")] = OnBad.REFUSE,
) -> None:
    """Add a folder of NIH radiographs to the data set, after checking every row and every image."""
    from cxr_ops.edges import airflow
    from cxr_ops.report.terminal import steps
    from cxr_ops.stages import ingest

    home = _home()
    with steps("reading radiographs") as progress:
        result = ingest.run(folder, batch=batch, home=home, on_bad=on_bad.value, progress=progress)
    _say(str(result))
    if not result.already:
        _say(airflow.announce_dataset(home, result.revision))


# ------------------------------------------------------------------------------------- deterministic stages


def _deterministic(verb: str) -> Callable[[], None]:
    def command() -> None:
        from importlib import import_module

        from cxr_ops.params import Params

        params = Params.load(Path("params.yaml"))  # before the stage's libraries: a wrong key is told at once
        import_module(f"cxr_ops.stages.{verb}").run(Path.cwd(), params)

    return command


_HELP = {
    "validate": "Check the whole data set against the expectations, and write the validation page.",
    "split": "Divide the patients into train, validation and test.",
    "prepare": "Decode, resize and pack the radiographs to train on.",
    "train": "Train the challenger; started again, it resumes.",
    "evaluate": "Score challenger and champion on the locked test set.",
    "explain": "Draw Grad-CAM maps of selected cases.",
    "gate": "Execute the change-control plan on the evidence.",
    "report": "Write the report.",
}
_HERE = "Works on the current folder; `dvc repro` runs all that is stale."
for _verb in contract.DETERMINISTIC:
    if _verb != "train":
        app.command(_verb, help=f"{_HELP[_verb]} {_HERE}")(_deterministic(_verb))


@app.command(help=f"{_HELP['train']} {_HERE}")
def train(
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Train with and without each choice of the recipe, and compare.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="With --ablate: trainings of each choice; 3.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHOICE", help="With --ablate: this choice; once for each.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --ablate: folder of the results; ablation.")] = None,
    overrides: Overrides = None,
) -> None:
    """Train, or with --ablate measure on the validation side what each choice brings; started again, both resume."""
    if not ablate:
        if seeds or only or out or overrides:
            raise SettingsError("these options need --ablate", where="train", fix="edit params.yaml")
        _deterministic("train")()
        return
    from cxr_ops import ablation
    from cxr_ops.report.ablation import table
    from cxr_ops.stages.open import params_of

    params, out = params_of(Path.cwd(), parse_overrides(overrides)), out or Path("ablation")
    say = partial(typer.echo, err=True)
    found = ablation.run(Path.cwd(), params, out=out, seeds=seeds or 3, only=only or (), say=say)
    _print(table(found))
    _say(f"results: {out / 'ablation.html'}, ablation.md and ablation.json beside it")


# ------------------------------------------------------------------------------- stages with effects, and runs


@app.command("open")
def open_(
    overrides: Overrides = None,
) -> None:
    """Make this checkout ready for `dvc repro`: the data set, the champion and inputs.json."""
    from cxr_ops.stages import open as stage

    result = stage.run(_home(), run=None, overrides=parse_overrides(overrides))
    _say(str(result))


@stage_app.command("ingest")
def stage_ingest(
    folder: Annotated[Path, typer.Argument(help="A folder in the NIH's layout.")],
    batch: Annotated[str, typer.Option(help="Name of the batch.")],
    on_bad: Annotated[OnBad, typer.Option(help="Refuse a batch with bad rows, or leave them out.")] = OnBad.REFUSE,
) -> None:
    """Ingest as the DAG does: the last line is the result as JSON."""
    from cxr_ops.stages import ingest

    result = ingest.run(folder, batch=batch, home=_home(), on_bad=on_bad.value)
    _result({"batch": result.batch, "revision": result.revision, "images": result.images, "already": result.already})


@stage_app.command("open")
def stage_open(
    run: Run,
    airflow_run_id: Annotated[str | None, typer.Option(help="Airflow's id of the run.")] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asked for the run.")] = None,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option(help="Go on even when nothing has changed.")] = False,
) -> None:
    """Make the workspace of a run."""
    from cxr_ops.stages import open as stage

    result = stage.run(
        _home(),
        run=run,
        airflow_run_id=airflow_run_id,
        requested_by=requested_by,
        overrides=parse_overrides(overrides),
        force=force,
    )
    _result(result.as_xcom())


def _supervised(verb: str) -> Callable[[str], None]:
    def command(run: Run) -> None:
        from cxr_ops.edges.pipeline import run_stage

        _result(run_stage(_home(), run, verb))

    return command


for _verb in contract.DETERMINISTIC:
    stage_app.command(_verb, help=_HELP[_verb])(_supervised(_verb))


@stage_app.command("publish")
@app.command()
def publish(run: Run) -> None:
    """Put a finished run on record: MLflow, report, run commit, decision in the ledger."""
    from cxr_ops.stages import publish as stage

    _result(stage.run(_home(), run))


@stage_app.command("promote")
@app.command()
def promote(
    run: Run,
    approved_by: Annotated[list[str] | None, typer.Option(help="Who approved; once for each person.")] = None,
) -> None:
    """Make a run's challenger the champion, if its decision, the plan and the ledger allow it."""
    from cxr_ops.stages import promote as stage

    _result(stage.run(_home(), run, approvals=approved_by or []))


# ------------------------------------------------------------------------------------------------------ plans


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


@plan_app.command("check")
def plan_check(plan: PlanFile = None, truth: TruthFile = None, split_test: SplitTest = False) -> None:
    """Check a plan, and say what it holds and what a reviewer would object to.

    With --truth the margins are compared with those that the positive patients of each finding propose.
    """
    from cxr_ops.records.base import sha256_file
    from cxr_ops.report import plans

    path, loaded, params = _plan(plan)
    plans.check_bounds(loaded)
    for name, value in plans.facts(loaded, sha256_file(path)):
        _say(f"{name:<24}{value}")
    for warning in plans.warnings(loaded, params):
        _say(f"warning: {warning}")
    if truth is None:
        return
    from cxr_ops.data import score_files

    labels = _truth(truth, loaded, params, split_test=split_test)
    tiers = plans.tiers(loaded.performance, score_files.positive_patients(labels))
    patients = len(set(score_files.owned(labels)))
    side = ", the test side of the plan's split" if split_test else ""
    _say(f"{'labels':<24}{len(labels.image_ids)} images of {patients} patients{side}")
    for tier in tiers:
        _say(f"{'  ' if tier.margin == tier.proposed else '! '}{tier}")
    other = sum(tier.margin != tier.proposed for tier in tiers)
    _say(f"{other or 'no'} margin{'' if other == 1 else 's'} other than proposed")


@plan_app.command("explain")
def plan_explain(
    plan: PlanFile = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Say in plain words what a plan lets change, what it asks for, and what follows."""
    from cxr_ops.report import plans

    sections = plans.explain(_plan(plan)[1])
    if markdown:
        _say(plans.markdown(sections))
    else:
        _print(plans.render(sections))


@plan_app.command("diff")
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
        _say(json.dumps([asdict(change) for change in changes], indent=2))
        return
    for change in changes:
        _say(str(change))
    if not changes:
        _say("the plans say the same")


@plan_app.command("power")
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
    _say(f"labels   {len(owners)} images of {len(set(owners))} patients{drawn}")
    _say(f"assumed  {assumed}")
    _print(plans.power_table(expected))
    for line in plans.power_summary(loaded.performance, expected):
        _say(line)


def _print(what: RenderableType) -> None:
    """Print a table or a text with rich; without a terminal, wide enough that nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 120
    console.print(what)


# ------------------------------------------------------------------------------------------------ for people


@app.command()
def retrain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why, and run nothing.")] = False,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option(help="Retrain even when nothing has changed.")] = False,
) -> None:
    """Retrain once in the embedded Airflow, and say what came of it."""
    from cxr_ops import retrain as driver

    sys.exit(driver.retrain(_home(), dry_run=dry_run, overrides=parse_overrides(overrides), force=force))


@app.command()
def ui() -> None:
    """Open Airflow and MLflow on the stores of this installation, until Ctrl-C."""
    from cxr_ops import retrain as driver

    sys.exit(driver.ui(_home()))


@app.command("compare")
def compare_(
    truth: Annotated[Path, typer.Option(help="Labels: the NIH's CSV, a manifest, or a column a finding.")],
    a: Annotated[Path, typer.Option("--a", help="Scores of the model that is judged: image id, a column a finding.")],
    b: Annotated[Path | None, typer.Option("--b", help="Scores of the model that it is compared with.")] = None,
    plan: Annotated[Path, typer.Option(help="The change-control plan.")] = Path("pccp.yaml"),
    validation: Annotated[
        Path | None, typer.Option(help="Labels of further scored images, to choose thresholds and to recalibrate.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write a page with figures there.")] = None,
) -> None:
    """Run the statistics and the gate on files of scores, of any models. Shows what the evidence says."""
    from rich.console import Console

    from cxr_ops import compare
    from cxr_ops.records.base import canonical_json, write_atomic
    from cxr_ops.report import comparison

    compared = compare.run(truth, a, b, plan=plan, validation=validation)
    if json_out is not None:
        write_atomic(json_out, canonical_json(compare.as_json(compared)))
    if html_out is not None:
        write_atomic(html_out, comparison.render(compared, compare.LEVEL).encode())
    Console().print(comparison.table(compared))


@app.command()
def lineage(
    identifier: Annotated[str, typer.Argument(help="A run, an MLflow run, a commit, a model version or a digest.")],
) -> None:
    """Show everything that belongs to an Airflow run, MLflow run, commit, model version, package or report."""
    from cxr_ops.edges import lineage as tracer

    _say(str(tracer.trace(_home(), identifier)))


@ledger_app.command("verify")
def ledger_verify() -> None:
    """Check the hash chain of the ledger from its first entry to its last."""
    from cxr_ops.edges.ledger.chain import Ledger

    ledger = Ledger(_home().ledger)
    ledger.verify()
    _say(f"{len(ledger.entries())} entries, chain whole")


@ledger_app.command("show")
def ledger_show() -> None:
    """Print the entries of the ledger, one JSON object a line."""
    from cxr_ops.edges.ledger.chain import Ledger

    for entry in Ledger(_home().ledger).entries():
        _say(json.dumps(entry.model_dump(mode="json"), sort_keys=True))


@epoch_app.command("open")
def epoch_open(
    by: Annotated[str, typer.Option(help="Who decided it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands on the ledger.")],
) -> None:
    """Close every batch that was scored, and count looks anew on the patients that came since."""
    from cxr_ops.stages import epoch as stage

    opened = stage.begin(_home(), by=by, reason=reason)
    _say(
        f"test epoch {opened.number} is open; closed: {', '.join(opened.closed_batches)}\n"
        "what was withheld of a run of the epoch before is released by: cxr-ops publish --run RUN"
    )


@epoch_app.command("show")
def epoch_show() -> None:
    """Show the open test epoch, the looks spent of those that the plan allows, and the closed batches."""
    from cxr_ops.stages import epoch as stage

    _say(stage.show(_home()))


@app.command()
def version() -> None:
    """Print the version."""
    _say(__version__)
