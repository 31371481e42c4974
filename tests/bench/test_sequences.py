"""Periods of ten looks: the quick statistic is the gate's, rules and teams do what they say, and the page follows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import special

from bench.gate import procedures, sequences, tree
from bench.gate.results import Results, Tally
from bench.gate.teams import AsGood, Careless, Model, Neighbours, Outcome, Terms, Thief
from cxr_ops.errors import DataError
from cxr_ops.stats import auc, checks

PROJECT = Path(__file__).parents[2]


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def _champion() -> Model:
    return Model(np.eye(sequences.FEATURES)[0], sequences.AREA)


@pytest.mark.parametrize("point", [one for one in sequences.POINTS if one.kind == "margin"], ids=lambda one: one.name)
def test_the_quick_statistic_is_the_gates(point: sequences.Point) -> None:
    """On the same scores the level that a check needs is the p-value that `auc` and `checks` work out."""
    for seed in range(3):
        rng = _rng(seed)
        cohort, champion = sequences.Cohort(point, rng), _champion()
        challenger = AsGood(point.terms, rng).propose(champion, 0.005)
        owners = np.arange(cohort.truth.size)
        ours, theirs = (
            [auc.rank(cohort.truth, row, owners) for row in cohort.scores(model)] for model in (challenger, champion)
        )
        figure = procedures.difference(list(zip(ours, theirs, strict=True)))
        expected = checks.p_above(figure, -point.margin)
        assert cohort.needed(challenger, champion, point.margin) == pytest.approx(expected, rel=1e-9)


def test_true_aucs_and_errors_are_what_teams_believe() -> None:
    """Over many cohorts the mean difference is the true one, and its spread the error that teams reckon with."""
    point, rng = sequences.DUEL, _rng(1)
    champion = _champion()
    challenger = Careless(point.terms, rng).propose(champion, 0.005)
    assert challenger.direction @ champion.direction == pytest.approx(point.correlation)
    seen = []
    for _ in range(300):
        cohort = sequences.Cohort(point, rng)
        seen.append(cohort.placed(challenger).value - cohort.placed(champion).value)
    error = point.terms.error(sequences.AREA)
    assert np.mean(seen) == pytest.approx(-point.margin, abs=4 * error / np.sqrt(300))
    assert np.std(seen) == pytest.approx(error, rel=0.15)


def test_a_good_model_passes_as_often_as_the_team_wants() -> None:
    """The AUC for a power of 0.5 at 0.5 % lies 2.58 errors above the margin, and is never as low as a bad one's."""
    terms, champion = sequences.DUEL.terms, _champion()
    area = terms.as_good(champion, 0.5, 0.005)
    distance = (area - terms.worse(champion)) / terms.error(champion.area)
    assert distance == pytest.approx(-special.ndtri(0.005))
    assert terms.as_good(champion, 0.5, 0.499) > terms.worse(champion)


def test_a_thief_that_is_told_the_test_set_finds_its_luck() -> None:
    """Told the test AUCs of nine looks, its direction is lucky; told the verdicts alone, it points there less."""
    point, lucky = sequences.DUEL, {True: [], False: []}
    for told, found in lucky.items():
        rng = _rng(5)
        for _ in range(25):
            team, cohort, champion = Thief(point.terms, rng), sequences.Cohort(point, rng), _champion()
            for look in range(sequences.LOOKS):
                challenger = team.propose(champion, 0.005)
                apart = cohort.placed(challenger).value - cohort.placed(champion).value
                if look == sequences.LOOKS - 1:
                    error = point.terms.error(champion.area)
                    found.append((apart - challenger.area + champion.area) / error)
                promoted = cohort.needed(challenger, champion, point.margin) <= 0.005
                team.learn(Outcome(champion, challenger, promoted, apart if told else None))
                champion = challenger if promoted else champion
    assert np.mean(lucky[True]) > np.mean(lucky[False]) > 0.5
    assert np.mean(lucky[True]) > 1.6


def test_neighbours_go_where_those_that_passed_were() -> None:
    """After four neighbours the next model leaves towards those that passed and away from the others, and is bad."""
    terms, rng = Terms(0.03, 10, 0.9, (200, 800)), _rng(2)
    team, champion = Neighbours(terms, rng), _champion()
    tried = []
    for number in range(4):
        challenger = team.propose(champion, 0.005)
        assert challenger.area > terms.worse(champion)
        tried.append(challenger.direction)
        team.learn(Outcome(champion, challenger, number < 2, None))
    bold = team.propose(champion, 0.005)
    assert bold.area == terms.worse(champion)
    assert [direction @ bold.direction > 0.81 for direction in tried] == [True, True, False, False]


def test_levels_follow_the_promotions_of_a_period() -> None:
    """Under recycled looks a rule spends what the tree gives, and a period ends with its first error."""
    rule = sequences.Levels(sequences.RECYCLED)
    levels = []
    for needed in (0.001, 0.9, 0.001):
        levels.append(rule.level())
        rule.decide(sequences.Look(needed, 0.0, 0.0, -0.03))
    assert levels == pytest.approx([0.04, 0.032, 0.0064])
    team = Careless(sequences.DUEL.terms, _rng(0))
    promoting = sequences.Levels(sequences.EQUAL)
    promoting._known = 1.0
    looks = list(sequences.period(sequences.DUEL, promoting, team, _rng(0)))
    assert looks[-1] == (True, True) or len(looks) == sequences.LOOKS


def test_thresholdout_answers_by_the_validation_patients_unless_they_mislead() -> None:
    """Near answers come from the validation patients, far ones from the test patients with a little noise."""
    rule = sequences.Thresholdout(_rng(0), 0.015, careful=False)
    assert rule.decide(sequences.Look(1.0, value=-0.031, tuned=-0.029, limit=-0.03))
    assert not rule.decide(sequences.Look(1.0, value=-0.06, tuned=0.05, limit=-0.03))
    careful = sequences.Thresholdout(_rng(0), 0.015, careful=True)
    assert not careful.decide(sequences.Look(1.0, value=-0.031, tuned=-0.029, limit=-0.03))


def test_the_section_says_what_was_found(tmp_path: Path) -> None:
    """Shares come from the results, what was not run is called so, and the rest of the page stays as it is."""
    results = Results({}, {"duels": Tally()})
    for number in range(40):
        results.studies["duels"].add([("duel/equal/thief, power 0.5", number < 10), ("duel/recycled/careless", False)])
    with pytest.raises(DataError, match="no page yet"):
        sequences.write(tmp_path, results, 7)
    page = tmp_path / "gate-simulation.md"
    page.write_text("# Page\n\n## What this does not show\n\nrest\n")
    text = sequences.write(tmp_path, results, 7).read_text()
    assert "Teams that react, equal: at most 5.5 % | 25.0 ± 6.8 (thief, power 0.5) | not met" in text
    assert "| thief, power 0.5 | not run | 25.0 ± 6.8 |" in text
    assert "nan" not in text
    assert sequences.write(tmp_path, results, 7).read_text() == text
    assert "## What this does not show\n\nrest\n" in text


def test_the_picture_of_the_tree_is_that_of_the_levels() -> None:
    """docs/looks.svg is what the levels draw, with the figures of the first looks and of the tenth promotion."""
    drawn = tree.draw()
    assert (PROJECT / "docs" / tree.PICTURE).read_text() == drawn
    for figure in ("4 %", "3.2 %", "0.8 %", "2.6 %", "0.64 %", "0.16 %", "0.54 %"):
        assert f">{figure}<" in drawn or f"has {figure}<" in drawn
