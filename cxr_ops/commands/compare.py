"""`cxr-ops compare`: the statistics and the gate on files of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import show

app = verbs()


@app.command("compare")
def compare_(
    truth: Annotated[
        Path, typer.Option(help="Labels: the NIH's table, a manifest, or a CSV with a column for each finding.")
    ],
    a: Annotated[Path, typer.Option("--a", help="Scores of the model to judge: image ids, a column for each finding.")],
    b: Annotated[Path | None, typer.Option("--b", help="Scores of the model to compare it with.")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="The plan; if left out, pccp.yaml of this folder, else the template nih-production."),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="Labels of other scored images, on which to choose thresholds and to recalibrate."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="List of the test images, one a line, like the NIH's test_list.txt; if left out, all."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file; - is standard output.")
    ] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write a page with figures to this file.")] = None,
) -> None:
    """Judge files of scores, of any models, by the same statistics and gate. It shows what the evidence says."""
    from cxr_ops.commands import places

    outputs = {"--json": json_out, "--html": html_out}
    inputs = {"--truth": truth, "--a": a, "--b": b, "--plan": plan, "--validation": validation, "--images": images}
    places.check(outputs, inputs)

    from cxr_ops import compare
    from cxr_ops.records.base import canonical_json
    from cxr_ops.report import comparison

    compared = compare.run(truth, a, b, plan=plan, validation=validation, images=images)
    if json_out is not None:
        places.write(json_out, canonical_json(compare.as_json(compared)))
    if html_out is not None:
        places.write(html_out, comparison.render(compared).encode())
    taken = any(path is not None and places.descriptor(path) == 1 for path in outputs.values())
    head, figures, notes = comparison.parts(compared)
    show(head, errors=taken, fold=False)
    show(figures, errors=taken)
    show(notes, errors=taken, fold=False)
