"""The files of a bundle by their names, and the records that they hold.

`verification` checks them, and `documents` makes papers of them. A record is read when it is asked for, once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from cxr_ops import plan as plans
from cxr_ops.audit import locked, signature
from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.audit.state import find_decision, find_promotion
from cxr_ops.contract import INPUTS
from cxr_ops.errors import DataError
from cxr_ops.records.base import Record
from cxr_ops.records.data import Batch
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.training import Trained
from cxr_ops.records.validation import Validated
from cxr_ops.records.verdict import Verdict

COMMIT: Final = "git/commit"
TREE: Final = "git/tree"
SIGNED: Final = f"model/{signature.SIGNATURE}"
CLAIMS: Final = f"model/{signature.CLAIMS}"
KEY: Final = "model/key.pub"
TERMS: Final = "model/model.json"
GIVEN: Final = f"run/{INPUTS}"
LOCK: Final = "run/dvc.lock"
PARAMS: Final = "run/params.yaml"
PACKAGES: Final = "run/requirements/image.lock"
EVALUATION: Final = "run/evaluate/evaluation.json"
VERDICT: Final = "run/gate/verdict.json"
REPORT: Final = "run/report/report.html"
TRAINED: Final = "run/train/train.json"
VALIDATED: Final = "run/validate/validation.json"

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a bundle holds about a run.

    Every record of it raises `DataError` where its file is missing or damaged.

    Attributes:
        run: that the bundle is about.
        files: by their names in a bundle.
        entries: the ledger, as far as its chain is whole.
    """

    run: str
    files: Mapping[str, bytes]
    entries: list[Entry]

    def record(self, kind: type[R], name: str) -> R:
        """Read the record that a file holds."""
        try:
            return kind.model_validate_json(self.files[name])
        except KeyError as error:
            raise DataError(f"{name} is missing") from error
        except ValidationError as error:
            raise DataError(f"{name} is no {kind.__name__}: {error.errors()[0]['msg']}") from error

    @cached_property
    def entry(self) -> Entry:
        """The ledger's decision on the run."""
        entry = find_decision(self.entries, self.run)
        if entry is None:
            raise DataError(f"the ledger holds no decision on {self.run}")
        return entry

    @cached_property
    def decision(self) -> Decision:
        """What that entry says."""
        return self.entry.decision

    @cached_property
    def promotion(self) -> Entry | None:
        """The ledger's promotion of the run."""
        return find_promotion(self.entries, self.run)

    @cached_property
    def inputs(self) -> Inputs:
        """What the run was given."""
        return self.record(Inputs, GIVEN)

    @cached_property
    def plan(self) -> plans.ChangePlan:
        """The plan of the run, which may be another than `inputs` names."""
        path = self.inputs.plan.path
        return plans.parse(self.files.get(f"run/{path}", b""), path)

    @cached_property
    def trained(self) -> Trained:
        """What training made."""
        return self.record(Trained, TRAINED)

    @cached_property
    def validated(self) -> Validated | None:
        """What validation counted; None in a bundle that does not hold it."""
        return self.record(Validated, VALIDATED) if VALIDATED in self.files else None

    @cached_property
    def evaluation(self) -> Evaluation:
        """The evidence."""
        return self.record(Evaluation, EVALUATION)

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict."""
        return self.record(Verdict, VERDICT)

    @cached_property
    def batches(self) -> Mapping[str, Batch]:
        """The records of the batches that the bundle holds, by their names."""
        found = [self.record(Batch, name) for name in sorted(self.files) if name.startswith("data/")]
        return {batch.name: batch for batch in found}

    @cached_property
    def terms(self) -> Mapping[str, Any]:
        """What the package says of itself; {} where that is unknown."""
        try:
            terms = json.loads(self.files.get(TERMS, b"{}"))
        except ValueError as error:
            raise DataError(f"{TERMS} is not JSON") from error
        return terms if isinstance(terms, dict) else {}

    @cached_property
    def packages(self) -> Sequence[tuple[str, str]]:
        """Name and version of each package that the run's image was made with."""
        return locked.pinned(self.files.get(PACKAGES, b""))

    def read_all(self) -> None:
        """Read every record, so that nothing is made from half of them.

        Raises:
            DataError: one is missing or damaged.
            SettingsError: the plan is none.
        """
        for name in _RECORDS:
            getattr(self, name)


_RECORDS: Final = ("entry", "inputs", "batches", "terms", "verdict", "evaluation", "plan", "trained", "validated")
