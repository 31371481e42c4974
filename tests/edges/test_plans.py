"""Tests of cxr_ops.edges.plans: the plan in force."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Decision, Look, PeriodOpened
from cxr_ops.audit.state import plan_in_force
from cxr_ops.edges import plans as in_force
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import RefusedError, SettingsError
from cxr_ops.records.base import sha256_file


@pytest.fixture
def home(project: Path, tmp_path: Path) -> Home:
    """An installation whose project holds the demonstration's plan, and a stricter one."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml", "pccp.demo.yaml", "pccp.yaml"):
        shutil.copy(project / name, folder / name)
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(folder)})


def own(home: Home, name: str) -> tuple[plans.ChangePlan, str]:
    return plans.load(home.project / name), sha256_file(home.project / name)


def decided(home: Home, plan: str, sha256: str) -> None:
    """A decision, as the ledger of an earlier version holds one."""
    facts = dict.fromkeys(Decision.model_fields, "f" * 64) | {"approvals": 1, "code_dirty": False, "period": 1}
    facts |= {"run": "run-1", "verdict": "REJECT", "plan": plan, "plan_sha256": sha256}
    open_ledger(home).append("decision", Decision.model_validate(facts | {"limited_findings": (), "holds": ()}))


def test_somebody_puts_a_plan_in_force_for_a_reason(home: Home) -> None:
    """The entry holds who, why, the limits and the whole plan; the same plan again adds nothing; blanks are refused."""
    path = home.project / "pccp.yaml"
    for by, reason in ((" ", "reviewed"), ("dr_lee", "")):
        with pytest.raises(SettingsError, match="by somebody and for a reason"):
            in_force.adopt(home, path, by=by, reason=reason)
    adopted, before = in_force.adopt(home, path, by="dr_lee", reason="reviewed")
    plan = plans.load(path)
    assert (adopted.by, adopted.reason, adopted.sha256, before) == ("dr_lee", "reviewed", sha256_file(path), False)
    assert adopted.limits == plan.limits
    assert plans.ChangePlan.model_validate(open_ledger(home).entries()[0].plan.document) == plan
    assert in_force.adopt(home, path, by="dr_ito", reason="again") == (adopted, True)
    assert len(open_ledger(home).entries()) == 1


def test_first_look_puts_the_runs_plan_in_force_and_says_so(home: Home, capsys: pytest.CaptureFixture) -> None:
    """An installation goes on unattended: the first look adopts its plan, by nobody; later ones change nothing."""
    demo = own(home, "pccp.demo.yaml")
    assert in_force.limits_now(home, [], *demo) == demo[0].limits
    in_force.adopt_first(home, *demo)
    assert "the plan demonstration is in force from now on" in capsys.readouterr().err
    in_force.adopt_first(home, *own(home, "pccp.yaml"))
    (entry,) = open_ledger(home).entries()
    assert (entry.plan.name, entry.plan.by, entry.plan.sha256) == ("demonstration", None, demo[1])
    assert capsys.readouterr().err == ""


def test_looser_plan_of_a_run_gains_nothing(home: Home) -> None:
    """A run under a plan with 1,000 looks and no approval is bound by the ten looks and the approval in force."""
    in_force.adopt(home, home.project / "pccp.yaml", by="dr_lee", reason="reviewed")
    entries = open_ledger(home).entries()
    demo, strict = own(home, "pccp.demo.yaml"), own(home, "pccp.yaml")[0].limits
    assert demo[0].limits.max_looks == 1000
    both = strict.model_copy(update={"spending": (*demo[0].limits.spending, *strict.spending)})
    assert in_force.limits_now(home, entries, *demo) == both
    other, text = in_force.expected(home, entries, demo[1])
    assert (other.than, other.name, text.limits) == ("the plan in force", "nih-production", strict)
    assert in_force.expected(home, entries, other.sha256) is None


def test_recycled_looks_have_nothing_after_one_of_which_all_was_told(home: Home) -> None:
    """A plan that recycles is adopted in vain in the middle of a period whose looks disclosed everything."""
    in_force.adopt(home, home.project / "pccp.yaml", by="dr_lee", reason="reviewed")
    assert not in_force.spent_up(home)
    shutil.rmtree(home.ledger)
    demo, sha256 = own(home, "pccp.demo.yaml")
    in_force.adopt_first(home, demo, sha256)
    assert not in_force.spent_up(home)
    open_ledger(home).record_look(
        Look(model="m", test_digest="t", run="r", plan=sha256, limits=demo.limits, claim="c" * 64)
    )
    assert not in_force.spent_up(home)  # the demonstration has equal looks
    in_force.adopt(home, home.project / "pccp.yaml", by="dr_lee", reason="reviewed")
    assert in_force.spent_up(home)
    opened = PeriodOpened(number=2, closed_batches=["one"], by="dr_lee", reason="new patients")
    open_ledger(home).append("period", opened)
    assert not in_force.spent_up(home)


def test_old_ledger_goes_on_under_its_last_decisions_plan(home: Home) -> None:
    """Without plan entries the last decision's plan is in force, wherever its text still is."""
    sha256 = own(home, "pccp.yaml")[1]
    decided(home, "nih-production", sha256)
    demo = own(home, "pccp.demo.yaml")
    entries = open_ledger(home).entries()
    strict = plans.load(home.project / "pccp.yaml").limits
    both = strict.model_copy(update={"spending": (*demo[0].limits.spending, *strict.spending)})
    assert in_force.limits_now(home, entries, *demo) == both
    assert in_force.expected(home, entries, demo[1])[0].than == "the last decision's plan"
    in_force.adopt_first(home, *demo)
    assert plan_in_force(open_ledger(home).entries()).plan.sha256 == sha256


def test_adopting_a_looser_plan_does_not_free_an_old_ledger(home: Home) -> None:
    """The last decision's plan is entered first, so that its limits hold to the end of the test period."""
    decided(home, "nih-production", own(home, "pccp.yaml")[1])
    in_force.adopt(home, home.project / "pccp.demo.yaml", by="dr_lee", reason="more looks")
    names = [(entry.plan.name, entry.plan.by) for entry in open_ledger(home).entries() if entry.kind == "plan"]
    assert names == [("nih-production", None), ("demonstration", "dr_lee")]
    strict, demo = (plans.load(home.project / name).limits for name in ("pccp.yaml", "pccp.demo.yaml"))
    assert in_force.held(home) == strict.model_copy(update={"spending": (*strict.spending, *demo.spending)})


def test_old_ledger_whose_plan_is_lost_asks_for_one(home: Home) -> None:
    """A plan that cannot be read cannot be compared: another one is refused until somebody puts one in force."""
    decided(home, "lost", "9" * 64)
    demo = own(home, "pccp.demo.yaml")
    for attempt in (
        lambda: in_force.adopt_first(home, *demo),
        lambda: in_force.limits_now(home, open_ledger(home).entries(), *demo),
    ):
        with pytest.raises(
            RefusedError, match="made under the plan lost, of which this installation holds no text"
        ) as e:
            attempt()
        assert "cxr-ops plan adopt" in e.value.fix
    in_force.adopt(home, home.project / "pccp.demo.yaml", by="dr_lee", reason="the old one is lost")
    assert in_force.limits_now(home, open_ledger(home).entries(), *demo) == demo[0].limits
    other, text = in_force.expected(home, [*open_ledger(home).entries()][:1], demo[1])
    assert (other.looser, text) == (None, None)
