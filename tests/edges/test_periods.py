"""Tests of cxr_ops.edges.periods."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from cxr_ops.audit.entries import Look
from cxr_ops.edges import periods
from cxr_ops.edges import plans as in_force
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import DataError, RefusedError, SettingsError
from cxr_ops.records.data import DataRevision
from cxr_ops.records.inputs import Champion, Code, Inputs, Plan


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The data set as the store tells it; to make a real one takes DVC some seconds for each batch."""
    batches = {"one": "1", "two": "2"}
    monkeypatch.setattr(periods, "data_revision", lambda _: DataRevision(revision="d" * 40, batches=batches))
    return batches


@pytest.fixture
def home(tmp_path: Path, project: Path, batches: dict[str, str]) -> Home:
    """An installation with the batches `one` and `two`."""
    for name in ("params.yaml", "pccp.demo.yaml"):
        shutil.copy(project / name, tmp_path / name)
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path)})


def look(home: Home, model: str, *batches: str, period: int = 1, role: str = "challenger") -> None:
    open_ledger(home).record_look(
        Look(model=model, test_digest="t", run="r", role=role, period=period, batches=batches)
    )


def test_new_period_closes_what_was_scored(home: Home, batches: dict[str, str]) -> None:
    """Batches of all looks, and those closed before, are closed; looks begin at none, and who and why is on record."""
    look(home, "a", "one")
    opened = periods.begin(home, by=" dr_lee ", reason="budget spent")
    assert (opened.number, opened.closed_batches, opened.by, opened.reason) == (2, ["one"], "dr_lee", "budget spent")
    assert open_ledger(home).entries()[-1].period == opened
    assert open_ledger(home).state().looks == 0

    look(home, "b", "two", period=2)
    batches["three"] = "3"
    assert periods.begin(home, by="dr_lee", reason="again").closed_batches == ["one", "two"]
    assert open_ledger(home).period().number == 3


def test_batches_of_champions_are_closed_too(home: Home) -> None:
    """Whoever was scored on a batch, its patients have been scored."""
    look(home, "a", "one")
    look(home, "c", "two", role="champion")
    with pytest.raises(RefusedError, match="every batch of the data set has been scored"):
        periods.begin(home, by="dr_lee", reason="budget spent")


def test_growth_of_the_data_set_restores_no_look(home: Home, batches: dict[str, str]) -> None:
    """A batch that arrives leaves the period, and the looks spent in it, as they are."""
    look(home, "a", "one", "two")
    batches["three"] = "3"
    assert (open_ledger(home).period().number, open_ledger(home).state().looks) == (1, 1)


def test_period_without_patients_is_refused(home: Home) -> None:
    """Without a batch that nobody was scored on there is no new period, and the way to one is told."""
    look(home, "a", "one", "two")
    with pytest.raises(RefusedError, match="every batch of the data set has been scored") as caught:
        periods.begin(home, by="dr_lee", reason="budget spent")
    assert "cxr-ops ingest" in str(caught.value)
    assert open_ledger(home).period().number == 1


def test_period_with_all_its_looks_is_not_closed(home: Home) -> None:
    """An open period without a spent look is as good as a new one."""
    look(home, "c", "one", role="champion")
    with pytest.raises(RefusedError, match="no look of test period 1 is spent"):
        periods.begin(home, by="dr_lee", reason="to be sure")


def test_somebody_opens_it_for_a_reason(home: Home) -> None:
    """A blank name or reason is refused before anything is written."""
    look(home, "a", "one")
    for by, reason in ((" ", "spent"), ("dr_lee", "")):
        with pytest.raises(SettingsError, match="by somebody and for a reason"):
            periods.begin(home, by=by, reason=reason)
    assert len(open_ledger(home).entries()) == 1


def test_old_look_closes_the_batches_of_its_run(home: Home) -> None:
    """A look that does not name its batches closes those of its run's inputs; without these nothing is opened."""
    look(home, "a")
    with pytest.raises(DataError, match=r"inputs\.json is missing"):
        periods.begin(home, by="dr_lee", reason="spent")
    Inputs(
        code=Code(commit="e" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={"one": "1"}),
        champion=Champion(),
        ledger=None,
        plan=Plan(name="p", path="pccp.demo.yaml", sha256="a" * 64),
    ).write(home.workspace("r") / "inputs.json")
    assert periods.begin(home, by="dr_lee", reason="spent").closed_batches == ["one"]


def test_two_who_open_at_once_open_one(home: Home) -> None:
    """Of several who open a period at the same time one does; the others find that no look of it is spent."""
    look(home, "a", "one")

    def attempt(number: int) -> str:
        try:
            return str(periods.begin(home, by=f"person {number}", reason="spent").number)
        except RefusedError as error:
            return error.what.partition(",")[0]

    with ThreadPoolExecutor(4) as pool:
        said = sorted(pool.map(attempt, range(4)))
    assert said == ["2", *["no look of test period 2 is spent"] * 3]
    assert [entry.kind for entry in open_ledger(home).entries()] == ["look", "period"]


def test_period_is_shown(home: Home, project: Path) -> None:
    """`show` gives the number, the looks spent of the plan's, and the closed batches."""
    plan = yaml.safe_load((home.project / "pccp.demo.yaml").read_text())
    allowed = plan["modification_protocol"]["performance_evaluation"]["max_looks"]
    assert str(periods.describe(home)).splitlines() == [
        "test period     1",
        f"looks           0 of {allowed} spent, under the plan {plan['name']}",
        "next look       2.5 %",
        "  why           Each look of the period may spend 2.5 %.",
        "plan in force   none yet: the first look puts its own there",
        "closed batches  none",
    ]
    look(home, "a", "one")
    periods.begin(home, by="dr_lee", reason="spent")
    look(home, "b", "two", period=2)
    shown = str(periods.describe(home))
    assert "test period     2" in shown
    assert f"looks           1 of {allowed} spent" in shown
    assert "closed batches  one" in shown
    in_force.adopt(home, project / "pccp.yaml", by="dr_lee", reason="reviewed")
    shown = str(periods.describe(home))
    assert "looks           1 of 10 spent" in shown  # the strictest of the period holds
    assert "plan in force   nih-production" in shown
