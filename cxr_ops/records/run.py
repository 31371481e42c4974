"""Records of a run as a whole: how it was opened, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from cxr_ops.contract import MODEL_NAME
from cxr_ops.records.base import Kept, Record
from cxr_ops.records.data import DataRevision
from cxr_ops.records.inputs import Champion, Code
from cxr_ops.records.verdict import Reason

OPENED: Final = "run.json"  # `open` writes it last: without it, a run's workspace is not whole


class Identifiers(Record):
    """What a run is known by elsewhere: the one list of it.

    Decision, result and lineage hold these; tags in MLflow, trailers of the run commit and every table for people are
    made from them. `model_version` is the number in the registry, `package` the digest of the model's package,
    `run_commit` the DVC revision of the run, `data_revision` that of its data. None is what the run does not have.
    """

    run: str
    airflow_run_id: str | None = None
    mlflow_run_id: str | None = None
    model_version: str | None = None
    package: str | None = None
    run_commit: str | None = None
    data_revision: str | None = None
    code_commit: str | None = None
    image: str | None = None

    @property
    def identifiers(self) -> Identifiers:
        """These alone, of a record that holds more."""
        return Identifiers(**{name: getattr(self, name) for name in Identifiers.model_fields})

    def named(self) -> dict[str, str | None]:
        """Each with its name in words, in the order in which people are shown them.

        >>> list(Identifiers(run="r", model_version="3").named().items())[3]
        ('model version', 'cxr-densenet121/3')
        """
        return {
            "run": self.run,
            "Airflow run": self.airflow_run_id,
            "MLflow run": self.mlflow_run_id,
            "model version": self.model_version and f"{MODEL_NAME}/{self.model_version}",
            "package": self.package,
            "DVC revision": self.run_commit,
            "data revision": self.data_revision,
            "code": self.code_commit,
            "image": self.image,
        }

    def linked(self, links: Mapping[str, str]) -> dict[str, str]:
        """Those that the run has, by name, as Markdown: links where an address is given.

        >>> Identifiers(run="r", mlflow_run_id="ab").linked({"MLflow run": "https://x.org/ab"})
        {'run': '`r`', 'MLflow run': '[`ab`](https://x.org/ab)'}
        """
        return {
            name: f"[`{value}`]({links[name]})" if name in links else f"`{value}`"
            for name, value in self.named().items()
            if value is not None
        }

    def tags(self) -> dict[str, str]:
        """Those that the run has, as tags of its MLflow run: `cxr.run`, `cxr.package`, ..."""
        values = {f"cxr.{name}": getattr(self, name) for name in Identifiers.model_fields}
        return {key: value for key, value in values.items() if value is not None}

    def trailers(self) -> str:
        """Those that the run has, as trailers of its run commit: `Run: ...`, `Airflow-Run: ...`, a line each."""
        names = {name: "-".join(word[:1].upper() + word[1:] for word in name.split()) for name in self.named()}
        return "".join(f"{names[name]}: {value}\n" for name, value in self.named().items() if value is not None)


class Opened(Kept):
    """What a run was opened with: `runs/<run>/run.json`, which is beside the workspace and not in it.

    `overrides` are settings of this run only; `force` says that it goes on though nothing has changed; `no_change` that
    it ended there, and `repeats` why, where it is another run than the champion's that it would have repeated. `recipe`
    is the digest of `recipe_parts`, all that the challenger is made from.
    """

    run: str
    airflow_run_id: str | None = None
    requested_by: str | None = None
    opened_at: str
    overrides: dict[str, Any] = {}
    force: bool = False
    no_change: bool
    repeats: str = ""
    code: Code
    data: DataRevision
    champion: Champion
    recipe: str
    recipe_parts: dict[str, Any]

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A record without `repeats` is written as it was before there was any."""
        document: dict[str, Any] = write(self)
        if not self.repeats:
            document.pop("repeats", None)
        return document


class Spent(Kept):
    """What a training took, over all attempts at it: `runs/<run>/resources.json`; see `cxr_ops.edges.resources`.

    training: digest of the stage's inputs. seconds: from the beginning of each attempt to its end. processor_joules: of
    all processor packages of the machine, by RAPL; gpu_joules: of the GPUs that training may use, by the power that
    they say. None is not measured, and never a guess.
    """

    training: str
    attempts: int
    seconds: float
    processor_joules: float | None = None
    gpu_joules: float | None = None


class Result(Kept, Identifiers):
    """How a run ended and where everything of it is: `runs/<run>/result.json`.

    Written by `publish`, and again by `promote`; for a run that ended NO_CHANGE by whoever found that out, without the
    identifiers that come with a decision. `champion` is the model in use when the run was opened. `decision` and
    `promotion` are digests of the ledger's entries; `promotion` is None as long as the run has promoted nothing.
    `approvals` are the people who must agree, more than usual where there are `holds` (codes). `report` is the
    published page. `restricted` is the full report where that page withholds what the test set shows; `reasons` then
    say what their codes mean, without numbers and findings. `repeats` says which earlier run one that ended NO_CHANGE
    would have repeated; it is empty where that is the champion's. A file of a format before 2 does not say the image.
    """

    newest: ClassVar[int] = 2

    format: int = newest
    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE", "NO_CHANGE", "NOT PROMOTED"]
    repeats: str = ""
    reasons: list[Reason] = []
    approvals: int = 0
    limited_findings: list[str] = []
    holds: list[str] = []
    champion: Champion = Champion()
    report: str | None = None
    restricted: str | None = None
    decision: str | None = None
    promotion: str | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A record without `repeats` is written as it was before there was any."""
        document: dict[str, Any] = write(self)
        if not self.repeats:
            document.pop("repeats", None)
        return document
