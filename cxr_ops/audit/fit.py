"""What must fit what in a run: one table, asked by `report`, `publish` and `promote`.

Every file of a run names the files that it was made from by their digests. The digests given here are those of the
bytes on disk: a record that an earlier version wrote has other bytes when it is written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxr_ops.audit.entries import Decision
from cxr_ops.contract import INPUTS
from cxr_ops.records.base import sha256_file
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.inputs import Inputs, Reference
from cxr_ops.records.training import Trained
from cxr_ops.records.validation import Validated
from cxr_ops.records.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the deterministic stages of a run made, as far as it must fit together.

    evaluation_sha256, inputs_sha256: of the files. package: digest of `train/package`. trained: the package that
    `train/train.json` names. explained: the package that `explain/explain.json` is about; None where nobody asks.
    validated: the batches and events that `validate` read, by the digests of their records; a run of an earlier version
    names none.
    """

    inputs: Inputs
    inputs_sha256: str
    evaluation: Evaluation
    evaluation_sha256: str
    verdict: Verdict
    trained: str
    package: str | None = None
    explained: str | None = None
    validated: Mapping[str, str] = field(default_factory=dict)


def read_made(root: Path, *, package: str | None = None, explained: str | None = None) -> Made:
    """Read from a run's folder what must fit together.

    Raises:
        DataError: a file is missing or damaged.
    """
    evaluation, inputs = root / "evaluate" / "evaluation.json", root / INPUTS
    validation = root / "validate" / "validation.json"  # that it is there and as it was, `dvc.lock` shows
    return Made(
        inputs=Inputs.read(inputs),
        inputs_sha256=sha256_file(inputs),
        evaluation=Evaluation.read(evaluation),
        evaluation_sha256=sha256_file(evaluation),
        verdict=Verdict.read(root / "gate" / "verdict.json"),
        trained=Trained.read(root / "train" / "train.json").package,
        package=package,
        explained=explained,
        validated=Validated.read(validation).data if validation.is_file() else {},
    )


def misfits(made: Made) -> list[str]:
    """Say, a sentence each, which files of a run do not belong together; none is the only good answer."""
    verdict, evaluation, inputs = made.verdict, made.evaluation, made.inputs
    table: list[tuple[str, object, object]] = [
        ("gate/verdict.json stems from another evaluation", verdict.evaluation, made.evaluation_sha256),
        ("gate/verdict.json stems from another inputs.json", verdict.inputs, made.inputs_sha256),
        ("gate/verdict.json judges another package than was evaluated", verdict.challenger, evaluation.challenger),
        ("gate/verdict.json names another champion than inputs.json", verdict.champion, inputs.champion),
        ("gate/verdict.json names another reference than inputs.json", verdict.reference, inputs.reference),
        ("gate/verdict.json is of another test period", verdict.period, inputs.period.number),
        ("gate/verdict.json names another plan than inputs.json", verdict.plan, inputs.plan),
        ("gate/verdict.json names another test set", verdict.test_digest, evaluation.test_digest),
        ("evaluate/evaluation.json names another champion", evaluation.champion, inputs.champion.package),
        (
            "evaluate/evaluation.json is about another package than train/train.json",
            evaluation.challenger,
            made.trained,
        ),
    ]
    if made.package is not None:
        table.append(("train/package is not the package that training made", made.package, made.trained))
    if made.explained is not None:
        table.append(
            ("explain/explain.json is about another package than train/train.json", made.explained, made.trained)
        )
    if made.validated:
        others = sorted(dict(made.validated.items() ^ inputs.data.digests().items()))
        table.append((f"validate read another {' and '.join(others[:3])} than inputs.json names", others, []))
    return [sentence for sentence, said, found in table if said != found]


def misnamed_models(inputs: Inputs, *, champion: object, reference: object) -> list[str]:
    """Which of the folders that `open` filled name another model than `inputs.json`: `champion`, `reference`.

    Args:
        inputs: what the run was opened with.
        champion: what `champion/champion.json` holds, as parsed JSON.
        reference: what `reference/reference.json` holds; every key is null where there is no reference.
    """
    none = dict.fromkeys(Reference.model_fields)
    table = (
        ("champion", champion, inputs.champion.model_dump()),
        ("reference", reference, inputs.reference.model_dump() if inputs.reference else none),
    )
    return [role for role, said, found in table if said != found]


def changed_since(decision: Decision, made: Made, *, verdict_sha256: str, report_sha256: str) -> Iterator[str]:
    """The names of what is no longer what a decision on record is about."""
    for name, said, found in (
        ("train/package", decision.package, made.package),
        ("evaluate/evaluation.json", decision.evaluation, made.evaluation_sha256),
        ("gate/verdict.json", decision.verdict_digest, verdict_sha256),
        ("inputs.json", decision.inputs, made.inputs_sha256),
        ("report/report.html", decision.report, report_sha256),
        ("the verdict", decision.verdict, made.verdict.verdict),
    ):
        if said != found:
            yield name
