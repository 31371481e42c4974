"""Generated evidence for the report: numbers as a run on 2,000 generated radiographs gives them, pictures of noise."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from cxr_ops.labels import FINDINGS
from cxr_ops.plan import OVERLAPS
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.data import DataRevision
from cxr_ops.records.evidence import (
    Alike,
    Change,
    Estimate,
    Evaluation,
    Facts,
    Figure,
    FindingEvidence,
    Localization,
    MapChecks,
    Paired,
    Parts,
    Performance,
    ReliabilityBin,
    Scenario,
    Subgroup,
    Support,
    Undefined,
)
from cxr_ops.records.explanation import Explanation, HeatMap, Seen
from cxr_ops.records.inputs import Champion, Code, Inputs, LedgerState, Plan, Reference
from cxr_ops.records.report import Ages, Characteristics, Counted, Excluded, Flow, SettingChange
from cxr_ops.records.training import StartingWeights
from cxr_ops.records.verdict import Check, Reason, Verdict
from cxr_ops.report.page import BatchRow, History, Material, Proof, SplitRow
from cxr_ops.stats.heat_maps import CHANGES, STEPS


def digest(text: str) -> str:
    return sha256_bytes(text.encode())


def png(seed: int, size: int = 96) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (size, 2 * size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


GROUPS = (("sex", "F"), ("sex", "M"), ("view", "AP"), ("view", "PA"), ("age", "0 to 39"), ("age", "40 to 64"))
MISSING = Undefined(reason="no positive image in the test set", needed="at least 1 positive patient")


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, se=half / 1.96, low=value - half, high=value + half, level=0.95)


def make_findings(
    rng: np.random.Generator, *, champion: bool, reference: bool, undefined: tuple[str, ...], patients: int
) -> dict[str, object]:
    """The 14 findings and their mean, as an `Evidence` holds them."""
    findings = []
    for finding in FINDINGS:
        value, half = rng.uniform(0.7, 0.92), rng.uniform(0.03, 0.08)
        delta, older = rng.uniform(-0.03, 0.05, 2)
        positives = int(rng.integers(38, 120))
        support = Support(
            positives=positives,
            negatives=3 * patients - positives,
            positive_patients=positives // 2,
            negative_patients=patients - 6,
        )
        figures: dict[str, Figure | None] = {"challenger": estimate(value, half)}
        if champion:
            figures |= {"champion": estimate(value - delta, half), "difference": estimate(delta, half * 0.7)}
        if reference:
            figures |= {
                "reference": estimate(value - older, half),
                "reference_difference": estimate(older, half * 0.8),
            }
        if finding in undefined:
            support = Support(positives=0, negatives=3 * patients, positive_patients=0, negative_patients=patients)
            figures = dict.fromkeys(figures, MISSING)
        findings.append(
            FindingEvidence.model_validate(
                {"finding": finding, "support": support, "champion": None, "difference": None, **figures}
            )
        )
    return {
        "findings": findings,
        "macro_challenger": estimate(0.861, 0.013),
        "macro_champion": estimate(0.848, 0.014) if champion else None,
        "macro_difference": estimate(rng.uniform(0, 0.02), 0.009) if champion else None,
        "macro_reference": estimate(0.853, 0.014) if reference else None,
        "macro_reference_difference": estimate(rng.uniform(-0.01, 0.02), 0.011) if reference else None,
        "macro_over": [finding for finding in FINDINGS if finding not in undefined],
    }


def make_performance(rng: np.random.Generator, given: list[FindingEvidence]) -> list[Performance]:
    """What each finding's probabilities are worth; the models are those of the evidence."""
    made = []
    for one in given:
        models = [model for model in ("challenger", "champion", "reference") if getattr(one, model) is not None]

        def pair(
            low: float,
            high: float,
            half: float,
            gone: bool = isinstance(one.challenger, Undefined),
            models: list[str] = models,
        ) -> Paired:
            names = [*models]
            names += [{"champion": "difference", "reference": "reference_difference"}[name] for name in models[1:]]
            return Paired.model_validate(
                {
                    name: MISSING
                    if gone
                    else estimate(
                        *((rng.normal(0, half / 2), half / 2) if "diff" in name else (rng.uniform(low, high), half))
                    )
                    for name in names
                }
            )

        predicted = np.linspace(0.01, rng.uniform(0.1, 0.6), 8)
        made.append(
            Performance(
                finding=one.finding,
                support=one.support,
                average_precision=pair(0.1, 0.5, 0.06),
                thresholds={model: float(rng.uniform(0.2, 0.8)) for model in models},
                sensitivity=pair(0.5, 0.8, 0.08),
                specificity=pair(0.85, 0.92, 0.02),
                recalibration={model: (float(rng.uniform(-3, -1)), float(rng.uniform(0.8, 1.2))) for model in models},
                brier=pair(0.02, 0.12, 0.01),
                slope=pair(0.85, 1.2, 0.15),
                intercept=pair(-0.2, 0.2, 0.2),
                ece=pair(0.005, 0.03, 0.008),
                reliability={
                    model: [
                        ReliabilityBin(
                            images=60, predicted=float(p), observed=float(np.clip(p * rng.normal(1, 0.2), 0, 1))
                        )
                        for p in predicted
                    ]
                    for model in models
                }
                if not isinstance(one.challenger, Undefined)
                else {},
            )
        )
    return made


