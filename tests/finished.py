"""Runs whose deterministic stages have ended, made in a second or two: what `publish` and `promote` are tested on.

Real: the network and its package (random weights, 32 px), the store, the workspace's DVC project, the MLflow database.
Made up: the numbers of the evidence, and the stages' other outputs, which are small files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluations import FACTS, behaving, estimate, lying, opened, performance_of, resting, trained

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Look, PeriodOpened
from cxr_ops.audit.package import patient_key
from cxr_ops.audit.state import allowance, period_limits, strictest
from cxr_ops.contract import slug
from cxr_ops.edges import git
from cxr_ops.edges.dvc import command, environment
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import repository
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params, Prepare, Train
from cxr_ops.records.base import sha256_bytes, tree_digest
from cxr_ops.records.data import Batch, DataRevision
from cxr_ops.records.evidence import Composite, Evaluation, Falls, FindingEvidence, Side, Subgroup, Support
from cxr_ops.records.inputs import Allowance, Champion, Code, Inputs, Reference
from cxr_ops.records.validation import Validated
from cxr_ops.records.verdict import Reason
from cxr_ops.stats import rule

# `restore` puts another database in the place of one that is in use: no connection may outlive a call.
os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"

PROJECT = Path(__file__).resolve().parents[1]
TEST_DIGEST = sha256_bytes(b"test set")
NAMES = ("first", "second", "third", "fourth")
AIRFLOW = {name: f"manual__2026-03-0{i}T04:05:06+00:00" for i, name in enumerate(NAMES, 1)}
RUN = {name: slug(run_id) for name, run_id in AIRFLOW.items()}
SUMMARY = (
    '<!DOCTYPE html><html lang="en"><body><!-- cxr:published -->\n<h1>Summary</h1>'
    '<section id="verdict"><!-- cxr:told --></section></body></html>\n'
)
REPORT = '<!DOCTYPE html><html lang="en"><body><!-- cxr:published -->\n<h1>Report & more</h1></body></html>\n'
# The settings that the evidence's facts name.
PARAMS = Params(
    prepare=Prepare(image_size=224), train=Train(epochs=12, batch_size=64, max_positive_weight=20.0, seed=7)
)
_VALUES = {"sex": ("F", "M"), "view": ("AP", "PA"), "age": ("0-39", "40-64", "65 and over")}
PIPELINE = """\
stages:
  gate:
    cmd: "true"
    deps: [inputs.json]
    outs:
      - train/package
      - report/report.html
      - report/summary.html
      - report/report.json
      - report/summary.json
      - report/report.md
      - report/summary.md
      - evaluate/evaluation.json: {cache: false}
      - gate/verdict.json: {cache: false}
"""
# What the pipeline of a run with scores makes besides.
SCORED = (
    "      - report/summary.md\n",
    "      - report/summary.md\n"
    + "".join(
        f"      - {name}\n"
        for name in (
            "evaluate/scores.csv",
            "evaluate/validation_scores.csv",
            "split/split.csv",
            "train/train.json",
            "validate/manifest.csv",
            "validate/validation.json",
        )
    ),
)


@dataclass(frozen=True)
class Case:
    """What a finished run is like; each test changes what it is about."""

    name: str = "first"
    package: str = "a"
    verdict: str = "PROMOTE"
    plan: str = "pccp.demo.yaml"
    champion: Champion = field(default_factory=Champion)
    reference: Reference | None = None
    superior: bool = False
    holds: tuple[str, ...] = ()
    approvals: int | None = None  # None: as many as the plan asks for
    dirty: bool = False
    recorded_look: bool = True
    with_ledger: bool = True
    airflow_run_id: str | None = None
    requested_by: str | None = "dr_ruiz"
    gains: bool = False  # the challenger beats the other models by 0.2
    auc: float = 0.9  # the challenger's, of every finding
    claimed: bool = False  # the verdict is written whatever the rule says
    new_period: bool = False  # in a test period of its own: of runs under `pccp.demo.yaml` all was told

    @property
    def honest(self) -> bool:
        """Whether the verdict is what the rule makes of the evidence, and nothing is only claimed."""
        claims = (self.claimed, self.verdict, self.superior, self.holds, self.approvals)
        return claims == (False, "PROMOTE", False, (), None)

    @property
    def run(self) -> str:
        return RUN[self.name]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packages `a`, `b` and `c` of the real network with random weights; they differ in the head's bias.

    The first was trained on the patient 1, the second on 2, the third on 3.
    """
    import torch

    from cxr_ops.model import network, package

    terms = package.contract(image_size=32, mean=0.5, std=0.25, training={"seed": 0, "patient_salt": "s"})
    torch.manual_seed(0)
    state = network.build(terms).state_dict()
    folder = tmp_path_factory.mktemp("packages")
    for number, (name, shift) in enumerate((("a", 0.0), ("b", 0.1), ("c", 0.2)), 1):
        changed = {**state, "classifier.bias": state["classifier.bias"] + shift}
        package.write(folder / name, state=changed, contract=terms, patients={patient_key("s", str(number))})
    return {name: folder / name for name in "abc"}


