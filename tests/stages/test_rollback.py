"""rollback: an earlier champion comes back by an entry of its own, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from finished import RUN, judged_against_now
from mlflow import MlflowClient

from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import aliases
from cxr_ops.errors import ConflictError, RefusedError, SettingsError, StorageError
from cxr_ops.records.run import Result
from cxr_ops.stages import promote, rollback

FIRST = RUN["first"]
WHY = {"by": "dr_ito", "reason": "wrong laterality"}


def alias(home: Home, name: str = "champion") -> str | None:
    found = MlflowClient(home.mlflow_uri, home.mlflow_uri).get_registered_model(MODEL_NAME).aliases
    return str(found[name]) if name in found else None


def test_earlier_champion_comes_back(replaced: Home) -> None:
    """Ledger, alias and result name the earlier champion again, and the entry says who went back and why."""
    before = open_ledger(replaced).champion()
    answer = rollback.run(replaced, f"{MODEL_NAME}/1", **WHY)
    entry = open_ledger(replaced).champion()
    assert answer == {"model_version": "1", "promotion": entry.digest(), "replaced": "2", "already": False}
    promotion = entry.promotion
    assert (promotion.model_version, promotion.run, promotion.replaces) == ("1", FIRST, before.digest())
    assert (promotion.rollback.by, promotion.rollback.reason) == ("dr_ito", "wrong laterality")
    assert promotion.reference == before.promotion.reference
    assert (alias(replaced), alias(replaced, "reference")) == ("1", "1")
    assert Result.read(replaced.run(FIRST) / "result.json").promotion == entry.digest()
    assert entry.digest() in (replaced.reports / f"{FIRST}.html").read_text()


def test_rollback_that_was_cut_off_before_the_alias_is_mended(replaced: Home, monkeypatch) -> None:
    """Killed between ledger and alias, the same command finds the model in use and moves the alias."""
    with monkeypatch.context() as patch:
        patch.setattr(aliases, "reconcile", lambda home: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rollback.run(replaced, "1", **WHY)
    assert alias(replaced) == "2"
    count = len(open_ledger(replaced).entries())
    answer = rollback.run(replaced, "1", **WHY)
    assert (answer["already"], answer["replaced"], alias(replaced)) == (True, None, "1")
    assert len(open_ledger(replaced).entries()) == count


def test_withdrawn_model_is_not_promoted_again(replaced: Home, packages: dict[str, Path]) -> None:
    """The same bytes, trained and judged once more after the rollback, are refused with who withdrew them and why."""
    rollback.run(replaced, "1", **WHY)
    now = open_ledger(replaced).champion()
    run = judged_against_now(replaced, packages, "fourth", "b")
    with pytest.raises(RefusedError, match="taken out of use by dr_ito: wrong laterality"):
        promote.run(replaced, run)
    assert open_ledger(replaced).champion() == now
    assert rollback.run(replaced, "2", by="dr_ito", reason="it was the viewer")["replaced"] == "1"
    assert alias(replaced) == "2"


def test_challenger_judged_before_the_rollback_loses(replaced: Home, packages: dict[str, Path]) -> None:
    """What was judged against the model that went out of use must be judged again."""
    run = judged_against_now(replaced, packages, "fourth", "c")
    rollback.run(replaced, "1", **WHY)
    with pytest.raises(ConflictError, match=f"{MODEL_NAME}/1 is the champion"):
        promote.run(replaced, run)


def test_promotion_that_slips_in_wins(replaced: Home, monkeypatch) -> None:
    """The champion that a rollback replaces is compared at the moment of the entry, and nothing is changed."""
    real = rollback._check_kept

    def slip_in(home: Home, to) -> None:
        real(home, to)
        monkeypatch.setattr(rollback, "_check_kept", real)
        rollback.run(home, "1", by="dr_lee", reason="faster")

    monkeypatch.setattr(rollback, "_check_kept", slip_in)
    with pytest.raises(ConflictError, match="meanwhile"):
        rollback.run(replaced, "1", **WHY)
    assert open_ledger(replaced).champion().promotion.rollback.by == "dr_lee"


@pytest.mark.parametrize("damage", ["registry", "store"])
def test_model_that_is_no_longer_what_it_was_does_not_come_back(replaced: Home, damage: str) -> None:
    """Altered bytes in the registry, or a lost run commit, stop a rollback before anything is written."""
    before = open_ledger(replaced).state()
    if damage == "registry":
        [weights] = [path for path in (replaced.root / "mlflow").rglob("network.py") if "package" in path.parts][:1]
        for path in (replaced.root / "mlflow").rglob("network.py"):
            text = path.read_text()
            path.unlink()
            path.write_text(text + "# altered\n")
        assert weights.read_text().endswith("# altered\n")
    else:
        commit = open_ledger(replaced).decision(FIRST).decision.run_commit
        git(replaced, replaced.store, "update-ref", "-d", f"refs/cxr/runs/{commit}")
    with pytest.raises((StorageError, RefusedError)):
        rollback.run(replaced, "1", **WHY)
    assert open_ledger(replaced).state() == before
    assert alias(replaced) == "2"


def test_rollback_works_where_the_runs_folder_is_gone(replaced: Home) -> None:
    """A run's folder may have been removed: ledger, registry and store are enough to go back."""
    shutil.rmtree(replaced.run(FIRST))
    assert rollback.run(replaced, "1", **WHY)["replaced"] == "2"
    assert alias(replaced) == "1"


@pytest.mark.parametrize("blank", [{"by": " ", "reason": "x"}, {"by": "dr_ito", "reason": " "}])
def test_rollback_is_somebodys_and_has_a_reason(replaced: Home, blank: dict[str, str]) -> None:
    """Without a name or a reason nothing is done."""
    before = open_ledger(replaced).state()
    with pytest.raises(SettingsError, match="has a reason"):
        rollback.run(replaced, "1", **blank)
    assert open_ledger(replaced).state() == before