def make_evaluation(
    *,
    champion: bool = True,
    reference: bool | None = None,
    undefined: tuple[str, ...] = ("Hernia",),
    seed: int = 0,
    **changes: object,
) -> Evaluation:
    """All that an evaluation can hold; the reference is there where a champion is, unless said otherwise."""
    rng = np.random.default_rng(seed)
    reference = champion if reference is None else reference
    models = {"champion": champion, "reference": reference}
    whole = make_findings(rng, **models, undefined=undefined, patients=161)
    subgroups = []
    for attribute, value in GROUPS:
        found = make_findings(rng, **models, undefined=undefined, patients=70)
        performance = make_performance(rng, found["findings"])
        sizes = {"images": 240, "patients": 70}
        subgroups.append(Subgroup(attribute=attribute, value=value, **sizes, performance=performance, **found))
    values: dict[str, object] = {
        **whole,
        "test_digest": digest("test"),
        "test_images": 498,
        "test_patients": 161,
        "challenger": digest("challenger"),
        "champion": digest("champion") if champion else None,
        "reference": digest("reference") if reference else None,
        "problems": [],
        "subgroups": subgroups,
        "missing_groups": ["age=65 and over: 3 patients, no finding can be judged"],
        "performance": make_performance(rng, whole["findings"]),
        "localization": make_localization(champion=champion),
        "heat_maps": make_map_checks(champion=champion),
        "change": make_change(undefined) if champion else None,
        "uncertain": {"Effusion": 12, "Mass": 5},
        "scenarios": [
            Scenario(uncertain_as=taken, **make_findings(rng, **models, undefined=undefined, patients=161))
            for taken in (0, 1)
        ],
        "facts": Facts(
            architecture="densenet121",
            findings=list(FINDINGS),
            settings={"split.salt": "cxr-ops-1", "train.epochs": 9, "train.learning_rate": 0.001, "train.seed": 0},
            sources=["synthetic"],
            starting_weights=StartingWeights(start="none", patients="none"),
        ),
        "validation_macro": {"challenger": 0.842, **({"champion": 0.836} if champion else {})},
    }
    return Evaluation.model_validate(values | changes)


