"""Periods of ten looks: what rules promote by mistake there, against teams that listen to the verdicts too.

Every verdict is made by the gate's own statistic (`cxr_ops.stats.auc`) on simulated patients. One check is at its
margin and decides; all others are met: that is the least favourable case, since all checks must be met. A period's
error is that it promotes a model which is worse than the champion of that moment by the margin, once or more.
"""

from __future__ import annotations

import gc
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import special

from bench import measure
from bench.gate import procedures, structure
from bench.gate.procedures import Setup, View
from bench.gate.results import Results, Tally
from bench.gate.run import PLAN, PROBE_PATIENTS, random
from bench.gate.scores import World
from bench.gate.structure import Structure
from bench.gate.teams import Alternating, AsGood, Careless, Follower, Model, Neighbours, Outcome, Team, Terms, Thief
from cxr_ops import plan as plans
from cxr_ops.errors import DataError
from cxr_ops.plan import ChangePlan
from cxr_ops.records.inputs import Spending
from cxr_ops.stats import auc
from cxr_ops.stats.levels import Event, account
from cxr_ops.voice import steps

Floats = npt.NDArray[np.float64]
Named = Iterator[tuple[str, float]]

LOOKS = 10
PERIOD_ALPHA = 0.05
FEATURES = 40  # directions that models can differ in
VALIDATION = 0.4  # validation patients for each test patient: 10 and 25 % in params.yaml
AREA = 0.70  # of the first champion


# --------------------------------------------------------------------------------------------------- patients


@dataclass(frozen=True)
class Point:
    """A check at its margin, on patients with one image each.

    Attributes:
        name: what the page calls it.
        patients: with the finding and without.
        margin: of the AUC difference; of the floor, how far the AUC lies above it (0: at the floor).
        correlation: of challenger and champion.
        findings: over how many the AUC is a mean; each has its own labels and noise.
        kind: what is judged.
    """

    name: str
    patients: tuple[int, int] = (200, 800)
    margin: float = 0.03
    correlation: float = 0.9
    findings: int = 1
    kind: str = "margin"

    @property
    def terms(self) -> Terms:
        """What a team knows."""
        return Terms(self.margin, LOOKS, self.correlation, self.patients)


POINTS = (
    Point("margin 0.03, 200 positive patients"),
    Point("margin 0.05, 100 positive patients", (100, 900), 0.05),
    Point("margin 0.10, 39 positive patients", (39, 960), 0.10),
    Point("margin 0.10, 20 positive patients", (20, 980), 0.10),
    Point("margin 0.03, models correlate by 0.5", correlation=0.5),
    Point("margin 0.03, models correlate by 0.99", correlation=0.99),
    Point("margin 0.01 of a mean over 4 findings", (150, 450), 0.01, findings=4),
    Point("floor, 39 positive patients", (39, 960), 0.0, kind="floor"),
    Point("floor, 200 positive patients", (200, 800), 0.0, kind="floor"),
)
# The duel of teams and rules: here an equally good model is at the edge of what a look of 0.5 % can show.
DUEL = POINTS[0]


@dataclass(frozen=True)
class Placed:
    """A model on a cohort: its mean AUC, and (N,) what that is without each patient."""

    value: float
    without: Floats

    @property
    def variance(self) -> float:
        """The jackknife's."""
        return _spread(self.without)


