"""What `evaluate` and `open` would write for a simulated study: evaluations and inputs for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ops import plan as plans
from cxr_ops.labels import FINDINGS
from cxr_ops.params import NOT_OF_THE_MODEL, Params, Prepare, Train
from cxr_ops.plan import ChangePlan
from cxr_ops.records.data import DataRevision
from cxr_ops.records.evidence import (
    Alike,
    Blurred,
    Estimate,
    Evaluation,
    Facts,
    Localization,
    MapChecks,
    Paired,
    Performance,
    Reliance,
)
from cxr_ops.records.inputs import Champion, Code, Inputs, LedgerState, Period, Reference
from cxr_ops.records.run import Opened
from cxr_ops.records.training import StartingWeights, Trained
from cxr_ops.stats import evidence, heat_maps

PROJECT = Path(__file__).resolve().parents[1]
CHALLENGER, CHAMPION, REFERENCE, TEST = "a" * 64, "b" * 64, "c" * 64, "t" * 64

FACTS = Facts(
    architecture="densenet121",
    findings=list(FINDINGS),
    settings={
        f"{section}.{key}": value
        for section, settings in Params(
            prepare=Prepare(image_size=224),
            train=Train(epochs=12, batch_size=64, max_positive_weight=20.0, seed=7),
        )
        .model_dump(mode="json", include={"split", "prepare", "train"})
        .items()
        for key, value in settings.items()
        if f"{section}.{key}" not in NOT_OF_THE_MODEL
    },
    sources=["nih"],
    starting_weights=StartingWeights(start="imagenet", training_data=["ImageNet-1k"], patients="none"),
)


def change_rules(plan: ChangePlan, **changes: Any) -> ChangePlan:
    """A plan with another performance evaluation; what is given for a part that is there changes that part."""
    rules = plan.performance
    for name, change in changes.items():
        part = getattr(rules, name)
        changed = part.model_copy(update=dict(change)) if isinstance(change, Mapping) else change
        rules = rules.model_copy(update={name: changed})
    protocol = plan.modification_protocol.model_copy(update={"performance_evaluation": rules})
    return plan.model_copy(update={"modification_protocol": protocol})


def groups_of(study) -> dict[str, list[str]]:
    """A sex and an age for each patient, and a view for each image."""
    return {
        "sex": ["FM"[patient % 2] for patient in study.patients],
        "age": [str(20 + 7 * int(patient) % 60) for patient in study.patients],
        "view": [("AP", "PA", "PA")[image % 3] for image in range(len(study.patients))],
    }


def estimate(value: float, se: float = 0.005) -> Estimate:
    """A figure with a normal interval."""
    return Estimate(value=value, se=se, low=value - 2 * se, high=value + 2 * se, level=0.95)


def performance_of(row, *, roles=("champion", "reference"), loss=0.0, slope=1.0, se=0.001) -> Performance:
    """Operating point and calibration of a finding; `loss` is from each other model, in all three measures."""

    def paired(value: float, gain: float) -> Paired:
        there = {"challenger": estimate(value, se)}
        for role in roles:
            there[role] = estimate(value - gain, se)
            there["difference" if role == "champion" else "reference_difference"] = estimate(gain, se)
        return Paired(**there)

    unjudged = Paired(challenger=estimate(0.1))
    return Performance(
        finding=row.finding,
        support=row.support,
        average_precision=unjudged,
        thresholds={"challenger": 0.5},
        sensitivity=paired(0.8, -loss),
        specificity=paired(0.85, -loss),
        recalibration={"challenger": (0.0, 1.0)},
        brier=paired(0.1, loss),
        slope=Paired(challenger=estimate(slope, se)),
        intercept=unjudged,
        ece=unjudged,
        reliability={},
    )


def resting(findings, plan, **less: float) -> list[Reliance]:
    """What scores of rows of evidence rest on: the thorax, or regions without which the challenger loses so much."""
    asked = plan.performance.reliance
    found = []
    for row in findings if asked is not None else ():
        whole = {role: at for role in ("challenger", "champion") if (at := getattr(row, role)) is not None}
        regions = {}
        for region in ("corners", "outside", "inside"):
            lost = dict.fromkeys(whole, 0.3 if region == "inside" else 0.0)
            lost["challenger"] = less.get(region, lost["challenger"])
            regions[region] = Blurred(
                auc={role: estimate(at.value - lost[role], 0.002) for role, at in whole.items()},
                loss={role: estimate(value, 0.002) for role, value in lost.items()},
                excess=estimate(lost["challenger"] - lost["champion"], 0.002) if "champion" in whole else None,
            )
        found.append(Reliance(finding=row.finding, regions=regions))
    return found


def lying(findings, plan, *, images=40, patients=31, **gain: float) -> list[Localization]:
    """Where maps of rows of evidence lie: as the champion's do, or better by so much in a measure."""
    found = []
    for row in findings if plan.performance.map_places is not None else ():

        def paired(measure: str, of=row) -> Paired:
            apart = gain.get(measure, 0.0)
            there = {"challenger": estimate(0.6 + apart, 0.02)}
            for role, name in (("champion", "difference"), ("reference", "reference_difference")):
                if getattr(of, role) is not None:
                    there |= {role: estimate(0.6, 0.02), name: estimate(apart, 0.02)}
            return Paired(**there)

        measures = {name: paired(name) for name in ("pointing", "energy", "overlap")}
        overlap = dict.fromkeys(map(str, plans.OVERLAPS), measures.pop("overlap"))
        counts = {"images": images, "patients": patients, "area": 0.1, "chance": 0.1}
        found.append(Localization(finding=row.finding, **counts, **measures, overlap=overlap))
    return found


