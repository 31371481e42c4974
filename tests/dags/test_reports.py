"""Reports in Airflow: who sees which, asked of the real web application with real logins."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from airflow_runs import Runs

from cxr_ops import contract

pytestmark = pytest.mark.airflow

RUN_ID = "manual__2026-03-01T04:05:06+00:00"
RUN = contract.slug(RUN_ID)
CASES = [
    ("first", "missed_& bad"),
    *((name, "found") for name in ("first", "gone", "second", "third", "fourth", "fifth")),
]
ASKED = {
    "nobody": (None, f"/cxr/reports/{RUN}"),
    "nobody, all": (None, "/cxr/reports"),
    "nobody, full": (None, f"/cxr/full/{RUN}"),
    "nobody, run": (None, f"/cxr/runs/{RUN_ID}"),
    "forged": ("somebody", f"/cxr/reports/{RUN}"),
    "all": ("dr_ito", "/cxr/reports"),
    "report": ("dr_ito", f"/cxr/reports/{RUN}"),
    "tab": ("dr_ito", "/cxr/runs/manual__2026-03-01T04%3A05%3A06%2B00%3A00"),
    "full": ("dr_ito", f"/cxr/full/{RUN}"),
    "approver, all": ("dr_lee", "/cxr/reports"),
    "approver, full": ("dr_lee", f"/cxr/full/{RUN}"),
    "approver, open": ("dr_lee", "/cxr/full/open-1"),
    "elsewhere": ("dr_lee", "/cxr/reports/..%2Frestricted%2Fsecret"),
    "elsewhere, run": ("dr_lee", "/cxr/runs/..%2Frestricted%2Fsecret"),
    "no name": ("dr_lee", "/cxr/full/No_Name"),
    "none": ("dr_ito", "/cxr/runs/manual__of_another_day"),
    "pictures": ("dr_ito", f"/cxr/thumbnails/{RUN}"),
    "approver, pictures": ("dr_lee", f"/cxr/thumbnails/{RUN}"),
    "open, pictures": ("dr_ito", "/cxr/thumbnails/open-1"),
    "nobody, pictures": (None, "/cxr/thumbnails/open-1"),
    "docs": (None, "/cxr/docs"),
    "plugins": ("dr_lee", "/api/v2/plugins"),
}


@pytest.fixture(scope="module")
def answers(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict[str, str], str]]:
    """What each of `ASKED` is answered, of an installation with a withheld run and an open one."""
    home: Path = tmp_path_factory.mktemp("reports")
    for folder in ("reports", "restricted", f"runs/{RUN}", "runs/open-1"):
        (home / folder).mkdir(parents=True)
    (home / "reports" / f"{RUN}.html").write_text("<p>the summary</p>")
    (home / "reports" / "open-1.html").write_text("<p>all of an open run</p>")
    (home / "reports" / "index.html").write_text("<p>the page of all</p>")
    (home / "restricted" / f"{RUN}.html").write_text("<p>the test set</p>")
    (home / "restricted" / "No_Name.html").write_text("<p>a secret</p>")
    (home / "restricted" / "secret.html").write_text("<p>a secret</p>")
    told = {"verdict": "NOT <PROMOTED>", "airflow_run_id": RUN_ID}
    (home / "runs" / RUN / "result.json").write_text(json.dumps(told))
    explained = home / "runs" / RUN / "workspace" / "explain"
    explained.mkdir(parents=True)
    cases = [{"picture": f"{name}.png", "finding": "Mass", "kind": kind} for name, kind in CASES]
    (explained / "explain.json").write_text(json.dumps({"cases": cases}))
    for name in {name for name, _ in CASES} - {"gone"}:
        (explained / f"{name}.png").write_bytes(name.encode())
    environ = {"CXR_HOME": str(home), "CXR_APPROVERS": "dr_lee:Lee, dr_ruiz"}  # an id with a name, as for FAB
    return dict(zip(ASKED, runs.call("airflow_runs.visit", list(ASKED.values()), environ), strict=True))


def test_without_a_login_there_is_nothing(answers) -> None:
    """Every address answers a reader without login, or with a token of his own making, with no word of a report."""
    for name in ("nobody", "nobody, all", "nobody, full", "nobody, run", "forged", "docs"):
        status, _, text = answers[name]
        assert status in (401, 403, 404), name
        assert "summary" not in text
        assert RUN not in text


def test_a_run_has_its_report_as_a_tab(answers) -> None:
    """The tab finds the report by Airflow's id of the run, shows what was published, and says where there is none."""
    assert answers["tab"][0] == answers["report"][0] == 200
    assert answers["tab"][2] == answers["report"][2] == "<p>the summary</p>"
    assert answers["none"][0] == 404
    assert "This run has no report" in answers["none"][2]
    (plugin,) = [one for one in json.loads(answers["plugins"][2])["plugins"] if one["name"] == "cxr_reports"]
    views = {(view["destination"], view["href"]) for view in plugin["external_views"]}
    assert views == {("dag_run", "/cxr/runs/{RUN_ID}"), ("nav", "/cxr/reports")}


def test_what_a_plan_withholds_is_for_named_approvers(answers) -> None:
    """The full report of a withheld run is for those whom CXR_APPROVERS names; of an open run all see the same."""
    assert answers["full"][0] == 403
    assert "the test set" not in answers["full"][2].replace("withholds the test set", "")
    assert answers["approver, full"][2] == "<p>the test set</p>"
    assert answers["approver, open"][2] == "<p>all of an open run</p>"


def test_an_approvals_form_has_pictures(answers) -> None:
    """The first cases stand side by side, each picture once, for approvers; where there is none a sentence says so."""
    assert answers["pictures"][0] == 403
    status, headers, drawing = answers["approver, pictures"]
    assert (status, headers["content-type"]) == (200, "image/svg+xml")
    shown = re.findall(r'href="data:image/png;base64,([^"]+)"/><text[^>]*>([^<]+)<', drawing)
    assert [(base64.b64decode(data).decode(), label) for data, label in shown] == [
        ("first", "Mass, missed & bad".replace("&", "&amp;")),
        ("second", "Mass, found"),
        ("third", "Mass, found"),
        ("fourth", "Mass, found"),
    ]
    assert "There is no picture to show." in answers["open, pictures"][2]
    assert answers["nobody, pictures"][0] == 401


def test_the_page_of_all_tells_verdicts_as_they_are_told(answers) -> None:
    """It lists each published run once with a link, escaped; the full report is linked for approvers alone."""
    text = answers["all"][2]
    assert f'<a href="reports/{RUN}">{RUN}</a>' in text
    assert "NOT &lt;PROMOTED&gt;" in text
    assert "open-1" in text
    assert "index" not in text
    assert "full/" not in text
    assert f'<a href="full/{RUN}">' in answers["approver, all"][2]


def test_no_other_file_is_served(answers) -> None:
    """What is no run's name leads nowhere, whatever it holds."""
    for name in ("elsewhere", "elsewhere, run", "no name"):
        status, _, text = answers[name]
        assert status in (404, 200), name
        assert "a secret" not in text


def test_a_page_runs_apart_from_airflow(answers) -> None:
    """A report's script has no origin and loads nothing, and no copy of a page stays behind."""
    _, headers, _ = answers["report"]
    policy = headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("private, no-store", "nosniff")