class Cohort:
    """Patients whose labels are fixed and whose features are drawn; AUCs of models on them.

    With one image a patient and no ties the gate's statistic can be written in a few lines, which are ten times as
    fast. A test holds `needed` to `cxr_ops.stats.auc`.
    """

    def __init__(self, point: Point, rng: np.random.Generator, share: float = 1.0) -> None:
        self.positives, self.negatives = (max(2, round(share * count)) for count in point.patients)
        self.truth = np.repeat([1.0, 0.0], [self.positives, self.negatives])
        self.features = rng.standard_normal((point.findings, self.truth.size, FEATURES))
        self._placed: dict[int, tuple[Model, Placed]] = {}

    def scores(self, model: Model) -> Floats:
        """(findings, N) scores."""
        found: Floats = self.features @ model.direction + math.sqrt(2) * float(special.ndtri(model.area)) * self.truth
        return found

    def placed(self, model: Model) -> Placed:
        """A model's AUC, kept; models are kept too, so that their ids stay theirs."""
        if id(model) not in self._placed:
            m, n = self.positives, self.negatives
            without, value = np.zeros(m + n), 0.0
            scores = self.scores(model)
            for row in scores:
                ill, well = np.sort(row[:m]), np.sort(row[m:])
                won = np.searchsorted(well, row[:m])
                lost = m - np.searchsorted(ill, row[m:])
                total = int(won.sum())
                value += total / (m * n)
                without[:m] += (total - won) / ((m - 1) * n)
                without[m:] += (total - lost) / (m * (n - 1))
            self._placed[id(model)] = (model, Placed(value / len(scores), without / len(scores)))
        return self._placed[id(model)][1]

    def needed(self, challenger: Model, champion: Model, margin: float) -> float:
        """The level that the margin's check needs to be met: its p-value, as `checks.p_above` has it."""
        ours, theirs = self.placed(challenger), self.placed(champion)
        if ours.value <= theirs.value - margin:
            return 1.0
        apart = _spread(ours.without - theirs.without)
        slopes = [1 / (one.value * (1 - one.value)) for one in (ours, theirs)]
        together = (ours.variance + theirs.variance - apart) / 2
        error = slopes[0] ** 2 * ours.variance + slopes[1] ** 2 * theirs.variance - 2 * slopes[0] * slopes[1] * together
        spread = math.sqrt(max(error, min(slopes) ** 2 * apart))
        distance = (_logit(theirs.value - margin) - _logit(ours.value)) / spread
        return float(special.stdtr(max(min(self.positives, self.negatives) - 1, 1), distance))

    def needed_by_floor(self, challenger: Model, floor: float) -> float:
        """The same of a floor, by the gate's own code."""
        owners = np.arange(self.truth.size)
        ranked = [auc.rank(self.truth, row, owners) for row in self.scores(challenger)]
        return 1 - auc.p_below(procedures.single(ranked), floor)


def _spread(without: Floats) -> float:
    return float((without.size - 1) * np.var(without))


def _logit(area: float) -> float:
    inside = min(max(area, 1e-6), 1 - 1e-6)
    return math.log(inside / (1 - inside))


# ------------------------------------------------------------------------------------------------------ rules


@dataclass(frozen=True)
class Look:
    """What a rule may use of a look.

    Attributes:
        needed: the level at which the check is met.
        value: the estimate on the test patients, and `tuned` on the validation patients.
        limit: what it must lie above.
    """

    needed: float
    value: float
    tuned: float
    limit: float


class Rule(Protocol):
    """Decides look by look in one period."""

    def level(self) -> float:
        """What the next look may spend, as teams know it."""
        ...

    def decide(self, look: Look) -> bool:
        """Whether the model is promoted."""
        ...


@dataclass
class Levels:
    """The gate at the levels of a plan."""

    spending: Spending
    events: list[Event] = field(default_factory=list)
    looks: int = 0
    _known: float | None = None

    def level(self) -> float:
        """Of the next look."""
        if self._known is None:
            self._known = account([self.spending], self.events).next.checks
        return self._known

    def decide(self, look: Look) -> bool:
        """Judge at the level, and enter look and promotion."""
        promoted = look.needed <= self.level()
        self.events.append(Event(kind="look", look=self.looks))
        if promoted:
            self.events.append(Event(kind="promotion", look=self.looks))
        self.looks += 1
        self._known = None
        return promoted


@dataclass
class Thresholdout:
    """The reusable holdout (Dwork, Feldman, Hardt, Pitassi, Reingold, Roth), with the constants of its theorem.

    For an accuracy tau the threshold is 3 tau / 4 and sigma is tau / (96 ln(4 m / beta)), for m looks and error beta
    (Communications of the ACM 60:4 (2017) 86-93, theorem 9). The noise is Laplace's: 2 sigma on the threshold, 4 sigma
    on the comparison, sigma on the answer. What it is asked is the difference from the champion; its budget is m. It
    answers a number; promoted is what lies above the limit, by its accuracy where `careful`. The patients that the
    theorem asks for are not there, nor in any hospital.
    """

    rng: np.random.Generator
    tau: float
    careful: bool
    threshold: float = 0.0

    def __post_init__(self) -> None:
        self.sigma = self.tau / (96 * math.log(4 * LOOKS / PERIOD_ALPHA))
        self.threshold = self._drawn()

    def _drawn(self) -> float:
        return 0.75 * self.tau + float(self.rng.laplace(scale=2 * self.sigma))

    def level(self) -> float:
        """It has none; teams take that of equal looks."""
        return PERIOD_ALPHA / LOOKS

    def decide(self, look: Look) -> bool:
        """Answer by the validation patients, unless the test patients say something else."""
        answer, held = look.tuned, look.value
        if abs(held - answer) > self.threshold + float(self.rng.laplace(scale=4 * self.sigma)):
            self.threshold = self._drawn()
            answer = held + float(self.rng.laplace(scale=self.sigma))
        return answer - (self.tau if self.careful else 0.0) > look.limit


