"""`cxr-ops history` and `cxr-ops rollback` on a real installation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from finished import RUN
from typer.testing import CliRunner

from cxr_ops.commands import app as command
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import CxrError, DataError, RefusedError
from cxr_ops.records.acceptance import Acceptance

FIRST = RUN["first"]


@pytest.fixture
def cxr(monkeypatch: pytest.MonkeyPatch):
    """Runs a command on an installation, and gives what it prints."""

    def run(home: Home, *arguments: str) -> str:
        monkeypatch.setenv("CXR_HOME", str(home.root))
        monkeypatch.setenv("CXR_PROJECT", str(home.project))
        done = CliRunner().invoke(command.app, list(arguments))
        if isinstance(done.exception, CxrError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_history_and_the_way_back(champion: Home, cxr, tmp_path: Path) -> None:
    """The table, JSON, picture and page tell the champion with the AUC of its evidence; going back to it says so."""
    entry = open_ledger(champion).champion()
    table = cxr(champion, "history")
    assert "cxr-densenet121/1" in table
    assert "0.900" in table  # what `finished` writes into the evidence
    said = json.loads(cxr(champion, "history", "--json"))
    assert [one["run"] for one in said["champions"]] == [FIRST]
    assert said["champions"][0]["promotion"] == entry.digest()
    assert [one["promoted"] for one in said["decisions"]] == [True, False]
    day = entry.at[:10]
    assert [one["run"] for one in json.loads(cxr(champion, "history", "--json", "--at", day))] == [FIRST]
    assert "no model was in use at 2020-01-01" in cxr(champion, "history", "--at", "2020-01-01")
    page, picture = tmp_path / "history.html", tmp_path / "history.svg"
    cxr(champion, "history", "--html", str(page), "--svg", str(picture))
    assert picture.read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert FIRST in page.read_text()
    assert "is the champion already" in cxr(champion, "rollback", "1", "--reason", "to see")
    with pytest.raises(RefusedError, match="was never the champion"):
        cxr(champion, "rollback", "2", "--reason", "to see")


def test_history_of_a_new_installation(tmp_path: Path, cxr) -> None:
    """Before the first promotion it says so, and draws nothing."""
    (tmp_path / "project").mkdir()
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path / "project")})
    assert "no model was promoted yet" in cxr(home, "history")
    assert json.loads(cxr(home, "history", "--json")) == {"champions": [], "decisions": [], "periods": []}
    with pytest.raises(DataError, match="nothing to draw"):
        cxr(home, "history", "--svg", str(tmp_path / "x.svg"))
    assert not (tmp_path / "x.svg").exists()


def test_status_runs_and_models(champion: Home, cxr, tmp_path: Path) -> None:
    """Status names the model in use and the last decisions; runs and models list theirs, as tables and as JSON."""
    said = cxr(champion, "status")
    assert "cxr-densenet121/1 since" in said
    assert f"{FIRST}: PROMOTE, champion" in said
    told = json.loads(cxr(champion, "status", "--json"))
    assert (told["champion"]["version"], told["running"], told["entries"]) == ("1", [], 5)
    assert "PROMOTE, overtaken by another champion" in cxr(champion, "runs")
    assert [one["state"] for one in json.loads(cxr(champion, "runs", "--json"))] == ["decided", "decided"]
    assert "champion, the reference" in cxr(champion, "models")
    assert [one["version"] for one in json.loads(cxr(champion, "models", "--json"))] == ["2", "1"]
    (tmp_path / "project").mkdir()
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path / "project")})
    assert "none: no model was promoted yet" in cxr(home, "status")
    assert "there is no run yet" in cxr(home, "runs")
    assert "no model was decided on yet" in cxr(home, "models")


def test_status_lists_what_did_not_enter_whole(tmp_path: Path, cxr) -> None:
    """Refused, partly taken and cut off deliveries stand in status with where to look, and none of the reasons."""
    (tmp_path / "project").mkdir()
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path / "project")})
    assert "not taken whole" not in cxr(home, "status")
    refused = home.quarantine / "march" / "refusal.txt"
    record = home.quarantine / "april" / "acceptance.json"
    problems, june = record.with_name("problems.csv"), home.root / "unfinished" / "june.json"
    for path in (refused, problems, june):
        path.parent.mkdir(parents=True)
        path.write_text("Patient 17 has no picture")
    settings = {"max_quarantined": 0.2, "drift_alpha": 0.01, "drift": "warning"}
    Acceptance.model_validate({"batch": "april", "outcome": "quarantine", **settings}).write(record)
    for day, path in enumerate((refused, record, june)):
        os.utime(path, (86400 * day, 86400 * day))
    said = cxr(home, "status")
    assert f"march: refused, 1970-01-01 00:00 UTC; see {refused}" in said
    assert f"april: entered in part, 1970-01-02 00:00 UTC; see {problems}" in said
    assert f"june: cut off, 1970-01-03 00:00 UTC; see {june}; type its ingestion again" in said
    assert said.index("june") < said.index("april") < said.index("march")
    assert "Patient 17" not in said
    told = json.loads(cxr(home, "status", "--json"))["deliveries"]
    assert [(one["batch"], one["state"]) for one in told] == [
        ("june", "cut off"),
        ("april", "entered in part"),
        ("march", "refused"),
    ]
