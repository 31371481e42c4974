"""`cxr-ops status`, `runs` and `models`: what is going on, what was decided, and what is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import AsJson, Withheld, find_home, say, say_json, show

if TYPE_CHECKING:
    from cxr_ops.audit.public import Shown
    from cxr_ops.edges.home import Home

app = verbs()


def _told(home: Home, *, withheld: bool) -> list[Shown]:
    from cxr_ops.audit import public
    from cxr_ops.edges.ledger import open_ledger

    entries = open_ledger(home).entries()
    return public.whole(entries) if withheld else public.shown(entries)


@app.command()
def status(withheld: Withheld = False, as_json: AsJson = False) -> None:
    """Show which model is in use, what is going on, what waits for people, what was decided and refused last.

    While a test period is open, verdicts are told as far as its plans tell them.
    """
    from dataclasses import asdict

    from cxr_ops.audit import standing
    from cxr_ops.edges import deliveries, overview
    from cxr_ops.report import overview as report

    home = find_home()
    told = _told(home, withheld=withheld)
    found = standing.standing(told)
    running = [asdict(one) for one in overview.runs(home, told) if one.state == "running"]
    listed = [asdict(one) for one in deliveries.listed(home)]
    if as_json:
        say_json({**asdict(found), "running": running, "deliveries": listed})
    else:
        for line in report.lines(found, running, listed):
            say(line)


@app.command()
def runs(withheld: Withheld = False, as_json: AsJson = False) -> None:
    """List the runs, the newest first: who asked for each, how far it is, its verdict and what became of it.

    While a test period is open, verdicts are told as far as its plans tell them.
    """
    from dataclasses import asdict

    from cxr_ops.edges import overview
    from cxr_ops.report import overview as report

    home = find_home()
    found = [asdict(one) for one in overview.runs(home, _told(home, withheld=withheld))]
    if as_json:
        say_json(found)
    elif found:
        show(report.runs_table(found), wide=True)
    else:
        say("there is no run yet; make one: cxr-ops retrain")


@app.command()
def models(withheld: Withheld = False, as_json: AsJson = False) -> None:
    """List the versions of the model, the newest first: which is the champion, which was, and what else was decided.

    While a test period is open, verdicts are told as far as its plans tell them.
    """
    from dataclasses import asdict

    from cxr_ops.audit import standing
    from cxr_ops.report import overview as report

    found = standing.models(_told(find_home(), withheld=withheld))
    if as_json:
        say_json([asdict(one) for one in found])
    elif found:
        show(report.models_table(found), wide=True)
    else:
        say("no model was decided on yet; train one: cxr-ops retrain")
