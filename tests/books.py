"""Ledgers in memory, of promotions with their looks and decisions: what histories are tested on."""

from __future__ import annotations

from typing import Any

from cxr_ops.audit.entries import Approval, Decision, Entry, Look, PeriodOpened, Promotion, Rollback, make
from cxr_ops.audit.state import last_promotion, reference_after
from cxr_ops.records.inputs import Limits, Spending, claim_of

LIMITS = Limits(
    max_looks=10,
    approvals=0,
    disclosure="promotion",
    require_clean_code=False,
    spending=(Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10),),
)


class Book:
    """A ledger in memory: each promotion with its look and decision, a day apart."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, kind: Any, body: Any) -> Entry:
        entry = make(kind, body, self.entries)
        at = f"2026-03-{len(self.entries) + 1:02d}T12:00:00.000+00:00"
        entry = entry.model_copy(update={"at": at})  # its seal no longer fits, which nobody here reads
        self.entries.append(entry)
        return entry

    def decide(self, name: str, verdict: str = "PROMOTE", limits: Limits | None = None, *, approvals: int = 0) -> Entry:
        facts = dict.fromkeys(Decision.model_fields, "f" * 64) | {
            "approvals": approvals,
            "code_dirty": False,
            "period": 1,
        }
        champion, reference = last_promotion(self.entries), reference_after(self.entries)
        body = Decision.model_validate(
            {
                **facts,
                "run": f"run-{name}",
                "airflow_run_id": f"manual__{name}",
                "verdict": verdict,
                "plan": "nih",
                "package": name,
                "model_version": name,
                "requested_by": "dr_ruiz",
                "champion": champion.digest() if champion else None,
                "reference": reference.package if reference else None,
                "limited_findings": (),
                "holds": (),
            }
        )
        claim = claim_of(body.champion, body.reference, body.plan_sha256)
        look = Look(model=name, test_digest=body.test_digest, run=body.run, limits=limits, claim=claim)
        self.add("look", look)
        return self.add("decision", body)

    def promote(self, name: str, *, raises: bool = False, limits: Limits | None = None) -> Entry:
        decision = self.decide(name, limits=limits)
        consent = self.add("approval", Approval(run=f"run-{name}", decision=decision.digest(), by="dr_lee", at="2026"))
        before, reference = last_promotion(self.entries), reference_after(self.entries)
        promotion = Promotion(
            run=f"run-{name}",
            decision=decision.digest(),
            approvals=[consent.digest()],
            package=name,
            recipe=None,
            model_version=name,
            run_commit="e" * 40,
            replaces=before.digest() if before else None,
            reference=reference.package if reference else name,
            raises=raises,
        )
        return self.add("promotion", promotion)

    def back_to(self, entry: Entry, reason: str = "it was slow") -> Entry:
        current, reference = last_promotion(self.entries), reference_after(self.entries)
        assert current is not None
        assert reference is not None
        body = entry.promotion.model_copy(
            update={
                "replaces": current.digest(),
                "reference": reference.package,
                "raises": False,
                "rollback": Rollback(to=entry.digest(), by="dr_ito", reason=reason),
            }
        )
        return self.add("promotion", body)

    def new_period(self, number: int) -> Entry:
        return self.add("period", PeriodOpened(number=number, closed_batches=[], by="me", reason="new patients"))