def make_home(root: Path, **changes: Any) -> Home:
    """An installation under a folder, with everything local."""
    (root / "project").mkdir(parents=True, exist_ok=True)
    source = f"{root / 'reviewed.git'}#main"
    environ = {"CXR_HOME": str(root / "home"), "CXR_PROJECT": str(root / "project"), "CXR_CODE_SOURCE": source}
    return replace(Home.find(environ), **changes)


def finish(
    home: Home,
    packages: dict[str, Path],
    case: Case,
    *,
    tracked: bool = True,
    scored: Callable[[Path, plans.ChangePlan], dict[str, Any]] | None = None,
    **rules: Any,
) -> str:
    """Make the workspace of a run whose stages have ended; returns the run's name.

    Without `tracked` it is a folder of files only, no repository and no DVC project, which takes no time. `rules` are
    keys of the plan that have another value in this run. `scored` writes scores and manifest into the workspace, and
    gives what of the evidence follows from them.
    """
    root = home.workspace(case.run)
    shutil.rmtree(home.run(case.run), ignore_errors=True)
    root.mkdir(parents=True)
    if case.new_period:
        number = open_ledger(home).period().number + 1
        opening = PeriodOpened(number=number, closed_batches=[], by="dr_lee", reason="patients of its own")
        open_ledger(home).append("period", opening)
    state = open_ledger(home).state()
    for name in ("pccp.yaml", "pccp.demo.yaml"):
        # To serve a model takes as long as all else here: what is about that asks for it.
        asked = (PROJECT / name).read_text()
        (root / name).write_text(re.sub(r"\bserving: \{.*", "serving: null", asked))
    write_text(root / "params.yaml", yaml.safe_dump(PARAMS.model_dump(mode="json", by_alias=True)))
    for key, value in rules.items():
        text, count = re.subn(rf"\b{key}: .*", f"{key}: {json.dumps(value)}", (root / case.plan).read_text())
        assert count == 1, f"{key} stands {count} times in {case.plan}"
        (root / case.plan).write_text(text)
    plan = plans.load(root / case.plan)
    (root / "dvc.yaml").write_text(PIPELINE if scored is None else PIPELINE.replace(*SCORED))
    commit = _code(home, root, case.run) if tracked else "c" * 40
    write(
        root / "dataset/batch-1/batch.json",
        batch := Batch(name="batch-1", source="nih", images=9, patients=4, files={}),
    )
    inputs = Inputs(
        code=Code(commit=commit, dirty=case.dirty),
        data=DataRevision(revision="d" * 40, batches={"batch-1": batch.digest()}),
        champion=case.champion,
        reference=case.reference,
        period=open_ledger(home).period(),
        ledger=state if case.with_ledger else None,
        plan=plans.identify(root, case.plan),
        allowance=_allowance(home, plan) if case.with_ledger else None,
    )
    write(root / "inputs.json", inputs)
    shutil.copytree(packages[case.package], root / "train/package", copy_function=_link_large)
    digest = tree_digest(root / "train/package")
    reference = case.reference.package if case.reference else None
    evaluation = make_evaluation(case, plan, digest, reference, period=inputs.period.number)
    if scored is not None:
        evaluation = evaluation.model_copy(update=scored(root, plan))
    write(root / "evaluate/evaluation.json", evaluation)
    write(
        root / "train/train.json",
        trained(digest),
    )
    judged = rule.decide(evaluation, inputs, plan)
    # What the evidence does not show is written in all the same: a test of what the record forbids needs no evidence.
    claims = {
        "verdict": case.verdict,
        "superior": case.superior,
        "approvals": judged.approvals if case.approvals is None else case.approvals,
        "reasons": [
            *judged.reasons,
            *(Reason(code=code, finding="Mass", sentence="Mass: somebody must look.") for code in case.holds),
        ],
    }
    verdict = judged if case.honest else judged.model_copy(update=claims)
    write(root / "gate/verdict.json", verdict)
    write_text(root / "report/report.html", REPORT)
    write_text(root / "report/summary.html", SUMMARY)
    for name in ("report", "summary"):
        write_text(root / f"report/{name}.json", f'{{"of": "{name}"}}\n')
        write_text(root / f"report/{name}.md", f"## The {name}\n")
    write_text(root / "train/history.csv", "epoch,train_loss,validation_auc\n1,0.5,\n2,0.25,0.75\n")
    write_text(root / "validate/validation.html", "<p>valid</p>")
    read = Validated(passed=True, suites={}, images=4, patients=4, checks=[], groups=[], data=inputs.data.digests())
    write(root / "validate/validation.json", read)
    (root / "explain").mkdir()
    (root / "explain/case-1.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    if case.recorded_look:
        period = inputs.period.number
        about = {"period": period, "batches": ("batch-1",), "claim": inputs.claim, "limits": plan.limits}
        open_ledger(home).record_look(Look(model=digest, test_digest=TEST_DIGEST, run=case.run, **about))
    opened(
        case.run,
        airflow_run_id=case.airflow_run_id or AIRFLOW[case.name],
        requested_by=case.requested_by,
        code=inputs.code,
        data=inputs.data,
        champion=case.champion,
        recipe=sha256_bytes(case.package.encode()),
    ).write(home.run(case.run) / "run.json")
    if tracked:
        _track(home, root, case.run)
    return case.run


def _allowance(home: Home, plan: plans.ChangePlan) -> Allowance:
    entries, period = open_ledger(home).entries(), open_ledger(home).period().number
    return allowance(entries, strictest([plan.limits, period_limits(entries, period)]), period)


def make_evaluation(
    case: Case, plan: plans.ChangePlan, challenger: str, reference: str | None, *, period: int = 1
) -> Evaluation:
    """Evidence that the plan promotes: every finding, each group of the plan, against those that there are."""
    others = (["champion"] if case.champion.package else []) + (
        ["reference"] if reference and reference != case.champion.package else []
    )
    gain = 0.2 if case.gains else 0.0
    figures = {
        "challenger": estimate(case.auc, 0.002),
        "champion": None,
        "difference": None,
    }
    for other in others:
        figures[other] = estimate(case.auc - gain, 0.002)
        figures["difference" if other == "champion" else "reference_difference"] = estimate(gain, 0.002)
    whole = _evidence(figures, 1, _falls(others))
    performance = [performance_of(row, roles=tuple(others)) for row in whole["findings"]]
    rules = plan.performance.subgroups
    groups = [
        Subgroup(
            attribute=name,
            value=value,
            images=9900 // (parts := len(_VALUES[name])),
            patients=6000 // parts,
            **_evidence(figures, parts),
        )
        for name in (rules.attributes if rules else ())
        for value in _VALUES[name]
    ]
    return Evaluation(
        **whole,
        test_digest=TEST_DIGEST,
        test_images=9900,
        test_patients=6000,
        challenger=challenger,
        champion=case.champion.package,
        reference=reference,
        problems=[],
        subgroups=groups,
        composites=[
            Composite(name=one.name, findings=list(one.findings), positive_patients=600, **figures, **_falls(others))
            for one in plan.performance.composites
        ],
        performance=performance,
        reliance=resting(whole["findings"], plan),
        localization=lying(whole["findings"], plan),
        heat_maps=behaving(plan, 6000, first=case.champion.package is None),
        facts=FACTS,
        period=period,
        validation_macro={"challenger": 0.71},
    )


def _falls(others: list[str]) -> dict[str, Falls]:
    """No patient's rank fell: 900 images of 600 patients with the finding, 9,000 of 5,400 without."""
    still = Falls(
        error=0.002,
        positive=Side(sizes=[(1, 300), (2, 300)], fallen=0, fallen_patients=0),
        negative=Side(sizes=[(1, 1800), (2, 3600)], fallen=0, fallen_patients=0),
    )
    return {"falls" if other == "champion" else "reference_falls": still for other in others}


def _evidence(figures: dict[str, Any], parts: int, falls: dict[str, Falls] | None = None) -> dict[str, Any]:
    support = Support(
        positives=900 // parts,
        negatives=9000 // parts,
        positive_patients=600 // parts,
        negative_patients=5400 // parts,
    )
    return {
        "findings": [
            FindingEvidence(finding=finding, support=support, **figures, **(falls or {})) for finding in FINDINGS
        ],
        "macro_over": list(FINDINGS),
        **{f"macro_{name}": figure for name, figure in figures.items()},
    }


def png(pixels: np.ndarray) -> bytes:
    """A PNG file."""
    import cv2

    return cv2.imencode(".png", pixels)[1].tobytes()


def write(path: Path, record: Any) -> None:
    record.write(path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def keep(home: Home, name: str) -> Path:
    """Keep a copy of an installation, to return to."""
    kept = home.root.with_name(name)
    shutil.copytree(home.root, kept, symlinks=True, copy_function=_link_large)
    return kept


def restore(home: Home, kept: Path) -> Home:
    """Return to a copy, in the same place: MLflow keeps absolute paths."""
    shutil.rmtree(home.root)
    shutil.copytree(kept, home.root, symlinks=True, copy_function=_link_large)
    return home


def _code(home: Home, root: Path, run: str) -> str:
    """Make the workspace a clone at a code commit that the store holds, on the run's branch, as `open` does."""
    repository.ensure_store(home)
    git.git(home, root, "init", "--quiet", f"--initial-branch=runs/{run}")
    git.git(home, root, "remote", "add", "origin", str(home.store))
    (root / ".dvc").mkdir()
    (root / ".dvc/config").touch()
    write_text(root / ".gitignore", "/train\n/explain\n/validate\n/split\n/report\n/dataset\n")
    git.git(
        home, root, "add", "--", "pccp.yaml", "pccp.demo.yaml", "params.yaml", "dvc.yaml", ".gitignore", ".dvc/config"
    )
    git.git(home, root, "commit", "--quiet", "-m", "Code")
    commit = git.git(home, root, "rev-parse", "HEAD")
    git.git(home, root, "push", "--quiet", "origin", f"HEAD:refs/cxr/code/{commit}")
    reviewed = home.settings.code_source.partition("#")[0]
    git.git(home, root, "init", "--quiet", "--bare", reviewed)
    git.git(home, root, "push", "--quiet", "--force", reviewed, "HEAD:refs/heads/main")
    return commit


def _track(home: Home, root: Path, run: str) -> None:
    """Write the lock file, as the stages leave it."""
    subprocess.run(command("commit", "--quiet", "--force"), cwd=root, env=environment(home), check=True)


def _link_large(source: str, target: str) -> None:
    """Weights are linked: whoever changes them must put another file in their place."""
    if Path(source).stat().st_size > 1_000_000 and not source.endswith(".db"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where `published` and `champion` stand; tests ask for one of those."""
    return make_home(tmp_path_factory.mktemp("installation"))


@pytest.fixture(scope="session")
def _published_copy(installation: Home, packages: dict[str, Path]) -> Path:
    from cxr_ops.stages import publish

    for name, package in (("first", "a"), ("second", "b")):
        publish.run(installation, finish(installation, packages, Case(name=name, package=package)))
    return keep(installation, "published")


@pytest.fixture(scope="session")
def _champion_copy(installation: Home, _published_copy: Path) -> Path:
    from cxr_ops.stages import promote

    restore(installation, _published_copy)
    promote.run(installation, RUN["first"])
    return keep(installation, "champion")


@pytest.fixture
def published(installation: Home, _published_copy: Path) -> Home:
    """An installation with two published runs, `first` and `second`, both judged against no champion."""
    return restore(installation, _published_copy)


@pytest.fixture
def champion(installation: Home, _champion_copy: Path) -> Home:
    """The same after `first` was promoted."""
    return restore(installation, _champion_copy)


def judged_against_now(home: Home, packages: dict[str, Path], name: str, package: str) -> str:
    """A published run that was judged against the champion and the reference of now."""
    from cxr_ops.stages import publish

    now = open_ledger(home).champion()
    promotion = now.promotion
    against = Champion(
        package=promotion.package, version=promotion.model_version, entry=now.digest(), recipe=promotion.recipe
    )
    reference = Reference(package=promotion.reference, version="1")
    run = finish(home, packages, Case(name=name, package=package, champion=against, reference=reference))
    publish.run(home, run)
    return run


@pytest.fixture(scope="session")
def _replaced_copy(installation: Home, _champion_copy: Path, packages: dict[str, Path]) -> Path:
    from cxr_ops.stages import promote

    restore(installation, _champion_copy)
    promote.run(installation, judged_against_now(installation, packages, "third", "b"))
    return keep(installation, "replaced")


@pytest.fixture
def replaced(installation: Home, _replaced_copy: Path) -> Home:
    """The same after version 2, of the run `third`, replaced version 1."""
    return restore(installation, _replaced_copy)
