"""Tests of cxr_ops.stages.open."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from projects import PROJECT, Installation, commit_all, make_batch, make_home, make_project, run_git

from cxr_ops import plan as plans
from cxr_ops import retrain
from cxr_ops.audit.entries import Decision, Look, PeriodOpened, Promotion, Rollback
from cxr_ops.edges import dvc, supervisor
from cxr_ops.edges import plans as in_force
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import versions
from cxr_ops.edges.store import batches, repository
from cxr_ops.errors import BusyError, CxrError, DataError, RefusedError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file, tree_digest
from cxr_ops.records.data import Batch
from cxr_ops.records.inputs import Champion, Inputs, Period, RecordedLook, Reference
from cxr_ops.records.run import Result
from cxr_ops.records.training import Start
from cxr_ops.report.summary import outcome
from cxr_ops.stages import open as stage

RUN = "run-1"


@pytest.fixture
def empty(tmp_path: Path) -> Home:
    """An installation without data."""
    return make_home(tmp_path / "home", make_project(tmp_path / "project"))


@pytest.fixture
def home(installed: Installation) -> Home:
    """An installation with one batch."""
    return installed.home


def crown(home: Home, recipe: str, package: str = "p" * 64, reference: str | None = None) -> None:
    """Put a promotion on the ledger, as far as `open` needs one."""
    open_ledger(home).append(
        "promotion",
        Promotion(
            run="earlier",
            decision="d" * 64,
            approvals=[],
            package=package,
            recipe=recipe,
            model_version=package[0],
            run_commit="c" * 40,
            replaces=None,
            reference=reference,
        ),
    )


def recipe(home: Home) -> dict:
    """What a run that is opened now is made from."""
    return stage.recipe_parts(home.project, stage.params_of(home.project, {}), batches.data_revision(home), home.image)


def test_data_that_the_disk_has_no_room_for_are_not_brought_in(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where DVC's cache lacks the data, room for them is looked for first; what is there needs none."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    stage.run(home, run=RUN)
    shutil.rmtree(home.dvc_cache)
    with pytest.raises(StorageError, match="too little disk: 0 MiB are free, and the data needs") as caught:
        stage.run(home, run="run-2")
    assert "cxr-ops data gc" in str(caught.value.fix)
    assert not home.dvc_cache.exists() or not list((home.dvc_cache / "files").rglob("*"))
    assert not (home.workspace("run-2") / "dataset" / "one").exists()


def test_run_gets_a_workspace_with_all_that_it_depends_on(home: Home, tmp_path: Path) -> None:
    """After `open`, the workspace holds code, data, champion and inputs.json, and git has nothing left to say."""
    result = stage.run(home, run=RUN, airflow_run_id="manual__1", requested_by="dr_lee")

    workspace = home.workspace(RUN)
    inputs = Inputs.read(workspace / "inputs.json")
    data = batches.data_revision(home)
    assert inputs.data == data
    assert (inputs.code.commit, inputs.code.dirty) == (run_git(home.project, "rev-parse", "HEAD"), False)
    assert (inputs.champion, inputs.image, inputs.reference) == (Champion(), None, None)
    assert inputs.ledger is not None
    assert (inputs.ledger.entries, inputs.ledger.head, inputs.ledger.looks) == (0, None, 0)
    assert inputs.plan.sha256 == sha256_file(home.project / "pccp.demo.yaml")
    assert Champion.read(workspace / "champion" / "champion.json") == Champion()
    assert RecordedLook.read(workspace / "look.json") == RecordedLook()
    assert json.loads((workspace / "reference" / "reference.json").read_text()) == {"package": None, "version": None}
    assert Period.read(workspace / "test-period.json") == inputs.period == Period(number=1, closed_batches=[])
    assert json.loads((workspace / "image.json").read_text()) == {"image": None}
    assert tree_digest(workspace / "dataset" / "one") == tree_digest(tmp_path / "one")
    assert run_git(workspace, "status", "--porcelain") == ""
    assert not result.no_change
    assert result.inputs == inputs.digest()
    assert [folder.stat().st_mode & 0o777 for folder in (home.run(RUN), workspace)] == [0o755, 0o755]
    opened = json.loads((home.run(RUN) / "run.json").read_text())
    assert (opened["airflow_run_id"], opened["requested_by"], opened["recipe"]) == (
        "manual__1",
        "dr_lee",
        result.recipe,
    )
    assert repository.read_recipe(home, result.recipe) == opened["recipe_parts"]
    assert all(isinstance(value, str | bool | None) for value in result.as_xcom().values())


def test_same_state_gives_the_same_inputs(home: Home) -> None:
    """Two runs opened on the same state have the same inputs.json, byte for byte, and the same recipe."""
    first = stage.run(home, run=RUN)
    second = stage.run(home, run="run-2", airflow_run_id="another")

    assert (first.inputs, first.recipe) == (second.inputs, second.recipe)
    assert (home.workspace(RUN) / "inputs.json").read_bytes() == (home.workspace("run-2") / "inputs.json").read_bytes()


def test_opened_run_can_be_worked_on(home: Home) -> None:
    """The supervisor runs a stage in what `open` made, without an environment of its own."""
    stage.run(home, run=RUN)

    assert supervisor.supervise(home, RUN, "validate")["ran"]

    names = (home.workspace(RUN) / "validate" / "names.txt").read_text().splitlines()
    assert "dataset/one/manifest.csv" in names


def test_opening_again_starts_anew(home: Home, tmp_path: Path) -> None:
    """A run that is opened again gets the data of now and none of the old outputs; while it runs, that is refused."""
    stage.run(home, run=RUN)
    supervisor.supervise(home, RUN, "validate")
    batches.add_batch(home, make_batch(tmp_path, "two"))

    with supervisor.hold_workspace(home, RUN), pytest.raises(BusyError):
        stage.run(home, run=RUN)
    stage.run(home, run=RUN)

    assert sorted(Inputs.read(home.workspace(RUN) / "inputs.json").data.batches) == ["one", "two"]
    assert not (home.workspace(RUN) / "validate").exists()
    assert (home.workspace(RUN) / "dataset" / "two" / "shard-00000.tar").is_file()


def test_uncommitted_code_is_run_and_said_so(home: Home, capsys: pytest.CaptureFixture) -> None:
    """A run of uncommitted code runs that code, is marked, and the person is told."""
    (home.project / "new.py").write_text("new = 1\n")

    result = stage.run(home, run=RUN)

    assert result.code_dirty
    assert Inputs.read(home.workspace(RUN) / "inputs.json").code.dirty
    assert (home.workspace(RUN) / "new.py").is_file()
    assert "uncommitted changes" in capsys.readouterr().err


def test_missing_data_set_says_what_to_type(empty: Home) -> None:
    """Without a data set, the error names the command that adds one."""
    with pytest.raises(DataError, match="no data set has been ingested") as error:
        stage.run(empty, run=RUN)

    assert error.value.fix.startswith("cxr-ops ingest nih FOLDER --batch NAME")
    assert not empty.run(RUN).exists()


def test_published_run_is_not_opened_again(home: Home) -> None:
    """A run with a decision on the ledger keeps its workspace: a new one needs a new name."""
    words = {name: "x" for name, field in Decision.model_fields.items() if field.annotation in (str, str | None)}
    body = Decision(**words | {"run": RUN, "verdict": "REJECT", "approvals": 0, "code_dirty": False})
    open_ledger(home).append("decision", body)

    with pytest.raises(RefusedError, match="on record with a decision"):
        stage.run(home, run=RUN)


# --------------------------------------------------------------------------------- the period and the reference


def test_run_is_opened_in_the_period_of_now(home: Home) -> None:
    """The inputs say which period is open and what it closed; looks of earlier ones are not counted."""
    ledger = open_ledger(home)
    ledger.append("look", Look(model="m", test_digest="t", run="r", batches=("zero",)))
    ledger.append("period", PeriodOpened(number=2, closed_batches=["zero"], by="dr_lee", reason="spent"))
    ledger.append("look", Look(model="n", test_digest="t", run="r", period=2))
    ledger.append("look", Look(model="o", test_digest="t", run="r", period=2, role="champion"))

    stage.run(home, run=RUN)

    inputs = Inputs.read(home.workspace(RUN) / "inputs.json")
    assert (
        Period.read(home.workspace(RUN) / "test-period.json")
        == inputs.period
        == Period(number=2, closed_batches=["zero"])
    )
    assert (inputs.ledger.entries, inputs.ledger.looks, inputs.ledger.looked) == (4, 1, [("n", "t")])


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Packages asked of a registry that has them all, as (version, digest)."""
    asked = []

    def fetch(_home: Home, version: str, digest: str, dest: Path) -> None:
        asked.append((version, digest))
        dest.mkdir(parents=True)
        (dest / "model.json").write_text(digest)

    monkeypatch.setattr(versions, "fetch_package", fetch)
    return asked


