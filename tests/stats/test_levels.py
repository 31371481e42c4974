"""Tests of cxr_ops.stats.levels: issue figures, a tree written out branch by branch, and a walk against all teams."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from cxr_ops.records.inputs import Spending
from cxr_ops.stats.levels import LEAST, Event, account, first, spent_up

RECYCLED = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)
EQUAL = Spending(method="equal", alpha=0.005, period_alpha=0.05, max_looks=10)


def events(outcomes: str) -> list[Event]:
    """Looks one after another: `p` was promoted, `f` was not."""
    found: list[Event] = []
    for number, outcome in enumerate(outcomes):
        found.append(Event(kind="look", look=number))
        found += [Event(kind="promotion", look=number)] if outcome == "p" else []
    return found


@pytest.mark.parametrize(
    ("outcomes", "level"),
    [("", 0.04), ("p", 0.032), (9 * "p", 0.05 * 0.8**10), ("f", 0.008), ("ff", 0.0016), ("fp", 0.0064), ("pf", 0.0064)],
)
def test_levels_are_those_of_the_tree(outcomes: str, level: float) -> None:
    """At 0.05 and 0.8 the figures are those that were worked out by hand; the tenth of ten promotions has 0.0054."""
    assert account([RECYCLED], events(outcomes)).next.checks == pytest.approx(level, rel=1e-12)
    assert round(0.05 * 0.8**10, 4) == 0.0054


def test_equal_looks_have_one_level() -> None:
    """Whatever happened before, a look of a plan of equal looks has the plan's alpha, for superiority too."""
    for outcomes in ("", "f", "pp", "fpfp"):
        found = account([EQUAL], events(outcomes))
        assert {(level.checks, level.superiority) for level in (*found.taken, found.next)} == {(0.005, 0.005)}


@pytest.mark.parametrize("told", [1, 2, 3])
@pytest.mark.parametrize("weight", [0.3, 0.8])
def test_no_team_can_lose_more_than_the_period_holds(weight: float, told: int) -> None:
    """For every choice of true and false claims, the levels at which a first false promotion can happen add up to less.

    The tree is written out here branch by branch: a claim that is false ends its branch of success, a claim that is
    true opens both; each told outcome of a failure is a branch of its own. The worst case is the maximum over all.
    """
    terms = Spending(method="recycled", period_alpha=0.05, success_weight=weight, told_failures=told, max_looks=5)

    def worst(path: str) -> tuple[float, float]:
        """(first false promotions, claims of superiority) below a node, at most."""
        if len(path) == 5:
            return 0.0, 0.0
        level = account([terms], events(path)).next
        failed, won = worst(path + "f"), worst(path + "p")
        false_claims = max(level.checks + told * failed[0], won[0] + told * failed[0])
        return false_claims, level.superiority + told * failed[1] + won[1]

    errors, raises = worst("")
    assert 0.9 * 0.05 * (1 - (1 - weight) ** 5) < errors <= 0.05 * (1 + 1e-12)
    assert raises <= 0.05 * (1 + 1e-12)


def test_equal_looks_are_not_proof_against_teams_that_react() -> None:
    """The same sum over a tree of equal looks is far above what the period promises: nothing bounds it but chance."""

    def worst(depth: int) -> float:
        return 0.0 if depth == 0 else worst(depth - 1) + max(0.005, worst(depth - 1))

    assert worst(10) > 1


def test_an_undecided_look_counts_as_not_promoted() -> None:
    """A look that is taken meanwhile has the branch of failure, and may end in a promotion; the earlier one may not."""
    meanwhile = [Event(kind="look", look=0), Event(kind="look", look=1)]
    assert account([RECYCLED], meanwhile).taken[1].checks == pytest.approx(0.008)
    other = account([RECYCLED], [*meanwhile, Event(kind="promotion", look=1)])
    assert other.next.checks == pytest.approx(0.8 * 0.008)
    late = [*meanwhile, Event(kind="promotion", look=0)]
    assert spent_up(account([RECYCLED], late).next)
    assert account([EQUAL], late).next.checks == 0.005


