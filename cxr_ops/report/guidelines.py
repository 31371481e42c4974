"""What guidelines ask a report of an AI model for, and where this one says it.

The items are told shortly and in this project's own words; whoever reports by a guideline works with its own text. An
item is filled from the run's records, or is a person's to fill: a record cannot say who paid for a study. A filled item
says where to look, and not that a guideline is met, which a person judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cxr_ops.records.evidence import Estimate, Evaluation
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.report import Answered, Flow, Guideline
from cxr_ops.records.verdict import Verdict
from cxr_ops.report import words
from cxr_ops.report.standards import UNKNOWN, standard_of

# Item -> (what it asks for, which answers fill it; none: a person must).
Items = Mapping[str, tuple[str, Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the records say, and the section of the report that says more."""

    text: str
    section: str


_CLAIM: Final[Items] = {
    "1": ("Named as a study of AI, with the kind of method", ["method"]),
    "2": ("Structured abstract", []),
    "3": ("Background, intended use and clinical role", ["use"]),
    "4": ("Aims and hypotheses", ["claims"]),
    "5": ("Prospective or retrospective design", []),
    "6": ("Goal of the study", ["claims"]),
    "7": ("Sources of the data", ["sources"]),
    "8": ("Inclusion and exclusion", ["flow"]),
    "9": ("Preprocessing", ["picture"]),
    "10": ("Selection of subsets of the data", ["flow"]),
    "11": ("De-identification", []),
    "12": ("Handling of missing data", ["missing"]),
    "13": ("How images were acquired", []),
    "14": ("How the reference standard was obtained", ["standard"]),
    "15": ("Why that reference standard", []),
    "16": ("Who annotated, and with what qualification", []),
    "17": ("Annotation of the test set", ["standard"]),
    "18": ("Variability within and between annotators", []),
    "19": ("How data were assigned to partitions", ["split"]),
    "20": ("On which level partitions are disjoint", ["disjoint"]),
    "21": ("Intended sample size", ["size"]),
    "22": ("Description of the model", ["model"]),
    "23": ("Software and its versions", ["software"]),
    "24": ("Initial values of the parameters", ["start"]),
    "25": ("How the model was trained", ["training"]),
    "26": ("How the final model was chosen", ["selection"]),
    "27": ("Ensembles", ["ensemble"]),
    "28": ("Metrics of performance", ["metrics"]),
    "29": ("Measures of significance and uncertainty", ["uncertainty"]),
    "30": ("Robustness and sensitivity analyses", ["robustness"]),
    "31": ("Explainability", ["maps"]),
    "32": ("Evaluation on internal data", ["internal"]),
    "33": ("Testing on external data", []),
    "34": ("Registration of a clinical trial", []),
    "35": ("Numbers included and excluded", ["flow"]),
    "36": ("Characteristics of the cases in each partition", ["people"]),
    "37": ("Performance with its uncertainty", ["performance"]),
    "38": ("Diagnostic performance and its precision", ["operating"]),
    "39": ("Analysis of failures", ["failures"]),
    "40": ("Limitations", ["limits"]),
    "41": ("What it means for practice", []),
    "42": ("Full protocol", ["protocol"]),
    "43": ("Availability of software, model and data", ["digests"]),
    "44": ("Funding and its role", []),
}
_TRIPOD: Final[Items] = {
    "1": ("Title: what was developed or evaluated, for whom", []),
    "2": ("Abstract", []),
    "3a": ("Context and rationale", []),
    "3b": ("Target population, purpose and users", ["use"]),
    "3c": ("Known inequalities in health between groups", []),
    "4": ("Objectives", ["claims"]),
    "5a": ("Sources of the data", ["sources"]),
    "5b": ("Dates of the data", []),
    "6a": ("Setting and number of centres", []),
    "6b": ("Eligibility", ["flow"]),
    "6c": ("Treatments", []),
    "7": ("Preparation of the data", ["picture"]),
    "8a": ("Outcome and how it was assessed", ["standard"]),
    "8b": ("Assessors of a subjective outcome", []),
    "8c": ("Blinding of the outcome", []),
    "9a": ("Choice of predictors", ["picture"]),
    "9b": ("Definition and measurement of predictors", []),
    "9c": ("Assessors of subjective predictors", []),
    "10": ("Sample size", ["size"]),
    "11": ("Missing data", ["missing"]),
    "12a": ("How data were used and divided", ["split"]),
    "12b": ("How predictors were handled", ["picture"]),
    "12c": ("Kind of model, building and tuning", ["training"]),
    "12d": ("Heterogeneity between clusters", ["robustness"]),
    "12e": ("Measures of performance", ["metrics"]),
    "12f": ("Updating of the model after evaluation", ["update"]),
    "12g": ("How predictions were computed in the evaluation", ["internal"]),
    "13": ("Class imbalance", ["imbalance"]),
    "14": ("Fairness", ["fairness"]),
    "15": ("Output of the model, and thresholds", ["operating"]),
    "16": ("Differences between training and evaluation data", ["people"]),
    "17": ("Ethical approval", []),
    "18a": ("Funding", []),
    "18b": ("Conflicts of interest", []),
    "18c": ("Protocol", ["protocol"]),
    "18d": ("Registration", []),
    "18e": ("Sharing of data", []),
    "18f": ("Sharing of code", ["software"]),
    "19": ("Involvement of patients and the public", []),
    "20a": ("Flow of participants", ["flow"]),
    "20b": ("Characteristics", ["people"]),
    "20c": ("Development and evaluation data compared", ["people"]),
    "21": ("Participants and outcome events in each analysis", ["counts"]),
    "22": ("Full specification of the model", ["model"]),
    "23a": ("Performance with intervals, in subgroups too", ["performance", "fairness"]),
    "23b": ("Heterogeneity of the performance", ["fairness"]),
    "24": ("Results of updating", ["update"]),
    "25": ("Interpretation, with fairness", []),
    "26": ("Limitations", ["limits"]),
    "27a": ("Input of poor quality or not available", []),
    "27b": ("What users must do and know", []),
    "27c": ("Next steps, and where it applies", []),
}
_FDA: Final[Items] = {
    "use": ("Intended use, users and setting", ["use"]),
    "AI": ("That AI is used, and for what", ["method"]),
    "input": ("Input of the model and how it is prepared", ["picture"]),
    "output": ("Output and how to read it", ["operating"]),
    "degree of automation": ("How far it acts without a person", []),
    "architecture": ("Kind of model", ["model"]),
    "development data": ("Sources, sizes and patients of the training data", ["sources", "people"]),
    "test data": ("Sources, sizes and patients of the test data", ["internal", "people"]),
    "reference standard": ("What the truth was", ["standard"]),
    "performance": ("Performance with its uncertainty", ["performance", "operating"]),
    "subgroups": ("Performance in subgroups", ["fairness"]),
    "limitations": ("Known limits, risks and biases", ["limits"]),
    "interfaces": ("Installation, integration and the user's interface", []),
    "monitoring": ("How performance is watched in use", []),
    "change control": ("Predetermined change control plan, and what it changed", ["protocol", "update"]),
}
_CHAI: Final[Items] = {
    "identity": ("Name, developer, contact and version", ["identity"]),
    "release": ("Stage of release, date, availability, approval by a regulator", []),
    "use": ("Intended use and workflow", ["use"]),
    "users": ("Primary users, and how to use it", []),
    "population": ("Patients it is meant for", ["use"]),
    "out of scope": ("Settings and uses to beware of", ["limits"]),
    "warnings": ("Known risks and limits", ["limits"]),
    "bias": ("Known biases and ethical considerations", ["fairness"]),
    "clinical risk": ("Level of clinical risk", []),
    "outcome": ("Outcomes and outputs", ["operating"]),
    "model": ("Kind of model, and what it starts from", ["model", "start"]),
    "input": ("Source and kind of the input data", ["sources", "picture"]),
    "development data": ("Who the development data are of", ["people"]),
    "mitigation": ("What was done against bias", ["imbalance"]),
    "maintenance": ("How it is maintained", ["protocol"]),
    "transparency": ("Funding, third parties, stakeholders consulted", []),
    "usefulness": ("Usefulness, usability and efficacy, with their measures", ["performance", "operating"]),
    "fairness": ("Fairness and equity, with their measures", ["fairness"]),
    "safety": ("Safety and reliability, with their measures", ["claims", "failures"]),
    "resources": ("Publications, trials, reimbursement, consent of patients", []),
}
_ANNEX: Final[Items] = {
    "1(a)": ("Intended purpose, provider, version and its relation to earlier ones", ["use", "identity"]),
    "1(b)": ("How it works with hardware and software that are no part of it", []),
    "1(c)": ("Versions of software, and what updates need", ["software"]),
    "1(d)": ("Forms in which it is placed on the market", []),
    "1(e)": ("Hardware on which it is to run", []),
    "1(f)": ("Pictures of the product of which it is a part", []),
    "1(g)": ("The deployer's interface", []),
    "1(h)": ("Instructions for use", []),
    "2(a)": ("How it was developed, and from what pre-trained parts", ["training", "start"]),
    "2(b)": ("Design: logic, choices, what it optimises, output", ["model", "training"]),
    "2(c)": ("Architecture and computing resources", ["model"]),
    "2(d)": ("Data: provenance, selection, labelling, cleaning", ["sources", "standard", "flow"]),
    "2(e)": ("Human oversight", ["approvals"]),
    "2(f)": ("Predetermined changes", ["protocol", "update"]),
    "2(g)": (
        "Validation and testing: data, metrics, possible discrimination, signed logs",
        ["performance", "fairness"],
    ),
    "2(h)": ("Cybersecurity", []),
    "3": ("Capabilities and limits, accuracy for groups, foreseeable harm, input data", ["limits", "fairness"]),
    "4": ("Why these metrics", []),
    "5": ("Risk management system", []),
    "6": ("Changes through the life cycle", ["update"]),
    "7": ("Harmonised standards applied", []),
    "8": ("EU declaration of conformity", []),
    "9": ("Post-market monitoring, with its plan", []),
}
# Name -> (origin, items).
GUIDELINES: Final[Mapping[str, tuple[str, Items]]] = {
    "CLAIM 2024": ("Tejani et al., Radiology: Artificial Intelligence 2024", _CLAIM),
    "TRIPOD+AI": ("Collins et al., BMJ 2024", _TRIPOD),
    "FDA labelling": (
        "draft guidance on AI-enabled device software functions, January 2025; its topics have no numbers",
        _FDA,
    ),
    "CHAI model card": ("Coalition for Health AI, applied model card; its fields have no numbers", _CHAI),
    "AI Act, Annex IV": ("Regulation (EU) 2024/1689, technical documentation", _ANNEX),
}


