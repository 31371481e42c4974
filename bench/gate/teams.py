"""Teams that propose challengers one after another, and learn from the gate whether each was promoted.

A model is a direction: its score of an image is a mixture of features that the image has, plus a shift if the finding
is there (`sequences.Cohort`). So its true AUC is exact, and the luck that it has on a test set is, nearly, one number
for each feature. That is what a team can learn from verdicts and climb on: it knows features and true AUCs, and never
the test set.

To try a team of your own, write a class with `propose` and `learn` and put it into `sequences.ATTACKS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import special

from cxr_ops.stats.power import shared

Floats = npt.NDArray[np.float64]

# Variance of the luck that is not linear in a model's direction, beside that which is (Hermite coefficients at 0.70).
CROOKED = 0.15


@dataclass(frozen=True, eq=False)
class Model:
    """A model: a direction of length 1 in the space of features, and its true AUC."""

    direction: Floats
    area: float


@dataclass(frozen=True)
class Terms:
    """What a team knows of the period.

    Attributes:
        margin: by which a challenger may be worse than the champion.
        looks: how many the period has.
        correlation: that challengers have with the champion.
        patients: with the finding and without, one image each.
    """

    margin: float
    looks: int
    correlation: float
    patients: tuple[int, int]

    def error(self, area: float) -> float:
        """The standard error that a difference of AUCs from the champion's will have (binormal scores)."""
        cut = float(special.ndtri(area))
        pairs = sum(1 / count for count in self.patients)
        return math.sqrt(2 * pairs * (shared(0.5, cut, cut) - shared(0.5 * self.correlation, cut, cut)))

    def worse(self, champion: Model) -> float:
        """The AUC of a challenger that is just too bad: to promote it is an error."""
        return champion.area - self.margin

    def as_good(self, champion: Model, power: float, level: float) -> float:
        """The AUC of a challenger that passes with a probability; true claims alone, so never as low as `worse`."""
        error = self.error(champion.area)
        above = (float(special.ndtri(power)) - float(special.ndtri(level))) * error - self.margin
        return min(champion.area + max(above, -0.9 * self.margin), 0.99)

    def beside(self, champion: Model, course: Floats) -> Floats:
        """The direction that leaves the champion along a course, as far as the correlation lets it."""
        across = course - (course @ champion.direction) * champion.direction
        across /= np.linalg.norm(across)
        return self.correlation * champion.direction + math.sqrt(1 - self.correlation**2) * across


@dataclass(frozen=True)
class Outcome:
    """What became of a look; `seen` is the difference of the test AUCs for teams that are told, else None."""

    champion: Model
    challenger: Model
    promoted: bool
    seen: float | None


class Team(Protocol):
    """Proposes challengers, and learns what became of them."""

    def propose(self, champion: Model, level: float, /) -> Model:
        """The next challenger; `level` is what its look may spend."""
        ...

    def learn(self, outcome: Outcome, /) -> None:
        """What became of a look."""
        ...


@dataclass
class Careless:
    """Does not listen: worse by the margin each time, in a new direction. The least favourable team that is honest."""

    terms: Terms
    rng: np.random.Generator

    def propose(self, champion: Model, _: float, /) -> Model:
        """Something else, as bad as the margin."""
        course = self.rng.standard_normal(champion.direction.size)
        return Model(self.terms.beside(champion, course), self.terms.worse(champion))

    def learn(self, _: Outcome, /) -> None:
        """Nothing."""


@dataclass
class AsGood(Careless):
    """An honest team: each model is as good as the champion."""

    def propose(self, champion: Model, level: float, /) -> Model:
        """Another direction, as good."""
        return Model(super().propose(champion, level).direction, champion.area)


@dataclass
class Alternating(Careless):
    """Does not listen either, and has a good model in every second look: promotions bring back what was spent."""

    turn: int = 0

    def propose(self, champion: Model, level: float, /) -> Model:
        """A model that passes nearly always, then one as bad as the margin."""
        self.turn += 1
        worse = super().propose(champion, level)
        return worse if self.turn % 2 == 0 else Model(worse.direction, self.terms.as_good(champion, 0.99, level))