RECYCLED = Spending(method="recycled", period_alpha=PERIOD_ALPHA, success_weight=0.8, max_looks=LOOKS)
EQUAL = Spending(method="equal", alpha=PERIOD_ALPHA / LOOKS, max_looks=LOOKS)
HALVED = Spending(method="equal", alpha=PERIOD_ALPHA / 2**LOOKS, max_looks=LOOKS)

RULES: dict[str, Callable[[np.random.Generator], Rule]] = {
    "recycled": lambda _: Levels(RECYCLED),
    "equal": lambda _: Levels(EQUAL),
    "alpha/2^T": lambda _: Levels(HALVED),
    "Thresholdout": lambda rng: Thresholdout(rng, DUEL.margin / 2, careful=False),
    "Thresholdout, by its accuracy": lambda rng: Thresholdout(rng, DUEL.margin / 2, careful=True),
}
OF_THE_GATE = ("recycled", "equal")

ATTACKS: dict[str, Callable[[Terms, np.random.Generator], Team]] = {
    "careless": Careless,
    "alternating": Alternating,
    "sign-following": Follower,
    "best of neighbours": Neighbours,
    "thief, power 0.3": partial(Thief, power=0.3),
    "thief, power 0.5": Thief,
    "thief, power 0.95": partial(Thief, power=0.95),
    "thief, strikes in every third look": partial(Thief, strike=3),
}
CONTROLS: dict[str, Callable[[Terms, np.random.Generator], Team]] = {
    "thief told the test AUCs, power 0.3": partial(Thief, power=0.3),
    "thief told the test AUCs, power 0.98": partial(Thief, power=0.98),
}


# ---------------------------------------------------------------------------------------------------- periods


def period(
    point: Point, rule: Rule, team: Team, rng: np.random.Generator, *, told: bool = False
) -> Iterator[tuple[bool, bool]]:
    """Ten looks of one team under one rule: for each, whether the model was promoted, and whether that was an error.

    It ends with the first error.
    """
    test, validation = Cohort(point, rng), None
    champion = Model(np.eye(FEATURES)[0], AREA)
    for _ in range(LOOKS):
        challenger = team.propose(champion, rule.level())
        if point.kind == "floor":
            needed, limit = test.needed_by_floor(challenger, challenger.area), challenger.area
        else:
            needed, limit = test.needed(challenger, champion, point.margin), -point.margin
        value = test.placed(challenger).value - test.placed(champion).value
        tuned = value
        if isinstance(rule, Thresholdout):
            validation = validation or Cohort(point, rng, VALIDATION)
            tuned = validation.placed(challenger).value - validation.placed(champion).value
        promoted = rule.decide(Look(needed, value, tuned, limit))
        wrong = promoted and challenger.area <= champion.area - point.margin + 1e-12
        yield promoted, wrong
        if wrong:
            return
        team.learn(Outcome(champion, challenger, promoted, value if told else None))
        champion = challenger if promoted else champion


def errors(
    point: Point,
    rule: str,
    team: Callable[[Terms, np.random.Generator], Team],
    rng: np.random.Generator,
    *,
    told: bool = False,
) -> bool:
    """Whether a period ends with an error."""
    looks = period(point, RULES[rule](rng), team(point.terms, rng), rng, told=told)
    return any(wrong for _, wrong in looks)


def points(_: Setup | None, rng: np.random.Generator) -> Named:
    """The error of a period at each least favourable point, of a team that does not listen."""
    for point in POINTS:
        for rule in OF_THE_GATE:
            yield f"points/{rule}/{point.name}", errors(point, rule, Careless, rng)


def duels(_: Setup | None, rng: np.random.Generator) -> Named:
    """The error of a period of each team under the gate's two methods."""
    yield from _duels(OF_THE_GATE, rng)


def elsewhere(_: Setup | None, rng: np.random.Generator) -> Named:
    """The same under the rules of others."""
    yield from _duels([name for name in RULES if name not in OF_THE_GATE], rng)


