"""`cxr-ops period`: the test period, on whose patients looks are counted."""

from __future__ import annotations

from typing import Annotated

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, find_home, say, say_json

app = group("Show the test period, in which looks at the test set are counted, or open a new one.")


@app.command("open")
def period_open(
    by: Annotated[str, typer.Option(help="Name of the person who decided it.")],
    reason: Annotated[str, typer.Option(help="Why; the ledger records it.")],
) -> None:
    """Open a new test period: close every batch that was scored, and count looks from zero on newer patients."""
    from cxr_ops.edges import periods

    opened = periods.begin(find_home(), by=by, reason=reason)
    say(
        f"test period {opened.number} is open; closed: {', '.join(opened.closed_batches)}\n"
        "to release what was withheld of a run of the earlier period: cxr-ops publish --run RUN"
    )


@app.command("show")
def period_show(as_json: AsJson = False) -> None:
    """Show the open test period, the looks that are spent and allowed, and the closed batches."""
    from dataclasses import asdict

    from cxr_ops.edges import periods

    found = periods.describe(find_home())
    if as_json:
        say_json(asdict(found))
    else:
        say(str(found))
