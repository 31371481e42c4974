"""Bring an earlier champion back: a promotion of what was promoted before, with a person's reason.

It asks for no evidence and no approval, because the model had both; it does ask that the model still is what it was:
the registry must hand out the bytes that the ledger names, and the store the run commit. The reference stays where it
is: a way back lowers nothing that challengers are held against. As with every promotion, the ledger's entry is the
rollback, and names the champion that it replaces; the aliases in MLflow follow.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cxr_ops.audit import rules
from cxr_ops.audit.entries import Entry, Promotion, Rollback
from cxr_ops.audit.state import last_promotion, reference_after
from cxr_ops.contract import MODEL_NAME, PACKAGE
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.lineage import plain_identifier
from cxr_ops.edges.mlflow import aliases, versions
from cxr_ops.edges.store.repository import resolve_ref
from cxr_ops.errors import ConflictError, RefusedError, SettingsError
from cxr_ops.stages.publish import finish


def run(home: Home, target: str, *, by: str, reason: str) -> dict[str, Any]:
    """Make an earlier champion the champion again.

    Args:
        home: the installation.
        target: its model version (`3`, `cxr-densenet121/3`), or its run, or Airflow's id of that.
        by: who decided it.
        reason: why, for those who read the ledger later.

    Returns:
        `model_version`, `promotion` (the ledger's entry), `replaced` (the version that was in use before, None where
        none was taken out of use) and `already` (whether the model was in use before this).

    Raises:
        SettingsError: `by` or `reason` is blank.
        RefusedError: the model was never champion, or its run commit is lost.
        ConflictError: another model has become champion meanwhile.
        StorageError: ledger or registry cannot be read, or the registry has lost or altered the package.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError("a rollback is somebody's and has a reason", fix="--by NAME --reason TEXT")
    ledger = open_ledger(home)
    entries = ledger.entries()
    to = rules.promotion_to_return_to(entries, plain_identifier(target))
    current = last_promotion(entries)
    assert current is not None, "what one goes back to is on the ledger"  # noqa: S101 - our own invariant
    already = current.promotion.package == to.promotion.package
    entry = current
    if not already:
        versions.refuse_unknown_promotions(home)
        _check_kept(home, to)
        rollback = Rollback(to=to.digest(), by=by.strip(), reason=reason.strip())

        def decide(now: list[Entry]) -> Promotion:
            if last_promotion(now) != current:
                raise ConflictError(
                    "another model has become the champion meanwhile, and nothing was rolled back",
                    where=home.ledger_address,
                    fix="look at what is in use now: cxr-ops history",
                )
            return _promotion(now, to, current, rollback)

        entry = ledger.append_if("promotion", decide)
    aliases.reconcile(home)
    if home.workspace(entry.promotion.run).is_dir():  # a run's folder may be gone; its page is then as it was
        finish(home, entry.promotion.run)
    return {
        "model_version": entry.promotion.model_version,
        "promotion": entry.digest(),
        "replaced": None if already else current.promotion.model_version,
        "already": already,
    }


def _promotion(now: list[Entry], to: Entry, current: Entry, rollback: Rollback) -> Promotion:
    reference = reference_after(now)
    return to.promotion.model_copy(
        update={
            "replaces": current.digest(),
            "reference": reference.package if reference else None,
            "raises": False,
            "rollback": rollback,
        }
    )


def _check_kept(home: Home, to: Entry) -> None:
    """The model must still be what was promoted: its package in the registry, its run commit in the store."""
    promotion = to.promotion
    if resolve_ref(home, f"refs/cxr/runs/{promotion.run_commit}") != promotion.run_commit:
        raise RefusedError(
            f"the run commit {promotion.run_commit[:12]} of {MODEL_NAME}/{promotion.model_version} is not in the store",
            where=home.store,
            fix="restore the store from a backup, or go back to another champion: cxr-ops history",
        )
    with tempfile.TemporaryDirectory() as aside:
        versions.fetch_package(home, promotion.model_version, promotion.package, Path(aside) / PACKAGE)