def _duels(rules: Sequence[str], rng: np.random.Generator) -> Named:
    for rule in rules:
        for name, team in ATTACKS.items():
            yield f"duel/{rule}/{name}", errors(DUEL, rule, team, rng)
        for name, team in CONTROLS.items():
            yield f"duel/{rule}/{name}", errors(DUEL, rule, team, rng, told=True)


def honest(_: Setup | None, rng: np.random.Generator) -> Named:
    """How often an equally good model is promoted, at the first look and over ten, by one check."""
    for name, begin in RULES.items():
        looks = [promoted for promoted, _ in period(DUEL, begin(rng), AsGood(DUEL.terms, rng), rng)]
        yield f"honest/{name}/first", looks[0]
        yield f"honest/{name}/all", float(np.mean(looks))


# --------------------------------------------------------------------------------------- equal models, whole plan


def promotes(challenger: View, champion: View, alpha: float) -> bool:
    """Whether all checks of the plan are met at a level."""
    met = procedures.floors_met(challenger, alpha)
    return all(good for _, good in met) and all(procedures.gate(challenger, champion, alpha).values())


def releases(setup: Setup, rng: np.random.Generator) -> Named:
    """Ten equally good models under the whole plan: who is promoted at the first look, and over the period."""
    world = setup.world
    common = world.noise(rng)
    views = [procedures.Model(setup, world.scores(common, world.noise(rng))).at() for _ in range(LOOKS + 1)]
    known: dict[tuple[int, int, float], bool] = {}
    for name, spending in (("recycled", RECYCLED), ("equal", EQUAL), ("alpha/2^T", HALVED)):
        events: list[Event] = []
        champion, promoted = 0, []
        for look in range(LOOKS):
            level = account([spending], events).next.checks
            key = (look + 1, champion, level)
            if key not in known:
                known[key] = promotes(views[look + 1], views[champion], level)
            promoted.append(known[key])
            events.append(Event(kind="look", look=look))
            if promoted[-1]:
                events.append(Event(kind="promotion", look=look))
                champion = look + 1
        yield f"releases/{name}/first", promoted[0]
        yield f"releases/{name}/all", float(np.mean(promoted))
        yield f"releases/{name}/until the first", (promoted.index(True) + 1) if any(promoted) else LOOKS + 1


# -------------------------------------------------------------------------------------------------- all of them


@dataclass(frozen=True)
class Study:
    """A replicate, how many make a block, and its share of the replicates that are asked for."""

    replicate: Callable[[Setup, np.random.Generator], Named]
    block: int
    share: float
    whole_plan: bool = False  # whether it needs the production plan and the NIH's labels


STUDIES: dict[str, Study] = {
    "points": Study(points, 50, 1.0),
    "duels": Study(duels, 50, 1.0),
    "elsewhere": Study(elsewhere, 50, 0.25),
    "honest": Study(honest, 50, 0.5),
    "releases": Study(releases, 5, 0.05, whole_plan=True),
}


def run(
    project: Path,
    cache: Path,
    labels: Path | None,
    seed: int,
    replicates: int,
    processes: int,
    *,
    deadline: float | None,
) -> Results:
    """Go on with the studies of sequences until all replicates are there, or until the deadline; see `run.run`.

    Raises:
        StorageError: the labels cannot be downloaded. DataError: they are not the NIH's. SettingsError: the plan.
    """
    cache.mkdir(parents=True, exist_ok=True)
    plan = plans.load(project / PLAN)
    test_set, _ = structure.likest_official(structure.read(labels or structure.fetch(cache)))
    file = cache / "sequences.json"
    results = Results.read(file) if file.is_file() else Results()
    small = procedures.setup(World(structure.generated(PROBE_PATIENTS)), plan)
    for name, of in STUDIES.items():
        whole = f"{seed} {test_set.digest()} {plan.performance.model_dump_json(exclude={'summary'})}"
        mark = _fingerprint(name, of, small, whole if of.whole_plan else str(seed))
        if name not in results.studies or results.studies[name].fingerprint != mark:
            results.studies[name] = Tally(mark)
    todo = [
        (block / blocks, name, block)
        for name, of in STUDIES.items()
        for blocks in [max(1, round(replicates * of.share / of.block))]
        for block in range(blocks)
        if block not in results.studies[name].blocks
    ]
    tasks = [(name, block) for _, name, block in sorted(todo)]
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read by the processes when they start
    with ProcessPoolExecutor(processes, get_context("spawn"), _prepare, (test_set, plan, seed)) as pool:
        found = pool.map(_block, *zip(*tasks, strict=True)) if tasks else iter(())
        with steps("bench-gate sequences") as show:
            for done, ((name, block), tally) in enumerate(zip(tasks, found, strict=True), 1):
                results.studies[name].merge(block, tally)
                results.write(file)
                show(done, len(tasks))
                if deadline is not None and time.monotonic() > deadline:
                    pool.shutdown(cancel_futures=True)
                    break
    return results


