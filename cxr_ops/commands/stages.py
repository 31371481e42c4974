"""`cxr-ops VERB` and `cxr-ops stage VERB`: one verb a stage, under the stage's own name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_ops import contract
from cxr_ops.commands.extras import require
from cxr_ops.commands.help import group, verbs
from cxr_ops.commands.options import OnBad, Overrides, Run, parse_overrides
from cxr_ops.commands.output import find_home, result_line, say, show
from cxr_ops.errors import SettingsError

# Without a name of its own: its commands are listed with the others of `cxr-ops`.
app = verbs()
stage_app = group("Run one stage of an opened run, supervised.")


def _deterministic(verb: str) -> Callable[[], None]:
    def command() -> None:
        from importlib import import_module

        require("stages")
        from cxr_ops.params import Params

        params = Params.load(Path("params.yaml"))  # before the stage's libraries: a wrong key is an error at once
        import_module(f"cxr_ops.stages.{verb}").run(Path.cwd(), params)

    return command


_HELP = {
    "validate": "Check the whole data set against the expectations, and write the validation page.",
    "split": "Divide the patients into train, validation and test.",
    "prepare": "Decode, resize and pack the radiographs for training.",
    "train": "Train the challenger; if it was stopped before, go on from the last checkpoint.",
    "evaluate": "Score challenger and champion on the locked test set.",
    "explain": "Draw Grad-CAM maps of selected cases.",
    "gate": "Execute the change-control plan on the evidence.",
    "report": "Write the report.",
}
_HERE = "Works in the current folder; `dvc repro` runs every stage that is out of date."
for _verb in contract.DETERMINISTIC:
    if _verb != "train":
        app.command(_verb, help=f"{_HELP[_verb]} {_HERE}")(_deterministic(_verb))


@app.command(help=f"{_HELP['train']} {_HERE}")
def train(
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Train with and without each choice of the recipe, and compare.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="With --ablate: how often to train each choice; 3 if left out.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHOICE", help="With --ablate: train only this choice; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --ablate: folder for the results; ablation if left out.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train; with --ablate measure on the validation side what each choice brings. Run again, both go on."""
    if not ablate:
        if seeds or only or out or overrides:
            raise SettingsError("these options need --ablate", where="train", fix="edit params.yaml")
        _deterministic("train")()
        return
    require("stages")
    from cxr_ops import ablation
    from cxr_ops.report.ablation import table
    from cxr_ops.stages.open import params_of

    params, out = params_of(Path.cwd(), parse_overrides(overrides)), out or Path("ablation")
    say = partial(typer.echo, err=True)
    found = ablation.run(Path.cwd(), params, out=out, seeds=seeds or 3, only=only or (), say=say)
    show(table(found))
    say(f"results: {out / 'ablation.html'}, ablation.md and ablation.json beside it")


@app.command("open")
def open_(
    # Hidden, and refused by the stage with what to do instead: people expect it here, as `retrain` has it.
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", hidden=True)] = None,
) -> None:
    """Make this checkout ready for `dvc repro`: bring the data set, the champion and inputs.json."""
    require("stages")
    from cxr_ops.stages import open as stage

    result = stage.run(find_home(), run=None, overrides=parse_overrides(overrides))
    say(str(result))


Attempt = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write result.json into this folder at the end: the result, or the error."),
]


def _attempt(verb: str, folder: Path | None, work: Callable[[], dict[str, Any]]) -> None:
    """Do a stage's work and print its result; with a folder, also write there how it ended."""
    from cxr_ops.edges import attempt

    def told() -> dict[str, Any]:
        require("stages")
        result = work()
        result_line(result)
        return result

    attempt.run(verb, folder, told)


@stage_app.command("ingest")
def stage_ingest(
    folder: Annotated[Path, typer.Argument(help="The folder to read.")],
    batch: Annotated[str, typer.Option(help="Name of the batch.")],
    on_bad: Annotated[OnBad, typer.Option(help="Refuse a batch with bad rows, or leave them out.")] = OnBad.REFUSE,
    kind: Annotated[str, typer.Option(help="What the folder holds: a KIND of `cxr-ops ingest`.")] = "nih",
    attempt: Attempt = None,
) -> None:
    """Add a batch as the DAG does: the last line of the output is the result as JSON."""

    def work() -> dict[str, Any]:
        from cxr_ops.stages import ingest

        done = ingest.run(kind, folder, batch=batch, home=find_home(), on_bad=on_bad.value)
        return {"batch": done.batch, "revision": done.revision, "images": done.images, "already": done.already}

    _attempt("ingest", attempt, work)


@stage_app.command("open")
def stage_open(
    run: Annotated[str, typer.Option("--run", help="A name for the run: small letters, digits, single hyphens.")],
    airflow_run_id: Annotated[str | None, typer.Option(help="Airflow's id of the run.")] = None,
    requested_by: Annotated[str | None, typer.Option(help="Name of the person who asked for the run.")] = None,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Go on even when nothing has changed.")] = False,
    attempt: Attempt = None,
) -> None:
    """Make the workspace of a run."""

    def work() -> dict[str, Any]:
        from cxr_ops.stages import open as stage

        opened = stage.run(
            find_home(),
            run=run,
            airflow_run_id=airflow_run_id,
            requested_by=requested_by,
            overrides=parse_overrides(overrides),
            force=force,
        )
        return opened.as_xcom()

    _attempt("open", attempt, work)


def _supervised(verb: str) -> Callable[[str, Path | None], None]:
    def command(run: Run, attempt: Attempt = None) -> None:
        def work() -> dict[str, Any]:
            from cxr_ops.edges.pipeline import run_stage
            from cxr_ops.edges.run_names import find_run

            home = find_home()
            return run_stage(home, find_run(home, run), verb)

        _attempt(verb, attempt, work)

    return command


for _verb in contract.DETERMINISTIC:
    stage_app.command(_verb, help=_HELP[_verb])(_supervised(_verb))


@stage_app.command("publish")
@app.command()
def publish(run: Run, attempt: Attempt = None) -> None:
    """Record a finished run: MLflow, report, run commit, and the decision in the ledger."""

    def work() -> dict[str, Any]:
        from cxr_ops.edges.run_names import find_run
        from cxr_ops.stages import publish as stage

        home = find_home()
        return stage.run(home, find_run(home, run))

    _attempt("publish", attempt, work)


@stage_app.command("promote")
@app.command()
def promote(
    run: Run,
    approved_by: Annotated[
        list[str] | None, typer.Option(help="Name of a person who approved; may be repeated.")
    ] = None,
    attempt: Attempt = None,
) -> None:
    """Make a run's challenger the champion, if its decision, the plan and the ledger allow it."""

    def work() -> dict[str, Any]:
        from cxr_ops.edges.run_names import find_run
        from cxr_ops.stages import promote as stage

        home = find_home()
        return stage.run(home, find_run(home, run), approvals=approved_by or [])

    _attempt("promote", attempt, work)