def fill(answers: Mapping[str, Answer]) -> list[Guideline]:
    """Fill every guideline; an item of which no answer is on record is a person's.

    Args:
        answers: as `answers` makes them.
    """
    return [
        Guideline(
            name=name,
            origin=origin,
            items=[
                Answered(
                    item=item,
                    asks=asks,
                    says=[answers[key].text for key in keys if key in answers],
                    sections=list(dict.fromkeys(answers[key].section for key in keys if key in answers)),
                )
                for item, (asks, keys) in items.items()
            ],
        )
        for name, (origin, items) in GUIDELINES.items()
    ]


def answers(
    verdict: Verdict,
    evaluation: Evaluation,
    inputs: Inputs,
    explanation: Explanation,
    flow: Flow,
    model: Mapping[str, str],
    *,
    kept_epoch: int | None,
) -> dict[str, Answer]:
    """What the records of a run say to what guidelines ask; what they do not say is not among it.

    Args:
        verdict: what the gate decided.
        evaluation: the evidence.
        inputs: what the run was opened with.
        explanation: the explained cases.
        flow: how images come from batches to the sides of the split.
        model: the model's contract, by dotted name.
        kept_epoch: whose weights are in the package; None where it is not known.
    """
    found = dict(_of_model(evaluation, inputs, model, kept_epoch))
    found |= _of_data(evaluation, flow, model)
    found |= _of_evidence(evaluation, explanation)
    found |= _of_plan(verdict, evaluation)
    return {key: Answer(text=text, section=section) for key, (text, section) in found.items()}


