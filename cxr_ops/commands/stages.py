"""`cxr-ops VERB` and `cxr-ops stage VERB`: one verb a stage, under the stage's own name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_ops import contract
from cxr_ops.commands.extras import require
from cxr_ops.commands.help import group, verbs
from cxr_ops.commands.options import OnBad, Overrides, Run, parse_overrides, parse_uncertain
from cxr_ops.commands.output import find_home, result_line, say, show
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.voice import count

if TYPE_CHECKING:
    from cxr_ops.edges.home import Home

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
    if _verb not in ("validate", "train", "report"):
        app.command(_verb, help=f"{_HELP[_verb]} {_HERE}")(_deterministic(_verb))


@app.command(help=f"{_HELP['validate']} {_HERE}")
def validate(
    data_docs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also write great-expectations' own pages, which name images and patients, into a new folder.",
        ),
    ] = None,
) -> None:
    """Validate; with --data-docs write the pages first, so that they are there if the data fail."""
    if data_docs is not None:
        require("stages")
        from cxr_ops.data import data_docs as pages
        from cxr_ops.data import manifest, validation
        from cxr_ops.params import Params

        suites = [Path(suite) for suite in Params.load(Path("params.yaml")).validate_.suites]
        dataset = Path(contract.DATASET)
        frame = manifest.read_version(dataset)[0]
        prepared = validation.prepare(frame, suites, validation.beside(dataset, frame))
        say(f"Data Docs: {pages.write(data_docs, prepared)}")
    _deterministic("validate")()
    from cxr_ops.records.validation import Validated

    found = Validated.read(Path("validate") / "validation.json")
    warnings = sum(not check.passed for check in found.checks)
    let_pass = f", {count(warnings, 'warning')}" if warnings else ""
    data = f"{count(found.images, 'image')} of {count(found.patients, 'patient')}"
    say(
        f"the data passed: {count(len(found.checks), 'check')} of {data}{let_pass}; validate/validation.html shows them"
    )


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


@app.command(help=f"{_HELP['report']} {_HERE}")
def report(
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="RUN RUN", help="Write a page that puts two published runs side by side."),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Write a page of all runs, with links to their reports.")
    ] = False,
    pdf: Annotated[
        str | None, typer.Option("--pdf", metavar="RUN", help="Print the published report of a run; needs a browser.")
    ] = None,
    second: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            "--second-truth",
            metavar="RUN FILE",
            help="Put a second truth, such as labels that experts read again, beside the first in a published report.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file that these three write; one in the folder of reports if left out.")
    ] = None,
) -> None:
    """Write the report of this checkout; or, of what was published, a page of two runs, of all, or a PDF."""
    asked = [
        name
        for name, given in (("--compare", pair), ("--index", index), ("--pdf", pdf), ("--second-truth", second))
        if given
    ]
    if len(asked) > 1:
        raise SettingsError(
            f"{' and '.join(asked)} write different files", where="report", fix=f"type {asked[0]} alone"
        )
    if not asked:
        if out is not None:
            raise SettingsError("--out needs --compare, --index or --pdf", where="report", fix="leave --out out")
        _deterministic("report")()
        return
    from cxr_ops.commands import places
    from cxr_ops.edges import browser
    from cxr_ops.edges.run_names import find_run
    from cxr_ops.report import across

    home = find_home()
    if second:
        if out is not None:
            raise SettingsError("--second-truth writes the published report again", where="--out", fix="leave it out")
        require("stages")
        from cxr_ops.stages import reread

        name = find_run(home, second[0])
        found = reread.run(home, name, second[1])
        say(f"{count(found.labelled, 'image')} of {found.images} have a second label; the report of {name} shows both")
        return
    if pair:
        names = [find_run(home, name) for name in pair]
        target = out or home.reports / f"{names[0]}--{names[1]}.html"
        page = across.render_pair(*(across.read(home.root / "runs", home.reports, name) for name in names))
    elif index:
        target = out or home.reports / "index.html"
        page = across.render_index(across.read_all(home.root / "runs", home.reports), across.way(target, home.reports))
    else:
        name = find_run(home, str(pdf))
        source, target = home.reports / f"{name}.html", out or home.reports / f"{name}.pdf"
        if not source.is_file():
            raise DataError("the run has no published report", where=source, fix=f"cxr-ops publish --run {name}")
        places.check({"--out": out}, {"the report": source})
        browser.print_pdf(source, target)
        say(str(target))
        return
    places.check({"--out": out}, {})
    target.parent.mkdir(parents=True, exist_ok=True)
    places.write(target, page.encode())
    say(str(target))


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


def _note(home: Home, run: str) -> None:
    """Write what came of the run beside it in Airflow, and into the log of the task, where both know."""
    from cxr_ops.edges.airflow.announce import note_verdict

    for line in note_verdict(home, run):
        typer.echo(line, err=True)


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
    folder: Annotated[str, typer.Argument(help="The folder to read, or s3://bucket/prefix, which is brought here.")],
    batch: Annotated[str, typer.Option(help="Name of the batch.")],
    on_bad: Annotated[OnBad, typer.Option(help="Refuse a batch with bad rows, or leave them out.")] = OnBad.REFUSE,
    kind: Annotated[str, typer.Option(help="What the folder holds: a KIND of `cxr-ops ingest`.")] = contract.AUTO,
    attributes: Annotated[Path | None, typer.Option(help="As of `cxr-ops ingest`.")] = None,
    uncertain: Annotated[list[str] | None, typer.Option(help="As of `cxr-ops ingest`; may be repeated.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="As of `cxr-ops ingest`.")] = None,
    view: Annotated[str, typer.Option(help="As of `cxr-ops ingest`.")] = "",
    own_split: Annotated[bool, typer.Option("--own-split", help="As of `cxr-ops ingest`.")] = False,
    deidentified: Annotated[bool, typer.Option("--deidentified", help="As of `cxr-ops ingest`.")] = False,
    attempt: Attempt = None,
) -> None:
    """Add a batch as the DAG does: the last line of the output is the result as JSON."""

    def work() -> dict[str, Any]:
        from cxr_ops.data.sources.source import Options
        from cxr_ops.edges.arrivals import brought
        from cxr_ops.stages import ingest

        home = find_home()
        options = Options(
            uncertain=parse_uncertain(uncertain),
            mapping=mapping,
            view=view,
            own_split=own_split,
            deidentified=deidentified,
        )
        with ExitStack() as stack:
            here = Path(folder)
            if folder.startswith("s3://"):
                with ingest.refusal_kept(home, batch):
                    here = stack.enter_context(brought(home, folder, batch))
            done = ingest.run(
                kind, here, batch=batch, home=home, on_bad=on_bad.value, options=options, attributes=attributes
            )
        typer.echo(str(done), err=True)  # the log of Airflow's task
        return {
            "batch": done.batch,
            "revision": done.revision,
            "images": done.images,
            "already": done.already,
            "outcome": done.acceptance.outcome if done.acceptance else None,
        }

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

        home = find_home()
        opened = stage.run(
            home,
            run=run,
            airflow_run_id=airflow_run_id,
            requested_by=requested_by,
            overrides=parse_overrides(overrides),
            force=force,
        )
        if opened.no_change:
            _note(home, run)
        return opened.as_xcom()

    _attempt("open", attempt, work)


def _supervised(verb: str) -> Callable[[str, Path | None], None]:
    def command(run: Run, attempt: Attempt = None) -> None:
        def work() -> dict[str, Any]:
            from cxr_ops.edges.pipeline import run_stage
            from cxr_ops.edges.run_names import find_run

            home = find_home()
            name = find_run(home, run)
            result = run_stage(home, name, verb)
            if result.get("no_change"):
                _note(home, name)
            return result

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
        name = find_run(home, run)
        result = stage.run(home, name)
        _note(home, name)
        return result

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
        name = find_run(home, run)
        result = stage.run(home, name, approvals=approved_by or [])
        _note(home, name)
        return result

    _attempt("promote", attempt, work)


# ------------------------------------------------------------------------- what Airflow does besides retraining


@stage_app.command("request", help="What people are asked about before a run is promoted, and how many are missing.")
def stage_request(run: Run, attempt: Attempt = None) -> None:
    """Say what people are asked about."""

    def work() -> dict[str, Any]:
        from cxr_ops.edges.run_names import find_run
        from cxr_ops.stages import answer

        home = find_home()
        return answer.request(home, find_run(home, run))

    _attempt("request", attempt, work)


@stage_app.command("answer", help="Put a person's answer to such a request on the ledger.")
def stage_answer(
    run: Run,
    decision: Annotated[str, typer.Option(help="The ledger's entry that was asked about.")],
    approve: Annotated[bool, typer.Option("--approve/--reject", help="What the answer was.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    by: Annotated[str | None, typer.Option(help="Who answered; left out where nobody did in time.")] = None,
    at: Annotated[str, typer.Option(help="When, ISO 8601; now if left out.")] = "",
    attempt: Attempt = None,
) -> None:
    """Record an answer."""

    def work() -> dict[str, Any]:
        from cxr_ops.stages import answer

        return answer.run(find_home(), run, decision=decision, approve=approve, by=by, reason=reason, at=at)

    _attempt("answer", attempt, work)


@stage_app.command("rollback", help="Bring an earlier champion back, as `cxr-ops rollback` does.")
def stage_rollback(
    to: Annotated[str, typer.Option(help="An earlier champion: a model version, or its run.")],
    by: Annotated[str, typer.Option(help="Name of the person who decided it.")],
    reason: Annotated[str, typer.Option(help="Why; the ledger records it.")],
    attempt: Attempt = None,
) -> None:
    """Roll back."""

    def work() -> dict[str, Any]:
        from cxr_ops.audit import rules
        from cxr_ops.stages import rollback

        return rollback.run(find_home(), to, by=by, reason=rules.check_reason(reason))

    _attempt("rollback", attempt, work)


@stage_app.command(
    "watch", help="Compare the registry with the ledger and repair its aliases, as `cxr-ops watch` does."
)
def stage_watch(attempt: Attempt = None) -> None:
    """Look at the registry once."""

    def work() -> dict[str, Any]:
        from cxr_ops.edges.mlflow import watch
        from cxr_ops.errors import RefusedError

        found = watch.watch(find_home())
        for one in found.repaired:
            typer.echo(f"repaired: {one}", err=True)
        if found.left:
            raise RefusedError(
                f"the registry is not as the ledger says: {'; '.join(found.left)}",
                fix="restore MLflow's database and artifacts from a backup, or trigger cxr_rollback",
            )
        return {"found": len(found.found), "repaired": len(found.repaired)}

    _attempt("watch", attempt, work)


@stage_app.command("gc", help="Remove what can be made again, as `cxr-ops data gc` does; without --yes, only say what.")
def stage_gc(yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False, attempt: Attempt = None) -> None:
    """Collect garbage."""

    def work() -> dict[str, Any]:
        from cxr_ops.stages import gc

        found = gc.run(find_home(), yes=yes)
        typer.echo(str(found), err=True)
        return {"removed": yes, "items": len(found.items), "bytes": sum(item.size for item in found.items)}

    _attempt("gc", attempt, work)


@stage_app.command("backup", help="Copy the installation into a folder of backups, and read the copy again.")
def stage_backup(
    out: Annotated[Path, typer.Option(help="A folder of backups: new, empty, or with earlier ones.")],
    attempt: Attempt = None,
) -> None:
    """Back up, and check it."""

    def work() -> dict[str, Any]:
        from cxr_ops.stages import backup

        typer.echo(str(backup.run(find_home(), out)), err=True)
        typer.echo(str(backup.check(out)), err=True)
        return {"out": str(out)}

    _attempt("backup", attempt, work)


@stage_app.command("monitor", help="Watch the model in use, as `cxr-ops monitor` does; an alarm is no failure.")
def stage_monitor(
    answers: Annotated[Path, typer.Option(help="A folder or file of answers.")],
    labels: Annotated[Path | None, typer.Option(help="A table of what is known of the pictures.")] = None,
    at: Annotated[str | None, typer.Option(help="Look as on that day, ISO 8601; now if left out.")] = None,
    attempt: Attempt = None,
) -> None:
    """Look at the model in use once, and leave a page."""

    def work() -> dict[str, Any]:
        from cxr_ops.commands.monitor import when
        from cxr_ops.records.base import write_atomic
        from cxr_ops.report import monitoring as report
        from cxr_ops.stages import monitor

        home = find_home()
        found = monitor.run(home, answers, now=when(at), labels=labels)
        for line in report.lines(found):
            typer.echo(line, err=True)
        page = home.root / "monitoring" / "monitoring.html"
        page.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(page, report.render(found).encode())
        return {
            "alarm": bool(found.alarms),
            "headline": report.headline(found),
            "then": found.then or "notify",
            "page": str(page),
        }

    _attempt("monitor", attempt, work)
