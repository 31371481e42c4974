"""`cxr-ops monitor`: the model in use, against what the gate saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops import contract
from cxr_ops.commands.extras import require
from cxr_ops.commands.help import verbs
from cxr_ops.commands.output import AsJson, Withheld, find_home, say, say_json

if TYPE_CHECKING:
    from datetime import datetime

app = verbs()


@app.command()
def monitor(
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS", help="A folder or file of the answers of POST /predict, as `serve --answers` keeps them."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="CSV",
            help="What is known of the pictures: sha256 or image_id, patient_id, labelled, view, sex, age, findings.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="The pictures that were sent, for their grey.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="The log of receipts; each answer must be in it.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Chance of a false alarm in a year; if left out, as the plan in force says, or 0.05."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            help="How much more a mean error may be than at the gate; if left out, the plan's, or 0.",
        ),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="DATE", help="Look as on that day (UTC); if left out, now.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write a page with a picture.")] = None,
    withheld: Withheld = False,
    as_json: AsJson = False,
) -> None:
    """Watch the model in use: inputs, scores and, as labels come, errors, each with a bound on false alarms.

    It says for each finding whether it is in control or in alarm since when, and why. Ends with 0 where all is in
    control, and with 16 where something is in alarm.
    """
    require("stages")
    from dataclasses import asdict

    from cxr_ops.commands import places
    from cxr_ops.report import monitoring as report
    from cxr_ops.stages import monitor as stage

    places.check({"--html": html}, {"--labels": labels, "--log": log})
    found = stage.run(
        find_home(),
        answers,
        now=when(at),
        log=log,
        labels=labels,
        images=images,
        rate=_rate(rate),
        tolerance=tolerance,
        withheld=withheld,
    )
    if html is not None:
        places.write(html, report.render(found).encode())
    if as_json:
        say_json({**asdict(found), **report.as_json(found)})
    else:
        for line in report.lines(found):
            say(line)
    if found.alarms:
        raise typer.Exit(contract.EXIT_ALARM)


def _rate(rate: float | None) -> float | None:
    from cxr_ops.errors import SettingsError

    if rate is not None and not 0 < rate <= 0.5:
        raise SettingsError(
            "the rate of false alarms lies above 0 and at 0.5 at most", where="--rate", fix="--rate 0.05"
        )
    return rate


def when(text: str | None) -> datetime:
    """The time up to which somebody wants to look; now where they do not say it."""
    from datetime import UTC, datetime

    from cxr_ops.errors import SettingsError

    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"{text!r} is no date", where="--at", fix="write it like 2026-03-01") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
