"""The command `cxr-ops`: one verb a stage, and a few more for people.

Results go to standard output, progress and errors to standard error. What a command needs is imported when it runs, so
that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_ops import __version__, contract
from cxr_ops.errors import CxrError, SettingsError

if TYPE_CHECKING:
    from cxr_ops.edges.home import Home

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
app.add_typer(data_app, name="data")
app.add_typer(ingest_app, name="ingest")
app.add_typer(stage_app, name="stage")
app.add_typer(ledger_app, name="ledger")

Run = Annotated[str, typer.Option("--run", help="Name of the run, as `open` was given it.")]
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
    from cxr_ops.data import synth as generator
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
for _verb in contract.DETERMINISTIC:
    app.command(_verb, help=f"{_HELP[_verb]} Works on the current folder; `dvc repro` runs all that is stale.")(
        _deterministic(_verb)
    )


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
    from cxr_ops.edges.ledger import Ledger

    ledger = Ledger(_home().ledger)
    ledger.verify()
    _say(f"{len(ledger.entries())} entries, chain whole")


@ledger_app.command("show")
def ledger_show() -> None:
    """Print the entries of the ledger, one JSON object a line."""
    from cxr_ops.edges.ledger import Ledger

    for entry in Ledger(_home().ledger).entries():
        _say(json.dumps(entry.model_dump(mode="json"), sort_keys=True))


@app.command()
def version() -> None:
    """Print the version."""
    _say(__version__)