def test_reference_comes_with_the_run(home: Home, fetched: list[tuple[str, str]]) -> None:
    """The reference on the ledger is pinned; its package is fetched if it is not the champion's, and then replaced."""
    crown(home, "r" * 64, "p" * 64, reference="p" * 64)
    stage.run(home)
    folder = home.project / "reference"
    assert Inputs.read(home.project / "inputs.json").reference == Reference(package="p" * 64, version="p")
    assert fetched == [("p", "p" * 64)]
    assert not (folder / "package").exists()

    crown(home, "r" * 64, "q" * 64, reference="p" * 64)
    stage.run(home)
    assert fetched[1:] == [("q", "q" * 64), ("p", "p" * 64)]
    assert (folder / "package" / "model.json").read_text() == "p" * 64
    assert Reference.read(folder / "reference.json") == Inputs.read(home.project / "inputs.json").reference
    assert "reference/package" not in run_git(home.project, "status", "--porcelain", "--untracked-files=all")

    crown(home, "r" * 64, "s" * 64, reference="s" * 64)
    stage.run(home)
    assert not (folder / "package").exists()


def test_reference_of_the_plan_must_have_been_promoted(home: Home, fetched: list[tuple[str, str]]) -> None:
    """A plan may fix a package that was promoted once; any other stops the run and says what to do."""
    plan = home.project / "pccp.demo.yaml"
    text = plan.read_text().replace("raise_on_superiority: true", "raise_on_superiority: false")
    named = re.sub(r"package: null.*", f"package: {'a' * 64}", text)
    assert named != text
    plan.write_text(named)
    with pytest.raises(SettingsError, match=r"the reference aaaaaaaaaaaa.* was never promoted") as caught:
        stage.run(home, run=RUN)
    assert caught.value.fix
    assert not (home.run(RUN) / "run.json").exists()

    crown(home, "r" * 64, "a" * 64)
    crown(home, "r" * 64, "b" * 64, reference="b" * 64)
    stage.run(home, run=RUN)
    assert Inputs.read(home.workspace(RUN) / "inputs.json").reference == Reference(package="a" * 64, version="a")


