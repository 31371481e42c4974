"""`cxr-ops ledger`: read the record of looks and decisions."""

from __future__ import annotations

from cxr_ops.commands.help import group
from cxr_ops.commands.output import AsJson, find_home, say, say_json, show

app = group("Read the record of looks and decisions.")


@app.command("verify")
def ledger_verify(as_json: AsJson = False) -> None:
    """Check the hash chain of the ledger from its first entry to its last."""
    from cxr_ops.edges.ledger import open_ledger

    state = open_ledger(find_home()).state()  # reading it checks it
    if as_json:
        say_json({"entries": state.entries, "head": state.head})
    else:
        say(f"{state.entries} entries, chain whole")


@app.command("show")
def ledger_show(as_json: AsJson = False) -> None:
    """Print the entries of the ledger as a table, or with --json whole."""
    from cxr_ops.edges.ledger import open_ledger
    from cxr_ops.report import ledger

    entries = open_ledger(find_home()).entries()
    if as_json:
        say_json([{**entry.model_dump(mode="json"), "digest": entry.digest()} for entry in entries])
    elif entries:
        show(ledger.table(ledger.lines(entries)), wide=True)
    else:
        say("the ledger is empty: nothing was scored, decided or promoted yet")
