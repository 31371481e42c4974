"""Whether a verdict, and the facts behind it, follow from the record. Nothing is believed.

`publish` and `promote` execute the rule again, with the installed code, on the evidence: a verdict is a file, and files
can be edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import last_promotion, reference_after
from cxr_ops.contract import PROMOTE
from cxr_ops.params import NOT_OF_THE_MODEL, Params
from cxr_ops.plan import ChangePlan
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.verdict import Verdict
from cxr_ops.stats import rule
from cxr_ops.stats.codes import NOT_STOPPING


def misjudged(verdict: Verdict, evaluation: Evaluation, inputs: Inputs, plan: ChangePlan) -> list[str]:
    """Say, a sentence each, in what a verdict is not what the rule makes of the evidence; none is the only good answer.

    Sentences are left out of the comparison: a later version may say the same in other words.
    """
    return contradictions(verdict, rule.decide(evaluation, inputs, plan))


def contradictions(verdict: Verdict, again: Verdict) -> list[str]:
    """Say, a sentence each, in what a verdict differs from the one that the rule has made anew; see `misjudged`."""
    wrong = []
    if verdict.verdict == PROMOTE and (stopping := sorted({reason.code for reason in verdict.reasons} - NOT_STOPPING)):
        wrong.append(f"the verdict is PROMOTE, and it carries {', '.join(stopping)}, which forbid that")
    said, found = _core(verdict), _core(again)
    wrong += [
        f"{key} is {said[key]} in the verdict, and the rule makes {found[key]} of the evidence"
        for key in said
        if said[key] != found[key]
    ]
    return wrong


def _core(verdict: Verdict) -> dict[str, Any]:
    """What a verdict decides. Estimates and bounds are left out: the checks say what follows from them."""
    return {
        "the verdict": verdict.verdict,
        "what the evidence says": verdict.evidence_says,
        "the reasons": sorted({f"{r.code}/{r.finding or ''}/{r.subgroup or ''}" for r in verdict.reasons}),
        "the checks": sorted(
            f"{c.kind}/{c.against or ''}/{c.finding or ''}/{c.subgroup or ''}: {c.outcome}" for c in verdict.checks
        ),
        "approvals": verdict.approvals,
        "limited findings": sorted(verdict.limited_findings),
        "superior": verdict.superior,
        "superior findings": sorted(verdict.superior_findings),
        "the test period": verdict.period,
        "the looks": verdict.looks,
        "alpha": verdict.alpha,
        "clinical use": verdict.clinical_use,
    }


def other_facts(evaluation: Evaluation, params: Params) -> list[str]:
    """Say in what the challenger's own account of its settings differs from `params.yaml`, by which it was made."""
    if evaluation.facts is None:
        return ["what the challenger is, is not on record"]
    sections = params.model_dump(mode="json", include={"split", "prepare", "train"})
    asked = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    told = evaluation.facts.settings
    return [
        f"the model says {key} {told[key]!r}, and params.yaml {asked[key]!r}"
        for key in sorted(told.keys() & asked.keys() - NOT_OF_THE_MODEL)
        if _plain(told[key]) != _plain(asked[key])
    ]


def straw_men(inputs: Inputs, entries: Sequence[Entry], plan: ChangePlan) -> list[str]:
    """Say in what the models that a run was judged against are not those of the ledger at the time of its opening."""
    if inputs.ledger is None:
        return []
    before = list(entries[: inputs.ledger.entries])
    promotion = last_promotion(before)
    champion = inputs.champion
    wrong = []
    if (promotion.digest() if promotion else None) != champion.entry:
        wrong.append("the champion that the run was judged against is not the one that the ledger named")
    elif promotion is not None:
        body = promotion.promotion
        said = (champion.package, champion.version, champion.recipe)
        if said != (body.package, body.model_version, body.recipe):
            wrong.append("the champion that the run was judged against is another model than the ledger's")
    if inputs.reference != reference_after(before, plan.performance.reference.package):
        wrong.append("the reference that the run was judged against is not the one that the ledger named")
    return wrong


def _plain(value: Any) -> Any:
    """A setting as JSON has it: tuples are lists there, and whole numbers may be written as floats."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
