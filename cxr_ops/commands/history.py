"""`cxr-ops history` and `cxr-ops rollback`: who was champion when, and the way back to an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import AsJson, Withheld, find_home, say, say_json, show

if TYPE_CHECKING:
    from cxr_ops.audit.history import History
    from cxr_ops.edges.home import Home
    from cxr_ops.records.evidence import Change, Figure

app = verbs()


@app.command()
def history(
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="DATE", help="Say what was in use on that day (UTC), or at that time."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write a page with a picture.")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="OUT", help="Write the picture.")] = None,
    withheld: Withheld = False,
    as_json: AsJson = False,
) -> None:
    """Show which model was in use when, by whom and why.

    While a test period is open, verdicts and figures are told as far as its plans tell them.
    """
    from datetime import UTC, datetime

    from cxr_ops.audit import history as histories
    from cxr_ops.audit import public
    from cxr_ops.commands import places
    from cxr_ops.edges.ledger import open_ledger
    from cxr_ops.errors import DataError
    from cxr_ops.report import figures
    from cxr_ops.report import history as report

    asked = histories.span(at) if at is not None else None
    places.check({"--html": html, "--svg": svg}, {})
    home = find_home()
    entries = open_ledger(home).entries()
    found = histories.history(public.whole(entries) if withheld else public.shown(entries))
    if svg is not None and not found.judged and not found.reigns:
        raise DataError("nothing was decided yet, so there is nothing to draw", where=svg, fix="cxr-ops retrain")
    (aucs, changes), now = _figures(home, found), datetime.now(UTC)
    if html is not None:
        places.write(html, report.render(found, aucs, changes, now=now).encode())
    if svg is not None:
        places.write(svg, figures.document(report.draw(found, aucs, now=now)).encode())
    reigns = found.reigns if asked is None else found.during(*asked)
    if as_json:
        whole = report.as_json(found, aucs, changes)
        say_json(whole if asked is None else [report.champion(reign, aucs) for reign in reigns])
    elif reigns:
        show(report.table(reigns, aucs), wide=True)
        if asked is None and (parts := report.parts_table(found, changes)) is not None:
            say("")
            show(parts, wide=True)
    elif asked is not None:
        say(f"no model was in use at {at}")
    else:
        say("no model was promoted yet")


def _figures(home: Home, found: History) -> tuple[dict[str, Figure], dict[str, Change]]:
    """The mean AUC of each decision's challenger, and what changed, where it may be told and its evidence is here."""
    from cxr_ops.edges.evidence import evaluation

    aucs: dict[str, Figure] = {}
    changes: dict[str, Change] = {}
    for one in found.judged:
        known = one.identifiers
        read = evaluation(home, known.run, known.run_commit, one.evaluation) if one.figures_told else None
        if read is not None and read.macro_challenger is not None:
            aucs[one.entry] = read.macro_challenger
        if read is not None and read.change is not None:
            changes[one.entry] = read.change
    return aucs, changes


@app.command()
def rollback(
    target: Annotated[
        str, typer.Argument(metavar="VERSION|RUN", help="An earlier champion: a model version, or its run.")
    ],
    reason: Annotated[str, typer.Option(help="Why; the ledger records it.")],
    by: Annotated[str | None, typer.Option(help="Name of the person who decided it; if left out, your login.")] = None,
) -> None:
    """Bring an earlier champion back, in seconds and without training; the ledger records it as a promotion."""
    from getpass import getuser

    require("stages")
    from cxr_ops.contract import MODEL_NAME
    from cxr_ops.stages import rollback as stage

    done = stage.run(find_home(), target, by=getuser() if by is None else by, reason=reason)
    version = f"{MODEL_NAME}/{done['model_version']}"
    say(f"{version} {'is the champion already' if done['already'] else 'is the champion again'}")
    if done["replaced"]:
        say(f"out of use: {MODEL_NAME}/{done['replaced']}; its package is not promoted again: cxr-ops history")
