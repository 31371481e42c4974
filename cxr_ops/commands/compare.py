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
    truth: Annotated[Path, typer.Option(help="Labels: the NIH's CSV, a manifest, or a column a finding.")],
    a: Annotated[Path, typer.Option("--a", help="Scores of the model that is judged: image id, a column a finding.")],
    b: Annotated[Path | None, typer.Option("--b", help="Scores of the model that it is compared with.")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="The change-control plan. If left out: pccp.yaml here, else the template nih-production."),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Labels of further scored images, to choose thresholds and to recalibrate.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="The test set's images, one a line, as in the NIH's test_list.txt; else all.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures there; - is the output.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write a page with figures there.")] = None,
) -> None:
    """Run the statistics and the gate on files of scores, of any models. Shows what the evidence says."""
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
