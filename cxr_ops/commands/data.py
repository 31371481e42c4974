"""`cxr-ops data`: make data, fetch them, look at versions, withdraw, correct, remove, write data for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, find_home, say, say_json, show
from cxr_ops.voice import count

if TYPE_CHECKING:
    from rich.table import Table

    from cxr_ops.edges.home import Home
    from cxr_ops.edges.store.batches import Held
    from cxr_ops.records.data import Event

app = group("Make data, look at them and their versions, take them out.")

_VERSION = "A number of `cxr-ops data log`, latest, latest~1, a data revision, or a run that used it."


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="A folder that is new or empty.")],
    images: Annotated[int, typer.Option(help="Number of radiographs.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
    min_prevalence: Annotated[
        float, typer.Option(help="Least share of images with each finding; 0: as rare as in the NIH's.")
    ] = 0.08,
    size: Annotated[int | None, typer.Option(help="Side of the pictures in pixels.")] = None,
    first_patient: Annotated[
        int, typer.Option(help="Number of the first patient; a later batch needs a higher one.")
    ] = 1,
) -> None:
    """Write generated frontal chest radiographs in the NIH's layout. Not for clinical use."""
    require("stages")
    from cxr_ops.data.synthetic import synth as generator
    from cxr_ops.voice import steps

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
    say(
        f"{count(summary.images, 'radiograph')} of {count(summary.patients, 'generated patient')} in {out}; "
        f"the rarest finding is {rare} "
        f"({summary.prevalence[rare]:.1%}, the NIH's own prevalence is {summary.nih_prevalence[rare]:.1%})\n"
        f"{summary.notice}\nnext: cxr-ops ingest nih {out} --batch NAME"
    )


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the batches and events of the data set: source, images, patients, when each entered, revision, size."""
    require("stages")
    from cxr_ops.edges.store import batches
    from cxr_ops.stages import index

    home = find_home()
    held, removed = batches.history(home)
    revision = batches.data_revision(home)
    events = batches.happened(home)
    gone = {image_id for one in events for image_id in one.event.images}
    rows: list[dict[str, Any]] = []
    images, patients = 0, 0
    if revision is not None:
        with index.run(home, [revision]) as known:
            rows = _rows(home, held, lambda batch: known.counts([revision.batches[batch]], without=gone))
            images, patients = known.counts(revision.batches.values(), without=gone)
    if as_json:
        say_json(
            {
                "revision": revision and revision.revision,
                "images": images,
                "patients": patients,
                "batches": rows,
                "removed": [vars(one) for one in removed],
                "events": [{"when": one.when, **one.event.model_dump(mode="json")} for one in events],
            }
        )
        return
    if revision is None:
        say("there is no data set yet; next: cxr-ops ingest nih FOLDER --batch NAME")
        return
    show(_table(rows), wide=True)
    withdrawn = sum(row["withdrawn"] for row in rows)
    left = f"; {count(withdrawn, 'image')} withdrawn, and not counted" if withdrawn else ""
    say(f"together: {count(images, 'image')} of {count(patients, 'patient')}{left}")
    entered = {one.batch: one.when for one in held}
    for one_out in removed:
        again = f"; it came in again, {entered[one_out.batch]}" if one_out.batch in entered else ""
        say(f"taken out: {one_out.batch}, {one_out.when}, by {one_out.by}: {one_out.reason}{again}")
    for one_event in events:
        event = one_event.event
        say(f"{event.name}: {_done(event)}, {one_event.when}, by {event.by}: {event.reason}")
    say(f"data revision {revision.revision}")


def _rows(home: Home, held: Sequence[Held], counts: Callable[[str], tuple[int, int]]) -> list[dict[str, Any]]:
    """What is told of each batch; `counts` gives its images and patients without those that are withdrawn."""
    from cxr_ops.edges.store import batches
    from cxr_ops.records.data import Batch, is_generated

    folders = batches.batch_files(home, names=(batches.BATCH,))
    rows = []
    for one in held:
        record = Batch.read(folders[one.batch] / batches.BATCH)
        images, patients = counts(one.batch)
        known = {"source": record.source, "images": images, "patients": patients}
        known["withdrawn"] = record.images - images
        rows.append({**vars(one), **known, "generated": is_generated(record.source, record.name)})
    return rows


def _done(event: Event) -> str:
    """What an event did, as far as a purge has left something of it."""
    images = len(event.images) or len({label.image_id for label in event.labels})
    if not images and not event.patients:
        return f"{event.kind}, of which a purge left nothing"
    whole = f" and {count(len(event.patients), 'patient')} as a whole" if event.patients else ""
    return f"{event.kind} {count(images, 'image')}{whole}"


@app.command()
def log(
    last: Annotated[int | None, typer.Option(help="Only so many of the newest versions.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of the data set: when each was made, what it holds, what changed, and the runs that used it."""
    require("stages")
    from cxr_ops.report import versions as told
    from cxr_ops.stages import log as stage

    found = stage.run(find_home(), last=last)
    lines = [
        told.VersionLine(
            number=one.version.number,
            when=one.version.when,
            images=one.images,
            patients=one.patients,
            what=one.version.what,
            by=one.by,
            reason=one.reason,
            runs=one.runs,
            revision=one.version.revision,
        )
        for one in found
    ]
    if as_json:
        names = ("added", "removed", "changed", "events")
        more = [
            {"batches": one.version.data.batches, **{name: getattr(one.version, name) for name in names}}
            for one in found
        ]
        say_json([{**vars(line), **rest} for line, rest in zip(lines, more, strict=True)])
    elif lines:
        show(told.log_table(lines), wide=True)
    else:
        say("there is no data set yet; next: cxr-ops ingest nih FOLDER --batch NAME")


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=_VERSION)],
    after: Annotated[str, typer.Argument(metavar="B", help="Another version.")] = "latest",
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file.")] = None,
    images: Annotated[int, typer.Option(help="Pictures of each group on the page.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Compare two versions of the data set: images, patients and labels that were added, removed or changed."""
    require("stages")
    from cxr_ops.commands import places
    from cxr_ops.report import versions as told
    from cxr_ops.stages import diff as stage

    places.check({"--html": html}, {})
    home = find_home()
    found = stage.run(home, before, after)
    first, second = (f"version {one.number}" for one in found.versions)
    if html is not None:
        from cxr_ops.stages.gallery import numbered

        groups = stage.groups(found, images)
        made = stage.pictures(home, found, groups)
        pictures: dict[str, list[told.Thumbnail]] = {}
        for word, rows in groups.items():
            pictures[word] = numbered(rows, made, first=1 + sum(map(len, pictures.values())))
        places.write(html, told.diff_page(found.difference, (first, second), pictures).encode())
    if as_json:
        say_json(found.difference.model_dump(mode="json"))
        return
    show(told.card(found.difference, (first, second)), wide=True)
    if html is not None:
        say(f"with pictures: {html}")


@app.command("show")
def show_(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="An image id, a patient id, or the SHA-256 of an image's file.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show the history of an image or of a patient's images: batches, labels, side of the split, runs."""
    require("stages")
    from cxr_ops.report import versions as told
    from cxr_ops.stages import show as stage

    found = stage.run(find_home(), identifier)
    if as_json:
        say_json(found.model_dump(mode="json"))
    else:
        show(told.history(found), wide=True)


@app.command()
def gallery(
    out: Annotated[Path, typer.Argument(help="The page, an HTML file.")],
    version: Annotated[str, typer.Option(help=_VERSION)] = "latest",
    images: Annotated[int, typer.Option(help="Pictures for each finding, and of images without one.")] = 24,
    key: Annotated[
        Path | None, typer.Option(help="Write a CSV that says which image each number on the page is.")
    ] = None,
) -> None:
    """Write a page of pictures of a version, for each finding, with filters; it names no image and no patient."""
    require("stages")
    from cxr_ops.commands import places
    from cxr_ops.stages import gallery as stage

    places.check({"OUT": out, "--key": key}, {})
    made = stage.run(find_home(), version, count=images)
    places.write(out, made.page.encode())
    if key is not None:
        places.write(key, made.key)
    say(f"{count(made.shown, 'image')} of version {made.version.number} in {out}")


@app.command()
def remove(
    batch: Annotated[str, typer.Argument(help="Name of the batch, as `cxr-ops data list` shows it.")],
    reason: Annotated[str, typer.Option(help="Why; the history of the data records it.")],
    by: Annotated[str, typer.Option(help="Name of the person who decided it.")],
) -> None:
    """Take a batch out of the data set. The store keeps it; the output says what follows for the test set."""
    from cxr_ops.stages import remove as stage

    say(str(stage.run(find_home(), batch, by=by, reason=reason)))


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List it and change nothing, as without --yes.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is kept here and nobody needs any more, with its bytes; with --yes, remove it.

    That is: workspaces of runs that have ended and are in the store, records of attempts, checkpoints and packed rows
    that nothing goes on from, objects of DVC's cache that nothing points to, and old quarantines. The DVC remote, the
    ledger, the store, MLflow and reports stay.
    """
    require("stages")
    from cxr_ops.errors import SettingsError
    from cxr_ops.stages import gc as stage

    if yes and dry_run:
        raise SettingsError("--yes and --dry-run say the opposite", where="data gc", fix="give one of them")
    found = stage.run(find_home(), yes=yes)
    if as_json:
        say_json(found.as_json())
    else:
        say(str(found))


@app.command()
def withdraw(
    reason: Annotated[str, typer.Option(help="Why; the history of the data records it.")],
    by: Annotated[str, typer.Option(help="Name of the person who decided it.")],
    who: Annotated[
        list[str] | None, typer.Argument(metavar="PATIENT|IMAGE", help="Ids, as the manifest has them.")
    ] = None,
    patient: Annotated[
        list[str] | None, typer.Option(help="The id of a patient, where an image has the same one; once for each.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="The id of an image, where a patient has the same one; once for each.")
    ] = None,
) -> None:
    """Take patients or images out of the data set, from now on; earlier versions keep them."""
    require("stages")
    from cxr_ops.edges.airflow import announce
    from cxr_ops.stages import withdraw as stage
    from cxr_ops.voice import steps

    home = find_home()
    with steps("withdrawing") as progress:
        done = stage.run(
            home, who or (), patients=patient or (), images=image or (), by=by, reason=reason, progress=progress
        )
    say(str(done))
    say(announce.announce_dataset(home, done.revision))


@app.command()
def purge(
    patient: Annotated[str, typer.Argument(help="The id, as manifests have it.")],
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it, so it names nobody.")],
    by: Annotated[str, typer.Option(help="Name of the person who decided it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; it cannot be undone.")] = False,
) -> None:
    """Remove a patient from every version, cache, clone and report. Without --yes, say what would go.

    The ledger keeps digests. Models that were trained on the patient are listed, and stay.
    """
    require("stages")
    from cxr_ops.edges.airflow import announce
    from cxr_ops.edges.store import batches
    from cxr_ops.stages import purge as stage
    from cxr_ops.voice import steps

    home = find_home()
    with steps("purging") as progress:
        done = stage.run(home, patient, by=by, reason=reason, yes=yes, progress=progress)
    say(str(done))
    revision = batches.data_revision(home)
    if done.done and revision is not None:
        say(announce.announce_dataset(home, revision.revision))


@app.command()
def relabel(
    table: Annotated[Path, typer.Argument(metavar="FILE.csv", help="image_id, and a column for each finding.")],
    reason: Annotated[str, typer.Option(help="Why; the history of the data records it.")],
    by: Annotated[str, typer.Option(help="Name of the person who decided it.")],
) -> None:
    """Correct labels: 1, 0, -1 (uncertain) or missing; an empty cell changes nothing. Earlier versions keep theirs."""
    require("stages")
    from cxr_ops.edges.airflow import announce
    from cxr_ops.stages import relabel as stage
    from cxr_ops.voice import steps

    home = find_home()
    with steps("correcting labels") as progress:
        done = stage.run(home, table, by=by, reason=reason, progress=progress)
    say(str(done))
    say(announce.announce_dataset(home, done.revision))


@app.command("copies")
def copies_() -> None:
    """Compare all pictures of the data set with one another; near copies under two patients are an error."""
    require("stages")
    from cxr_ops.stages import match as stage

    say(str(stage.survey(find_home())))


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(help="nih: the ChestX-ray14 release, 42 GB.")],
    out: Annotated[Path, typer.Argument(help="The folder; what is in it stays.")],
    part: Annotated[list[int] | None, typer.Option(help="This archive only, 1 to 12; once for each.")] = None,
) -> None:
    """Download the NIH's archives, check them and unpack them; typed again, it goes on where it stood."""
    require("stages")
    from cxr_ops.errors import SettingsError
    from cxr_ops.stages import fetch as stage
    from cxr_ops.voice import steps

    if source != "nih":
        raise SettingsError(f"{source!r} cannot be fetched: nih can", where="data fetch", fix=f"data fetch nih {out}")
    shown: dict[str, Callable[[int, int], None]] = {}
    with ExitStack() as stack:

        def progress(archive: str, have: int, whole: int) -> None:
            if archive not in shown:
                stack.close()  # the bar of the archive before
                shown[archive] = stack.enter_context(steps(f"downloading {archive}, MiB"))
            shown[archive](have // 2**20, whole // 2**20)

        done = stage.run(out, parts=part or (), progress=progress)
    say(str(done))


@app.command()
def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="nih or croissant.")],
    out: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
    batch: Annotated[
        list[str] | None, typer.Option(help="Only this batch; once for each. All, if none is named.")
    ] = None,
) -> None:
    """Write the data set in the NIH's layout, or with a Croissant description (MLCommons)."""
    require("stages")
    from cxr_ops.stages import export as stage
    from cxr_ops.voice import steps

    with steps("writing radiographs") as progress:
        written = stage.run(find_home(), form, out, only=batch or (), progress=progress)
    say(str(written))


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("batch", "source"):
        table.add_column(name, overflow="fold")  # never cut: it must be possible to copy them
    for name in ("images", "patients", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("entered (UTC)", "revision"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        source = f"{row['source']} (generated)" if row["generated"] and row["source"] != "generated" else row["source"]
        counts = (f"{row['images']:,}", f"{row['patients']:,}", f"{row['size'] / 1e6:,.1f}")
        table.add_row(row["batch"], source, *counts, row["when"].removesuffix("+00:00"), row["revision"][:12])
    return table
