"""MLflow's aliases `champion`, `reference` and `challenger`, which follow the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cxr_ops.audit.state import last_decision, last_promotion, reference_after
from cxr_ops.contract import CHAMPION, MODEL_NAME, REFERENCE
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow.client import connected, has_store
from cxr_ops.edges.mlflow.versions import find_version, lost, refuse_unknown_promotions

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER: Final = "challenger"


def reconcile(home: Home) -> bool:
    """Make the aliases follow the ledger: `champion` and `reference` its promotions, `challenger` its last decision.

    Returns:
        Whether the alias `champion` or `reference` had to be repaired.

    Raises:
        StorageError: the version that the ledger names is gone, the registry knows of a promotion that the ledger does
            not, or MLflow does not answer.
    """
    refuse_unknown_promotions(home)
    entries = open_ledger(home).entries()
    promotion, decision, reference = last_promotion(entries), last_decision(entries), reference_after(entries)
    if promotion is None and not has_store(home):
        return False
    with connected(home) as client:
        there = current(client)
        if decision is not None and there.get(CHALLENGER) != decision.decision.model_version:
            client.set_registered_model_alias(MODEL_NAME, CHALLENGER, decision.decision.model_version)
        if promotion is None or reference is None:
            unfounded = [alias for alias in (CHAMPION, REFERENCE) if alias in there]
            for alias in unfounded:
                client.delete_registered_model_alias(MODEL_NAME, alias)
            return bool(unfounded)
        crowned = promotion.promotion.model_version
        version = find_version(client, crowned)
        if version is None:
            raise lost(home, crowned, "is the champion, and is not in the registry")
        if find_version(client, reference.version) is None:
            raise lost(home, reference.version, "is the reference, and is not in the registry")
        repaired = bool(version.tags.get("cxr.promotion") != promotion.digest())
        if repaired:
            client.set_model_version_tag(MODEL_NAME, crowned, "cxr.promotion", promotion.digest())
        for name, wanted in ((CHAMPION, crowned), (REFERENCE, reference.version)):
            if there.get(name) != wanted:
                client.set_registered_model_alias(MODEL_NAME, name, wanted)
                repaired = True
        return repaired


def current(client: MlflowClient) -> dict[str, str]:
    """The aliases of the model as they are: alias -> version."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(version) for alias, version in client.get_registered_model(MODEL_NAME).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
