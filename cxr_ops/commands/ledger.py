"""`cxr-ops ledger`: read the record of looks and decisions."""

from __future__ import annotations

import json

from cxr_ops.commands.help import group
from cxr_ops.commands.output import find_home, say

app = group("Read the record of looks and decisions.")


@app.command("verify")
def ledger_verify() -> None:
    """Check the hash chain of the ledger from its first entry to its last."""
    from cxr_ops.edges.ledger import open_ledger

    ledger = open_ledger(find_home())
    ledger.verify()
    say(f"{len(ledger.entries())} entries, chain whole")


@app.command("show")
def ledger_show() -> None:
    """Print the entries of the ledger, one JSON object a line."""
    from cxr_ops.edges.ledger import open_ledger

    for entry in open_ledger(find_home()).entries():
        say(json.dumps(entry.model_dump(mode="json"), sort_keys=True))
