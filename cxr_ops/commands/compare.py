"""`cxr-ops compare`: the statistics and the gate on files of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_ops.commands.help import verbs

app = verbs()


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
        write_atomic(html_out, comparison.render(compared).encode())
    Console().print(comparison.table(compared))