_Found = Iterator[tuple[str, tuple[str, str]]]


def _of_model(evaluation: Evaluation, inputs: Inputs, model: Mapping[str, str], kept_epoch: int | None) -> _Found:
    facts = evaluation.facts
    version = f", after version {inputs.champion.version}" if inputs.champion.version else ""
    yield "identity", (f"package {evaluation.challenger[:12]}{version}", "verify")
    yield "software", (f"commit {inputs.code.commit[:12]}; its lock file names every version", "verify")
    yield "digests", ("SHA-256 of model, data, plan and evidence, with the commands that check them", "verify")
    yield "ensemble", ("none: one network", "model")
    if "intended_use" in model:
        yield "use", (model["intended_use"], "limits")
    if kept_epoch is not None:
        yield "selection", (f"best mean AUC on the validation set: epoch {kept_epoch}", "training")
    if facts is None:
        return
    yield "method", (f"deep learning: {facts.architecture}", "model")
    yield "model", (f"{facts.architecture}, {len(facts.findings)} findings", "model")
    yield "training", (f"{len(facts.settings)} settings on record", "facts")
    start = facts.starting_weights
    yield "start", (f"{start.start}; it had seen {words.starting_patients(start.patients)}", "facts")
    if "train.class_weights" in facts.settings:
        weights, sampler = facts.settings["train.class_weights"], facts.settings.get("train.sampler", "not on record")
        yield "imbalance", (f"weights of positives: {weights}; sampler: {sampler}", "facts")


