"""Links are given where a setting names a server, and hold no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_ops.edges import links
from cxr_ops.edges.home import Home
from cxr_ops.records.run import Identifiers

KNOWN = Identifiers(
    run="manual-1", airflow_run_id="manual__2026-03-01T04:05:06+00:00", mlflow_run_id="ab12", model_version="3",
    code_commit="c" * 40,
)  # fmt: skip


def home(tmp_path: Path, **settings: str) -> Home:
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path), **settings})


def test_links_are_of_servers_that_settings_name(tmp_path: Path) -> None:
    """Each part has its page there; characters of an id that mean something in an address are escaped."""
    found = links.of_run(
        home(
            tmp_path,
            CXR_AIRFLOW_URL="https://airflow.example.org/base/",
            MLFLOW_TRACKING_URI="https://me:secret@mlflow.example.org",
            CXR_CODE_SOURCE="https://git.example.org/group/cxr.git#main",
        ),
        KNOWN,
    )
    assert found == {
        "Airflow run": "https://airflow.example.org/base/dags/cxr_retrain/runs/manual__2026-03-01T04%3A05%3A06%2B00%3A00",
        "MLflow run": "https://mlflow.example.org/#/runs/ab12",
        "model version": "https://mlflow.example.org/#/models/cxr-densenet121/versions/3",
        "code": f"https://git.example.org/group/cxr/commit/{'c' * 40}",
    }


def test_without_a_server_there_is_no_link(tmp_path: Path) -> None:
    """An SQLite file, a repository in a folder or by SSH, and a snapshot that no server has are no pages."""
    assert links.of_run(home(tmp_path), KNOWN) == {}
    for source in ("/srv/cxr.git#main", "git@git.example.org:cxr.git#main", "ssh://git.example.org/cxr#main"):
        assert links.of_run(home(tmp_path, CXR_CODE_SOURCE=source), KNOWN) == {}
    source = "https://git.example.org/cxr#main"
    assert "code" in links.of_run(home(tmp_path), KNOWN, code_source=source)
    assert "code" not in links.of_run(home(tmp_path), KNOWN, code_source=source, dirty=True)


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "https://", "https://x.org/\"onclick='a", "//x.org", "https://x.org:a", "", None]
)
def test_what_is_no_page_is_no_link(address: str | None) -> None:
    """Nothing but http and https with a host is clicked, and nothing that could leave its attribute."""
    assert links.web(address) is None
