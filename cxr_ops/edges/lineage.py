"""From any one identifier of a published run to all the others, read from the ledger alone."""

from __future__ import annotations

from collections.abc import Iterable

from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import find_promotion, last_promotion
from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import DataError
from cxr_ops.records.base import Record

# Shorter beginnings of a digest are too likely to be meant for something else.
MIN_PREFIX = 7


class Lineage(Record):
    """All that belongs to one published run.

    `run_commit` is the DVC revision of the run: `dvc get` and `dvc repro` work there. `decision` and `promotion` are
    digests of the ledger's entries. `also` names other runs to which the identifier belongs as well: a version that was
    judged twice, a data revision that many runs used.
    """

    run: str
    airflow_run_id: str | None
    mlflow_run_id: str
    model_version: str
    package: str
    run_commit: str
    data_revision: str
    code_commit: str
    image: str | None
    report: str
    report_page: str | None
    verdict: str
    decision: str
    promotion: str | None
    champion: bool
    also: list[str]

    def __str__(self) -> str:
        """A line for each identifier, for people."""
        names = {
            "run": self.run,
            "Airflow run": self.airflow_run_id or "none",
            "MLflow run": self.mlflow_run_id,
            "model version": self.model_version + (", the champion" if self.champion else ""),
            "package": self.package,
            "DVC revision": self.run_commit,
            "data revision": self.data_revision,
            "code": self.code_commit,
            "image": self.image or "none",
            "report": self.report_page or "not on this machine",
            "report sha256": self.report,
            "verdict": self.verdict,
            "decision": self.decision,
            "promotion": self.promotion or "none",
        }
        if self.also:
            names["also in"] = ", ".join(self.also)
        return "\n".join(f"{name:<14} {value}" for name, value in names.items())


def trace(home: Home, identifier: str) -> Lineage:
    """Find the run to which an identifier belongs.

    Args:
        home: the installation.
        identifier: the name of a run, an Airflow run id, a model version (`cxr-densenet121/3`), or at least the first
            7 characters of an MLflow run id, a commit (of the run, the data or the code) or a digest (of the package,
            the report or a ledger entry).

    Returns:
        The run; where several have the identifier, the one that was promoted last, or else decided on last.

    Raises:
        DataError: no published run has the identifier, or a beginning fits several different digests.
    """
    entries = open_ledger(home).entries()
    wanted = identifier.strip()
    decisions = [entry for entry in entries if entry.kind == "decision"]
    hits = {entry.seq: _matches(entry, find_promotion(entries, entry.decision.run), wanted) for entry in decisions}
    values = {value for found in hits.values() for value in found}
    if not values:
        raise DataError(
            f"no published run has the identifier {wanted!r}",
            where=home.ledger,
            fix="cxr-ops ledger show lists what there is; a run that was opened and not published is in CXR_HOME/runs",
        )
    if len(values) > 1:
        raise DataError(
            f"{wanted!r} is the beginning of several: {', '.join(sorted(values))}", fix="give more characters"
        )
    found = [entry for entry in decisions if hits[entry.seq]]
    chosen = max(found, key=lambda entry: (_promoted_at(entries, entry), entry.seq))
    return _lineage(home, entries, chosen, [entry.decision.run for entry in found if entry is not chosen])


def _lineage(home: Home, entries: list[Entry], entry: Entry, also: list[str]) -> Lineage:
    decision, promotion, current = entry.decision, find_promotion(entries, entry.decision.run), last_promotion(entries)
    page = home.reports / f"{decision.run}.html"
    return Lineage(
        run=decision.run,
        airflow_run_id=decision.airflow_run_id,
        mlflow_run_id=decision.mlflow_run_id,
        model_version=f"{MODEL_NAME}/{decision.model_version}",
        package=decision.package,
        run_commit=decision.run_commit,
        data_revision=decision.data_revision,
        code_commit=decision.code_commit,
        image=decision.image,
        report=decision.report,
        report_page=str(page) if page.is_file() else None,
        verdict=decision.verdict,
        decision=entry.digest(),
        promotion=promotion.digest() if promotion else None,
        champion=promotion is not None and promotion == current,
        also=also,
    )


def _matches(entry: Entry, promotion: Entry | None, wanted: str) -> set[str]:
    """The identifiers of a decision's run that are what is wanted, or begin with it."""
    body = entry.decision
    names = (body.run, body.airflow_run_id, f"{MODEL_NAME}/{body.model_version}")
    digests: Iterable[str | None] = (
        body.mlflow_run_id,
        body.run_commit,
        body.package,
        body.report,
        body.data_revision,
        body.code_commit,
        entry.digest(),
        promotion.digest() if promotion else None,
    )
    exact = {name for name in names if name == wanted}
    return exact | {name for name in digests if name and len(wanted) >= MIN_PREFIX and name.startswith(wanted)}


def _promoted_at(entries: list[Entry], entry: Entry) -> int:
    promotion = find_promotion(entries, entry.decision.run)
    return promotion.seq if promotion else 0
