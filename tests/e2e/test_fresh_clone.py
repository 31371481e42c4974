"""The README's first promise, kept by running it: a fresh clone, `make retrain`, and nothing else.

Three runs in order on one installation: the first release, nothing changed, new data. The first training is the full
demonstration's and takes minutes. The last has secrets in its environment, none of which may be found anywhere.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from cxr_ops.audit.package import digest as package_digest
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.labels import FINDINGS
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.run import Result
from cxr_ops.records.verdict import Verdict

# What an operator's shell may hold. The mark is new in each run: copies of this file are among what is searched.
MARK = uuid.uuid4().hex
SECRETS = {
    "AIRFLOW_CONN_HOOK": json.dumps({"conn_type": "http", "host": "http://127.0.0.1:9", "password": f"{MARK}-hook"}),
    "AWS_ACCESS_KEY_ID": f"{MARK}-id",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-key",
    "AWS_SESSION_TOKEN": f"{MARK}-session",
    "CXR_AIRFLOW_TOKEN": f"{MARK}-token",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-password",
}

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(1800)]  # two trainings and an installation


@dataclass
class Clone:
    """A checkout on a machine that has Python 3.11, git (with no identity) and make, and nothing set."""

    folder: Path
    environment: dict[str, str]

    @property
    def home(self) -> Home:
        return Home.find({}, self.folder)

    def run(self, *command: str, ok: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environ,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        if ok:
            assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def runs(self) -> list[Path]:
        return sorted((self.home.root / "runs").iterdir(), key=lambda run: run.stat().st_ctime)


@pytest.fixture(scope="module")
def clone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder = tmp_path_factory.mktemp("fresh") / "cxr-ops"
    subprocess.run(["git", "clone", "--quiet", str(project), str(folder)], check=True)
    # make exports what stands on its command line: the ARGS of `make test ARGS=...` would reach `make retrain`.
    foreign = ("CXR_", "AIRFLOW", "MLFLOW", "DVC_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS", "ARGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # The environment under test must not be found through the one that runs the tests.
    outside = [p for p in kept["PATH"].split(os.pathsep) if not Path(p).is_relative_to(project)]
    return Clone(folder, {**kept, "PATH": os.pathsep.join(outside)})


@pytest.fixture(scope="module")
def first(clone: Clone) -> tuple[subprocess.CompletedProcess[str], Path]:
    done = clone.run("make", "retrain")
    return done, clone.runs()[-1]


@pytest.fixture(scope="module")
def unchanged(
    clone: Clone, first: tuple[subprocess.CompletedProcess[str], Path]
) -> tuple[subprocess.CompletedProcess[str], Path]:
    done = clone.run("make", "retrain")
    return done, clone.runs()[-1]


@pytest.fixture(scope="module")
def grown(
    clone: Clone, unchanged: tuple[subprocess.CompletedProcess[str], Path]
) -> tuple[subprocess.CompletedProcess[str], Path]:
    tool = str(clone.folder / ".venv" / "bin" / "cxr-ops")
    clone.run(tool, "data", "synth", "--out", "more", "--images", "300", "--seed", "1", "--first-patient", "20001")
    clone.run(tool, "ingest", "nih", "more", "--batch", "synthetic-2")
    clone.run("rm", "-r", "more")
    said = clone.run(tool, "retrain", "--dry-run").stdout
    assert "synthetic-2" in said, said
    secret = SECRETS | {"CXR_NOTIFY": "hook", "CXR_NOTIFY_NO_CHANGE": "hook"}
    done = clone.run("make", "retrain", "ARGS=--set train.epochs=2", **secret)  # any verdict will do: time counts
    return done, clone.runs()[-1]


def test_the_first_run_promotes_a_model_that_ranks_well(
    clone: Clone, first: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    """From nothing, one command ends with a champion whose mean test AUC is at least 0.80, by a second source too."""
    _, run = first
    result = Result.read(run / "result.json")
    evaluation = Evaluation.read(run / "workspace" / "evaluate" / "evaluation.json")
    assert result.verdict == "PROMOTE"
    assert result.promotion is not None
    assert evaluation.macro_challenger.value >= 0.80

    import pandas as pd

    scores = pd.read_csv(run / "workspace" / "evaluate" / "scores.csv")
    for row in evaluation.findings:
        truth, score = scores[f"{row.finding}_truth"], scores[f"{row.finding}_challenger"]
        assert row.challenger.value == pytest.approx(roc_auc_score(truth, score), abs=1e-6)
    assert [row.finding for row in evaluation.findings] == list(FINDINGS)
    assert open_ledger(clone.home).champion().digest() == result.promotion


def test_the_summary_tells_people_what_came_of_it(
    first: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """All 14 findings, the verdict, the registry version, and where the report, MLflow and DVC stand."""
    done, run = first
    shown = (finding.replace("_", " ") for finding in FINDINGS)
    for word in (*shown, "PROMOTE", "cxr-densenet121", "report", "MLflow", "dvc"):
        assert word in done.stdout, f"{word} is not in the summary:\n{done.stdout}"
    report = Path(Result.read(run / "result.json").report)
    assert report.is_file()
    assert "not for clinical use" in report.read_text().lower()


def test_the_checkout_is_left_as_it_was(clone: Clone, first: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """Branch, index and files of the person are never touched."""
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert clone.run("git", "branch", "--all", "--format", "%(refname:short)").stdout.split() != []
    assert clone.run("git", "log", "--oneline", "-1").returncode == 0


def test_nothing_changed_ends_without_a_look(
    clone: Clone, unchanged: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    """Run again with nothing changed, it says NO_CHANGE, trains nothing and spends no look at the test set."""
    done, run = unchanged
    assert Result.read(run / "result.json").verdict == "NO_CHANGE"
    assert "NO_CHANGE" in done.stdout
    kinds = [entry.kind for entry in open_ledger(clone.home).entries()]
    assert kinds.count("look") == kinds.count("decision") == 1


def test_new_data_is_compared_with_the_champion(
    clone: Clone, grown: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    """A second batch leads to a new challenger, scored beside the first run's champion on the same test set."""
    _, run = grown
    champion = Result.read(clone.runs()[0] / "result.json").package
    result = Result.read(run / "result.json")
    evaluation = Evaluation.read(run / "workspace" / "evaluate" / "evaluation.json")
    verdict = Verdict.read(run / "workspace" / "gate" / "verdict.json")
    assert result.verdict in ("PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE")
    assert evaluation.champion == result.champion.package == champion
    assert evaluation.challenger != champion
    assert evaluation.macro_difference.value == pytest.approx(
        evaluation.macro_challenger.value - evaluation.macro_champion.value, abs=1e-9
    )
    assert verdict.champion.package == champion
    assert (result.promotion is not None) == (result.verdict == "PROMOTE")
    inputs = Inputs.read(run / "workspace" / "inputs.json")
    assert sorted(inputs.data.batches) == ["synthetic-1", "synthetic-2"]
    open_ledger(clone.home).verify()