def test_training_gets_the_champion_only_where_it_asks_for_it(home: Home, fetched: list[tuple[str, str]]) -> None:
    """With train.weights champion, the champion is in start/ and pinned; otherwise nothing there depends on it."""
    pipeline = home.project / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("deps: [image.json, ", "deps: [image.json, start, "))
    start, workspace = home.project / "start", home.workspace(RUN)

    def depends() -> object:
        return dvc.source_digest(home.project, "start")

    stage.run(home)
    assert Start.read(start / "start.json") == Start(asked=False)
    alone = depends()
    stage.run(home, run=RUN, overrides={"train.weights": "champion"})
    assert Start.read(workspace / "start" / "start.json") == Start(asked=True)

    crown(home, "r" * 64, "p" * 64, reference="p" * 64)
    stage.run(home)
    assert depends() == alone
    stage.run(home, run=RUN, overrides={"train.weights": "champion"})
    assert Start.read(workspace / "start" / "start.json") == Start(asked=True, package="p" * 64)
    assert (workspace / "start" / "package" / "model.json").read_text() == "p" * 64
    assert "start/start.json" in run_git(workspace, "ls-files")
    assert run_git(workspace, "status", "--porcelain", "--untracked-files=all") == ""


def test_champion_period_and_reference_are_no_part_of_the_recipe(home: Home) -> None:
    """They decide who is asked, compared with and started from; only new data or settings call for a new model."""
    pipeline = home.project / "dvc.yaml"
    pipeline.write_text(
        pipeline.read_text().replace("deps: [image.json, ", "deps: [image.json, test-period.json, reference, start, ")
    )
    assert {"test-period.json", "reference", "start"} <= set(dvc.read_pipeline(home.project)["train"].deps)
    assert not {"test-period.json", "reference", "start"} & recipe(home)["code"].keys()