def make_checks(evaluation: Evaluation) -> list[Check]:
    """Every kind of check and of outcome occurs: the floors are met, the margins by chance, Hernia is undefined."""
    asked = [("floor", None, None, None, evaluation.macro_challenger, 0.5, None)]
    asked += [("floor", None, one.finding, None, one.challenger, 0.5, None) for one in evaluation.findings]
    for against in ("champion", "reference") if evaluation.champion else ():
        name = {"champion": "difference", "reference": "reference_difference"}[against]
        asked.append(("margin", against, None, None, getattr(evaluation, f"macro_{name}"), -0.05, None))
        asked += [
            ("margin", against, one.finding, None, getattr(one, name), -0.05, None) for one in evaluation.findings
        ]
        asked += [
            ("margin", against, None, one.name, getattr(one, f"macro_{name}"), -0.03, None)
            for one in evaluation.subgroups
        ]
        for one in evaluation.performance[:2]:
            asked.append(("sensitivity", against, one.finding, None, getattr(one.sensitivity, name), -0.05, None))
            asked.append(("specificity", against, one.finding, None, getattr(one.specificity, name), -0.02, None))
            asked.append(("brier", against, one.finding, None, getattr(one.brier, name), None, 0.005))
    asked += [("slope", None, one.finding, None, one.slope.challenger, 0.8, 1.25) for one in evaluation.performance[:2]]
    checks = []
    for kind, against, finding, subgroup, figure, limit, upper in asked:
        check = Check(
            kind=kind,
            against=against,
            finding=finding,
            subgroup=subgroup,
            limit=limit,
            upper=upper,
            outcome="undefined",
        )
        if isinstance(figure, Estimate):
            missed = max(
                0.0 if limit is None else limit - figure.low,
                0.0 if upper is None else figure.high - upper,
            )
            outcome = "met" if missed <= 0 else "failed" if missed > 0.02 else "unclear"
            found = {"value": figure.value, "low": figure.low, "high": figure.high, "outcome": outcome}
            check = check.model_copy(update=found | {"needed": 310 if outcome == "unclear" else None})
        checks.append(check)
    return checks


def make_verdict(evaluation: Evaluation, word: str = "PROMOTE", **changes: object) -> Verdict:
    codes = {"PROMOTE": "NOT_WORSE", "REJECT": "WORSE", "INSUFFICIENT EVIDENCE": "MARGIN_NOT_SHOWN"}
    reasons = [Reason(code=codes[word], sentence="Macro-AUC: +0.013 against the champion, at least +0.004.")]
    for one in evaluation.findings:
        if isinstance(one.challenger, Undefined):
            why = "Hernia: not judged, because the test set holds no positive image."
            reasons.append(Reason(code="NOT_EVALUABLE", finding=one.finding, sentence=why))
        elif word != "PROMOTE":
            why = f"{one.finding}: the margin of -0.05 is not shown."
            reasons.append(Reason(code=codes[word], finding=one.finding, sentence=why))
    values: dict[str, object] = {
        "verdict": word,
        "evidence_says": word,
        "reasons": reasons,
        "plan": Plan(name="demonstration", path="pccp.demo.yaml", sha256=digest("plan")),
        "approvals": 0,
        "clinical_use": False,
        "reference": Reference(package=evaluation.reference, version="1") if evaluation.reference else None,
        "looks": 3,
        "limited_findings": ["Hernia"],
        "challenger": evaluation.challenger,
        "champion": Champion(package=evaluation.champion, version="2" if evaluation.champion else None),
        "test_digest": evaluation.test_digest,
        "evaluation": evaluation.digest(),
        "inputs": digest("inputs"),
        "alpha": 0.025,
        "notice": "Demonstration. Not for clinical use.",
        "checks": make_checks(evaluation),
    }
    return Verdict.model_validate(values | changes)


def make_inputs(evaluation: Evaluation) -> Inputs:
    return Inputs(
        code=Code(commit=digest("code")[:40], dirty=True),
        data=DataRevision(revision=digest("data")[:40], batches={"synthetic-1": digest("batch")}),
        champion=Champion(package=evaluation.champion, version="2" if evaluation.champion else None),
        reference=Reference(package=evaluation.reference, version="1") if evaluation.reference else None,
        ledger=LedgerState(entries=4, head=digest("head"), looks=2),
        plan=Plan(name="demonstration", path="pccp.demo.yaml", sha256=digest("plan")),
    )


def make_seen(probability: float, *, empty: bool, inside: bool | None) -> Seen:
    heat = [[0.0, 0.0, 0.0], [0.0, 0.0 if empty else 4.0, 1.0], [0.0, 0.5, 0.0]]
    return Seen(
        probability=probability,
        calibrated=True,
        threshold=0.5,
        called=probability >= 0.5,
        map=[[0.0] * 3] * 3 if empty else heat,
        peak_in_box=inside,
    )


