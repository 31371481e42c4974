"""From any one identifier of a run to all the others, read from the ledger.

A run that ended NO_CHANGE or was not published has no decision there; what its folder says of it is used.
"""

from __future__ import annotations

from typing import Final

from cxr_ops.audit import public
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import find_decision, find_promotion, last_decision, last_promotion, reference_after
from cxr_ops.contract import CHAMPION, MODEL_NAME, REFERENCE
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow.aliases import CHALLENGER
from cxr_ops.edges.run_names import known_runs
from cxr_ops.errors import DataError
from cxr_ops.records.run import Identifiers, Result

# Shorter beginnings of a digest are too likely to be meant for something else.
MIN_PREFIX: Final = 7


class Lineage(Identifiers):
    """All that belongs to one run.

    `run_commit` is the DVC revision of the run: `dvc get` and `dvc repro` work there. `decision` and `promotion` are
    digests of the ledger's entries. `also` names other runs to which the identifier belongs as well: a version that was
    judged twice, a data revision that many runs used.

    A run that ended NO_CHANGE has made nothing: version and package are the champion's, `made_by` is the run that made
    it, and what comes with a decision is None.
    """

    made_by: str | None = None
    report: str | None
    report_page: str | None
    verdict: str
    decision: str | None
    promotion: str | None
    champion: bool
    also: list[str]

    def __str__(self) -> str:
        """A line for each identifier, for people."""
        names = {name: value or "none" for name, value in self.named().items()} | {
            "report": self.report_page or ("not on this machine" if self.report else "none"),
            "report sha256": self.report or "none",
            "verdict": self.verdict,
            "decision": self.decision or "none",
            "promotion": self.promotion or "none",
        }
        if self.champion:
            names["model version"] += ", the champion"
        if self.made_by:
            names["made by"] = f"{self.made_by}; next: cxr-ops lineage {self.made_by}"
        if self.also:
            names["also in"] = ", ".join(self.also)
        return "\n".join(f"{name:<14} {value}" for name, value in names.items())


def trace(home: Home, identifier: str) -> Lineage:
    """Find the run to which an identifier belongs.

    Args:
        home: the installation.
        identifier: the name of a run, an Airflow run id, a model version (`3`, `cxr-densenet121/3`, or MLflow's
            `models:/cxr-densenet121/3`), an alias (`champion`, `reference`, `challenger`, also as
            `cxr-densenet121@champion`), or at least the first 7 characters of an MLflow run id, a commit (of the run,
            the data or the code) or a digest (of the package, the report or a ledger entry).

    Returns:
        The run; where several have the identifier, the one that was promoted last, or else decided on last.

    Raises:
        DataError: no run has the identifier, the run that has it is not published, or a beginning fits several
            different digests.
        StorageError: the ledger is damaged.
    """
    entries = open_ledger(home).entries()
    wanted = plain_identifier(identifier)
    if (alias := _alias(entries, wanted)) is not None:
        return _lineage(home, entries, alias, [])
    decisions = [entry for entry in entries if entry.kind == "decision"]
    hits = {entry.seq: _matches(entry, find_promotion(entries, entry.decision.run), wanted) for entry in decisions}
    values = {value for found in hits.values() for value in found}
    if not values:
        return _undecided(home, entries, wanted)
    if len(values) > 1:
        raise DataError(
            f"{wanted!r} is the beginning of several: {', '.join(sorted(values))}", fix="give more characters"
        )
    found = [entry for entry in decisions if hits[entry.seq]]
    chosen = max(found, key=lambda entry: (_promoted_at(entries, entry), entry.seq))
    return _lineage(home, entries, chosen, [entry.decision.run for entry in found if entry is not chosen])


def plain_identifier(identifier: str) -> str:
    """What stays of an identifier without the names that MLflow puts before a version or an alias."""
    plain = identifier.strip().removeprefix("models:/")
    for mark in "/@":
        plain = plain.removeprefix(f"{MODEL_NAME}{mark}")
    return plain


def _alias(entries: list[Entry], wanted: str) -> Entry | None:
    """The decision on the model that has an alias; None where the word is none, or no model has it.

    MLflow's aliases follow the ledger, so the ledger is asked.
    """
    if wanted == CHALLENGER:
        return last_decision(entries)
    if wanted == CHAMPION:
        promotion = last_promotion(entries)
        return promotion and find_decision(entries, promotion.promotion.run)
    if wanted == REFERENCE and (reference := reference_after(entries)) is not None:
        promotions = [entry.promotion for entry in entries if entry.kind == "promotion"]
        run = next(one.run for one in reversed(promotions) if one.package == reference.package)
        return find_decision(entries, run)
    return None


def _undecided(home: Home, entries: list[Entry], wanted: str) -> Lineage:
    """The lineage of a run without a decision."""
    names = [name for name, airflow_run_id in known_runs(home).items() if wanted in (name, airflow_run_id)]
    if not names and wanted in (CHAMPION, REFERENCE, CHALLENGER):
        raise DataError(
            f"there is no {wanted} yet: "
            + ("no run was decided on" if wanted == CHALLENGER else "no model was promoted"),
            where=home.ledger_address,
            fix="train one: cxr-ops retrain; see what there is: cxr-ops ledger show",
        )
    if not names:
        raise DataError(
            f"no run has the identifier {wanted!r}",
            where=home.ledger_address,
            fix="see what there is: cxr-ops ledger show; of the model in use: cxr-ops lineage champion",
        )
    run, *also = names
    path = home.run(run) / "result.json"
    if not path.is_file():
        raise DataError(
            f"the run {run} has not ended, or failed: nothing of it is on record",
            where=home.run(run),
            fix=f"when its stages have ended: cxr-ops publish --run {run}",
        )
    result = Result.read(path)
    made = next((entry for entry in entries if entry.digest() == result.champion.entry), None)
    current = last_promotion(entries)
    return Lineage(
        **result.identifiers.model_dump(),
        made_by=made.promotion.run if made else None,
        report=None,
        report_page=None,
        verdict=result.verdict,
        decision=result.decision,
        promotion=result.promotion,
        champion=made is not None and made == current,
        also=also,
    )


def _lineage(home: Home, entries: list[Entry], entry: Entry, also: list[str]) -> Lineage:
    decision, promotion, current = entry.decision, find_promotion(entries, entry.decision.run), last_promotion(entries)
    page = home.reports / f"{decision.run}.html"
    return Lineage(
        **decision.identifiers.model_dump(),
        report=decision.report,
        report_page=str(page) if page.is_file() else None,
        verdict=public.verdict(entries, entry),
        decision=entry.digest(),
        promotion=promotion.digest() if promotion else None,
        champion=promotion is not None and promotion == current,
        also=also,
    )


def _matches(entry: Entry, promotion: Entry | None, wanted: str) -> set[str]:
    """The identifiers of a decision's run that are what is wanted, or begin with it."""
    body = entry.decision
    names = (body.run, body.airflow_run_id, body.model_version)
    # A digest, and no other identifier, may be given by its beginning.
    long = set(body.identifiers.model_dump().values()) - {*names, body.image}
    digests = {*long, body.report, entry.digest(), promotion.digest() if promotion else None}
    exact = {name for name in names if name == wanted}
    return exact | {name for name in digests if name and len(wanted) >= MIN_PREFIX and name.startswith(wanted)}


def _promoted_at(entries: list[Entry], entry: Entry) -> int:
    promotion = find_promotion(entries, entry.decision.run)
    return promotion.seq if promotion else 0
