"""Tests of cxr_ops.commands: what a person types, and what they are told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from cxr_ops import contract
from cxr_ops.audit.entries import Approval, Decision, Entry, Look, PeriodOpened, Promotion
from cxr_ops.commands import app as command
from cxr_ops.commands.help import EXIT_CODES
from cxr_ops.edges import plans as in_force
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.lineage import trace
from cxr_ops.errors import CxrError, SettingsError, StorageError

HEAVY = {
    "torch",
    "torchvision",
    "mlflow",
    "pandas",
    "numpy",
    "great_expectations",
    "dvc",
    "sklearn",
    "airflow",
    "boto3",
    "rich",
    "pydantic",
    "yaml",
}


def _cxr(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cxr_ops", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_help_imports_nothing_heavy(project: Path) -> None:
    """`--help` answers at once, because it loads none of the libraries that the stages need."""
    program = (
        "import sys; sys.argv = ['cxr-ops', '--help']\n"
        "try:\n    import cxr_ops.commands.app as c; c.main()\nexcept SystemExit:\n    pass\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
    assert "Usage: cxr-ops" in done.stdout
    loaded = {name.strip("'[] ").partition(".")[0] for name in done.stderr.split(",")}
    assert not loaded & HEAVY


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the command line, with what is typed for it."""
    yield path, group
    for name, inner in getattr(group, "commands", {}).items():
        yield from _commands(inner, (*path, name))


ROOT = typer.main.get_command(command.app)
COMMANDS = dict(_commands(ROOT))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_of_every_command_is_whole(path: tuple[str, ...]) -> None:
    """`-h` is `--help` everywhere, fits 80 columns, cuts no sentence short, and says what the exit codes mean."""
    short, long = (CliRunner().invoke(command.app, [*path, flag]) for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout
    lines = short.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "..." not in short.stdout.replace("COMMAND [ARGS]...", "").replace("[PATIENT|IMAGE]...", "")
    text = " ".join(short.stdout.split())
    for code in (contract.EXIT_DATA, contract.EXIT_REFUSED, contract.EXIT_STOPPED):
        assert f" {code} " in text.partition("Exit codes:")[2]
    for name, inner in getattr(COMMANDS[path], "commands", {}).items():
        if not inner.hidden:
            sentence = re.split(r"[.]\s", f"{inner.help} ")[0]
            assert f"{name} {' '.join(sentence.split())}." in text


def test_the_exit_codes_of_the_help_are_those_of_the_contract() -> None:
    """No exit code of the contract is missing from the help."""
    named = {getattr(contract, name) for name in dir(contract) if name.startswith("EXIT_")}
    assert named <= set(EXIT_CODES)


def test_version_is_told() -> None:
    """`cxr-ops --version` and `cxr-ops version` print the version that the package has."""
    for arguments in (["--version"], ["version"]):
        assert CliRunner().invoke(command.app, arguments).stdout == f"{metadata.version('cxr-ops')}\n"


def test_the_shell_completes_commands_and_runs(project: Path, tmp_path: Path) -> None:
    """The shell is told the commands that begin as what was typed does, and behind `--run` the runs that there are."""
    for name in ("manual-1", "manual-2", "scheduled-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for typed, expected in (("cxr-ops led", ["ledger"]), ("cxr-ops publish --run man", ["manual-1", "manual-2"])):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_CXR_OPS_COMPLETE": "complete_bash"}
        program = "import sys; sys.argv = ['cxr-ops']; from cxr_ops.commands.app import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=project,
            env={**os.environ, **words, "CXR_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == expected


@pytest.mark.parametrize("what", ["verify", "show"])
def test_an_empty_folder_is_no_copy_of_a_ledger(tmp_path: Path, what: str) -> None:
    """A folder without a first entry, named in error, is not told to be a whole chain of none."""
    refused = CliRunner().invoke(command.app, ["ledger", what, "--folder", str(tmp_path)])
    assert isinstance(refused.exception, StorageError)
    assert "no copy of a ledger" in str(refused.exception)


def test_the_command_of_earlier_versions_is_told_the_new_one() -> None:
    """`cxr-ops epoch ...` says what to type now, with the words that were given; help does not list it."""
    refused = CliRunner().invoke(command.app, ["epoch", "open", "--by", "Ana Ruiz", "--reason", "spent"])
    assert isinstance(refused.exception, SettingsError)
    assert refused.exception.fix == "cxr-ops period open --by 'Ana Ruiz' --reason spent"
    assert "epoch" not in CliRunner().invoke(command.app, ["--help"]).output


def test_each_stage_is_a_verb() -> None:
    """The command has a verb for every stage, under the stage's own name, and the same under `stage`."""
    runner = CliRunner()
    for verb in contract.STAGES:
        for path in ([verb], ["stage", verb]):
            assert runner.invoke(command.app, [*path, "--help"]).exit_code == 0, path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.epochs", "--set needs SECTION.KEY=VALUE"),
        ("epochs=3", "--set needs SECTION.KEY=VALUE"),
        ("train.epochs=[", "is not YAML"),
        ("train.epoch=3", "did you mean 'epochs'"),
        ("train.epochs=0", "greater than or equal to 1"),
    ],
)
def test_wrong_setting_is_named(project: Path, tmp_path: Path, line: str, said: str) -> None:
    """A setting that is malformed, unknown or out of range ends with exit code 11, before anything is started."""
    done = _cxr("retrain", "--dry-run", "--set", line, cwd=project, CXR_HOME=str(tmp_path))
    assert done.returncode == contract.EXIT_SETTINGS
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_key_in_params_is_named_with_the_nearest(project: Path, tmp_path: Path) -> None:
    """A stage refuses a params.yaml with a key that it does not know, and names the one that was meant."""
    (tmp_path / "params.yaml").write_text("train:\n  learning_rat: 0.1\n")
    done = _cxr("train", cwd=tmp_path, PYTHONPATH=str(project))
    assert done.returncode == contract.EXIT_SETTINGS
    assert "train.learning_rat is not a setting; did you mean 'learning_rate'?" in done.stderr


