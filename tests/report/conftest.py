"""Generated evidence for the report: numbers as a run on 2,000 generated radiographs gives them, pictures of noise."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from cxr_ops.labels import FINDINGS
from cxr_ops.records import (
    Champion,
    Check,
    Code,
    DataRevision,
    Estimate,
    Evaluation,
    Explanation,
    FindingEvidence,
    HeatMap,
    Inputs,
    LedgerState,
    Plan,
    Pointing,
    Reason,
    Support,
    Undefined,
    Verdict,
    sha256_bytes,
)
from cxr_ops.report.page import BatchRow, History, Material, Proof, SplitRow


def digest(text: str) -> str:
    return sha256_bytes(text.encode())


def png(seed: int, size: int = 96) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (size, 2 * size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, se=half / 1.96, low=max(-1.0, value - half), high=min(1.0, value + half), level=0.95)


def make_evaluation(*, champion: bool = True, undefined: tuple[str, ...] = ("Hernia",)) -> Evaluation:
    rng = np.random.default_rng(0)
    findings = []
    for finding in FINDINGS:
        value, half, delta = rng.uniform(0.7, 0.95), rng.uniform(0.03, 0.08), rng.uniform(-0.03, 0.05)
        positives = int(rng.integers(38, 120))
        if finding in undefined:
            missing = Undefined(reason="no positive image in the test set", needed="at least 1 positive patient")
            support = Support(positives=0, negatives=498, positive_patients=0, negative_patients=161)
            none = missing if champion else None
            findings.append(
                FindingEvidence(finding=finding, support=support, challenger=missing, champion=none, difference=none)
            )
            continue
        findings.append(
            FindingEvidence(
                finding=finding,
                support=Support(
                    positives=positives,
                    negatives=498 - positives,
                    positive_patients=positives // 2,
                    negative_patients=155,
                ),
                challenger=estimate(value, half),
                champion=estimate(value - delta, half) if champion else None,
                difference=estimate(delta, half * 0.7) if champion else None,
            )
        )
    return Evaluation(
        findings=findings,
        macro_challenger=estimate(0.861, 0.013),
        macro_champion=estimate(0.848, 0.014) if champion else None,
        macro_difference=estimate(0.013, 0.009) if champion else None,
        macro_over=[finding for finding in FINDINGS if finding not in undefined],
        test_digest=digest("test"),
        test_images=498,
        test_patients=161,
        challenger=digest("challenger"),
        champion=digest("champion") if champion else None,
        problems=[],
    )


def make_checks(evaluation: Evaluation) -> list[Check]:
    """Every kind of outcome occurs: the floors are met, the margins by chance, Hernia is undefined."""
    rows = [(None, evaluation.macro_challenger, evaluation.macro_difference)]
    rows += [(one.finding, one.challenger, one.difference) for one in evaluation.findings]
    checks = []
    for finding, challenger, difference in rows:
        for kind, figure, limit in (("floor", challenger, 0.5), ("margin", difference, -0.05)):
            if figure is None:
                continue
            if isinstance(figure, Undefined):
                checks.append(Check(kind=kind, finding=finding, limit=limit, outcome="undefined"))
                continue
            outcome = "met" if figure.low > limit else "failed" if figure.low < limit - 0.02 else "unclear"
            checks.append(
                Check(
                    kind=kind,
                    finding=finding,
                    limit=limit,
                    value=figure.value,
                    low=figure.low,
                    high=figure.high,
                    outcome=outcome,
                    needed=310 if outcome == "unclear" else None,
                )
            )
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
        "challenger": evaluation.challenger,
        "champion": Champion(package=evaluation.champion, version="1" if evaluation.champion else None),
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
        champion=Champion(package=evaluation.champion, version="1" if evaluation.champion else None),
        ledger=LedgerState(entries=4, head=digest("head"), looks=2),
        plan=Plan(name="demonstration", path="pccp.demo.yaml", sha256=digest("plan")),
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
        )
        for i, (finding, kind, truth, probability, empty, inside) in enumerate(
            (
                ("Effusion", "true positive", True, 0.97, False, True),
                ("Effusion", "false negative", True, 0.08, True, None),
                ("Mass", "false positive", False, 0.91, False, None),
                ("Mass", "true positive", True, 0.88, False, False),
                ("Nodule", "true positive", True, 0.79, False, None),
            )
        )
    ]
    pointing = [
        Pointing(finding=finding, images=0, hits=0, empty=0, share=None, chance=None)
        if finding == "Hernia"
        else Pointing(finding=finding, images=40, hits=26, empty=2, share=0.65, chance=0.11)
        for finding in FINDINGS
    ]
    return Explanation(
        package=evaluation.challenger,
        rule="Grad-CAM on the last layer. Shown are the highest scores among true and false positives.",
        cases=cases,
        missing=["Hernia: no test image has it."],
        pointing=pointing,
    )


def make_material(*, champion: bool = True, word: str = "PROMOTE", **changes: object) -> Material:
    evaluation = make_evaluation(champion=champion)
    rng = np.random.default_rng(1)
    rates = np.sort(np.r_[0.0, rng.random(300), 1.0])
    models = ["challenger", "champion"] if champion else ["challenger"]
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
        "model": [("architecture", "densenet121"), ("input.size", "96"), ("findings", ", ".join(FINDINGS))],
        "curves": {
            model: {f: (rates, rates ** (0.3 if model == "challenger" else 0.35)) for f in FINDINGS if f != "Hernia"}
            for model in models
        },
        "explanation": make_explanation(evaluation),
        "pictures": {f"{i}.png": png(i) for i in range(5)},
        "proofs": [
            Proof(what="Inputs of the run", digest=digest("inputs"), command="sha256sum inputs.json"),
            Proof(what="Evidence", digest=evaluation.digest(), command="sha256sum evaluate/evaluation.json"),
        ],
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
