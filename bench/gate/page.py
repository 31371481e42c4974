"""docs/gate-simulation.md and its pictures, from the results; no number on the page is typed by hand."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import measure
from bench.__main__ import machine
from bench.gate import gaps, shapes, structure
from bench.gate.procedures import MACRO, OTHERS, TFMA_SAMPLES
from bench.gate.results import Results
from bench.gate.scores import AREAS, BETWEEN_FINDINGS, BETWEEN_MODELS, LEAK
from bench.gate.study import BETTER, CORRELATIONS, DIFFERENCES, LOOKS, NOMINAL, RELEASES, STEP, STUDIES
from cxr_ops.errors import DataError

PAGE = "gate-simulation.md"
ALONE = "differences"  # its section says by itself how it was made, since it can be written alone
FULL = 10_000  # replicates from which an estimate is taken at its word
COLOURS = ("#0072b2", "#b34700", "#007a5a", "#8a2f6b", "#5b6570", "#a07800", "#1b1f24", "#4b93c3")
GATE = {"gate": "the gate", **OTHERS}
LINES = {"gate": "the gate", "gate, no reference": "the gate without its reference", **OTHERS}
RARE = 200  # positive patients: intervals from fewer have a wider target


def write(docs: Path, results: Results, seed: int) -> Path:
    """Write the page and its pictures.

    Args:
        docs: the folder.
        results: of the studies; what is not there yet is said to be missing.
        seed: of the scores.
    """
    docs.mkdir(parents=True, exist_ok=True)
    parts = [
        _head(results, seed),
        _targets(results),
        _test_set(results),
        _agreement(results),
        _size(results),
        _shapes(results, seed),
        _power(results),
        _coverage(results),
        _apart(results, seed),
        _drift(results),
        _others(results),
        _limits(),
    ]
    for name, draw in (("power", _draw_power), ("drift", _draw_drift), ("rules", _draw_rules)):
        (docs / f"gate-{name}.svg").write_text(_picture(draw, results))
    page = docs / PAGE
    page.write_text("\n\n".join(parts) + "\n")
    return page


def rewrite(docs: Path, results: Results, seed: int, section: str) -> Path:
    """Write one section anew, of `differences` or of `shapes`, and leave the rest of the page as it is.

    Raises:
        DataError: there is no page yet.
    """
    page = docs / PAGE
    if not page.is_file():
        raise DataError("there is no page yet", where=page, fix="write all of it first: make bench-gate")
    written = {"differences": _apart, "shapes": _shapes}[section](results, seed)
    page.write_text(measure.put(page.read_text(), f"{written}\n"))
    return page


# --------------------------------------------------------------------------------------------------- numbers


def _share(results: Results, name: str, digits: int = 2) -> str:
    """A share in per cent with its Monte-Carlo standard error."""
    if not results.count(name):
        return "not run"
    return f"{100 * results.mean(name):.{digits}f} ± {100 * results.error(name):.{digits}f}"


def _plain(results: Results, name: str, digits: int = 1) -> str:
    return f"{100 * results.mean(name):.{digits}f}" if results.count(name) else "not run"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)])


@dataclass(frozen=True)
class Target:
    """What is asked, of which numbers, and the range that they must lie in, in per cent."""

    asked: str
    names: list[str]
    low: float = 0.0
    high: float = 100.0

    def verdict(self, results: Results) -> tuple[str, str]:
        """(what was found, whether the target is met)."""
        seen = [name for name in self.names if results.count(name)]
        if not seen:
            return "not run", "not run"
        states = [self._state(results, name) for name in seen]
        worst = max(seen, key=lambda name: self._excess(results, name))
        found = f"{_share(results, worst)} %"
        if len(seen) > 1:
            found += f" ({_last(worst)}, the farthest off of {len(seen)})"
        state = next((s for s in ("not met", "not decided") if s in states), "met")
        if state != "met" and len(seen) > 1:
            which = [_last(name) for name, s in zip(seen, states, strict=True) if s == state]
            state += f": {', '.join(which)}" if len(which) <= 6 else f": {len(which)} of {len(seen)}"
        return found, state

    def _excess(self, results: Results, name: str) -> float:
        value = 100 * results.mean(name)
        return max(self.low - value, value - self.high)

    def _state(self, results: Results, name: str) -> str:
        value, error = 100 * results.mean(name), 100 * results.error(name)
        if value - 2 * error > self.high or value + 2 * error < self.low:
            return "not met"
        inside = self.low <= value <= self.high
        sure = self.low <= max(value - 2 * error, 0.0) and min(value + 2 * error, 100.0) <= self.high
        return "met" if sure or (inside and results.count(name) >= FULL) else "not decided"


def _last(name: str) -> str:
    parts = name.split("/")
    return parts[1] if parts[0] == "size" else parts[-1]


# --------------------------------------------------------------------------------------------------- sections


def _section(*blocks: str) -> str:
    return "\n\n".join(blocks)


def _head(results: Results, seed: int) -> str:
    rows = [
        (name, tally.replicates, f"{tally.seconds / 60:.0f}", f"{tally.seconds / max(tally.replicates, 1):.2f}")
        for name, tally in results.studies.items()
        if name in STUDIES and name != ALONE
    ]
    return _section(
        "# What the gate promotes by mistake, and what it holds back",
        "Written by `make bench-gate`: a simulation of the production plan "
        f"(`pccp.yaml`, {results.about['plan']}) with models whose true AUCs are known. Percentages stand with their "
        "Monte-Carlo standard error.",
        f"Machine: {machine()}. Seed {seed}. The command goes on where it was stopped, until all replicates are there.",
        _table(("study", "replicates", "processor minutes", "seconds a replicate"), rows),
    )


def _targets(results: Results) -> str:
    alpha = results.about["alpha"]
    rare = [row["finding"] for row in results.about["findings"] if row["patients"] < RARE]
    many = [row["finding"] for row in results.about["findings"] if row["patients"] >= RARE] + [MACRO]
    checks, periods = _checks(results), results.names("period/")
    targets = [
        Target(
            f"False pass of a check at its margin, nominal {100 * NOMINAL:g} %: at most 2.9 %",
            [f"size/{check}/{NOMINAL:g}" for check in checks],
            high=2.9,
        ),
        Target(
            f"The same at the plan's alpha, {100 * alpha:g} %: at most 0.65 %",
            [f"size/{check}/{alpha:g}" for check in checks],
            high=0.65,
        ),
        Target(
            f"False pass of a check in a period of {LOOKS} looks: at most 5.5 %",
            [f"period/{check}" for check in periods],
            high=5.5,
        ),
        Target("An equally good model is promoted in at least 95 % of looks", ["equal/promoted"], low=95.0),
    ]
    for kind, what in (("auc", "The interval of an AUC"), ("difference", "Both bounds of a difference")):
        for names, which, low, high in ((many, f"from {RARE}", 94.0, 96.0), (rare, f"below {RARE}", 93.0, 98.0)):
            asked = f"{what}, {which} positive patients, cover{'s' if kind == 'auc' else ''} {low:g} to {high:g} %"
            targets.append(Target(asked, [f"covered/{kind}/{name}" for name in names], low=low, high=high))
    return _section(
        "## Targets",
        f"`met`: all estimates lie where they should, from {FULL:,} replicates, or by two standard errors. `not met`: "
        "one lies outside by more than two standard errors. Otherwise `not decided` by the replicates that there are.",
        _table(("target", "found", "verdict"), [(target.asked, *target.verdict(results)) for target in targets]),
    )


def _test_set(results: Results) -> str:
    about = results.about
    head = (
        "finding",
        "positive images",
        "official list",
        "positive patients",
        "true AUC",
        "margin",
        "within patients",
        "between models",
    )
    rows = [
        (
            row["finding"],
            row["images"],
            row["official"],
            row["patients"],
            f"{row['area']:.2f}",
            f"{row['margin']:g}",
            _number(results, f"within patients/{row['finding']}"),
            _number(results, f"between models/{row['finding']}"),
        )
        for row in about["findings"]
    ]
    return _section(
        "## The test set and the scores",
        f"{about['images']:,} images of {about['patients']:,} patients: labels, patients, sex, view and age are the "
        f"NIH's own, from the table that `{structure.PACKAGE}` ships. The official test list is not in it. This test "
        f"set is of the official kind ({structure.PATIENTS:,} patients, {structure.IMAGES:,} images): patients with a "
        f"finding, rather those with many images. Of {structure.DRAWS} such draws it is the one (seed "
        f"{about['drawn']}) whose numbers of positive images come nearest to those of the official list.",
        f"A score is a shift for the finding, {LEAK:g} for each other finding of the image (two at most), and normal "
        f"noise that images of a patient share in part, as do findings (correlation {BETWEEN_FINDINGS:g}) and models "
        f"(scores of negatives correlate by {BETWEEN_MODELS:g}). The shift is solved for, so that the true AUC is "
        f"exact; the mean over the findings is {sum(AREAS) / len(AREAS):.3f}. The last two columns are correlations "
        "among the negatives, as measured.",
        _table(head, rows),
    )


def _number(results: Results, name: str) -> str:
    return f"{results.mean(name):.2f}" if results.count(name) else "not run"


def _agreement(results: Results) -> str:
    return _section(
        "## Is this the gate?",
        "The simulation sorts each model's scores once and ranks many shifts of them; all that comes after the ranking "
        f"is `cxr_ops.stats.auc`. On {results.count('agreement/checks')} replicates the same scores went through "
        "`evidence.assess` and `rule.judge` as well: all checks agreed in "
        f"{_plain(results, 'agreement/checks')} %, and the verdict in {_plain(results, 'agreement/verdict')} %. Of "
        f"{results.count('held/0')} equally good models the harm screen held {_share(results, 'held/0', 1)} % for a "
        "second person.",
    )


def _checks(results: Results) -> list[str]:
    end = f"/{NOMINAL:g}"
    return [name.removesuffix(end) for name in results.names("size/") if name.endswith(end)]


def _size(results: Results) -> str:
    alpha = results.about["alpha"]
    rows = [
        (
            check,
            _share(results, f"size/{check}/{NOMINAL:g}"),
            _share(results, f"size/{check}/{alpha:g}"),
            _share(results, f"period/{check}") if results.count(f"period/{check}") else "",
            _share(results, f"promoted/gate/{check}") if results.count(f"promoted/gate/{check}") else "",
        )
        for check in _checks(results)
    ]
    return _section(
        "## Size: one check at its margin, all others better",
        "Per cent of replicates in which the check passes by mistake. All other findings are better by "
        f"{BETTER:g}. For the macro-AUC, of all patients or of a subgroup, all findings lose the margin: there is no "
        f"other way. Period: any of {LOOKS} challengers, all at the margin, all on the same patients. Promoted: "
        "macro-AUC and all findings pass; floors and subgroups could only make that rarer.",
        _table(("check", f"nominal {100 * NOMINAL:g} %", f"nominal {100 * alpha:g} %", "period", "promoted"), rows),
    )


def _power(results: Results) -> str:
    passed = {name: results.mean(f"equal/{name}") for name in results.names("equal/") if name != "promoted"}
    rows = [(name, _share(results, f"equal/{name}")) for name in sorted(passed, key=passed.__getitem__)]
    rows = [row for row in rows if passed[row[0]] < 1.0]
    return _section(
        "## Power: an equally good model",
        f"Under all checks of the plan it is promoted in {_share(results, 'equal/promoted')} % of looks. All margins, "
        f"without the floors, hold in {_share(results, 'all margins')} %; all checks but those of the limited findings "
        f"({', '.join(results.about['limited']) or 'none'}) in {_share(results, 'all but limited findings')} %. With a "
        "third, equally good model as the reference, the margins hold against champion and reference in "
        f"{_share(results, 'reference/both', 1)} %, and against the champion alone in "
        f"{_share(results, 'reference/champion', 1)} % ({results.count('reference/both')} replicates).",
        "Checks that an equally good model does not always pass:",
        _table(("check", "passes, %"), rows) if rows else "None.",
        "All margins met, by true difference of all AUCs and by correlation of the models' scores, %:",
        _table(
            ("true difference", *(f"correlation {c:g}" for c in CORRELATIONS)),
            [(f"{d:+g}", *(_share(results, f"curve/{c:g}/{d:g}", 1) for c in CORRELATIONS)) for d in DIFFERENCES],
        ),
        "![Share of looks in which all margins are met](gate-power.svg)",
    )


def _coverage(results: Results) -> str:
    head = ("finding", "patients", "AUC, %", "df", "difference, %", "df", "true SD", "by patient", "by image")
    rows = []
    for row in (*results.about["findings"], {"finding": MACRO, "patients": results.about["patients"]}):
        name = row["finding"]
        if not results.count(f"covered/auc/{name}"):
            continue
        deviation = results.deviation(f"value/difference/{name}")
        stated = [math.sqrt(results.mean(f"variance/{kind}/{name}")) for kind in ("difference", "by image")]
        rows.append(
            (
                name,
                row["patients"],
                _share(results, f"covered/auc/{name}"),
                f"{results.mean(f'degrees of freedom/auc/{name}'):.1f}",
                _share(results, f"covered/difference/{name}"),
                f"{results.mean(f'degrees of freedom/difference/{name}'):.1f}",
                f"{deviation:.4f}",
                *(f"{error / deviation:.2f}" for error in stated),
            )
        )
    off = {name: abs(results.mean(f"value/{name}")) for name in results.names("value/")}
    return _section(
        "## Coverage of 95 % intervals and bounds",
        "Of the interval of a model's AUC, and of the two bounds of the difference of two equally good models, with "
        "the degrees of freedom of Student's t. The last columns hold the true standard deviation of the difference, "
        "and what standard errors make of it: the project's (by patient) and DeLong's (by image), as multiples. The "
        "mean of no estimate is off by more than "
        f"{max(off.values(), default=math.nan):.1g}.",
        _table(head, rows),
    )


def _apart(results: Results, seed: int) -> str:
    rows = []
    for case in gaps.CASES:
        name = f"apart/interval/{case.name}"
        if not results.count(name):
            continue
        target = Target("", [name], case.low, case.high)
        rows.append(
            (
                f"{case.areas[0]:g} and {case.areas[1]:g}",
                f"{case.positives} + {case.negatives}{', clustered' if case.clustered else ''}",
                f"{case.correlation:g}",
                _share(results, name),
                ", ".join(_plain(results, f"apart/interval {side}/{case.name}") for side in ("below", "above")),
                f"{results.mean(f'apart/interval width/{case.name}'):.3f}",
                _share(results, f"apart/bounds/{case.name}"),
                f"{case.low:g} to {case.high:g}",
                target.verdict(results)[1],
            )
        )
    tally = results.studies.get(ALONE)
    made = f"{tally.replicates:,} studies of each case, {tally.seconds / 60:.0f} processor minutes" if tally else "none"
    head = (
        "true AUCs",
        "positive + negative patients",
        "correlation",
        "interval, %",
        "missed below, above",
        "width",
        "both bounds, %",
        "target",
        "verdict",
    )
    return _section(
        "## Intervals of a difference where models differ much",
        "How often the 95 % interval that is printed for a difference of AUCs holds the true one, and how often the "
        "two bounds do, of which the gate judges the lower: near equality they are an interval too, far apart they "
        "are not, and the gate does not need them to be. Binormal scores; clustered patients have several images. "
        f"Written by `make bench-gate`, alone by `make bench-gate ARGS=--differences`: {made}, seed {seed}.",
        _table(head, rows) if rows else "Not run.",
    )


def _shapes(results: Results, seed: int) -> str:
    rows = []
    for case in shapes.CASES:
        sizes = {
            (kind, level): f"shape/margin/{kind}/{level:g}/{case.name}"
            for kind in ("alone", "both")
            for level in shapes.LEVELS
        }
        if not results.count(sizes["both", shapes.LEVELS[0]]):
            continue
        targets = [Target("", [sizes["both", level]], high=shapes.MOST[level]) for level in shapes.LEVELS]
        states = [target.verdict(results)[1] for target in targets]
        equal = [_plain(results, f"shape/equal/both/{level:g}/{case.name}") for level in shapes.LEVELS]
        who = "all" if case.patients is None else str(case.patients)
        rows.append(
            (
                case.finding + (f", one with {case.one} images" if case.one else ""),
                who,
                f"{case.margin:g}",
                case.shape,
                f"{case.correlation:g}",
                *(_share(results, sizes["alone", level]) for level in shapes.LEVELS),
                *(_share(results, sizes["both", level]) for level in shapes.LEVELS),
                "met" if states == ["met", "met"] else "; ".join(states),
                "" if "not run" in equal else ", ".join(equal),
            )
        )
    tally = results.studies.get("shapes")
    made = (
        f"{tally.replicates:,} test sets of each case, {tally.seconds / 60:.0f} processor minutes" if tally else "none"
    )
    levels = [f"{100 * level:g} %" for level in shapes.LEVELS]
    head = (
        "finding",
        "positive patients",
        "margin",
        "scores",
        "models correlate by",
        *(f"margin alone, {level}" for level in levels),
        *(f"with failures, {level}" for level in levels),
        f"at most {' and '.join(f'{most:g} %' for most in shapes.MOST.values())}",
        f"an equal model passes, {' and '.join(levels)}",
    )
    return _section(
        "## Scores that are not normal, and patients who fail",
        "Per cent of test sets in which a challenger that loses exactly its margin passes by mistake: by the margin "
        "alone, and by the margin and its check in a world in which patients fail (`sparse_failures`).",
        "*fails*: as many patients with the finding are put last as lose the margin; *fails to any rank*: they are put "
        "anywhere; *negatives fail*: patients without it are put first; *bimodal*: 15 % of the patients are ranked "
        "lower, all by the same; *beta* and *bf16*: scores of that shape, and saturated ones with ties, where "
        "both models are alike but for a shift. Patients with the finding and their images are the test set's, beside "
        f"{shapes.NEGATIVES * shapes.NEGATIVE_IMAGES:,} images of {shapes.NEGATIVES} patients without it. Written by "
        f"`make bench-gate`, alone by `make bench-gate ARGS=--shapes`: {made}, seed {seed}.",
        _table(head, rows) if rows else "Not run.",
        "Not held: a chance of failing that grows with the images of a patient (docs/decisions/0020).",
    )


def _drift(results: Results) -> str:
    shown = (5, 10, 15, RELEASES)
    rows = [(label, *(_loss(results, f"drift/{name}/{k}") for k in shown)) for name, label in LINES.items()]
    return _section(
        f"## Drift: {RELEASES} releases, each {STEP:g} worse than the model in use",
        "Each challenger's AUCs all lie that much below the champion's. If a rule promotes it, it is the next "
        "champion; if not, the next challenger lies as much below the same champion. Loss of the true AUC after so "
        f"many attempts, means of {results.count('drift/gate/1')} replicates:",
        _table(("rule", *map(str, shown)), rows),
        "![Loss of the true AUC, release by release](gate-drift.svg)",
    )


def _loss(results: Results, name: str) -> str:
    count = results.count(name)
    return f"{results.mean(name):.4f} ± {results.deviation(name) / math.sqrt(count):.4f}" if count > 1 else "not run"


def _false_promotions(results: Results, rule: str) -> list[str]:
    """Names of the numbers: promotions with one check at its margin."""
    checks = (MACRO, *(row["finding"] for row in results.about["findings"]))
    return [f"promoted/{rule}/{check}" for check in checks if results.count(f"promoted/{rule}/{check}")]


def _others(results: Results) -> str:
    head = (
        "rule",
        "false promotions, all AUCs lower by the macro margin, %",
        "false promotions, worst single check, %",
        "lost promotions, equal models, %",
        f"lost, all AUCs better by {BETTER:g}, %",
        f"drift after {RELEASES} releases",
    )
    rows = []
    for rule, label in GATE.items():
        worst = max(_false_promotions(results, rule), key=results.mean, default="")
        lost = ["equal/promoted" if rule == "gate" else f"promoted/{rule}/equal", f"promoted/{rule}/better"]
        rows.append(
            (
                label,
                _share(results, f"promoted/{rule}/{MACRO}", 1),
                f"{_share(results, worst, 1)} ({_last(worst)})" if worst else "not run",
                *(f"{100 * (1 - results.mean(name)):.1f}" if results.count(name) else "not run" for name in lost),
                f"{results.mean(f'drift/{rule}/{RELEASES}'):.3f}" if results.count(f"drift/{rule}/1") else "not run",
            )
        )
    return _section(
        "## Side by side with what others do",
        "The same scores, the plan's alpha, and the plan's margins where a rule has margins. The fixed threshold is "
        "the first champion's true mean AUC less the margin: the best that one could set. The gate's lost promotions "
        "among equal models are of its whole plan, among better ones of its margins; the others know no floors and "
        "subgroups.",
        _bootstrap(results),
        _table(head, rows),
        "![False and lost promotions of each rule](gate-rules.svg)",
    )


def _bootstrap(results: Results) -> str:
    ratios = [results.mean(f"bootstrap/{name}") for name in results.names("bootstrap/")]
    if not ratios:
        return "The bootstrap by image is stood for by DeLong's standard error; how alike they are was not run."
    return (
        f"On {results.count(f'bootstrap/{MACRO}')} replicates a Poisson bootstrap over images gave {min(ratios):.2f} "
        f"to {max(ratios):.2f} times DeLong's standard error by image. That one therefore stands for the bootstrap, "
        f"with the error that {TFMA_SAMPLES} samples leave in it and the quantile of Student's t."
    )


def _limits() -> str:
    return _section(
        "## What this does not show",
        "* But for the section on scores that are not normal, scores are normal, and models differ in noise alone. "
        "Labels and patients are held fixed, as they are within a test period; only scores are drawn anew.\n"
        "* No check of operating points or calibration: the plan declares none.\n"
        "* The test set is of the official kind, not the official one.",
    )


# --------------------------------------------------------------------------------------------------- pictures


def _picture(draw: Callable[[Any, Results], None], results: Results) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A fixed salt and no date: equal results give equal bytes.
    with mpl.rc_context({"svg.hashsalt": "cxr-ops", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(7.5, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, results)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _draw_power(axes: Any, results: Results) -> None:
    for correlation, colour, mark in zip(CORRELATIONS, COLOURS, "osD^v", strict=False):
        points = [(d, f"curve/{correlation:g}/{d:g}") for d in DIFFERENCES]
        axes.errorbar(
            [d for d, _ in points],
            [100 * results.mean(name) for _, name in points],
            yerr=[200 * results.error(name) for _, name in points],
            color=colour,
            marker=mark,
            markersize=4,
            label=f"correlation {correlation:g}",
        )
    axes.axhline(95, color="#5b6570", linewidth=0.8, linestyle=":")
    axes.set(xlabel="true difference of all AUCs", ylabel="all margins met, % of looks", ylim=(-3, 103))
    axes.legend(frameon=False)


def _draw_drift(axes: Any, results: Results) -> None:
    for (name, label), colour in zip(LINES.items(), COLOURS, strict=True):
        lost = [0.0, *(results.mean(f"drift/{name}/{k}") for k in range(1, RELEASES + 1))]
        axes.plot(
            range(RELEASES + 1),
            [-value for value in lost],
            color=colour,
            linewidth=2.4 if name == "gate" else 1.2,
            linestyle="-" if name.startswith("gate") else "--",
            label=label,
        )
    axes.set(xlabel=f"releases tried, each {STEP:g} worse", ylabel="true AUC against the first champion")
    axes.set_xticks(range(0, RELEASES + 1, 5))
    axes.legend(frameon=False, fontsize=7.5, loc="lower left")


def _draw_rules(axes: Any, results: Results) -> None:
    for place, rule in enumerate(GATE):
        worst = max((results.mean(name) for name in _false_promotions(results, rule)), default=math.nan)
        equal = results.mean("equal/promoted" if rule == "gate" else f"promoted/{rule}/equal")
        axes.plot(100 * worst, place, "x", color=COLOURS[1], markersize=8, label="false promotions, worst check")
        axes.plot(100 * (1 - equal), place, "o", color=COLOURS[0], label="lost promotions, equal models")
        if place == 0:
            axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    axes.set_yticks(range(len(GATE)), list(GATE.values()))
    axes.invert_yaxis()
    axes.set(xlabel="% of looks (both should be small)", xlim=(-3, 103))
    axes.grid(axis="y", color="#c9ced4", linewidth=0.6)