def test_missing_data_set_names_the_next_command(project: Path, tmp_path: Path) -> None:
    """Opening a run without data says what to type."""
    done = _cxr("stage", "open", "--run", "r", cwd=project, CXR_HOME=str(tmp_path))
    assert done.returncode == contract.EXIT_DATA
    assert "cxr-ops ingest nih" in done.stderr


def test_home_that_is_a_file_is_refused(project: Path, tmp_path: Path) -> None:
    """A CXR_HOME that cannot be a folder ends with what to set instead."""
    (tmp_path / "home").write_text("")
    done = _cxr("stage", "open", "--run", "r", cwd=project, CXR_HOME=str(tmp_path / "home"))
    assert done.returncode == contract.EXIT_STORAGE
    assert "set CXR_HOME to a folder of yours" in done.stderr


def test_outside_a_project_the_command_says_where_to_go(tmp_path: Path, project: Path) -> None:
    """Without a dvc.yaml above, the command says that no project is here."""
    done = _cxr("ledger", "verify", cwd=tmp_path, PYTHONPATH=str(project))
    assert done.returncode == contract.EXIT_SETTINGS
    assert "no cxr-ops project is here" in done.stderr


def test_dry_run_without_data_says_what_would_be_made(project: Path, tmp_path: Path) -> None:
    """`retrain --dry-run` on an empty installation says that data would be drawn, and makes nothing."""
    done = _cxr("retrain", "--dry-run", cwd=project, CXR_HOME=str(tmp_path))
    assert done.returncode == 0
    assert "would draw 2000 radiographs" in done.stdout
    assert not (tmp_path / "store.git").exists()


def test_nothing_is_drawn_in_the_place_of_a_refused_first_batch(project: Path, tmp_path: Path) -> None:
    """After a first batch was refused, `retrain` says which and what to do, and draws nothing."""
    home = tmp_path / "home"
    done = _cxr("ingest", "nih", str(tmp_path / "mine"), "--batch", "mine", cwd=project, CXR_HOME=str(home))
    assert done.returncode == contract.EXIT_DATA
    for arguments in (("retrain", "--dry-run"), ("retrain",)):
        done = _cxr(*arguments, cwd=project, CXR_HOME=str(home))
        assert done.returncode == contract.EXIT_DATA
        assert "the batch mine was refused, and no generated data replace it" in done.stderr
        assert f"rm -r {home / 'quarantine' / 'mine'}" in done.stderr
    assert not (home / "synth").exists()
    assert not (home / "airflow").exists()