def test_lineage_leads_from_any_end_to_all_others(
    clone: Clone, first: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    """From the Airflow run to the MLflow run, the DVC revision and the report, and back."""
    _, run = first
    tool = str(clone.folder / ".venv" / "bin" / "cxr-ops")
    result = Result.read(run / "result.json")
    ends = (result.airflow_run_id, result.mlflow_run_id, result.run_commit)
    for end in ends:
        said = clone.run(tool, "lineage", end).stdout
        for other in (*ends, Path(result.report).name):
            assert other in said, f"{other} is not in the lineage of {end}:\n{said}"


def test_the_run_commit_leads_back_to_the_data_and_the_outs(
    clone: Clone, first: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    """A clone of the run's commit, with DVC, gives the package whose digest the ledger holds."""
    _, run = first
    result = Result.read(run / "result.json")
    home = clone.home
    subprocess.run(["git", "clone", "--quiet", str(home.store), str(tmp_path / "again")], check=True)
    subprocess.run(["git", "checkout", "--quiet", result.run_commit], cwd=tmp_path / "again", check=True)
    environment = {**os.environ, "DVC_GLOBAL_CONFIG_DIR": str(home.dvc_config)}
    subprocess.run(
        [sys.executable, "-m", "dvc", "pull", "--quiet", "train"],
        cwd=tmp_path / "again",
        env=environment,
        check=True,
        stdin=subprocess.DEVNULL,
    )

    assert package_digest(tmp_path / "again" / "train" / "package") == result.package
    lock = (tmp_path / "again" / "dvc.lock").read_text()
    assert re.search(r"^  report:", lock, re.MULTILINE)


def test_no_secret_is_written_down(clone: Clone, grown: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """After a run with secrets in the environment no log, database, artifact, report, bundle or word holds one."""
    done, run = grown
    tool = str(clone.folder / ".venv" / "bin" / "cxr-ops")
    bundle = clone.home.root / "run.bundle.tar"
    said = [done.stdout, done.stderr]
    for command in (("bundle", run.name, "--out", str(bundle)), ("doctor", "--json"), ("runs", "--json")):
        told = clone.run(tool, *command, ok=False, **SECRETS)
        said += [told.stdout, told.stderr]
    assert bundle.is_file(), said[-1]
    wanted = (MARK.encode(), base64.b64encode(MARK.encode())[:40])
    files = [path for path in clone.home.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 300
    found = [str(path) for path in files if any(one in path.read_bytes() for one in wanted)]
    assert found == []
    assert MARK not in "".join(said)
