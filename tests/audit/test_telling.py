"""Tests of cxr_ops.audit.telling."""

from __future__ import annotations

import pytest

from cxr_ops.audit import telling
from cxr_ops.records.inputs import Limits, Spending
from cxr_ops.records.verdict import Reason
from cxr_ops.stats.codes import MEANING, OF_THE_RECORD, Code

EQUAL = Spending(method="equal", alpha=0.005, max_looks=10)
RECYCLED = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)
REASONS = [
    Reason(code=Code.WORSE, finding="Mass", sentence="Mass: -0.041 ...", numbers={"value": -0.041}),
    Reason(code=Code.WORSE, finding="Edema", sentence="Edema: -0.082 ..."),
    Reason(code=Code.OUTSIDE_PLAN, sentence="train.epochs is 900; the plan allows 1 to 100."),
    Reason(code="FROM_A_LATER_VERSION", sentence="0.71"),
]


def limits(disclosure: str, *spending: Spending) -> Limits:
    return Limits(
        max_looks=10, approvals=1, disclosure=disclosure, require_clean_code=True, spending=spending or (EQUAL,)
    )


@pytest.mark.parametrize("decided", ["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"])
def test_only_promotions_are_told_where_the_plan_says_so(decided: str) -> None:
    """Under `disclosure: promotion` verdicts cannot be told apart before a promotion; under `verdict` they can."""
    assert telling.verdict(decided, limits("verdict"), promoted=False) == decided
    assert telling.verdict(decided, limits("promotion"), promoted=False) == "NOT PROMOTED"
    assert telling.verdict("PROMOTE", limits("promotion"), promoted=True) == "PROMOTE"


@pytest.mark.parametrize(
    ("held", "codes"),
    [
        (limits("verdict"), ["WORSE", "OUTSIDE_PLAN"]),
        (limits("verdict", RECYCLED), ["OUTSIDE_PLAN"]),
        (limits("verdict", EQUAL, RECYCLED), ["OUTSIDE_PLAN"]),
        (limits("promotion"), ["OUTSIDE_PLAN"]),
    ],
)
def test_reasons_of_the_test_set_are_told_only_where_nothing_is_counted_by_them(held: Limits, codes: list[str]) -> None:
    """Each told code comes once with its general sentence; numbers, findings and unknown codes never do."""
    told = telling.reasons(REASONS, held, telling.verdict("REJECT", held, promoted=False))
    assert [reason.code for reason in told] == codes
    assert all(reason == Reason(code=reason.code, sentence=MEANING[Code(reason.code)]) for reason in told)


def test_what_the_record_says_needs_no_test_set() -> None:
    """No code that a check, a screen or a score gives is among those of the record."""
    scored = {"WORSE", "MARGIN_NOT_MET", "MARGIN_NOT_SHOWN", "HARM_SIGNAL", "SUSPICIOUS_IMPROVEMENT", "NOT_WORSE"}
    assert not {str(code) for code in OF_THE_RECORD} & scored


def test_grounds_are_told_of_a_promotion_alone() -> None:
    """They say no more than a PROMOTE that is told; where it is not, they would tell what the evidence says."""
    grounds, signal, dirty = (
        Reason(code=code, sentence="s") for code in (Code.NOT_WORSE, Code.HARM_SIGNAL, Code.DIRTY_CODE)
    )
    held = limits("promotion", RECYCLED)
    assert [reason.code for reason in telling.reasons([grounds, signal], held, "PROMOTE")] == ["NOT_WORSE"]
    assert telling.reasons([grounds, signal], held, "NOT PROMOTED") == []
    assert [reason.code for reason in telling.reasons([dirty, grounds], held, "NOT PROMOTED")] == ["DIRTY_CODE"]


def test_people_who_must_agree_are_told_with_a_promote_alone() -> None:
    """A hold raises their number, so that of a rejected run it would tell of the hold."""
    held = limits("verdict", RECYCLED)
    assert [telling.approvals(2, told, held) for told in ("PROMOTE", "REJECT", "NOT PROMOTED")] == [2, 0, 0]
    assert telling.approvals(2, "REJECT", limits("all")) == 2