def test_generated_data_are_described(project: Path, tmp_path: Path) -> None:
    """`data synth` says what it drew and what to type next, and refuses a folder that is not empty."""
    out = tmp_path / "made"
    arguments = ("data", "synth", "--out", str(out), "--images", "12", "--size", "64", "--seed", "4")
    done = _cxr(*arguments, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "12 radiographs" in done.stdout
    assert "not for clinical use" in done.stdout
    assert f"cxr-ops ingest nih {out}" in done.stdout
    assert json.loads((out / "synth.json").read_text())["seed"] == 4
    assert _cxr(*arguments, cwd=project).returncode == contract.EXIT_STORAGE


def test_whole_ledger_is_said_to_be_whole_and_an_altered_one_is_not(project: Path, tmp_path: Path) -> None:
    """`ledger verify` counts the entries of an intact chain, and names the entry that was altered."""
    home = Home.find({"CXR_HOME": str(tmp_path), "CXR_PROJECT": str(project)})
    for test in ("a" * 64, "b" * 64):
        open_ledger(home).record_look(Look(model="c" * 64, test_digest=test, run="run"))
    good = _cxr("ledger", "verify", cwd=project, CXR_HOME=str(tmp_path))
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "2 entries, chain whole")

    entry = sorted(home.ledger.glob("*.json"))[0]
    entry.write_text(entry.read_text().replace("a" * 64, "d" * 64))
    bad = _cxr("ledger", "verify", cwd=project, CXR_HOME=str(tmp_path))
    assert bad.returncode == contract.EXIT_STORAGE
    assert entry.stem in bad.stderr


def _filled(home: Home) -> list[Entry]:
    """A ledger with an entry of each kind."""
    look = Look(model="c" * 64, test_digest="a" * 64, run="run-1", batches=("batch-1",))
    ledger = open_ledger(home)
    ledger.record_look(look)
    facts = dict.fromkeys(Decision.model_fields, "f" * 64) | {"approvals": 1, "code_dirty": False, "period": 1}
    facts |= {"run": "run-1", "verdict": "PROMOTE", "plan": "nih", "model_version": "3", "requested_by": "dr_ruiz"}
    decision = ledger.append("decision", Decision.model_validate(facts | {"limited_findings": (), "holds": ()}))
    consent = Approval(run="run-1", decision=decision.digest(), by="dr_lee", at="2026-03-01T00:00:00+00:00")
    approval = ledger.append("approval", consent)
    promotion = Promotion(
        run="run-1",
        decision=decision.digest(),
        approvals=[approval.digest()],
        package="c" * 64,
        recipe=None,
        model_version="3",
        run_commit="e" * 40,
        replaces=None,
    )
    ledger.append("promotion", promotion)
    ledger.append("period", PeriodOpened(number=2, closed_batches=["batch-1"], by="dr_ruiz", reason="new patients"))
    in_force.adopt(home, home.project / "pccp.yaml", by="dr_ito", reason="reviewed")
    return ledger.entries()


def test_the_ledger_is_a_table_for_people_and_json_for_machines(project: Path, tmp_path: Path) -> None:
    """`ledger show` has a line an entry with time, kind, what, who, run and short digest; --json has all of it."""
    home = Home.find({"CXR_HOME": str(tmp_path), "CXR_PROJECT": str(project)})
    entries = _filled(home)
    shown = _cxr("ledger", "show", cwd=project, CXR_HOME=str(tmp_path)).stdout.splitlines()
    assert len(shown) == 2 + len(entries)
    for line, entry in zip(shown[2:], entries, strict=True):
        assert line.split()[0] == str(entry.seq)
        assert entry.at[:19].replace("T", " ") in line
        assert entry.digest()[:8] in line
    for line, words in zip(
        shown[2:],
        (
            ("look", "challenger cccccccc on test set aaaaaaaa, period 1", "run-1"),
            ("decision", "PROMOTE: version 3, plan nih, 1 must agree", "dr_ruiz", "run-1"),
            ("approval", f"of decision {entries[1].digest()[:8]}", "dr_lee"),
            ("promotion", "version 3 is the champion, package cccccccc", "dr_lee"),
            ("period", "test period 2: new patients; closed batch-1", "dr_ruiz"),
            (
                "plan",
                "nih-production",
                "10 looks, 1 must agree, disclosure promotion, committed code; reviewed",
                "dr_ito",
            ),
        ),
        strict=True,
    ):
        assert all(word in line for word in words), line
    listed = json.loads(_cxr("ledger", "show", "--json", cwd=project, CXR_HOME=str(tmp_path)).stdout)
    assert [{**entry.model_dump(mode="json"), "digest": entry.digest()} for entry in entries] == listed
    verified = json.loads(_cxr("ledger", "verify", "--json", cwd=project, CXR_HOME=str(tmp_path)).stdout)
    assert verified == {"entries": 6, "head": entries[-1].digest(), "anchors": None, "runs": 0}
    period = json.loads(_cxr("period", "show", "--json", cwd=project, CXR_HOME=str(tmp_path)).stdout)
    assert (period["number"], period["looks"], period["closed_batches"]) == (2, 0, ["batch-1"])


