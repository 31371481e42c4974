"""What people who tune learn of a verdict while its test period is open: as much as the strictest plan tells.

Where the error of the period is recycled, what is told is what the branches of failure are counted by
(`cxr_ops.stats.levels`), so that reasons which follow from the test set are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from cxr_ops.contract import PROMOTE
from cxr_ops.plan import TOLD_FAILURES
from cxr_ops.records.inputs import Limits
from cxr_ops.records.verdict import Reason
from cxr_ops.stats.codes import GROUNDS, MEANING, OF_THE_RECORD, Code

NOT_PROMOTED: Final = "NOT PROMOTED"
Told = Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE", "NOT PROMOTED"]


def verdict(
    decided: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"], limits: Limits | None, *, promoted: bool
) -> Told:
    """The verdict as it is told: under `disclosure: promotion` nothing but whether the model was promoted.

    A PROMOTE that waits for approval, or is declined, is one more thing that people who tune could learn of a look
    without promotion, and the branch of failure is not counted by it.

    Args:
        decided: by the gate.
        limits: by which it is told; None where nothing is withheld.
        promoted: whether the promotion is on the ledger.

    >>> limits = Limits(max_looks=9, approvals=0, disclosure="promotion", require_clean_code=False)
    >>> verdict("REJECT", limits, promoted=False), verdict("PROMOTE", limits, promoted=False)
    ('NOT PROMOTED', 'NOT PROMOTED')
    >>> verdict("PROMOTE", limits, promoted=True), verdict("REJECT", None, promoted=False)
    ('PROMOTE', 'REJECT')
    """
    if limits is None or limits.disclosure != "promotion" or promoted:
        return decided
    return NOT_PROMOTED


def approvals(asked: int, told: Told, limits: Limits | None) -> int:
    """How many people must agree, as far as it is told: a hold raises it, and of a run that waits for nobody it tells.

    >>> limits = Limits(max_looks=9, approvals=0, disclosure="promotion", require_clean_code=False)
    >>> approvals(2, "NOT PROMOTED", limits), approvals(2, "PROMOTE", limits), approvals(2, "REJECT", None)
    (0, 2, 2)
    """
    return asked if told == PROMOTE or tells_reasons(limits) else 0


def lines(given: Iterable[Reason]) -> list[str]:
    """Reasons that are told, a line each, for a log.

    >>> lines([Reason(code="MARGIN_NOT_MET", sentence="Edema lost 0.08.")])
    ['  MARGIN_NOT_MET: Edema lost 0.08.']
    """
    return [f"  {reason.code}: {reason.sentence}" for reason in given]


def tells_reasons(limits: Limits | None) -> bool:
    """Whether reasons that follow from the test set are told, in general sentences."""
    if limits is None:
        return True
    return limits.disclosure != "promotion" and all(terms.method == "equal" for terms in limits.spending)


def outcomes(limits: Limits | None) -> int | None:
    """How many outcomes of a look without promotion can be told apart; None: without number, or nobody knows.

    >>> limits = Limits(max_looks=9, approvals=0, disclosure="promotion", require_clean_code=False)
    >>> outcomes(limits), outcomes(limits.model_copy(update={"disclosure": "all"})), outcomes(None)
    (1, None, None)
    """
    return None if limits is None or tells_reasons(limits) else TOLD_FAILURES[limits.disclosure]


def reasons(given: Iterable[Reason], limits: Limits | None, told: Told) -> list[Reason]:
    """What each code means, and nothing of the evidence; codes that follow from the test set only where they are told.

    The grounds of a PROMOTE say no more than it does, and are told with it. A code of a later version, or one that is
    damaged, is not told.

    Args:
        given: the verdict's.
        limits: by which it is told.
        told: the verdict as it is told.
    """
    codes = dict.fromkeys(Code(reason.code) for reason in given if reason.code in set(Code))
    grounds = GROUNDS if told == PROMOTE else frozenset()
    shown = [code for code in codes if tells_reasons(limits) or code in OF_THE_RECORD | grounds]
    return [Reason(code=code, sentence=MEANING[code]) for code in shown]
