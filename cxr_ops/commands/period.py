"""`cxr-ops period`: count looks on patients never scored."""

from __future__ import annotations

from typing import Annotated

import typer

from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, find_home, say, say_json

app = group("Count looks on patients never scored.")


@app.command("open")
def period_open(
    by: Annotated[str, typer.Option(help="Who decided it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands on the ledger.")],
) -> None:
    """Close every batch that was scored, and count looks anew on the patients that came since."""
    from cxr_ops.edges import periods

    opened = periods.begin(find_home(), by=by, reason=reason)
    say(
        f"test period {opened.number} is open; closed: {', '.join(opened.closed_batches)}\n"
        "what was withheld of a run of the period before is released by: cxr-ops publish --run RUN"
    )


@app.command("show")
def period_show(as_json: AsJson = False) -> None:
    """Show the open test period, the looks spent of those that the plan allows, and the closed batches."""
    from dataclasses import asdict

    from cxr_ops.edges import periods

    found = periods.describe(find_home())
    if as_json:
        say_json(asdict(found))
    else:
        say(str(found))