def _of_data(evaluation: Evaluation, flow: Flow, model: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found = {
        "flow": (f"{flow.total.images:,} images in {len(flow.batches)} batches, {_excluded(flow)} on no side", "data"),
        "split": ("a keyed hash of the patient", "data"),
        "disjoint": ("the patient", "data"),
        "people": ("age, sex and view on each side", "data"),
        "counts": ("patients, images and positives on each side and of each figure", "data"),
    }
    if "input.image_size" in model:
        contrast = model.get("input.contrast.name", "none")
        found["picture"] = (f"{model['input.image_size']} pixels a side, contrast: {contrast}", "model")
    sources = evaluation.facts.sources if evaluation.facts else []
    if sources:
        found["sources"] = (", ".join(sources), "data")
    if sources and all(standard_of(source) != UNKNOWN for source in sources):
        found["standard"] = (" ".join(map(standard_of, sources)), "limits")
    return found


def _excluded(flow: Flow) -> str:
    return f"{sum(one.images for one in flow.excluded):,}"


def _of_evidence(evaluation: Evaluation, explanation: Explanation) -> dict[str, tuple[str, str]]:
    whole = evaluation.macro_challenger
    where = f"{evaluation.test_images:,} images of {evaluation.test_patients:,} patients, scored by this run"
    found = {
        "missing": ("a missing label is left out, and never taken for absent", "undefined"),
        "metrics": ("AUC of each finding and their mean; at thresholds; of probabilities", "findings"),
        "uncertainty": ("intervals and tests clustered by patient", "findings"),
        "limits": ("limits, and what it is not for", "limits"),
    }
    if evaluation.scored == "test":
        found["internal"] = (f"locked test set: {where}", "findings")
    if isinstance(whole, Estimate):
        found["performance"] = (f"mean AUC {words.figure_text(whole)}", "findings")
    if any(one.thresholds for one in evaluation.performance):
        found["operating"] = (
            "sensitivity, specificity, predictive values at thresholds of the validation set",
            "operating",
        )
    if evaluation.subgroups:
        names = sorted({one.attribute for one in evaluation.subgroups})
        found["fairness"] = (f"subgroups by {'; '.join(names)}", "subgroups")
        found["robustness"] = (found["fairness"][0], "subgroups")
    if evaluation.scenarios:
        found["robustness"] = ("uncertain labels taken as absent and as present", "uncertain")
    if explanation.cases:
        found["maps"] = (f"heat maps of {len(explanation.cases)} cases", "cases")
        found["failures"] = ("cases called wrongly, chosen by a rule", "cases")
    return found


def _of_plan(verdict: Verdict, evaluation: Evaluation) -> dict[str, tuple[str, str]]:
    found = {"protocol": (f"plan {verdict.plan.name}, {verdict.plan.sha256[:12]}", "checks")}
    if verdict.checks:
        found["claims"] = (words.checks_sentence(verdict.checks), "checks")
    needed = [check.needed for check in verdict.checks if check.needed]
    if needed:
        found["size"] = (f"for what is not shown, up to {max(needed):,} patients would be needed", "checks")
    if verdict.approvals:
        found["approvals"] = (f"approvals that the plan asks for: {verdict.approvals}", "checks")
    if evaluation.champion is not None:
        found["update"] = ("compared with the champion: settings, AUC, single images", "changes")
    return found
