"""What people who tune learn of a verdict while its test period is open: as much as the strictest plan tells.

Where the error of the period is recycled, what is told is what the branches of failure are counted by
(`cxr_ops.stats.levels`), so that reasons which follow from the test set are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from cxr_ops.contract import PROMOTE
from cxr_ops.records.inputs import Limits
from cxr_ops.records.verdict import Reason
from cxr_ops.stats.codes import GROUNDS, MEANING, NOT_STOPPING, OF_THE_RECORD, Code

NOT_PROMOTED: Final = "NOT PROMOTED"
Told = Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE", "NOT PROMOTED"]


def verdict(decided: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"], limits: Limits | None) -> Told:
    """The verdict as it is told: under `disclosure: promotion` nothing but whether it is PROMOTE.

    >>> limits = Limits(max_looks=9, approvals=0, disclosure="promotion", require_clean_code=False)
    >>> verdict("REJECT", limits), verdict("PROMOTE", limits), verdict("REJECT", None)
    ('NOT PROMOTED', 'PROMOTE', 'REJECT')
    """
    if limits is None or limits.disclosure != "promotion" or decided == PROMOTE:
        return decided
    return NOT_PROMOTED


def tells_reasons(limits: Limits | None) -> bool:
    """Whether reasons that follow from the test set are told, in general sentences."""
    if limits is None:
        return True
    return limits.disclosure != "promotion" and all(terms.method == "equal" for terms in limits.spending)


def reasons(given: Iterable[Reason], limits: Limits | None) -> list[Reason]:
    """What each code means, and nothing of the evidence; codes that follow from the test set only where they are told.

    The grounds of a PROMOTE say no more than it does. A code of a later version, or one that is damaged, is not told.
    """
    given = list(given)
    codes = dict.fromkeys(Code(reason.code) for reason in given if reason.code in set(Code))
    grounds = frozenset() if {reason.code for reason in given} - NOT_STOPPING else GROUNDS
    told = [code for code in codes if tells_reasons(limits) or code in OF_THE_RECORD | grounds]
    return [Reason(code=code, sentence=MEANING[code]) for code in told]
