"""Why a verdict is what it is: the closed set of codes, what each does to a verdict, and what each means."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Why a verdict is what it is. The set is closed: a code that is not here stops a promotion."""

    # grounds for PROMOTE
    FLOORS_MET = "FLOORS_MET"
    NOT_WORSE = "NOT_WORSE"
    # the evidence speaks against the challenger
    BELOW_FLOOR = "BELOW_FLOOR"
    WORSE = "WORSE"
    MARGIN_NOT_MET = "MARGIN_NOT_MET"
    PATIENTS_FAILED = "PATIENTS_FAILED"
    MISCALIBRATED = "MISCALIBRATED"
    HARMFUL_FLIPS = "HARMFUL_FLIPS"
    SHORTCUT = "SHORTCUT"
    MAPS_MISPLACED = "MAPS_MISPLACED"
    MAPS_INSENSITIVE = "MAPS_INSENSITIVE"
    MAPS_UNSTEADY = "MAPS_UNSTEADY"
    INVALID_SCORES = "INVALID_SCORES"
    CONSTANT_SCORES = "CONSTANT_SCORES"
    PERMUTED_FINDINGS = "PERMUTED_FINDINGS"
    SPLIT_MISMATCH = "SPLIT_MISMATCH"
    # the evidence does not suffice
    FLOOR_NOT_SHOWN = "FLOOR_NOT_SHOWN"
    MARGIN_NOT_SHOWN = "MARGIN_NOT_SHOWN"
    FAILURES_NOT_EXCLUDED = "FAILURES_NOT_EXCLUDED"
    CALIBRATION_NOT_SHOWN = "CALIBRATION_NOT_SHOWN"
    FLIPS_NOT_EXCLUDED = "FLIPS_NOT_EXCLUDED"
    UNCERTAIN_LABELS = "UNCERTAIN_LABELS"
    TOO_FEW_PATIENTS = "TOO_FEW_PATIENTS"
    SUBGROUP_MISSING = "SUBGROUP_MISSING"
    NOT_SCORED = "NOT_SCORED"
    UNDEFINED_EVIDENCE = "UNDEFINED_EVIDENCE"
    EVIDENCE_INCOMPLETE = "EVIDENCE_INCOMPLETE"
    EMPTY_TEST_SET = "EMPTY_TEST_SET"
    NO_PATIENT_IDS = "NO_PATIENT_IDS"
    UNKNOWN_WEIGHTS = "UNKNOWN_WEIGHTS"
    CHAMPION_INVALID = "CHAMPION_INVALID"
    CHAMPION_SPLIT_MISMATCH = "CHAMPION_SPLIT_MISMATCH"
    REFERENCE_INVALID = "REFERENCE_INVALID"
    REFERENCE_SPLIT_MISMATCH = "REFERENCE_SPLIT_MISMATCH"
    # the record or the plan forbids it, whatever the evidence
    OUTSIDE_PLAN = "OUTSIDE_PLAN"
    TEST_SET_MISMATCH = "TEST_SET_MISMATCH"
    CHAMPION_MISMATCH = "CHAMPION_MISMATCH"
    REFERENCE_MISMATCH = "REFERENCE_MISMATCH"
    UNRECORDED_LOOK = "UNRECORDED_LOOK"
    TEST_SET_EXHAUSTED = "TEST_SET_EXHAUSTED"
    DIRTY_CODE = "DIRTY_CODE"
    # people must look first; the verdict stays what it is
    SUSPICIOUS_IMPROVEMENT = "SUSPICIOUS_IMPROVEMENT"
    HARM_SIGNAL = "HARM_SIGNAL"
    # to be known, without effect on the verdict
    NOT_EVALUABLE = "NOT_EVALUABLE"


GROUNDS: Final = frozenset({Code.FLOORS_MET, Code.NOT_WORSE})
AGAINST: Final = frozenset(
    {
        Code.BELOW_FLOOR,
        Code.WORSE,
        Code.MARGIN_NOT_MET,
        Code.PATIENTS_FAILED,
        Code.MISCALIBRATED,
        Code.HARMFUL_FLIPS,
        Code.SHORTCUT,
        Code.MAPS_MISPLACED,
        Code.MAPS_INSENSITIVE,
        Code.MAPS_UNSTEADY,
        Code.INVALID_SCORES,
        Code.CONSTANT_SCORES,
        Code.PERMUTED_FINDINGS,
        Code.SPLIT_MISMATCH,
    }
)
HOLDS: Final = frozenset({Code.SUSPICIOUS_IMPROVEMENT, Code.HARM_SIGNAL})
NOTES: Final = frozenset({Code.NOT_EVALUABLE})
# What the record says of a run, whatever the test set shows.
OF_THE_RECORD: Final = frozenset(
    {
        Code.OUTSIDE_PLAN,
        Code.TEST_SET_MISMATCH,
        Code.CHAMPION_MISMATCH,
        Code.REFERENCE_MISMATCH,
        Code.UNRECORDED_LOOK,
        Code.TEST_SET_EXHAUSTED,
        Code.DIRTY_CODE,
        Code.UNKNOWN_WEIGHTS,
        Code.NO_PATIENT_IDS,
    }
)
# Every other code stops a promotion because evidence is missing.
NOT_STOPPING: Final = GROUNDS | HOLDS | NOTES

