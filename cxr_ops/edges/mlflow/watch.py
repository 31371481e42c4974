"""Finds what in the registry is not as the ledger says, repairs what follows from the ledger, and records it there.

Whoever may write MLflow can move an alias, delete a version, or change files. Aliases and tags follow from the ledger
and are set again. A lost or altered model is not made again here: it is named, with what to do. What was found goes on
the ledger once, so that an auditor sees it later; the same finding at the next look is not written twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cxr_ops.audit.entries import Entry, Incident
from cxr_ops.audit.state import last_decision, last_promotion, reference_after
from cxr_ops.contract import CHAMPION, MODEL_NAME, PACKAGE, REFERENCE
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import aliases, versions
from cxr_ops.edges.mlflow.client import connected, has_store
from cxr_ops.errors import CxrError, DataError, RefusedError, StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A version is registered a moment before it is decided on.
_SETTLED: Final = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a look at the registry found.

    Attributes:
        found: what was not as the ledger says, a clause each.
        repaired: what of it was set right; the rest needs a person.
        entry: digest of the ledger's entry about it; None where nothing new was found.
    """

    found: tuple[str, ...]
    repaired: tuple[str, ...]
    entry: str | None

    @property
    def left(self) -> tuple[str, ...]:
        """What is still wrong."""
        return tuple(one for one in self.found if one not in self.repaired)


def watch(home: Home) -> Watched:
    """Compare the registry with the ledger, repair aliases and tags, and record what was found.

    Raises:
        StorageError: the ledger or MLflow cannot be read.
    """
    ledger = open_ledger(home)
    entries = ledger.entries()
    if not has_store(home) and last_promotion(entries) is None:
        return Watched(found=(), repaired=(), entry=None)
    with connected(home) as client:
        moved = list(_moved(client, entries))
        lost = [*_lost(home, entries), *_strange(client, entries)]
    repaired: list[str] = []
    if moved:
        try:
            aliases.reconcile(home)
            repaired = moved
        except StorageError as error:  # a version that an alias must point to is gone
            lost = [*dict.fromkeys([*lost, error.what])]
    found = [*moved, *lost]
    entry = _record(home, Incident(found=found, repaired=repaired)) if found else None
    return Watched(found=tuple(found), repaired=tuple(repaired), entry=entry)


def _record(home: Home, incident: Incident) -> str | None:
    """Put an incident on the ledger, unless the last one says the same and nothing was repaired since."""

    def decide(entries: list[Entry]) -> Incident | Entry:
        last = next((entry for entry in reversed(entries) if entry.kind == "incident"), None)
        return last if last is not None and last.incident == incident and not incident.repaired else incident

    return open_ledger(home).append_if("incident", decide).digest()


def _moved(client: MlflowClient, entries: list[Entry]) -> Iterator[str]:
    """Aliases, and the tag that says by which entry the champion was promoted, where they are not the ledger's."""
    promotion, decision, reference = last_promotion(entries), last_decision(entries), reference_after(entries)
    wanted = {
        CHAMPION: promotion.promotion.model_version if promotion else None,
        REFERENCE: reference.version if reference else None,
        aliases.CHALLENGER: decision.decision.model_version if decision else None,
    }
    there = aliases.current(client)
    for alias, version in wanted.items():
        if there.get(alias) != version:
            yield f"the alias {alias} was on {_named(there.get(alias))}, and the ledger says {_named(version)}"
    if promotion is not None:
        version = versions.find_version(client, promotion.promotion.model_version)
        tag = version.tags.get("cxr.promotion") if version else None
        if version is not None and tag != promotion.digest():
            yield f"the tag cxr.promotion of {_named(version.version)} was not the ledger's promotion"


def _lost(home: Home, entries: list[Entry]) -> Iterator[str]:
    """Champion and reference whose version or files are gone, or are not what was decided on."""
    promotion, reference = last_promotion(entries), reference_after(entries)
    wanted: dict[str, str] = {}
    if promotion is not None:
        wanted[promotion.promotion.model_version] = promotion.promotion.package
    if reference is not None:
        wanted[reference.version] = reference.package
    for version, package in wanted.items():
        with tempfile.TemporaryDirectory() as aside:
            try:
                versions.fetch_package(home, version, package, Path(aside) / PACKAGE)
            except (DataError, RefusedError, StorageError) as error:
                yield _told(version, error)


def _told(version: str, error: CxrError) -> str:
    named = _named(version)
    return error.what if error.what.startswith(named) else f"{named}: {error.what}"


def _strange(client: MlflowClient, entries: list[Entry]) -> Iterator[str]:
    """Versions of the registry that no decision on the ledger is about."""
    known = {entry.decision.model_version for entry in entries if entry.kind == "decision"}
    for version in versions.all_versions(client):
        made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        if str(version.version) not in known and datetime.now(UTC) - made > _SETTLED:
            yield f"{_named(version.version)} is in the registry, and no decision on the ledger is about it"


def _named(version: str | int | None) -> str:
    return f"{MODEL_NAME}/{version}" if version is not None else "no version"
