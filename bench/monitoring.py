"""Simulate years of monitoring and write their section of docs/monitoring.md.

A hospital reads `PATIENTS` patients a week with a calibrated model of known AUCs; a label comes for every fifth
patient, two weeks later. What is run on them is `cxr_ops.stats.surveillance`, as the command runs it, beside three
common practices. Each year is one replicate, with a test set of its own.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

PROJECT = Path(__file__).resolve().parents[1]
SEED = 20_260_202  # of all random numbers of the simulation
PAGE, PICTURE = "monitoring.md", "monitoring.svg"
TITLE = "## What the simulation found"
WEEKS, PATIENTS, TESTED = 52, 100, 3000
LABELLED, DELAY = 0.2, 2.0  # share of patients, and weeks until the label
CHANGE = 13  # the first week that is other
RATE = 0.05
AUC = 0.80
PREVALENCES = (0.10, 0.025, 0.12, 0.18, 0.05, 0.06, 0.02, 0.05, 0.04, 0.03, 0.03, 0.02, 0.03, 0.01)
STILL: Final = "nothing changes"
BLOCK: Final = 8  # years that are simulated between two looks at the clock
SCENARIOS: Final = {
    STILL: "nothing changes",
    "scanner": "another scanner: contrast up by one standard deviation, all logits up by 0.5",
    "sicker": "sicker patients: each finding half as frequent again",
    "worse": "a model gone blind: AUC of all findings from 0.80 to 0.65",
    "one finding": "the same for one finding, frequent in 18 % of patients",
}
PRACTICES: Final = {
    "monitor": "cxr-ops monitor",
    "ks": "daily Kolmogorov-Smirnov at 0.05, each finding",
    "psi": "weekly PSI over 0.2, each finding",
    "auc": "weekly AUC more than 0.05 below the test set's, each finding",
}
KINDS: Final = ("inputs", "scores", "labels")
MAKING: Final = ("draw", "points", "year", "_threshold", "_ks", "_psi", "_auc")


@dataclass(frozen=True)
class Year:
    """When each practice and each kind of stream gave an alarm, and how often."""

    before: dict[str, bool]  # an alarm before the change, or in a year without one
    delay: dict[str, float]  # weeks from the change to the first alarm after it; infinite where there is none
    alarms: dict[str, int]  # days or weeks in alarm before the change, of all findings
    reached: dict[str, tuple[int, int]]  # kind -> streams whose capital reached 20, of how many


def draw(rng, scenario: str, size: int, changed):
    """Scores, truth, inputs of patients; `changed` says of each whether the change has come."""
    import numpy as np
    from scipy.special import expit, logit, ndtri

    prevalence = np.array(PREVALENCES)
    distance = np.sqrt(2) * ndtri(AUC)
    now = np.broadcast_to(prevalence, (size, prevalence.size)).copy()
    apart = np.full((size, prevalence.size), distance)
    less = np.sqrt(2) * ndtri(0.65)
    if scenario == "sicker":
        now[changed] *= 1.5
    if scenario == "worse":
        apart[changed] = less
    if scenario == "one finding":
        apart[changed, 3] = less
    truth = (rng.random(now.shape) < now).astype(float)
    noise = np.sqrt(0.2) * rng.standard_normal((size, 1)) + np.sqrt(0.8) * rng.standard_normal(now.shape)
    logits = logit(prevalence) + distance * (noise + apart * truth) - distance**2 / 2
    inputs = {
        "brightness": rng.normal(size=size),
        "contrast": rng.normal(size=size),
        "view": (rng.random(size) < 0.6).astype(float),
        "sex": (rng.random(size) < 0.44).astype(float),
        "age": np.round(rng.normal(47, 17, size)),
    }
    if scenario == "scanner":
        logits[changed] += 0.5
        inputs["contrast"][changed] += 1
    return expit(logits), truth, inputs


def points():
    """Thresholds at which four in five patients with a finding are called."""
    import numpy as np
    from scipy.special import expit, logit, ndtri

    distance = np.sqrt(2) * ndtri(AUC)
    return expit(logit(np.array(PREVALENCES)) + distance * (distance - ndtri(0.8)) - distance**2 / 2)


def year(scenario: str, number: int) -> Year:
    """One replicate."""
    import numpy as np

    from cxr_ops.labels import FINDINGS
    from cxr_ops.stats import surveillance

    rng = np.random.Generator(np.random.SFC64([SEED, list(SCENARIOS).index(scenario), number]))
    size = WEEKS * PATIENTS
    week = np.repeat(np.arange(WEEKS), PATIENTS)
    old_scores, old_truth, old_inputs = draw(rng, scenario, TESTED, np.zeros(TESTED, bool))
    scores, truth, inputs = draw(rng, scenario, size, week >= CHANGE)
    has_label = rng.random(size) < LABELLED
    seen = surveillance.Seen(
        week=week,
        chance=rng.random(size),
        scores=scores,
        truth=np.where(has_label[:, None], truth, np.nan),
        labelled=np.where(has_label, week + rng.random(size) + DELAY, np.inf),
        inputs=inputs,
    )
    reference = surveillance.Reference(scores=old_scores, truth=old_truth, inputs=old_inputs)
    streams = surveillance.watch(seen, reference, FINDINGS, list(points()), weeks=WEEKS, rate=RATE)
    alarms: dict[str, list[float]] = {"monitor": [], **{kind: [] for kind in KINDS}}
    reached = {}
    for kind in KINDS:
        ours = [one for one in streams if one.kind == kind and not one.unwatched]
        alarms[kind] = [float(one.alarms[0]) for one in ours if one.alarms]
        alarms["monitor"] += alarms[kind]
        reached[kind] = (sum(max(one.peaks) * _threshold(one) >= 20 for one in ours), len(ours))
    alarms["ks"] = _ks(scores, old_scores)
    alarms["psi"] = _psi(scores, old_scores, week)
    alarms["auc"] = _auc(seen, old_scores, old_truth)
    end = WEEKS if scenario == STILL else CHANGE
    return Year(
        before={name: any(at < end for at in found) for name, found in alarms.items()},
        delay={
            name: min((at + 1 - CHANGE for at in found if at >= CHANGE), default=np.inf)
            for name, found in alarms.items()
        },
        alarms={name: sum(at < end for at in found) for name, found in alarms.items()},
        reached=reached,
    )


def _threshold(stream) -> float:
    """The capital at which a stream is in alarm; with labels and predictions each of two has half of what is left."""
    from cxr_ops.stats.monitoring import BOUND

    if stream.kind != "labels":
        return 1 / stream.level
    return (1 if stream.what == "missed" else 2) / (stream.level * (1 - BOUND))


def _ks(scores, old) -> list[float]:
    """Weeks, as fractions, of the days on which a finding's scores differ from the test set's at 0.05."""
    import numpy as np
    from scipy import stats

    days = np.array_split(np.arange(len(scores)), WEEKS * 7)
    limits = {n: stats.kstwo.isf(0.05, n) for n in {len(day) for day in days}}
    found = []
    for f in range(scores.shape[1]):
        sorted_old = np.sort(old[:, f])
        for number, day in enumerate(days):
            below = np.searchsorted(sorted_old, np.sort(scores[day, f]), "right") / len(sorted_old)
            n = len(day)
            distance = max((np.arange(1, n + 1) / n - below).max(), (below - np.arange(n) / n).max())
            if distance > limits[n]:
                found.append(number / 7)
    return found


def _psi(scores, old, week) -> list[float]:
    """Weeks in which a finding's population stability index over the test set's deciles is above 0.2."""
    import numpy as np

    found = []
    for f in range(scores.shape[1]):
        edges = np.quantile(old[:, f], np.linspace(0.1, 0.9, 9))
        expected = np.bincount(np.digitize(old[:, f], edges), minlength=10) / len(old)
        for number in range(WEEKS):
            seen = np.bincount(np.digitize(scores[week == number, f], edges), minlength=10) / PATIENTS
            seen = np.maximum(seen, 1e-4)
            if ((seen - expected) * np.log(seen / expected)).sum() > 0.2:
                found.append(float(number))
    return found


def _auc(seen, old_scores, old_truth) -> list[float]:
    """Weeks in which the AUC of the labels that came is more than 0.05 below that of the test set."""
    import numpy as np

    from cxr_ops.stats.ranking import area

    found = []
    for f in range(old_scores.shape[1]):
        goal = area(old_truth[:, f], old_scores[:, f]) - 0.05
        arrived = np.floor(seen.labelled)
        for number in range(WEEKS):
            rows = arrived == number
            truth = seen.truth[rows, f]
            if 0 < truth.sum() < truth.size and area(truth, seen.scores[rows, f]) < goal:
                found.append(float(number))
    return found


# ------------------------------------------------------------------------------------------------------- results


def summary(years: list[Year], scenario: str) -> dict[str, Any]:
    """Shares with their Monte-Carlo errors, and delays."""
    import numpy as np

    def share(flags) -> tuple[float, float]:
        flags = np.asarray(flags, dtype=float)
        return float(flags.mean()), float(np.sqrt(flags.mean() * (1 - flags.mean()) / flags.size))

    found: dict[str, Any] = {"replicates": len(years), "scenario": scenario}
    for name in (*PRACTICES, *KINDS):
        delays = np.array([one.delay[name] for one in years])
        # An infinite delay is one that is longer than the year: quartiles by rank stand all the same.
        found[name] = {
            "before": share([one.before[name] for one in years]),
            "alarms": float(np.mean([one.alarms[name] for one in years])),
            "detected": share(np.isfinite(delays)),
            "delay": [float(np.quantile(delays, q, method="inverted_cdf")) for q in (0.25, 0.5, 0.75)],
            "delays": sorted(float(delay) for delay in delays),
        }
    found["reached"] = {kind: [sum(one.reached[kind][i] for one in years) for i in (0, 1)] for kind in KINDS}
    # Streams of one year hang together: the error is over years.
    found["reached error"] = {
        kind: float(
            np.std([one.reached[kind][0] / max(one.reached[kind][1], 1) for one in years]) / np.sqrt(len(years))
        )
        for kind in KINDS
    }
    return found


def _percent(pair: tuple[float, float]) -> str:
    return f"{100 * pair[0]:.1f} ± {100 * pair[1]:.1f}"


def _weeks(value: float) -> str:
    return f"{value:.0f}" if value < 1e9 else "not in the year"


def section(results: dict[str, dict[str, Any]]) -> str:
    """The section of the page."""
    from bench.__main__ import machine

    still = results[STILL]
    made = (
        f"Written by `make bench-monitor`: {still['replicates']} simulated years without a change, and "
        f"{min(one['replicates'] for one in results.values())} with each change. "
        f"{machine()}. {PATIENTS} patients a week, 14 findings of AUC {AUC:g}, a test set of {TESTED:,} patients, a "
        f"label for {100 * LABELLED:.0f} % of patients {DELAY:g} weeks later, a rate of {100 * RATE:g} % a year. "
        "Percentages stand with their Monte-Carlo standard error."
    )
    lines = [TITLE, "", made, "", "| a year without a change | years with a false alarm, % | false alarms a year |"]
    lines.append("|---|---|---|")
    for name, what in PRACTICES.items():
        lines.append(f"| {what} | {_percent(still[name]['before'])} | {still[name]['alarms']:.3g} |")
        if name == "monitor":
            lines += [
                f"| of it, {kind} (at most {100 * RATE / 3:.2f} %) | {_percent(still[kind]['before'])} | "
                f"{still[kind]['alarms']:.3g} |"
                for kind in KINDS
            ]
    shares = {kind: 100 * reached / many for kind, (reached, many) in still["reached"].items()}
    told = ", ".join(f"{shares[kind]:.2f} ± {100 * still['reached error'][kind]:.2f} % ({kind})" for kind in KINDS)
    sharp = (
        "These thresholds are so high that few years can tell whether they are right. So a lower one: a capital of 20 "
        f"may be reached in at most 5 % of years by each; of all streams it was by {told}. A stream with labels and "
        "predictions has two capitals, of which either counts."
    )
    then = (
        f"Then something changes in week {CHANGE + 1}. Delay: weeks from the change to the end of the week of the "
        "first alarm after it; median, and quartiles. Who gives alarms all the time is quick to give one."
    )
    head = "| change | practice | found within the year, % | delay | in alarm before the change, % |"
    lines += ["", sharp, "", then, "", head, "|---|---|---|---|---|"]
    for scenario, what in SCENARIOS.items():
        if scenario == STILL:
            continue
        one = results[scenario]
        for number, (name, said) in enumerate(PRACTICES.items()):
            low, middle, high = (_weeks(value) for value in one[name]["delay"])
            delay = middle if low == middle == high else f"{middle} ({low} to {high})"
            lines.append(
                f"| {what if number == 0 else ''} | {said} | {_percent(one[name]['detected'])} | {delay} | "
                f"{_percent(one[name]['before'])} |"
            )
            if name == "monitor":
                for kind in KINDS:
                    middle = _weeks(one[kind]["delay"][1])
                    lines.append(f"| | of it, {kind} | {_percent(one[kind]['detected'])} | {middle} | |")
    lines += ["", f"![Share of years in alarm, by weeks after the change]({PICTURE})", ""]
    return "\n".join(lines)


def picture(results: dict[str, dict[str, Any]]) -> str:
    """Share of years in which the change was found, by weeks after it, a panel a change."""
    import io

    import matplotlib as mpl
    import numpy as np

    colours = dict(zip(PRACTICES, ("#0072b2", "#b34700", "#007a5a", "#8a2f6b"), strict=True))
    styles = dict(zip(PRACTICES, ("-", "--", "-.", ":"), strict=True))
    names = [name for name in SCENARIOS if name != STILL]
    with mpl.rc_context({"svg.hashsalt": "monitoring", "svg.fonttype": "path", "font.size": 8}):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5.6), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, scenario in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, names, strict=True):
            for name, said in PRACTICES.items():
                delays = np.array(results[scenario][name]["delays"])
                grid = np.arange(0, WEEKS - CHANGE + 1)
                share = [(delays <= week).mean() for week in grid]
                false = 100 * results[STILL][name]["before"][0]
                label = f"{said} (false alarms in {false:.0f} % of years)"
                axes.step(grid, share, where="post", color=colours[name], linestyle=styles[name], label=label)
            axes.set_title(SCENARIOS[scenario], fontsize=8)
            axes.set_ylim(0, 1.02)
            axes.grid(color="#dddddd", linewidth=0.5)
        figure.supxlabel("weeks after the change", fontsize=8)
        figure.supylabel("share of years in alarm since the change", fontsize=8)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=1, fontsize=7.5, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


@cache
def _code() -> str:
    """What the numbers depend on, without words and layout: a year that other code simulated is simulated again."""
    whole = [PROJECT / "cxr_ops" / "stats" / name for name in ("monitoring.py", "surveillance.py")]
    parts = [ast.parse(path.read_text()) for path in whole]
    own = ast.parse(Path(__file__).read_text()).body
    parts += [one for one in own if isinstance(one, ast.FunctionDef) and one.name in MAKING]
    for node in (node for part in parts for node in ast.walk(part)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value = ast.Constant("")
    numbers = (SEED, WEEKS, PATIENTS, TESTED, LABELLED, DELAY, CHANGE, RATE, AUC, PREVALENCES)
    return hashlib.sha256(repr([*map(ast.dump, parts), numbers]).encode()).hexdigest()[:12]


def _kept(path: Path) -> dict[str, dict[int, Year]]:
    """The years that were simulated by this code, by kind and number."""
    found: dict[str, dict[int, Year]] = {scenario: {} for scenario in SCENARIOS}
    for line in path.read_text().splitlines() if path.is_file() else ():
        said = json.loads(line)
        if said.pop("code") == _code():
            years, number = found[said.pop("scenario")], said.pop("number")
            years[number] = Year(**said)
    return found


def main(words: list[str] | None = None) -> int:
    """Simulate, and write the section and the picture."""
    for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy is loaded; its threads would fight over the cores
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(prog="python -m bench.monitoring", description=__doc__)
    parser.add_argument("--replicates", type=int, default=400, help="years without a change (default 400)")
    parser.add_argument("--changed", type=int, default=60, help="years with each change (default 60)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time; go on another day")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    parser.add_argument("--kept", type=Path, default=PROJECT / ".cxr" / "monitoring.jsonl", help="a line a year")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where the page is")
    asked = parser.parse_args(words)
    from bench import measure

    deadline = time.monotonic() + 60 * asked.minutes
    years = _kept(asked.kept)
    asked.kept.parent.mkdir(parents=True, exist_ok=True)
    limits = {scenario: asked.replicates if scenario == STILL else asked.changed for scenario in SCENARIOS}
    wanted = sorted(
        ((scenario, number) for scenario, limit in limits.items() for number in range(limit)),
        key=lambda one: one[1] / limits[one[0]],  # a run that is stopped has all kinds in the same proportion
    )
    wanted = [(scenario, number) for scenario, number in wanted if number not in years[scenario]]
    with ProcessPoolExecutor(asked.processes) as pool, asked.kept.open("a") as file:
        for start in range(0, len(wanted), BLOCK):
            if time.monotonic() > deadline:
                break
            block = wanted[start : start + BLOCK]
            for (scenario, number), one in zip(block, pool.map(year, *zip(*block, strict=True)), strict=True):
                years[scenario][number] = one
                said = {"code": _code(), "scenario": scenario, "number": number, **asdict(one)}
                file.write(json.dumps(said) + "\n")
            file.flush()
    results = {scenario: summary(list(found.values()), scenario) for scenario, found in years.items() if found}
    if len(results) < len(SCENARIOS):
        print("not all kinds of years were simulated yet: type it again", file=sys.stderr)
        return 1
    page = asked.docs / PAGE
    page.write_text(measure.put(page.read_text(), section(results)))
    (asked.docs / PICTURE).write_text(picture(results))
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
