"""`cxr-ops doctor`: the settings, where each comes from, and whether the installation can work."""

from __future__ import annotations

import typer

from cxr_ops import contract
from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import AsJson, say, say_json

app = verbs()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show the settings and where each comes from, and check what the installation needs.

    Ends with 0 where all is well, and with 1 otherwise.
    """
    from cxr_ops.edges.doctor import examine

    found = examine()
    if as_json:
        say_json(found.as_json())
    else:
        width = max(len(one.name) for one in found.settings)
        say("Settings")
        for one in found.settings:
            value = f"{one.value}  (environment)" if one.value is not None else f"{_plain(one.without)}  (default)"
            say(f"  {one.name:<{width}}  {value}")
        say("Checks")
        for check in found.checks:
            say(f"  {'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.found}")
            if check.fix:
                say(f"          next: {check.fix}")
    if not found.ok:
        raise typer.Exit(contract.EXIT_FAILED)


def _plain(text: str) -> str:
    return text.replace("`", "")