# ------------------------------------------------------------------------------------------------ settings


def test_overrides_reach_the_workspace_and_no_further(home: Home) -> None:
    """A setting for one run stands in its params.yaml, typed as it should be; the project's file is as it was."""
    before = (home.project / "params.yaml").read_bytes()

    stage.run(home, run=RUN, overrides={"train.epochs": "3", "train.learning_rate": 1e-4, "validate.min_images": 7})

    written = yaml.safe_load((home.workspace(RUN) / "params.yaml").read_text())
    params = Params.load(home.workspace(RUN) / "params.yaml")
    assert (written["train"]["epochs"], written["train"]["learning_rate"]) == (3, 1e-4)
    assert (params.train.epochs, params.validate_.min_images, params.train.batch_size) == (3, 7, 32)
    assert (home.project / "params.yaml").read_bytes() == before
    assert run_git(home.workspace(RUN), "show", "HEAD:params.yaml").startswith("# With settings of this run:")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"train.epoch": 3}, "did you mean 'epochs'"),
        ({"trian.epochs": 3}, "did you mean 'train'"),
        ({"train.epochs": 0}, "train.epochs"),
        ({"train.epochs": "many"}, "train.epochs"),
        ({"train": {}}, "train is not a setting"),
        ({"train.epochs.x": 1}, "is not a setting"),
        ({"gate.plan": "nothing.yaml"}, "plan is missing"),
    ],
)
def test_wrong_override_is_named_before_anything_is_made(home: Home, overrides: dict, words: str) -> None:
    """An unknown key names the nearest known one, a value out of range its key; no run exists afterwards."""
    with pytest.raises(SettingsError, match=words):
        stage.run(home, run=RUN, overrides=overrides)

    assert not (home.run(RUN) / "run.json").exists()


def test_settings_outside_the_plan_are_refused_before_a_training(home: Home, capsys: pytest.CaptureFixture) -> None:
    """A setting that the plan does not cover is told with its bound by `open` and by a dry run; force changes nothing.

    A checkout can promote nothing: there it is a warning.
    """
    strict = home.project / "strict.yaml"
    text = (home.project / "pccp.demo.yaml").read_text()
    strict.write_text(
        text.replace("other_settings: free", "settings:\n      train.epochs: {range: [1, 9]}\n    other_settings: free")
    )
    within, outside = ({"gate.plan": "strict.yaml", "train.epochs": epochs} for epochs in (9, 10))
    words = r"outside the plan demonstration: train\.epochs is 10; the plan allows 1 to 9\."
    for force in (False, True):
        with pytest.raises(RefusedError, match=words):
            stage.run(home, run=RUN, overrides=outside, force=force)
        with pytest.raises(RefusedError, match=words):
            stage.plan(home, outside, force=force)
    assert not (home.run(RUN) / "run.json").exists()
    assert stage.plan(home, within).data is not None

    stage.run(home, run=RUN, overrides=within)

    params = home.project / "params.yaml"
    params.write_text(params.read_text().replace("pccp.demo.yaml", "strict.yaml").replace("epochs: 6", "epochs: 10"))
    stage.run(home)
    assert "train.epochs is 10; the plan allows 1 to 9." in capsys.readouterr().err


