"""Where a person finds a run elsewhere, as addresses that can be clicked.

An address is given only where it is known and safe: a setting names it, it is `http://` or `https://`, and what it says
of a user or a password is left out, because pages travel. The embedded Airflow and MLflow's SQLite file have none: the
first has another port the next time, and the second no server.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from cxr_ops.contract import DAG_ID, MODEL_NAME
from cxr_ops.edges.home import Home
from cxr_ops.records.run import Identifiers

# A repository's page of a commit, as GitHub, GitLab, Gitea and Forgejo call it.
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def of_run(home: Home, known: Identifiers, *, code_source: str | None = None, dirty: bool = False) -> dict[str, str]:
    """The addresses of a run's parts.

    Args:
        home: the installation, whose settings name the servers.
        known: what the run is known by elsewhere.
        code_source: where reviewed code is, `REPOSITORY#BRANCH`, if the settings do not say it.
        dirty: whether the code is a snapshot of uncommitted changes, which no server has.

    Returns:
        Name, as in `Identifiers.named` -> address.
    """
    found: dict[str, str] = {}
    airflow, mlflow = web(home.settings.airflow_url), web(home.mlflow_uri)
    code = web((home.settings.code_source or code_source or "").partition("#")[0])
    if airflow and known.airflow_run_id:
        found["Airflow run"] = f"{airflow}/dags/{DAG_ID}/runs/{quote(known.airflow_run_id, safe='')}"
    if mlflow and known.mlflow_run_id:
        found["MLflow run"] = f"{mlflow}/#/runs/{quote(known.mlflow_run_id, safe='')}"
    if mlflow and known.model_version:
        found["model version"] = f"{mlflow}/#/models/{MODEL_NAME}/versions/{quote(known.model_version, safe='')}"
    if code and not dirty and known.code_commit and _COMMIT.fullmatch(known.code_commit):
        found["code"] = f"{code.removesuffix('.git')}/commit/{known.code_commit}"
    return found


def web(address: str | None) -> str | None:
    """An address as a person may click it: without user, password, query and fragment; None where it is none.

    >>> web("https://me:secret@mlflow.example.org/x/?token=1"), web("sqlite:////srv/mlflow.db")
    ('https://mlflow.example.org/x', None)
    """
    try:
        parts = urlsplit((address or "").strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\"'<>\\]", address or ""):
        return None
    name = f"[{host}]" if ":" in host else host
    return urlunsplit(
        (parts.scheme, f"{name}:{port}" if port else name, quote(parts.path.rstrip("/"), safe="/%"), "", "")
    )
