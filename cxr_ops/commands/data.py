"""`cxr-ops data`: make data, fetch them, list the batches, take a batch out, write data for others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, find_home, say, say_json, show

if TYPE_CHECKING:
    from rich.table import Table

app = group("Make data, list them, take them out.")


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
        f"{summary.images} radiographs of {summary.patients} generated patients in {out}; the rarest finding is {rare} "
        f"({summary.prevalence[rare]:.1%}, the NIH's own prevalence is {summary.nih_prevalence[rare]:.1%})\n"
        f"{summary.notice}\nnext: cxr-ops ingest nih {out} --batch NAME"
    )


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the batches of the data set: source, images, patients, when each entered, revision, size."""
    from cxr_ops.edges.store import batches
    from cxr_ops.records.data import Batch, is_generated

    home = find_home()
    held, removed = batches.history(home)
    folders = batches.batch_files(home, names=(batches.BATCH,))
    rows: list[dict[str, Any]] = []
    for one in held:
        record = Batch.read(folders[one.batch] / batches.BATCH)
        known = {"source": record.source, "images": record.images, "patients": record.patients}
        rows.append({**vars(one), **known, "generated": is_generated(record.source, record.name)})
    revision = batches.data_revision(home)
    if as_json:
        gone = [vars(one) for one in removed]
        say_json({"revision": revision and revision.revision, "batches": rows, "removed": gone})
        return
    if revision is None:
        say("there is no data set yet; next: cxr-ops ingest nih FOLDER --batch NAME")
        return
    show(_table(rows), wide=True)
    for one_out in removed:
        say(f"taken out: {one_out.batch}, {one_out.when}, by {one_out.by}: {one_out.reason}")
    say(f"data revision {revision.revision}")


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