def make_map_checks(*, champion: bool) -> MapChecks:
    """How alike heat maps are: less with each step of random weights, and much after small changes."""
    roles = ("challenger", "champion") if champion else ("challenger",)

    def alike(value: float) -> dict[str, Alike]:
        figure = Estimate(value=value, se=0.02, low=value - 0.04, high=value + 0.04, level=0.95)
        return {role: Alike(overall=figure, findings=dict.fromkeys(FINDINGS, figure)) for role in roles}

    return MapChecks(
        images=32,
        draws=2,
        random={step: alike(0.5 - 0.1 * at) for at, step in enumerate(STEPS)},
        steady={change: alike(0.9) for change in CHANGES},
    )


def make_localization(*, champion: bool) -> list[Localization]:
    """Figures of heat maps and boxes for every finding but Hernia."""

    def paired(value: float) -> Paired:
        own = Estimate(value=value, se=0.05, low=value - 0.15, high=value + 0.15, level=0.95)
        apart = Estimate(value=0.05, se=0.02, low=0.01, high=0.09, level=0.95)
        return Paired(challenger=own, champion=own, difference=apart) if champion else Paired(challenger=own)

    def of(finding: str) -> Localization:
        there = finding != "Hernia"
        nothing = Paired(challenger=Undefined(reason="no image that was scored has a box"))
        return Localization(
            finding=finding,
            images=40 if there else 0,
            patients=31 if there else 0,
            area=0.08 if there else None,
            chance=1 / 9 if there else None,
            pointing=paired(0.65) if there else nothing,
            energy=paired(0.3) if there else nothing,
            overlap={str(at): paired(0.4) if there else nothing for at in OVERLAPS},
        )

    return [of(finding) for finding in FINDINGS]


def make_change(undefined: tuple[str, ...]) -> Change:
    """Patients on whom the champion does better than before, and a finding that the earlier test set lacks."""

    def parts(finding: str | None = None) -> Parts:
        areas = ("champion_earlier", "champion_now", "challenger_earlier", "challenger_now")
        if finding in undefined:
            return Parts.model_validate(
                {"finding": finding} | dict.fromkeys(Parts.model_fields.keys() - {"finding"}, MISSING)
            )
        return Parts(
            finding=finding,
            **{name: estimate(0.8, 0.03) for name in areas},
            learning=estimate(0.004, 0.01),
            potential=estimate(0.03, 0.012),
            retention=estimate(-0.02, 0.01),
        )

    return Change(
        images=301,
        patients=98,
        shared=120,
        exact=False,
        over=[finding for finding in FINDINGS if finding not in undefined],
        mean=parts(),
        findings=[parts(finding) for finding in FINDINGS],
    )


def make_explanation(evaluation: Evaluation) -> Explanation:
    cases = [
        HeatMap(
            finding=finding,
            kind=kind,
            truth=truth,
            probability=probability,
            picture=f"{i}.png",
            sha256=digest(f"case {i}")[:12],
            empty=empty,
            peak_in_box=inside,
            challenger=make_seen(probability, empty=empty, inside=inside),
            champion=make_seen(1 - probability, empty=False, inside=None) if evaluation.champion else None,
            boxes=[] if inside is None else [(0.25, 0.5, 0.125, 0.25)],
        )
        for i, (finding, kind, truth, probability, empty, inside) in enumerate(
            (
                ("Effusion", "found now", True, 0.97, False, True),
                ("Effusion", "false negative", True, 0.08, True, None),
                ("Mass", "false positive", False, 0.91, False, None),
                ("Mass", "true positive", True, 0.88, False, False),
                ("Nodule", "true positive", True, 0.79, False, None),
            )
        )
    ]
    return Explanation(
        package=evaluation.challenger,
        champion=evaluation.champion,
        rule="Grad-CAM on the last layer. Shown are the surest errors.",
        grid=(3, 3),
        image_size=96,
        scale=5.0,
        cases=cases,
        missing=["Hernia: no test image has it."],
    )


