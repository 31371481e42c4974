"""`cxr-ops data`: make data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.output import say

app = group("Make data.")


@app.command()
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