def _fingerprint(name: str, of: Study, small: Setup, about: str) -> str:
    """Digest of what a study's numbers depend on: the code by what it does in one replicate."""
    probe = " ".join(f"{key}={float(value):.9g}" for key, value in of.replicate(small, random(0, name, 0)))
    # Yes and no alone would miss most changes of a statistic: its estimates on one cohort stand beside them.
    rng = random(0, "probe", 0)
    cohort, terms = Cohort(DUEL, rng), DUEL.terms
    champion = Model(np.eye(FEATURES)[0], AREA)
    challenger = Careless(terms, rng).propose(champion, 0.005)
    probe += f" {cohort.needed(challenger, champion, 0.03):.9g} {cohort.needed_by_floor(challenger, 0.6):.9g}"
    text = f"{about} {probe}"
    return hashlib.sha256(text.encode()).hexdigest()


_state: dict[str, Any] = {}


def _prepare(test_set: Structure, plan: ChangePlan, seed: int) -> None:
    _state["setup"] = procedures.setup(World(test_set), plan)
    _state["seed"] = seed


def _block(name: str, block: int) -> Tally:
    of, tally = STUDIES[name], Tally()
    begun = time.process_time()
    for index in range(block * of.block, (block + 1) * of.block):
        tally.add(of.replicate(_state["setup"], random(_state["seed"], f"sequences {name}", index)))
        if of.whole_plan:
            gc.collect()  # models and their views know one another, and are large
    tally.seconds = time.process_time() - begun
    return tally


# ---------------------------------------------------------------------------------------------------- the page


TITLE = "## Periods of ten looks, and teams that react to verdicts"
MOST = 5.5  # per cent of periods with an error that are asked for at a nominal 5
NAMES = {
    "recycled": "recycled",
    "equal": "equal",
    "alpha/2^T": "alpha / 2^T",
    "Thresholdout": "Thresholdout, its answer",
    "Thresholdout, by its accuracy": "Thresholdout, its answer less its accuracy",
}


