"""The versions of a data set for people: as text in a terminal, and as pages that need no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.labels import FINDINGS
from cxr_ops.records.data import data_notice
from cxr_ops.records.validation import Labels
from cxr_ops.records.versions import Difference, FindingChange, Held, ImageHistory, Shown
from cxr_ops.report import page, tables
from cxr_ops.voice import count

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_BAR: Final = 16  # characters of the longest bar
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_WORDS: Final = {1: "positive", -1: "uncertain", None: "missing", 0: "absent"}
_SHORT: Final = 12  # characters of a revision


@dataclass(frozen=True, kw_only=True)
class VersionLine:
    """A version in a line of the log; the newest may be used by no run yet."""

    number: int
    when: str
    images: int
    patients: int
    what: str
    by: str
    reason: str
    runs: tuple[str, ...]
    revision: str


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A picture on a page: its number there, a JPEG, and what is said of it, which names nobody.

    `findings` are those that are positive, `uncertain` those labelled -1, and `absent` counts those labelled 0; what is
    left is not labelled. `view` is "" where it is unknown.
    """

    number: int
    jpeg: bytes
    findings: tuple[str, ...]
    view: str
    uncertain: tuple[str, ...] = ()
    absent: int = len(FINDINGS)
    note: str = ""

    @property
    def labels(self) -> str:
        """The labels in words: that there is no finding is said only where all 14 are labelled absent.

        >>> from dataclasses import replace
        >>> nothing = Thumbnail(number=1, jpeg=b"", findings=(), view="PA")
        >>> nothing.labels, replace(nothing, absent=2).labels, replace(nothing, absent=0).labels
        ('no finding', 'none of the 2 labelled findings', 'not labelled')
        >>> replace(nothing, findings=("Pleural_Thickening",), uncertain=("Mass",), absent=12).labels
        'Pleural Thickening, Mass uncertain'
        """
        told = [*self.findings, *(f"{finding} uncertain" for finding in self.uncertain)]
        if told:
            return ", ".join(told).replace("_", " ")
        if self.absent == len(FINDINGS):
            return "no finding"
        if self.absent < 2:
            return "the one labelled finding is absent" if self.absent else "not labelled"
        return f"none of the {self.absent} labelled findings"

    @property
    def source(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


def log_table(lines: Sequence[VersionLine]) -> Table:
    """Tabulate versions."""
    made = _table(("", "images", "patients"), right=True)
    made.columns[0].header = "version"
    for name in ("made (UTC)", "revision"):
        made.add_column(name, no_wrap=True)
    for name in ("what", "runs that used it"):
        made.add_column(name, overflow="fold")  # never cut: it must be possible to copy them
    for line in lines:
        why = f", by {line.by}: {line.reason}" if line.by else ""
        made.add_row(
            str(line.number),
            f"{line.images:,}",
            f"{line.patients:,}",
            line.when.removesuffix("+00:00").replace("T", " "),
            line.revision[:_SHORT],
            line.what + why,
            ", ".join(line.runs) or "none",
        )
    return made


def card(found: Difference, names: tuple[str, str]) -> Group:
    """The card of two versions for a terminal.

    Args:
        found: what they differ in.
        names: what to call them.
    """
    from rich.console import Group
    from rich.text import Text

    facts = _table(("", names[0], names[1], "added", "removed", "in both"), right=True)
    kept = found.images[1] - len(found.added_images)
    for name, counts, added, removed, both in (
        ("images", found.images, found.added_images, found.removed_images, kept),
        ("patients", found.patients, found.added_patients, found.removed_patients, found.kept_patients),
    ):
        facts.add_row(name, *(f"{count:,}" for count in (*counts, len(added), len(removed), both)))
    parts: list[Any] = [Text(f"{names[0]} ({found.before[:_SHORT]}) -> {names[1]} ({found.after[:_SHORT]})\n"), facts]
    parts += [Text(f"\n{line}", end="") for line in sentences(found)]
    parts += [Text("\n"), _findings(found, names)]
    return Group(*parts)


def sentences(found: Difference) -> list[str]:
    """What the numbers of images, patients and findings do not say."""
    lines = []
    for word, batches in (("came", found.added_batches), ("left", found.removed_batches)):
        if batches:
            lines.append(f"{'batches' if len(batches) > 1 else 'batch'} that {word}: {', '.join(batches)}")
    if found.changed_images:
        columns = [f"{name} of {count:,}" for name, count in found.changed_columns.items()]
        columns += [
            f"{finding} of {count:,}" for finding, change in found.findings.items() if (count := _relabelled(change))
        ]
        lines.append(f"images in both whose rows differ: {len(found.changed_images):,} ({', '.join(columns)})")
    for title, counts in (("images by source", found.sources), ("images by view", found.views)):
        told = [f"{name or 'unknown'} {was:,} -> {now:,}" for name, (was, now) in counts.items()]
        lines.append(f"{title}: {', '.join(told) or 'none'}")
    return lines


def _relabelled(change: FindingChange) -> int:
    return sum(change.relabelled.values())


def _findings(found: Difference, names: tuple[str, str]) -> Table:
    table = _table(("finding",))
    for name in (f"positive, {names[0]}", names[1], "added", "removed", "relabelled"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("prevalence before and after", no_wrap=True)
    top = top_prevalence(found)
    for finding, change in found.findings.items():
        counts = (change.before.positive, change.after.positive, change.added.positive, change.removed.positive)
        bars = "\n".join(f"{_bar(one, top)} {percent(one)}" for one in (change.before, change.after))
        relabelled = ", ".join(f"{what}: {count:,}" for what, count in change.relabelled.items())
        table.add_row(finding, *(f"{count:,}" for count in counts), relabelled or "0", bars)
    return table


def top_prevalence(found: Difference) -> float:
    """The highest prevalence of all findings in both versions; the longest bar's."""
    shares = [one.prevalence or 0.0 for change in found.findings.values() for one in (change.before, change.after)]
    return max(shares, default=0.0) or 1.0


def percent(labels: Labels) -> str:
    """A prevalence in words, with what it is a share of.

    >>> percent(Labels(positive=1, known=8, uncertain=0)), percent(Labels(positive=0, known=0, uncertain=2))
    ('12.5 % of 8', 'not labelled')
    """
    share = labels.prevalence
    return "not labelled" if share is None else f"{100 * share:.1f} % of {labels.known:,}"


def _bar(labels: Labels, top: float) -> str:
    eighths = round(8 * _BAR * (labels.prevalence or 0.0) / top)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(_BAR)


def history(shown: Shown) -> Group:
    """The history of images for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    if shown.kind == "patient":
        parts.append(Text(f"patient {shown.asked}: {count(len(shown.images), 'image')}\n"))
    for image in shown.images:
        parts.append(Text(f"image {image.image_id} of patient {image.patient_id}\n"))
        parts.append(_facts(image))
        parts.append(Text(""))
    return Group(*parts)


def _facts(image: ImageHistory) -> Table:
    table = _table(("", "", ""))
    table.show_header = False
    for state in image.states:
        table.add_row(f"version {state.since}", "to", _until(state, image.states))
        table.add_row("", "batch", f"{state.batch}, from {state.source}")
        origin = f"; the source's own file: {state.origin_sha256}" if state.origin_sha256 else ""
        table.add_row("", "SHA-256", f"{state.sha256}{origin}")
        age = "age unknown" if state.age is None else f"{state.age} years"
        size = f"{state.width} x {state.height}"
        table.add_row("", "picture", f"{size}, view {state.view or 'unknown'}, sex {state.sex or 'unknown'}, {age}")
        table.add_row("", "labels", _labels(state.labels))
    for event in image.events:
        changed = ", ".join(f"{finding} {_WORDS[now]}" for finding, now in event.now.items())
        what = "withdrawn" if event.kind == "withdraw" else f"relabelled: {changed}"
        table.add_row(f"version {event.version}", event.event, f"{what}, by {event.by}: {event.reason}")
    table.add_row("side", "", _side(image))
    for used in image.runs:
        table.add_row("run", used.run, used.side or "side not known: its workspace is not here")
    if not image.runs:
        table.add_row("run", "none", "")
    return table


def _side(image: ImageHistory) -> str:
    if image.side is None:
        return "none: the latest version does not hold the image"
    here = any(state.until is None for state in image.states)
    return image.side if here else f"{image.side}: the image is withdrawn, and its patient stays on this side"


def _until(state: Held, states: Sequence[Held]) -> str:
    if state.until is None:
        return "now"
    next_one = any(one.since == state.until for one in states)
    return f"version {state.until}, which {'holds it with other labels' if next_one else 'does not hold it'}"


def _labels(labels: Mapping[str, int | None]) -> str:
    groups = {word: [finding for finding, label in labels.items() if label == value] for value, word in _WORDS.items()}
    told = [f"{word}: {', '.join(found)}" for word, found in groups.items() if found and word != "absent"]
    if groups["absent"]:
        told.append(f"absent: {count(len(groups['absent']), 'finding')}")
    return "; ".join(told)


def diff_page(found: Difference, names: tuple[str, str], pictures: Mapping[str, Sequence[Thumbnail]]) -> str:
    """The card of two versions as a page.

    Args:
        found: what they differ in.
        names: what to call them.
        pictures: thumbnails of images that were added, removed and changed, by that word.
    """
    totals = {"added": found.added_images, "removed": found.removed_images, "changed": found.changed_images}
    return page.fill(
        "versions.html.j2",
        found=found,
        names=names,
        sentences=sentences(found),
        top=top_prevalence(found),
        notice=data_notice(found.sources),
        percent=percent,
        pictures=[(word, len(totals[word]), shown) for word, shown in pictures.items()],
        kept=found.images[1] - len(found.added_images),
    )


def gallery_page(
    name: str,
    images: int,
    patients: int,
    pictures: Sequence[Thumbnail],
    totals: Mapping[str, int],
    sources: Collection[str],
) -> str:
    """Pictures of a version as a page, to be filtered by finding and view.

    Args:
        name: what to call the version.
        images: how many it holds.
        patients: how many it holds.
        pictures: those that are shown.
        totals: positive images of each finding in the version.
        sources: where its images come from.
    """
    views = sorted({one.view for one in pictures})
    findings = [finding for finding in FINDINGS if any(finding in one.findings for one in pictures)]
    return page.fill(
        "gallery.html.j2",
        name=name,
        notice=data_notice(sources),
        images=images,
        patients=patients,
        pictures=pictures,
        totals=totals,
        shown={finding: sum(finding in one.findings for one in pictures) for finding in findings},
        findings=findings,
        views=views,
    )


def _table(columns: Sequence[str], *, right: bool = False) -> Table:
    made = tables.plain()
    for at, name in enumerate(columns):
        made.add_column(name, justify="right" if right and at else "left", overflow="fold")
    return made