def test_run_whose_results_are_withheld_is_its_owners_alone(home: Home) -> None:
    """Under disclosure `verdict` nobody else can enter the folder of a run, from before there is a result."""
    plan = home.project / "pccp.demo.yaml"
    plan.write_text(plan.read_text().replace("disclosure: all", "disclosure: verdict"))
    stage.run(home, run=RUN)
    assert [folder.stat().st_mode & 0o777 for folder in (home.run(RUN), home.workspace(RUN))] == [0o700, 0o700]


def test_run_is_bound_by_the_plan_in_force(home: Home, capsys: pytest.CaptureFixture) -> None:
    """A run under a looser plan is opened with the strictest limits, says what is looser, and is shut to others."""
    demo = home.project / "pccp.demo.yaml"
    strict = home.project / "strict.yaml"
    text = (
        demo.read_text()
        .replace("name: demonstration", "name: strict")
        .replace("disclosure: all", "disclosure: verdict")
    )
    strict.write_text(
        text.replace("max_looks: 1000", "max_looks: 10").replace("approvals: 0\n    req", "approvals: 2\n    req")
    )
    stage.run(home, run="run-2")
    first = Inputs.read(home.workspace("run-2") / "inputs.json")
    assert (first.limits, first.other_plan) == (plans.load(demo).limits, None)
    in_force.adopt(home, strict, by="dr_lee", reason="reviewed")
    capsys.readouterr()

    stage.run(home, run=RUN)

    inputs = Inputs.read(home.workspace(RUN) / "inputs.json")
    wanted, both = plans.load(strict).limits, [plans.load(path).limits.spending[0] for path in (strict, demo)]
    assert inputs.limits.model_copy(update={"spending": ()}) == wanted.model_copy(update={"spending": ()})
    assert sorted(inputs.limits.spending, key=str) == sorted(both, key=str)  # a look spends the least that any allows
    assert inputs.limits.approvals == 2
    other = inputs.other_plan
    assert (other.than, other.name, other.sha256) == ("the plan in force", "strict", sha256_file(strict))
    assert sorted(other.looser) == [
        "disclosure verdict -> all",
        "max looks 10 -> 1000",
        "update procedures approvals 2 -> 0",
    ]
    assert "another plan than the plan in force: demonstration instead of strict." in capsys.readouterr().err
    assert home.run(RUN).stat().st_mode & 0o777 == 0o700


def test_data_from_elsewhere_are_refused_before_a_training(home: Home) -> None:
    """A batch from a source that the plan does not name ends `open`, which names batch and source."""
    plan = home.project / "pccp.demo.yaml"
    plan.write_text(plan.read_text().replace("sources: any", "sources: [nih]"))
    with pytest.raises(RefusedError, match=r"Data come from test; the plan allows nih\.") as caught:
        stage.run(home, run=RUN)
    assert caught.value.where == "batches one (test)"
    assert not (home.run(RUN) / "run.json").exists()
    with pytest.raises(RefusedError, match=r"Data come from test; the plan allows nih\."):
        stage.plan(home)


def test_generated_data_are_not_drawn_for_a_plan_that_does_not_cover_them(empty: Home) -> None:
    """Without a data set a dry run under a plan for real data says to ingest them; nothing would be drawn."""
    plan = empty.project / "pccp.demo.yaml"
    plan.write_text(plan.read_text().replace("sources: any", "sources: [nih]"))
    with pytest.raises(RefusedError, match="does not cover generated data") as caught:
        stage.plan(empty)
    assert "cxr-ops ingest auto" in str(caught.value.fix)