def section(results: Results, seed: int) -> str:
    """The section of docs/gate-simulation.md; no number in it is typed by hand."""
    studies = results.studies
    counts = {name: studies[name].replicates if name in studies else 0 for name in STUDIES}
    minutes = sum(tally.seconds for tally in studies.values()) / 60
    points_rows = [
        (point.name, *(_share(results, f"points/{rule}/{point.name}") for rule in OF_THE_GATE)) for point in POINTS
    ]
    duel_rows = [(name, *(_share(results, f"duel/{rule}/{name}") for rule in RULES)) for name in (*ATTACKS, *CONTROLS)]
    honest_rows = [
        (NAMES[name], *(_share(results, f"honest/{name}/{which}") for which in ("first", "all"))) for name in RULES
    ]
    releases_rows = [
        (
            NAMES[name],
            *(_share(results, f"releases/{name}/{which}") for which in ("first", "all")),
            _looks(results, f"releases/{name}/until the first"),
        )
        for name in ("recycled", "equal", "alpha/2^T")
    ]
    worst = {rule: _worst(results, [f"duel/{rule}/{name}" for name in ATTACKS]) for rule in OF_THE_GATE}
    controls = {rule: _worst(results, [f"duel/{rule}/{name}" for name in CONTROLS]) for rule in OF_THE_GATE}
    careless = {rule: _worst(results, [f"points/{rule}/{point.name}" for point in POINTS]) for rule in OF_THE_GATE}
    targets = [
        (f"{kind}, {rule}: at most {MOST:g} %", *_verdict(results, found[rule], high=MOST))
        for kind, found in (("Teams that do not listen", careless), ("Teams that react", worst))
        for rule in OF_THE_GATE
    ]
    targets += [
        (f"Control: told the test AUCs, {rule}: over {MOST:g} %", *_verdict(results, controls[rule], low=MOST))
        for rule in OF_THE_GATE
    ]
    targets += [
        ("An equally good model at the first look, recycled: at least 98 %",
         *_verdict(results, "releases/recycled/first", low=98.0)),
        ("The same over ten looks, recycled: at least 95 %",
         *_verdict(results, "releases/recycled/all", low=95.0)),
    ]  # fmt: skip
    return "\n\n".join(
        [
            TITLE,
            (
                "A period's error is that it promotes, once or more, a model that is worse than the champion of that "
                "moment by the margin. One check is at its margin and decides; all others are met: that is the "
                "least favourable "
                f"case. All shares are per cent of periods with their Monte-Carlo standard error, nominal "
                f"{100 * PERIOD_ALPHA:g} %. The gate's statistic is written a second time here, in fewer "
                "lines, for one "
                "image a patient; a test holds it to the gate's own. Written by `make bench-gate`, alone by `make "
                f"bench-gate ARGS=--sequences`: {minutes:.0f} processor minutes, seed {seed}."
            ),
            _table(("target", "found, %", "verdict"), targets),
            (
                f"**Teams that do not listen**, at each least favourable point: {counts['points']:,} periods. "
                f"Each look is a "
                "model as bad as the margin."
            ),
            _table(("check at its margin", *OF_THE_GATE), points_rows),
            (
                f"**Teams that react**, {counts['duels']:,} periods under recycled and equal looks, "
                f"{counts['elsewhere']:,} "
                f"under the others; {DUEL.name}, correlation {DUEL.correlation:g}. The team knows its models' "
                f"true AUCs and "
                "directions and learns promoted or not. `sign-following` keeps its course while it is "
                "promoted and turns "
                "round when it is not; `best of neighbours` tries four directions and goes on in the mean "
                "of those that "
                "passed; a `thief` asks with good models, which pass with the probability named, and goes "
                "for the luckiest "
                "direction with a bad one in its last look, or in every third. A control is told the test "
                "AUCs. Each is a "
                "class in `bench/gate/teams.py` that you can replace by your own. Thresholdout has the "
                "constants of its "
                f"theorem for an accuracy of {DUEL.margin / 2:g}, and far fewer patients than that asks for."
            ),
            _table(("team", *(NAMES[rule] for rule in RULES)), duel_rows),
            (
                f"**An equally good model under one check**, {counts['honest']:,} periods. At {DUEL.name} it is "
                f"at the edge "
                "of what can be shown."
            ),
            _table(("rule", "promoted at the first look, %", "over ten looks, %"), honest_rows),
            (
                f"**An equally good model under the whole production plan**, correlation 0.9, {counts['releases']:,} "
                "periods on the test set above."
            ),
            _table(
                ("rule", "promoted at the first look, %", "over ten looks, %", "looks until a promotion"),
                releases_rows,
            ),
        ]
    )


def _share(results: Results, name: str) -> str:
    if not results.count(name):
        return "not run"
    return f"{100 * results.mean(name):.1f} ± {100 * results.error(name):.1f}"


def _looks(results: Results, name: str) -> str:
    return f"{results.mean(name):.2f} ± {results.error(name):.2f}" if results.count(name) else "not run"


def _worst(results: Results, names: Sequence[str]) -> str:
    """Of those that were run, the one with the largest share; any where none was."""
    return max(names, key=lambda name: results.mean(name) if results.count(name) else -1.0)


def _verdict(results: Results, name: str, *, low: float = 0.0, high: float = 100.0) -> tuple[str, str]:
    """What was found, and whether it lies where it should, by two standard errors."""
    if not results.count(name):
        return "not run", "not run"
    value, error = 100 * results.mean(name), 100 * results.error(name)
    found = f"{value:.1f} ± {error:.1f} ({name.rpartition('/')[2]})"
    if value - 2 * error > high or value + 2 * error < low:
        return found, "not met"
    return found, "met" if low <= value - 2 * error and value + 2 * error <= high else "not decided"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)])


def write(docs: Path, results: Results, seed: int) -> Path:
    """Put the section into the page, in the place of the one that is there.

    Raises:
        DataError: there is no page yet.
    """
    page = docs / "gate-simulation.md"
    if not page.is_file():
        raise DataError("there is no page yet", where=page, fix="write all of it first: make bench-gate")
    page.write_text(measure.put(page.read_text(), f"{section(results, seed)}\n"))
    return page