def test_lineage_is_json_for_machines(project: Path, tmp_path: Path) -> None:
    """`lineage --json` has the fields of the lineage that it prints for people."""
    home = Home.find({"CXR_HOME": str(tmp_path), "CXR_PROJECT": str(project)})
    _filled(home)
    found = json.loads(_cxr("lineage", "champion", "--json", cwd=project, CXR_HOME=str(tmp_path)).stdout)
    assert found == trace(home, "run-1").model_dump(mode="json")


@pytest.mark.parametrize("arguments", [("promote",), ("publish",), ("stage", "train")])
def test_a_run_that_does_not_exist_is_told_which_do(project: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """`promote --run nope`, and every other command on a run, ends with the runs that exist."""
    (tmp_path / "runs" / "manual-1").mkdir(parents=True)
    done = _cxr(*arguments, "--run", "nope", cwd=project, CXR_HOME=str(tmp_path))
    assert done.returncode == contract.EXIT_SETTINGS
    assert "there is no run 'nope'" in done.stderr
    assert "the runs are, newest first: manual-1" in done.stderr


# ----------------------------------------------------------------------------------------------------- plans


class _Done(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def _in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's folder is the current one."""
    monkeypatch.chdir(project)


def _plan(*arguments: str) -> _Done:
    """`cxr-ops plan ...` in this process: a new one would spend seconds on imports, and the command's end is tested."""
    result = CliRunner().invoke(command.app, ["plan", *arguments])
    if isinstance(result.exception, CxrError):
        return _Done(result.exception.exit_code, result.stdout, str(result.exception))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return _Done(result.exit_code, result.stdout, result.stderr)


@pytest.mark.usefixtures("_in_project")
def test_a_plan_is_put_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan adopt` enters a checked plan in the ledger and says so, or that it stands there already."""
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "home"))
    words = ("--by", "dr_lee", "--reason", "reviewed")
    assert _plan("adopt", "pccp.yaml", *words).stdout.startswith("the plan nih-production is in force, sha256 ")
    assert "was in force already" in _plan("adopt", "pccp.yaml", *words).stdout
    looser = _plan("adopt", "pccp.demo.yaml", *words).stdout
    assert "until the next test period, earlier plans hold too: 10 looks, 1 must agree, disclosure promotion" in looser
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path("pccp.yaml").read_text().replace("train.epochs", "train.epoch"))
    refused = _plan("adopt", str(wrong), *words)
    assert (refused.exit_code, "did you mean 'train.epochs'" in refused.stderr) == (contract.EXIT_SETTINGS, True)
    entries = open_ledger(Home.find()).entries()
    assert [(entry.kind, entry.plan.by, entry.plan.name) for entry in entries] == [
        ("plan", "dr_lee", "nih-production"),
        ("plan", "dr_lee", "demonstration"),
    ]


def _labels(path: Path) -> Path:
    """A table of 400 patients, 45 of whom have a Mass and 3 a Hernia; patients are on both sides of the split."""
    rows = [f"{i}_{k}.png,{i},{int(i < 45)},{int(i < 3)},{'FM'[i % 2]}" for i in range(400) for k in range(1 + i % 3)]
    path.write_text("\n".join(["image_id,patient_id,Mass,Hernia,sex", *rows, ""]), encoding="utf-8")
    return path


@pytest.mark.usefixtures("_in_project")
def test_plan_check_says_what_a_plan_holds_and_what_to_object_to(project: Path) -> None:
    """`plan check` takes the plan of params.yaml, prints its digest and facts, and warns of its weaknesses."""
    from cxr_ops.records.base import sha256_file

    done = _plan("check")
    assert done.exit_code == 0
    assert sha256_file(project / "pccp.demo.yaml") in done.stdout
    assert "warning: approvals is 0" in done.stdout
    assert "warning: other_settings is free" in done.stdout


@pytest.mark.usefixtures("_in_project")
def test_plan_check_compares_margins_with_label_counts(tmp_path: Path) -> None:
    """With --truth the margins are held against positive patients, and --split-test takes the test side alone."""
    labels = _labels(tmp_path / "labels.csv")
    whole = _plan("check", "pccp.yaml", "--truth", str(labels))
    assert whole.exit_code == 0
    assert "of 400 patients\n" in whole.stdout
    assert "! Mass: 45 positive patients, so 0.15 is proposed; the plan has 0.03" in whole.stdout
    assert "! Hernia: 3 positive patients, so it cannot be judged" in whole.stdout
    assert "too few patients: Mass: an equally good model keeps 0.03 in " in whole.stdout
    side = _plan("check", "pccp.yaml", "--truth", str(labels), "--split-test")
    found = re.search(r"of (\d+) patients, the test side", side.stdout)
    assert found
    assert 60 < int(found[1]) < 140


@pytest.mark.usefixtures("_in_project")
def test_plan_check_refuses_a_bound_on_no_setting(project: Path, tmp_path: Path) -> None:
    """A bound whose key is no setting of params.yaml ends with exit code 11 and the nearest one."""
    text = (project / "pccp.yaml").read_text(encoding="utf-8").replace("train.patience:", "train.patiense:")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    done = _plan("check", str(tmp_path / "plan.yaml"))
    assert done.exit_code == contract.EXIT_SETTINGS
    assert "train.patiense is not a setting; did you mean 'train.patience'?" in done.stderr


@pytest.mark.usefixtures("_in_project")
@pytest.mark.parametrize("key", ["min_test_patients", "macro", "period_alpha"])
def test_one_wrong_key_of_a_plan_is_one_line(project: Path, tmp_path: Path, key: str) -> None:
    """A key that is spelled wrongly is told once, by name and with the nearest one, and nothing of the plan with it."""
    text = (project / "pccp.yaml").read_text(encoding="utf-8")
    wrong = re.sub(rf"^(    {key})(:)", r"\1s\2", text, flags=re.MULTILINE)
    assert wrong != text
    (tmp_path / "plan.yaml").write_text(wrong, encoding="utf-8")
    first, *rest = _plan("check", str(tmp_path / "plan.yaml")).stderr.splitlines()
    assert first == f"modification_protocol.performance_evaluation.{key}s is not a setting; did you mean {key!r}?"
    assert [line.split(":")[0].strip() for line in rest] == ["where", "next"]


@pytest.mark.usefixtures("_in_project")
def test_plan_commands_print_json(tmp_path: Path) -> None:
    """`plan check`, `explain` and `power` say with --json what they say in words."""
    labels = str(_labels(tmp_path / "labels.csv"))
    checked = json.loads(_plan("check", "pccp.yaml", "--truth", labels, "--json").stdout)
    assert checked["labels"] == {"images": 799, "patients": 400, "test_side": False}
    assert {tier["finding"]: tier["proposed"] for tier in checked["tiers"]}["Mass"] == 0.15
    assert f"warning: {checked['warnings'][0]}" in _plan("check", "pccp.yaml").stdout
    sections = json.loads(_plan("explain", "pccp.yaml", "--json").stdout)
    assert sections[-1]["title"] == "Part 3: impact assessment"
    expected = json.loads(_plan("power", "pccp.demo.yaml", "--truth", labels, "--json").stdout)
    assert expected["labels"] == {"drawn": False, "images": 799, "patients": 400}
    assert {check["finding"] for check in expected["checks"] if check["kind"] == "margin"} >= {"Mass"}


def test_plans_are_read_outside_a_project(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is named needs no params.yaml; without both, the command says what to name."""
    monkeypatch.chdir(tmp_path)
    plan = str(project / "pccp.yaml")
    done = _plan("check", plan)
    assert done.exit_code == 0
    assert "params.yaml" not in done.stdout
    assert _plan("explain", plan).exit_code == 0
    for verb in ("check", "explain", "power"):
        lost = _plan(verb)
        assert lost.exit_code == contract.EXIT_SETTINGS
        assert "no plan is named, and this folder has no params.yaml" in lost.stderr


@pytest.mark.usefixtures("_in_project")
def test_plan_explain_prints_text_and_markdown() -> None:
    """`plan explain` says the three parts in words, as text or as Markdown."""
    text = _plan("explain", "pccp.yaml")
    page = _plan("explain", "pccp.yaml", "--markdown")
    for done in (text, page):
        assert done.exit_code == 0
        assert "Hernia may lose at most 0.15" in done.stdout
    assert "## Part 3: impact assessment" in page.stdout
    assert "##" not in text.stdout


@pytest.mark.usefixtures("_in_project")
def test_plan_diff_prints_lines_and_json(project: Path, tmp_path: Path) -> None:
    """`plan diff` names each change with its direction, and says so when there is none."""
    new = tmp_path / "new.yaml"
    old_text = (project / "pccp.yaml").read_text(encoding="utf-8")
    new.write_text(old_text.replace("max_looks: 10", "max_looks: 5"), encoding="utf-8")
    done = _plan("diff", "pccp.yaml", str(new))
    assert (done.exit_code, done.stdout) == (0, "max looks 10 -> 5 (stricter)\n")
    as_json = json.loads(_plan("diff", "pccp.yaml", str(new), "--json").stdout)
    assert [(one["old"], one["new"], one["direction"]) for one in as_json] == [(10, 5, "stricter")]
    assert _plan("diff", "pccp.yaml", "pccp.yaml").stdout == "the plans say the same\n"


@pytest.mark.usefixtures("_in_project")
def test_plan_power_says_what_it_stands_on(tmp_path: Path) -> None:
    """`plan power` prints labels, assumptions, every check and the whole; with labels it takes those."""
    drawn = _plan("power", "pccp.yaml", "--patients", "300")
    assert drawn.exit_code == 0
    assert "of 300 patients (drawn" in drawn.stdout
    assert "stops every release: 300 test patients, and the plan asks for 1000" in drawn.stdout
    given = _plan("power", "pccp.demo.yaml", "--truth", str(_labels(tmp_path / "labels.csv")))
    assert given.exit_code == 0
    assert "of 400 patients\n" in given.stdout
    assert "margin Mass" in given.stdout
    assert "all checks met at one look: never, with these patients" in given.stdout
    about = re.search(r"from about (\d+) patients on; without --truth, --patients \1 says", given.stdout)
    alone = _plan("power", "pccp.demo.yaml")
    assert f"of {about[1]} patients (drawn" in alone.stdout  # the same, without an argument
    assert "never" not in alone.stdout


@pytest.mark.usefixtures("_in_project")
def test_plan_power_refuses_what_cannot_be() -> None:
    """An assumption out of its range is a settings error without a traceback."""
    done = _plan("power", "--correlation", "1.2")
    assert done.exit_code == contract.EXIT_SETTINGS
    assert "correlation must lie between 0 and 0.99" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("data", "synth", "--out", "drawn", "--images", "60", "--size", "64"), 0), (("ingest", "nih", "nowhere"), 2)],
)
@pytest.mark.parametrize("told", [True, False])
def test_a_command_ends_as_its_work_when_nobody_reads(
    arguments: tuple[str, ...], code: int, told: bool, tmp_path: Path
) -> None:
    """With a pipe that is closed, as by `| head -1`, work is done to its end, and the exit code is that of the work."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cxr_ops", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE if told else writer,
            text=True,
        )
    finally:
        os.close(writer)
    assert done.returncode == code, done.stderr
    assert len(list(tmp_path.glob("drawn/images/*.png"))) == (60 if code == 0 else 0)
    assert not told or "Traceback" not in done.stderr
    assert not told or "BrokenPipe" not in done.stderr