# One sentence each, without a number of the test set: for documents, and where those numbers are withheld.
MEANING: Final[dict[Code, str]] = {
    Code.FLOORS_MET: "First release: every figure that the plan judges lies above its floor.",
    Code.NOT_WORSE: "Nothing that the plan judges is worse than its margin allows, and all lies above the floors.",
    Code.BELOW_FLOOR: "An AUC of the challenger is shown to lie below its floor, at the plan's error.",
    Code.WORSE: "The challenger is shown to be worse than an earlier model, at the plan's error.",
    Code.MARGIN_NOT_MET: "There are enough patients for an equally good model to show the margin; this model does not.",
    Code.PATIENTS_FAILED: "Patients fell far, and the margin is not met, which enough patients would have shown.",
    Code.MISCALIBRATED: "The challenger's calibration slope lies outside the plan's limits.",
    Code.HARMFUL_FLIPS: "More images that the champion called rightly are called wrongly than the plan allows.",
    Code.SHORTCUT: "The challenger's scores rest on what is outside the thorax, more than the plan allows.",
    Code.MAPS_MISPLACED: "Heat maps lie where people saw the finding less often than the plan allows.",
    Code.MAPS_INSENSITIVE: "Heat maps stay nearly the same once the network's weights are random.",
    Code.MAPS_UNSTEADY: "Heat maps change more with a small move or change of contrast than the plan allows.",
    Code.INVALID_SCORES: "Some scores of the challenger are missing, not finite, or not probabilities.",
    Code.CONSTANT_SCORES: "The challenger gives every image the same score for a finding.",
    Code.PERMUTED_FINDINGS: "The challenger's scores are exchanged between findings.",
    Code.SPLIT_MISMATCH: "The challenger was trained on test patients, or its training patients are not on record.",
    Code.FLOOR_NOT_SHOWN: "There are too few patients to show whether an AUC lies above its floor.",
    Code.MARGIN_NOT_SHOWN: "There are too few patients to show whether a loss stays within its margin.",
    Code.FAILURES_NOT_EXCLUDED: "There are too few patients to show that few of them fail outright.",
    Code.CALIBRATION_NOT_SHOWN: "There are too few patients to show whether the calibration slope keeps its limits.",
    Code.FLIPS_NOT_EXCLUDED: "There are too few patients to show that few right calls of the champion become wrong.",
    Code.UNCERTAIN_LABELS: "The decision would change if all uncertain labels were negative, or all positive.",
    Code.TOO_FEW_PATIENTS: "The test set, or a finding that the plan requires, has too few patients.",
    Code.SUBGROUP_MISSING: "A subgroup that the plan asks for cannot be formed from the data.",
    Code.NOT_SCORED: "A model has no scores for a finding that is judged, or for images of the test set.",
    Code.UNDEFINED_EVIDENCE: "A figure that the plan judges cannot be computed.",
    Code.EVIDENCE_INCOMPLETE: "Part of the evidence is missing, or the evidence contradicts itself.",
    Code.EMPTY_TEST_SET: "The test set is empty.",
    Code.NO_PATIENT_IDS: "Without patient ids, nobody can tell how many patients the images are of.",
    Code.UNKNOWN_WEIGHTS: "The starting weights were trained on test patients, or nobody declared on which patients.",
    Code.CHAMPION_INVALID: "The champion's scores are not probabilities, constant, or exchanged between findings.",
    Code.CHAMPION_SPLIT_MISMATCH: "The champion was trained on test patients, or on patients who are not on record.",
    Code.REFERENCE_INVALID: "The reference's scores are not probabilities, constant, or exchanged between findings.",
    Code.REFERENCE_SPLIT_MISMATCH: "The reference was trained on test patients, or on patients who are not on record.",
    Code.OUTSIDE_PLAN: "The challenger is something that the plan does not cover; a person must review it.",
    Code.TEST_SET_MISMATCH: "The test set is not the one on record.",
    Code.CHAMPION_MISMATCH: "The challenger was not judged against the champion on record.",
    Code.REFERENCE_MISMATCH: "The challenger was not judged against the reference on record.",
    Code.UNRECORDED_LOOK: "The look at the test set is not on the ledger.",
    Code.TEST_SET_EXHAUSTED: "This test period has no look or no error left; patients never scored before are needed.",
    Code.DIRTY_CODE: "The code held uncommitted changes.",
    Code.SUSPICIOUS_IMPROVEMENT: "The gain is larger than retraining can explain; somebody must look for a leak.",
    Code.HARM_SIGNAL: "A finding seems to have become worse in a subgroup; another person must look at it.",
    Code.NOT_EVALUABLE: "Something that the plan does not require has too few patients to be judged.",
}
