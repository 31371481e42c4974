"""What each choice of the training brings: the table of `cxr-ops train --ablate`, as Markdown, as a page, and as text.

All figures are of the validation side. The page is self-contained, like the report's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cxr_ops.records.base import Record
from cxr_ops.records.evidence import Figure, Undefined
from cxr_ops.report import figures, page, words

if TYPE_CHECKING:
    from rich.table import Table


class Row(Record):
    """One choice.

    `settings` is what it changes of the baseline, by its name in params.yaml. `against` is the row that it is compared
    with; None for the baseline. `skipped` says why it was not measured, and the rest is then empty. Lists have a value
    a seed, `reached` and `target` in epochs.

    cells: names of the trainings' files.
    auc: mean validation AUC of the kept weights, mean over the seeds.
    over_seeds: difference from `against`, paired by seed: how much another seed would change it.
    over_patients: the same difference, clustered by patient: how much other validation patients would change it.
    relative: the difference as a share of the AUC of `against`.
    target: epoch in which `against` had its best AUC; `reached`: first epoch in which this choice had as much, or None.
    saved: share of the epochs to that AUC that the choice saves; negative where it takes more.
    """

    name: str
    says: str
    settings: dict[str, Any]
    against: str | None = None
    skipped: str | None = None
    cells: list[str] = Field(default_factory=list)
    aucs: list[float] = Field(default_factory=list)
    auc: float | None = None
    over_seeds: Figure | None = None
    over_patients: Figure | None = None
    relative: float | None = None
    target: list[int] = Field(default_factory=list)
    reached: list[int | None] = Field(default_factory=list)
    saved: Figure | None = None


class Ablation(Record):
    """The whole table. `findings` are those that the mean AUC is over; `data` are digests of what was trained on."""

    rows: list[Row]
    seeds: list[int]
    level: float
    epochs: int
    image_size: int
    train_images: int
    validation_images: int
    validation_patients: int
    findings: list[str]
    data: dict[str, str]
    machine: dict[str, str | int]
    notes: list[str]


HEADINGS = ("choice", "mean validation AUC", "difference, over seeds", "difference, over patients", "epochs saved")


def sentences(found: Ablation) -> list[str]:
    """What a reader must know of the figures, the same under every table."""
    seeds = f"{len(found.seeds)} seed{'' if len(found.seeds) == 1 else 's'}"
    return [
        (
            f"{found.train_images:,} images were trained on, {found.validation_images:,} of "
            f"{found.validation_patients:,} patients validated on, {found.image_size} pixels, at most {found.epochs} "
            f"epochs, {seeds}. No test patient was looked at."
        ),
        (
            f"AUC: of the epoch that was kept, mean over {len(found.findings)} findings and the seeds. In each row the "
            "epoch was chosen on the same patients, so the AUCs are a little too high."
        ),
        (
            "Differences are from the row named in brackets, or else from the baseline, with "
            f"{100 * found.level:g} % intervals: over seeds (paired, Student's t) and over patients (clustered). They "
            f"are not corrected for the number of rows. A gain is shown where both lie above 0: {_shown(found, 1)}. A "
            f"loss is shown where both lie below: {_shown(found, -1)}."
        ),
        (
            "Epochs saved: of those that the other row takes to its best AUC, the share after which this one has as "
            "much, with an interval over seeds."
        ),
        *found.notes,
    ]


def _shown(found: Ablation, sign: int) -> str:
    """Names of the choices whose two intervals lie on one side of 0."""
    names = []
    for row in found.rows:
        intervals = [_interval(row.over_seeds), _interval(row.over_patients)]
        if all(one is not None and min(sign * one[1], sign * one[2]) > 0 for one in intervals):
            names.append(row.name)
    return ", ".join(names) or "no choice"


def cells(row: Row) -> tuple[str, ...]:
    """The row in words, as under `HEADINGS`."""
    name = f"{row.name} (against {row.against})" if row.against not in (None, "baseline") else row.name
    if row.skipped is not None:
        return name, f"not measured: {row.skipped}", "", "", ""
    auc = "" if row.auc is None else f"{row.auc:.4f}"
    if row.against is None:
        return name, auc, "", "", f"best in epoch {_numbers(row.target)}"
    seeds = _difference(row.over_seeds)
    if row.relative is not None:
        seeds += f", {100 * row.relative:+.1f} %".replace("-", "\u2212")
    return name, auc, seeds, _difference(row.over_patients), _saved(row)


def _difference(figure: Figure | None) -> str:
    return figure.reason if isinstance(figure, Undefined) else words.difference_text(figure, digits=4)


def _saved(row: Row) -> str:
    if row.saved is None or isinstance(row.saved, Undefined):
        missed = sum(one is None for one in row.reached)
        return (
            f"not reached with {missed} of {len(row.reached)} seeds"
            if missed
            else f"reached in {_numbers(row.reached)}"
        )
    low, value, high = (
        f"{100 * one:.0f}".replace("-", "\u2212") for one in (row.saved.low, row.saved.value, row.saved.high)
    )
    return f"{value} % ({low} to {high})"


def _numbers(values: Sequence[int | None]) -> str:
    return ", ".join("never" if value is None else str(value) for value in values)


def markdown(found: Ablation) -> str:
    """Write the table as Markdown."""
    lines = ["# What each choice brings", "", f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in found.rows]
    lines += ["", *(f"* {row.name}: {row.says}" for row in found.rows), ""]
    return "\n".join([*lines, *(f"{sentence}\n" for sentence in sentences(found))])


def render(found: Ablation) -> str:
    """Write the page."""
    rows = [(row, cells(row)) for row in found.rows]
    drawn = draw(found) if any(row.over_patients for row in found.rows) else ""
    return page.fill("ablation.html.j2", headings=HEADINGS, rows=rows, sentences=sentences(found), figure=drawn)


def draw(found: Ablation) -> str:
    """Draw the differences with both intervals, as an SVG for a page."""
    return figures.forest(
        "ablation",
        [
            figures.Group(
                heading=f"Compared with {against}",
                support="mean AUC",
                rows=[
                    figures.Row(
                        label=row.name,
                        support="" if row.auc is None else f"{row.auc:.3f}",
                        intervals=[_interval(row.over_patients), _interval(row.over_seeds)],
                    )
                    for row in found.rows
                    if row.against == against
                ],
            )
            for against in dict.fromkeys(row.against for row in found.rows if row.against is not None)
        ],
        [figures.Series(name="challenger", label="over patients"), figures.Series(name="champion", label="over seeds")],
        title="What each choice brings",
        description=f"Difference in mean validation AUC with {100 * found.level:g} % intervals; the table has numbers.",
        axis="Difference in mean validation AUC (right of 0: better)",
        neutral=0.0,
        limit_label="",
        undefined="not measured",
    )


def picture(found: Ablation) -> str:
    """The same as an SVG document of its own."""
    return figures.document(draw(found))


def _interval(figure: Figure | None) -> figures.Interval | None:
    return None if figure is None or isinstance(figure, Undefined) else (figure.value, *figure.ci)


def table(found: Ablation) -> Table:
    """The table, to be printed with rich."""
    from rich.table import Table

    drawn = Table(caption=sentences(found)[2], caption_justify="left")
    for heading in HEADINGS:
        drawn.add_column(heading)
    for row in found.rows:
        drawn.add_row(*cells(row))
    return drawn