def test_settings_of_a_checkout_are_edited_not_overridden(home: Home) -> None:
    """Without a run of its own there is nothing to override."""
    with pytest.raises(SettingsError, match="this checkout's settings are yours"):
        stage.run(home, overrides={"train.epochs": 3})


def test_section_that_is_missing_is_named(home: Home) -> None:
    """params.yaml has one section a stage: DVC tracks them by name."""
    path = home.project / "params.yaml"
    path.write_text(path.read_text().replace("report:\n  title: Chest X-ray retraining\n", ""))

    with pytest.raises(SettingsError, match="no section report"):
        stage.run(home, run=RUN)


# ------------------------------------------------------------------------------------------- no change, and why


def test_the_champions_own_recipe_ends_the_run(home: Home) -> None:
    """When nothing that training depends on has changed, the run ends NO_CHANGE, unless it is forced."""
    first = stage.run(home, run=RUN)
    crown(home, first.recipe)

    again = stage.run(home, run="run-2", airflow_run_id="manual__2")

    assert (again.no_change, again.recipe, again.inputs) == (True, first.recipe, None)
    result = Result.read(home.run("run-2") / "result.json")
    assert (result.verdict, result.airflow_run_id, result.champion.package) == ("NO_CHANGE", "manual__2", "p" * 64)
    assert stage.plan(home).no_change
    # The package of this made-up champion is not in any registry, so going on fails later, and for that reason.
    with pytest.raises(CxrError, match=r"registry|MLflow"):
        stage.run(home, run="run-3", force=True)


def decided(home: Home, run: str, recipe: str, **more: object) -> None:
    """Put a decision on the ledger that a run of now would repeat, but for `more`."""
    words = {name: "x" for name, field in Decision.model_fields.items() if field.annotation in (str, str | None)}
    champion = open_ledger(home).champion()
    told = {
        "run": run,
        "verdict": "REJECT",
        "approvals": 0,
        "code_dirty": False,
        "recipe": recipe,
        "code_commit": run_git(home.project, "rev-parse", "HEAD"),
        "plan_sha256": sha256_file(home.project / "pccp.demo.yaml"),
        "champion": champion.digest() if champion else None,
        "reference": None,
    }
    open_ledger(home).append("decision", Decision(**words | told | more))


def test_what_was_decided_before_is_not_decided_again(home: Home) -> None:
    """A run of the same code, settings, data, plan, champion and period as one with a decision ends NO_CHANGE and says
    which, without its verdict; one that differs, or is forced, goes on.
    """
    same = repository.save_recipe(home, recipe(home))
    others: list[dict[str, object]] = [{"plan_sha256": "x"}, {"code_commit": "x"}, {"period": 2}]
    for number, more in enumerate(others):
        decided(home, f"other-{number}", same, **more)
    decided(home, "other-recipe", "x" * 64)
    assert not stage.plan(home).no_change
    decided(home, "second", same)
    told = "the run second was decided on the same code, settings, data, plan and champion in this test period"
    opened = stage.run(home, run="run-3")
    assert (opened.no_change, opened.repeats) == (True, told)
    result = Result.read(home.run("run-3") / "result.json")
    assert (result.verdict, result.repeats, result.package) == ("NO_CHANGE", told, None)
    assert outcome(result) == f"Nothing was trained and no look was spent: {told}."
    assert (stage.plan(home).no_change, stage.plan(home).repeats) == (True, told)
    assert not stage.plan(home, force=True).repeats
    assert not stage.run(home, run="run-4", force=True).no_change
    crown(home, "x" * 64)
    assert not stage.plan(home).no_change  # it would be judged against another champion