def make_material(
    *, champion: bool = True, word: str = "PROMOTE", evaluation: Evaluation | None = None, **changes: object
) -> Material:
    evaluation = evaluation or make_evaluation(champion=champion)
    rng = np.random.default_rng(1)
    rates = np.sort(np.r_[0.0, rng.random(300), 1.0])
    models = ["challenger", "champion", "reference"] if champion else ["challenger"]
    values: dict[str, object] = {
        "title": "Chest X-ray retraining",
        "verdict": make_verdict(evaluation, word),
        "evaluation": evaluation,
        "inputs": make_inputs(evaluation),
        "batches": [BatchRow(name="synthetic-1", images=2000, patients=640, digest=digest("batch"))],
        "checks": [("Every image is named once", "passed"), ("Ages lie between 0 and 120", "passed")],
        "split": [
            SplitRow(name=name, images=images, patients=patients, positives=dict.fromkeys(FINDINGS, images // 11))
            for name, images, patients in (("train", 1301, 415), ("validation", 201, 64), ("test", 498, 161))
        ],
        "history": History(
            epochs=list(range(1, 10)),
            train_loss=[1.1 / (1 + 0.2 * e) for e in range(9)],
            validation_loss=[1.12 / (1 + 0.15 * e) for e in range(9)],
            validation_auc=[float("nan"), *(0.6 + 0.03 * e for e in range(8))],
            kept=8,
            ended="Training ended after 9 of at most 9 epochs.",
        ),
        "training": [("optimiser", "AdamW"), ("precision", "bf16"), ("threads", "2"), ("seed", "0")],
        "model": [
            ("architecture", "densenet121"),
            ("input.image_size", "96"),
            ("findings", ", ".join(FINDINGS)),
            ("intended_use", "Ranks frontal chest radiographs. Not for clinical use."),
        ],
        "curves": {
            model: {
                f: (rates, rates ** {"challenger": 0.3, "champion": 0.35, "reference": 0.4}[model])
                for f in FINDINGS
                if f != "Hernia"
            }
            for model in models
        },
        "explanation": make_explanation(evaluation),
        "pictures": {f"{i}.png": png(i) for i in range(5)},
        "proofs": [
            Proof(what="Inputs of the run", digest=digest("inputs"), command="sha256sum inputs.json"),
            Proof(what="Evidence", digest=evaluation.digest(), command="sha256sum evaluate/evaluation.json"),
        ],
        "flow": Flow(
            batches=[Counted(name="synthetic-1", images=2010, patients=640)],
            total=Counted(name="all", images=2010, patients=640),
            excluded=[Excluded(reason="view LL", images=10, patients=7)],
            sides=[
                Counted(name=name, images=images, patients=patients)
                for name, images, patients in (("train", 1301, 415), ("validation", 201, 64), ("test", 498, 161))
            ],
        ),
        "characteristics": [
            Characteristics(
                name=name,
                images=images,
                patients=patients,
                sexes={"F": patients // 2, "M": patients - patients // 2},
                views={"AP": images // 3, "PA": images - images // 3},
                ages=Ages(
                    youngest=19, lower_quartile=35.5, median=49, upper_quartile=62, oldest=88, unknown=patients // 50
                ),
            )
            for name, images, patients in (("train", 1301, 415), ("validation", 201, 64), ("test", 498, 161))
        ],
        "changes": [SettingChange(name="train.epochs", champion="6", challenger="9")] if champion else None,
        "prevalences": (0.01, 0.1),
    }
    return Material(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module", name="make_material")
def _make_material() -> Callable[..., Material]:
    """As `material`, for fixtures of a module."""
    return make_material


@pytest.fixture
def material() -> Callable[..., Material]:
    """Make the material of a page; keywords replace parts of it."""
    return make_material


@pytest.fixture
def evidence() -> Callable[..., Evaluation]:
    """Make an evaluation, with or without a champion."""
    return make_evaluation


@pytest.fixture
def decision() -> Callable[..., Verdict]:
    """Make a verdict on an evaluation."""
    return make_verdict