@dataclass
class Follower:
    """Sign-following: keeps its course while it is promoted, and turns round when it is not.

    Every second look is a good model that asks for the way (it passes in half of all cases), the next one a model as
    bad as the margin that goes where the answer points.
    """

    terms: Terms
    rng: np.random.Generator
    course: Floats | None = None
    asked: bool = False

    def propose(self, champion: Model, level: float, /) -> Model:
        """Ask, then go."""
        if self.course is None or not self.asked:
            fresh = self.rng.standard_normal(champion.direction.size)
            fresh /= np.linalg.norm(fresh)
            self.course = fresh if self.course is None else _unit(self.course + fresh)
            return Model(self.terms.beside(champion, self.course), self.terms.as_good(champion, 0.5, level))
        return Model(self.terms.beside(champion, self.course), self.terms.worse(champion))

    def learn(self, outcome: Outcome, /) -> None:
        """Turn round after a failure."""
        if self.course is not None and not outcome.promoted:
            self.course = -self.course
        self.asked = not self.asked


@dataclass
class Neighbours:
    """Best of neighbours: tries good models beside the champion, and goes on from those that did best.

    Each round has four neighbours in directions at right angles; then a model as bad as the margin leaves in the mean
    direction of those that passed, away from those that did not.
    """

    terms: Terms
    rng: np.random.Generator
    seen: list[tuple[Floats, bool]] = field(default_factory=list)
    round: int = 4

    def propose(self, champion: Model, level: float, /) -> Model:
        """A neighbour, or what the neighbours say."""
        if len(self.seen) % (self.round + 1) == self.round:
            best = _unit(np.sum([course if good else -course for course, good in self.seen[-self.round :]], axis=0))
            return Model(self.terms.beside(champion, best), self.terms.worse(champion))
        fresh = self.rng.standard_normal(champion.direction.size)
        for course, _ in self.seen[-(len(self.seen) % (self.round + 1)) :] if self.seen else []:
            fresh -= (fresh @ course) * course / (course @ course)
        return Model(self.terms.beside(champion, _unit(fresh)), self.terms.as_good(champion, 0.5, level))

    def learn(self, outcome: Outcome, /) -> None:
        """Which neighbours passed."""
        old, new = outcome.champion.direction, outcome.challenger.direction
        self.seen.append((_unit(new - (new @ old) * old), outcome.promoted))


@dataclass
class Thief:
    """Mixes good and bad models, so that error which is given back can be stolen.

    Good models ask one direction each, at right angles to all that was asked before. How luckily each stood (a
    promotion says that it was lucky, a failure that it was not, each as much as it surprises; a team that is told the
    test AUCs knows) is put together by ridge regression. The last look, or every
    `strike`-th, goes for it: as bad as the margin, in the luckiest direction there is. The good ones pass with
    probability `power`: at 0.5 a verdict says most, below it the champion stays unlucky, and near 1 it costs least
    where a promotion gives back what was spent.
    """

    terms: Terms
    rng: np.random.Generator
    power: float = 0.5
    strike: int = 10
    asked: list[Floats] = field(default_factory=list)
    answers: list[tuple[float, float]] = field(default_factory=list)
    turn: int = 0
    expected: float = 0.5

    def propose(self, champion: Model, level: float, /) -> Model:
        """Ask, and at last go for it."""
        self.turn += 1
        if self.turn % self.strike == 0 and self.asked:
            return Model(self.terms.beside(champion, self._luck()), self.terms.worse(champion))
        fresh = self.rng.standard_normal(champion.direction.size)
        taken = np.linalg.qr(np.array([champion.direction, *self.asked]).T)[0]
        fresh -= taken @ (taken.T @ fresh)
        area = self.terms.as_good(champion, self.power, level)
        above = (area - self.terms.worse(champion)) / self.terms.error(champion.area)
        self.expected = float(special.ndtr(above + special.ndtri(level)))
        return Model(self.terms.beside(champion, fresh), area)

    def learn(self, outcome: Outcome, /) -> None:
        """Put the luck of this look to that of the others."""
        champion, challenger = outcome.champion, outcome.challenger
        self.asked.append(_unit(challenger.direction - champion.direction))
        if outcome.seen is not None:
            score = (outcome.seen - (challenger.area - champion.area)) / self.terms.error(champion.area)
            self.answers.append((score, 0.0))
            return
        # The mean and the variance of a normal score above, or below, the cut that parts passes from failures.
        share = self.expected if outcome.promoted else 1 - self.expected
        cut = float(special.ndtri(self.expected)) * (-1 if outcome.promoted else 1)  # from the side of the truth
        mean = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi) / share
        self.answers.append((mean if outcome.promoted else -mean, 1 + cut * mean - mean**2))

    def _luck(self) -> Floats:
        """The direction of most luck, as far as it is known; luck that no direction explains counts as noise."""
        asked = np.array(self.asked)
        scores, noise = np.array(self.answers).T
        weights = np.linalg.solve(asked @ asked.T + np.diag(noise + CROOKED), scores)
        return asked.T @ weights


def _unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)