def test_what_was_rolled_back_is_not_made_again(home: Home) -> None:
    """After a rollback a run that would train the withdrawn model's recipe ends NO_CHANGE and says who took it out of
    use, also when code and plan have changed; with another batch it would be another model.
    """
    crown(home, "an earlier recipe", package="o" * 64)
    same = repository.save_recipe(home, recipe(home))
    decided(home, "earlier", same, verdict="PROMOTE", code_commit="other", plan_sha256="other", model_version="2")
    crown(home, same)
    ledger = open_ledger(home)
    back = Rollback(to=ledger.entries()[0].digest(), by="dr_lee", reason="seen on the ward")
    ledger.append("promotion", ledger.entries()[0].promotion.model_copy(update={"rollback": back}))
    opened = stage.run(home, run="run-2")
    assert opened.no_change
    assert (
        opened.repeats == "version 2 was made from the same (run earlier), and dr_lee took it out of use by a rollback"
    )
    assert "dr_lee took it out of use by a rollback" in str(opened)
    assert stage.plan(home).repeats == opened.repeats
    assert stage.plan(home, {"train.epochs": 3}).repeats == ""


def test_what_training_does_not_depend_on_is_no_change(home: Home) -> None:
    """Another plan, other settings of the gate, and other code than training's leave the recipe as it is."""
    before = recipe(home)
    plan = home.project / "pccp.demo.yaml"
    plan.write_text(plan.read_text() + "# another plan\n")
    (home.project / "cxr_ops" / "stages" / "gate.py").write_text("# other code\n")
    params = home.project / "params.yaml"
    params.write_text(params.read_text().replace("level: 0.95", "level: 0.9"))

    assert recipe(home) == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("data", "batch two is new"),
        ("params", f"train.epochs was {Params().train.epochs} and is now 3"),
        ("code", "code that training depends on has changed: cxr_ops/stages/train.py"),
        ("image", "the image was none and is now sha256:abc"),
    ],
)
def test_dry_run_says_what_has_changed(home: Home, tmp_path: Path, change: str, why: str) -> None:
    """Against the champion's recipe, each kind of change is told in a sentence, and nothing is made."""
    crown(home, repository.save_recipe(home, recipe(home)))
    overrides = {}
    if change == "data":
        batches.add_batch(home, make_batch(tmp_path, "two"))
    elif change == "params":
        overrides = {"train.epochs": 3}
    elif change == "code":
        path = home.project / "cxr_ops" / "stages" / "train.py"
        path.write_text(path.read_text() + "# x\n")
    else:
        home = make_home(home.root, home.project, CXR_IMAGE="sha256:abc")
    before = sorted(home.root.rglob("*"))

    forecast = stage.plan(home, overrides)

    assert (forecast.no_change, forecast.reasons) == (False, (why,))
    assert sorted(home.root.rglob("*")) == before