def behaving(plan, patients: int, *, first=False, random=0.05, steady=0.95) -> MapChecks | None:
    """How alike heat maps are where the plan asks it: so much with random weights, and after small changes."""
    asked = plan.performance.heat_maps
    if asked is None:
        return None
    roles = ("challenger",) if first else ("challenger", "champion")

    def alike(value: float) -> dict[str, Alike]:
        return {role: Alike(overall=estimate(value, 0.02), findings={"Mass": estimate(value, 0.02)}) for role in roles}

    return MapChecks(
        images=min(asked.images, patients),
        draws=asked.draws,
        random={step: alike(random) for step in heat_maps.STEPS},
        steady={change: alike(steady) for change in heat_maps.CHANGES},
    )


def evaluation_of(study, plan, *, first=False, reference=None, uncertain=None, **changes) -> Evaluation:
    """What evaluate would write for a simulated study, with a subgroup for each sex and view.

    reference: (N, 14) scores of a reference that is not the champion. uncertain: (N, 14) labels that are to be taken as
    uncertain, and are so missing.
    """
    models = {"challenger": study.challenger, "champion": None if first else study.champion, "reference": reference}
    scores = {role: table for role, table in models.items() if table is not None}
    truth = study.truth if uncertain is None else np.where(uncertain, np.nan, study.truth)
    found = evidence.assess(
        FINDINGS,
        evidence.Scored(truth=truth, patients=study.patients, scores=scores, uncertain=uncertain),
        validation=None,
        attributes=groups_of(study),
        rules=plan.performance,
        level=0.95,
    )
    roles = [role for role in ("champion", "reference") if role in scores]
    judged = [row for row in found.evidence.findings if row.finding in found.evidence.macro_over]
    known: dict[str, Any] = dict(found.evidence) | {
        "subgroups": [group.model_copy(update={"performance": []}) for group in found.subgroups],
        "missing_groups": found.missing_groups,
        "composites": found.composites,
        "performance": [performance_of(row, roles=roles) for row in found.evidence.findings],
        "uncertain": found.uncertain,
        "scenarios": found.scenarios,
        "reliance": resting(judged, plan),
        "localization": lying(judged, plan),
        "heat_maps": behaving(plan, len(np.unique(study.patients)), first=first),
        "test_digest": TEST,
        "test_images": len(study.patients),
        "test_patients": len(np.unique(study.patients)),
        "challenger": CHALLENGER,
        "champion": None if first else CHAMPION,
        "reference": REFERENCE if reference is not None else None if first else CHAMPION,
        "facts": FACTS,
        "problems": [],
    }
    return Evaluation(**(known | changes))


def inputs_of(
    *,
    first=False,
    reference: str | None = CHAMPION,
    dirty=False,
    looks: int | None = 0,
    looked: list[tuple[str, str]] | None = None,
    **changes: Any,
) -> Inputs:
    """The file that such a run was opened with; `looks` None is a run without a ledger."""
    ledger = LedgerState(entries=9, head="9" * 64, looks=looks or 0, looked=looked or [], promotions=0 if first else 1)
    known: dict[str, Any] = {
        "code": Code(commit="c" * 40, dirty=dirty),
        "data": DataRevision(revision="d" * 40, batches={}),
        "champion": Champion() if first else Champion(package=CHAMPION, version="1", entry="e" * 64),
        "reference": None if first or reference is None else Reference(package=reference, version="1"),
        "period": Period(),
        "ledger": None if looks is None else ledger,
        "plan": plans.identify(PROJECT, "pccp.demo.yaml"),
    }
    return Inputs(**(known | changes))


def trained(package: str, best_epoch: int = 2, epochs_run: int = 3) -> Trained:
    """What train writes of a small training."""
    return Trained(
        package=package,
        best_epoch=best_epoch,
        epochs_run=epochs_run,
        validation_auc=0.7,
        train_images=40,
        validation_images=10,
        patients=30,
        seed=0,
        device="cpu",
        precision="fp32",
        threads=1,
    )


def opened(run: str, *, code: Code, data: DataRevision, champion: Champion, **known: Any) -> Opened:
    """What open writes beside a run's workspace."""
    said = {"opened_at": "2026-03-01T04:05:06+00:00", "no_change": False, "recipe": "e" * 64, "recipe_parts": {}}
    return Opened(run=run, code=code, data=data, champion=champion, **(said | known))