def worst_of_two_at_once(*, late: bool) -> float:
    """Most false promotions of a team that takes look 1 before look 0 is decided, and then one more, by all levels.

    Look 0 is about a true claim, so that a promotion of it is right; every other claim is false. The third claim may be
    another one in each case that is told: neither look was promoted, and look 0 was, if a `late` promotion is possible.
    """
    looks = [Event(kind="look", look=0), Event(kind="look", look=1)]
    second = account([RECYCLED], looks).taken[1].checks
    neither = account([RECYCLED], looks).next.checks
    first_alone = account([RECYCLED], [looks[0], Event(kind="promotion", look=0)]).next.checks
    return second + sum(level / 0.8 for level in (neither, first_alone if late else 0.0))


def test_a_promotion_after_a_later_look_would_break_the_bound() -> None:
    """What the branches of two looks at once hold adds up to 0.05 only if the earlier one cannot be promoted."""
    at_once = 0.05 - 0.04  # what a team that waits loses to look 0's branch of success is not there to be lost
    assert worst_of_two_at_once(late=False) == pytest.approx(at_once)
    immediately = account([RECYCLED], [Event(kind="look", look=0), Event(kind="promotion", look=0)]).next.checks / 0.8
    assert worst_of_two_at_once(late=False) + immediately == pytest.approx(0.05)
    assert worst_of_two_at_once(late=True) + immediately > 0.05


def test_of_several_plans_none_is_exceeded() -> None:
    """A look may spend the least that any plan gives it, each by an account of its own over the whole period."""
    for outcomes in map("".join, itertools.product("fp", repeat=4)):
        both = account([RECYCLED, EQUAL], events(outcomes))
        alone = [account([one], events(outcomes)) for one in (RECYCLED, EQUAL)]
        assert both.next.checks == min(one.next.checks for one in alone)
        assert [level.checks for level in both.taken] == [
            min(pair) for pair in zip(*([level.checks for level in one.taken] for one in alone), strict=True)
        ]


def test_what_is_told_is_paid_by_the_branch_of_failure() -> None:
    """With three outcomes of a failure told apart, each has a third; what counts is what was told at the time."""
    terms = RECYCLED.model_copy(update={"told_failures": 3})
    assert account([terms], events("f")).next.checks == pytest.approx(0.008 / 3)
    of_its_time = [Event(kind="look", look=0, told=3)]
    assert account([RECYCLED], of_its_time).next.checks == pytest.approx(0.008 / 3)
    assert spent_up(account([RECYCLED], [Event(kind="look", look=0, told=None)]).next)
    assert not spent_up(account([RECYCLED], [Event(kind="look", look=0, told=None)]).taken[0])
    won = [Event(kind="look", look=0, told=None), Event(kind="promotion", look=0)]
    assert spent_up(account([RECYCLED], won).next)
    assert account([terms], events("p")).next.checks == pytest.approx(0.032)


def test_at_last_nothing_is_left() -> None:
    """A level too small for any quantile is told to be spent up, and is never zero or less."""
    found = account([RECYCLED], events(14 * "f")).next
    assert spent_up(found)
    assert 0 < found.checks < LEAST
    assert not spent_up(first(RECYCLED))
    assert account([RECYCLED], events(600 * "f")).next.checks > 0


@pytest.mark.parametrize(
    ("terms", "happened", "match"),
    [
        ([], [], "nothing says"),
        ([EQUAL], [Event(kind="look", look=1)], "no look that follows"),
        ([EQUAL], [Event(kind="promotion", look=0)], "not taken"),
    ],
)
def test_impossible_histories_are_refused(terms: list[Spending], happened: list[Event], match: str) -> None:
    """Without terms, or with events that cannot have been, no level is made up."""
    with pytest.raises(ValueError, match=match):
        account(terms, happened)


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "equal"},
        {"method": "equal", "alpha": 0.005, "success_weight": 0.8},
        {"method": "recycled", "period_alpha": 0.05},
        {"method": "recycled", "success_weight": 0.8},
        {"method": "recycled", "period_alpha": 0.05, "success_weight": 0.8, "alpha": 0.005},
        {"method": "recycled", "period_alpha": 0.05, "success_weight": 1.0},
    ],
)
def test_terms_are_those_of_their_method(keys: dict[str, object]) -> None:
    """Terms that contradict their method, or lack what it needs, are no terms."""
    with pytest.raises(ValidationError):
        Spending(max_looks=10, **keys)