def test_dry_run_names_what_the_plan_requires_and_nobody_labels(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Findings that the plan requires and no batch labels are named until a batch labels them, by the plan in use."""
    folder = make_batch(tmp_path, "two")
    record = Batch.read(folder / "batch.json").model_copy(update={"findings": ["Pneumonia"]})
    record.write(folder / "batch.json")
    shutil.copy(PROJECT / "pccp.pneumonia-demo.yaml", home.project)
    alone = make_home(tmp_path / "alone", home.project)
    assert stage.unlabelled(alone) == ("demonstration", ())  # without data the demonstration's are drawn
    batches.add_batch(alone, folder)
    plan, findings = stage.unlabelled(alone)
    assert (plan, findings) == ("demonstration", tuple(one for one in FINDINGS if one != "Pneumonia"))
    assert stage.unlabelled(alone, {"gate.plan": "pccp.pneumonia-demo.yaml"}) == ("pneumonia-demo", ())
    assert stage.unlabelled(home) == ("demonstration", ())  # the batch `one` labels all
    assert retrain.retrain(alone, dry_run=True) == 0
    told = capsys.readouterr().out
    assert "the plan demonstration requires findings that no batch labels" in told
    assert "Pleural_Thickening, Hernia; next: name a plan that requires only what is labelled, such as --set " in told


def test_dry_run_without_data_says_so(empty: Home) -> None:
    """Without data, that is the reason."""
    assert stage.plan(empty).reasons == ("no data set has been ingested yet",)


def test_dry_run_without_a_champion_says_so(home: Home) -> None:
    """Before the first release, that is the reason."""
    assert "first release" in stage.plan(home).reasons[0]


# ---------------------------------------------------------------------------------------------- the checkout


def test_checkout_is_made_ready_for_dvc(home: Home) -> None:
    """On a laptop, a person's own `dvc repro` works after `open`; looks are unrecorded, and git is not touched."""
    head = run_git(home.project, "rev-parse", "HEAD")

    result = stage.run(home)

    inputs = Inputs.read(home.project / "inputs.json")
    assert (inputs.ledger, result.run) == (None, None)
    assert run_git(home.project, "rev-parse", "HEAD") == head
    assert run_git(home.project, "diff", "--name-only", "HEAD") == ""
    env = dvc.environment(home)
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        env.pop(name)
    done = subprocess.run(
        dvc.command("repro", "validate"), cwd=home.project, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    again = subprocess.run(dvc.command("repro", "validate"), cwd=home.project, env=env, capture_output=True, text=True)
    assert "Running stage" not in again.stdout
    assert list(home.dvc_cache.glob("runs/*/*"))


def test_checkout_and_run_have_the_same_inputs_but_for_the_ledger(home: Home) -> None:
    """A checkout and a run of the same state differ in whether looks are recorded and spend, and in nothing else."""
    stage.run(home, run=RUN)
    stage.run(home)

    ours = Inputs.read(home.project / "inputs.json")
    theirs = Inputs.read(home.workspace(RUN) / "inputs.json")

    assert (ours.allowance, theirs.allowance) != (None, None)
    assert theirs.model_copy(update={"ledger": None, "allowance": None}) == ours


def test_checkout_follows_the_data(home: Home, tmp_path: Path) -> None:
    """Opening a checkout again brings new batches in and leaves those that are there."""
    stage.run(home)
    batches.add_batch(home, make_batch(tmp_path, "two"))
    commit_all(home.project, "With pointers and inputs, as a person may want to keep them")

    result = stage.run(home)

    assert (home.project / "dataset" / "two" / "shard-00000.tar").is_file()
    assert (home.project / "dataset" / "one" / "shard-00000.tar").is_file()
    assert not result.code_dirty


@pytest.mark.parametrize("kind", ["relative", "absolute", "link", "link in it", "other folder", "other run"])
def test_nothing_outside_a_runs_own_workspace_is_touched(home: Home, tmp_path: Path, kind: str) -> None:
    """A name that leads out, a link and a folder of somebody else are refused, and every byte behind them stays."""
    victim = tmp_path / "victim"
    (victim / "workspace").mkdir(parents=True)
    (victim / "workspace" / "thesis.txt").write_text("years of work", encoding="utf-8")
    runs = home.root / "runs"
    runs.mkdir(exist_ok=True)
    name, error = RUN, RefusedError
    if kind == "relative":
        name, error = f"../../{victim.name}", SettingsError
    elif kind == "absolute":
        name, error = str(victim), SettingsError
    elif kind == "link":
        (runs / RUN).symlink_to(victim)
    elif kind == "link in it":
        (runs / RUN).mkdir()
        (runs / RUN / "workspace").symlink_to(victim / "workspace")
    elif kind == "other folder":
        (victim / "run.json").write_text("{}", encoding="utf-8")
        victim = victim.rename(runs / RUN)
    else:
        subprocess.run(["git", "init", "-q", "--initial-branch=main", str(victim / "workspace")], check=True)
        victim = victim.rename(runs / RUN)

    before = tree_digest(victim)

    with pytest.raises(error) as raised:
        stage.run(home, run=name)
    assert tree_digest(victim) == before
    assert raised.value.fix


def test_a_workspace_that_was_cut_off_early_is_made_anew(home: Home) -> None:
    """An empty folder in the workspace's place is what a kill leaves behind, and does not stop the run."""
    home.workspace(RUN).mkdir(parents=True)

    assert stage.run(home, run=RUN).inputs is not None
