"""The report of a workspace: made from the stages' files, the same bytes each time, anonymous, checkable by hand."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluations import trained
from PIL import Image

from cxr_ops.data import manifest, validation
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.params import Params
from cxr_ops.plan import ATTRIBUTES, identify, load
from cxr_ops.records.base import canonical_json, sha256_file, tree_digest
from cxr_ops.records.data import Batch, DataRevision
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Champion, Code, Inputs, LedgerState, Period, Reference
from cxr_ops.report import words
from cxr_ops.stages import evaluate, gate, report, split
from cxr_ops.stages.explain import RULE, Material, point
from cxr_ops.stats import evidence

SEED = 0
PATIENTS = 240


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_manifest() -> pd.DataFrame:
    """Two images a patient, two batches, one finding (Hernia) that nobody has and a few missing labels."""
    rng = np.random.default_rng(SEED)
    patients = np.repeat(np.arange(90001, 90001 + PATIENTS), 2)
    rows = len(patients)
    frame = pd.DataFrame(
        {
            "image_id": [f"{patient:08d}_{i % 2:03d}.png" for i, patient in enumerate(patients)],
            "patient_id": patients.astype(str),
            "sha256": [sha(f"pixels {i}") for i in range(rows)],
            "source": "nih",
            "batch": np.where(np.arange(rows) < rows // 2, "batch-1", "batch-2"),
            "view": rng.choice(["PA", "AP"], rows),
            "age": rng.integers(20, 90, rows),
            "sex": rng.choice(["F", "M"], rows),
            "width": 96,
            "height": 96,
        }
    )
    for finding in FINDINGS:
        labels = pd.array((rng.random(rows) < 0.25).astype(int) * (finding != "Hernia"), dtype="Int64")
        labels[rng.random(rows) < 0.01] = pd.NA
        labels[rng.random(rows) < 0.01] = UNCERTAIN
        frame[finding] = labels
    return frame


def make_package(folder: Path, name: str) -> str:
    """Four files in the shape of a package; the report reads the contract alone."""
    from cxr_ops.model import package

    provenance = {"settings": Params().train.model_dump(mode="json"), "patient_salt": "s", "machine": {"threads": 2}}
    terms = package.contract(image_size=96, mean=0.5, std=0.25, training=provenance)
    write(folder / "model.json", canonical_json(terms))
    for file in ("weights.safetensors", "network.py", "patients.txt"):
        write(folder / file, f"{file} of {name}".encode())
    return tree_digest(folder)


def make_workspace(root: Path, *, champion: bool = True) -> Path:
    """Write what the stages before would have: by their own functions, where those need neither images nor training."""
    rng = np.random.default_rng(SEED)
    frame = make_manifest()
    params = Params.check({"split": {"test": 0.4}}, "test")
    shutil.copyfile(Path(__file__).parents[2] / "pccp.demo.yaml", root / "pccp.demo.yaml")
    write(root / "validate/manifest.csv", manifest.to_csv(frame, manifest.COLUMNS))
    checks = (
        validation.Check(suite="size", says="There are at least 100 images.", severity="critical", passed=True),
        validation.Check(suite="labels", says="Most images are PA.", severity="warning", passed=False, found="0.49"),
    )
    found = validation.record(
        validation.Validation(checks=checks, suites={}), manifest.read_manifest(root / "validate/manifest.csv")
    )
    found.write(root / "validate/validation.json")
    Period().write(root / "test-period.json")
    split.run(root, params)

    challenger = make_package(root / "train/package", "challenger")
    reigning = (
        Champion(package=make_package(root / "champion/package", "champion"), version="1") if champion else Champion()
    )
    older = Reference(package=make_package(root / "reference/package", "reference"), version="0") if champion else None
    history = [(1, 0.9, 0.95, "nan", 0.001), (2, 0.7, 0.8, 0.71, 0.0005), (3, 0.6, 0.85, 0.7, 0.0001)]
    lines = [
        "epoch,train_loss,validation_loss,validation_auc,learning_rate",
        *(",".join(map(str, row)) for row in history),
    ]
    write(root / "train/history.csv", "\n".join([*lines, ""]).encode())
    trained(challenger).write(root / "train/train.json")

    roles = ["challenger", "champion", "reference"] if champion else ["challenger"]
    sides, scored = {}, {}
    for side in ("test", "validation"):
        frame_of = manifest.read_split(root).query(f"split == '{side}'").reset_index(drop=True)
        truth = manifest.label_array(frame_of)
        scores = {
            role: (1 / (1 + np.exp(-(2 * np.nan_to_num(truth) + rng.normal(size=truth.shape) - 1)))).astype(np.float32)
            for role in roles
        }
        sides[side] = (frame_of, scores)
        scored[side] = evidence.Scored(
            truth=truth.astype(np.float64),
            patients=frame_of["patient_id"].to_numpy(),
            scores=scores,
            uncertain=manifest.uncertain_array(frame_of),
        )
    test, scores = sides["test"]
    plan = identify(root, "pccp.demo.yaml")
    found = evidence.assess(
        FINDINGS,
        scored["test"],
        validation=scored["validation"],
        attributes={name: test[name].astype("string").fillna("").tolist() for name in ATTRIBUTES},
        rules=load(root / "pccp.demo.yaml").performance,
        level=0.95,
    )
    Evaluation(
        **dict(found.evidence),
        test_digest=split_digest(root),
        test_images=len(test),
        test_patients=int(test["patient_id"].nunique()),
        challenger=challenger,
        champion=reigning.package,
        reference=older.package if older else None,
        problems=[],
        subgroups=found.subgroups,
        missing_groups=found.missing_groups,
        performance=found.performance,
        uncertain=found.uncertain,
        scenarios=found.scenarios,
        validation_macro=found.validation_macro,
    ).write(root / "evaluate/evaluation.json")
    write(root / "evaluate/scores.csv", evaluate.scores_table(test, scores))
    write(root / "evaluate/roc.csv", evaluate.roc_table(test, scores))

    batches = {}
    for name, rows in frame.groupby("batch"):
        batch = Batch(name=name, source="nih", images=len(rows), patients=rows["patient_id"].nunique(), files={})
        batch.write(root / f"dataset/{name}/batch.json")
        batches[name] = batch.digest()
    Inputs(
        code=Code(commit="c" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches=batches),
        champion=reigning,
        reference=older,
        ledger=LedgerState(entries=1, head="e" * 64, looks=1),
        plan=plan,
    ).write(root / "inputs.json")
    gate.run(root, params)
    make_explanations(root, test, challenger)
    return root


def make_explanations(root: Path, test: pd.DataFrame, package: str) -> None:
    """Two pictures of noise and one case that does not exist."""
    cases = []
    for i, (kind, empty, inside) in enumerate((("true positive", False, True), ("false negative", True, None))):
        out = io.BytesIO()
        noise = np.random.default_rng(i).integers(0, 255, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(out, format="PNG")
        write(root / f"explain/mass-{i}.png", out.getvalue())
        digest = test["sha256"].iloc[i][:12]
        case = {"finding": "Mass", "kind": kind, "truth": True, "probability": 0.5, "sha256": digest}
        cases.append({**case, "picture": f"mass-{i}.png", "empty": empty, "peak_in_box": inside})
    pointing = [point(finding, {}, Material(sha256={}, shapes={}, boxes={})) for finding in FINDINGS]
    found = Explanation(
        package=package, rule=RULE, cases=cases, missing=["Hernia: no test image has it."], pointing=pointing
    )
    found.write(root / "explain/explain.json")


def split_digest(root: Path) -> str:
    import json

    digest: str = json.loads((root / "split/split.json").read_bytes())["test_digest"]
    return digest


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A workspace in which the stages up to gate have run."""
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def html(workspace) -> str:
    """Its report."""
    report.run(workspace, Params())
    return (workspace / "report/report.html").read_text(encoding="utf-8")


@pytest.fixture
def copy(workspace, tmp_path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(workspace, tmp_path / "copy")
    return tmp_path / "copy"


def shown(html: str) -> str:
    """A page's words, without the tags around intervals."""
    return re.sub(r"</?small>", "", html)


def test_the_report_is_made_from_what_the_stages_left(html, workspace):
    """Verdict, AUCs, counts of batches and split, checks, training, contract and heat maps are on the page."""
    read = report.read(workspace, "t")
    assert read.verdict.verdict in html
    for one in read.evaluation.findings:
        assert words.figure_text(one.challenger) in shown(html)
    for side in read.split:
        assert f"<td>{side.images}</td>" in html
    assert [batch.patients for batch in read.batches] == [PATIENTS // 2, PATIENTS // 2]
    for sentence in (
        "batch-1",
        "batch-2",
        "There are at least 100 images.",
        "not so, and let pass as a warning: 0.49",
        f"Training stopped early, after 3 of at most {Params().train.epochs} epochs.",
        "densenet121",
        "The map&#39;s peak lies in the annotated box.",
        "the map is empty.",
        "Hernia: no test image has it.",
    ):
        assert sentence in html


def test_the_same_workspace_gives_the_same_bytes_elsewhere(html, workspace, copy):
    """Another folder, process, hash seed, time zone and language give the same file."""
    shutil.rmtree(copy / "report")
    code = (
        "from pathlib import Path\nfrom cxr_ops.params import Params\nfrom cxr_ops.stages import report\n"
        "report.run(Path.cwd(), Params())\n"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, env=environ)
    assert (copy / "report/report.html").read_bytes() == html.encode()
    summary = (workspace / "report/summary.html").read_bytes()
    assert (copy / "report/summary.html").read_bytes() == summary


def test_the_summary_holds_no_figure_of_the_test_set(html, workspace):
    """No AUC, difference, check, threshold or count of the evaluation stands in the page for people who tune."""
    summary = (workspace / "report/summary.html").read_text(encoding="utf-8")
    read = report.read(workspace, "t")
    evaluation, verdict = read.evaluation, read.verdict
    figures = [evaluation.macro_challenger, evaluation.macro_difference]
    figures += [figure for one in evaluation.findings for figure in (one.challenger, one.champion, one.difference)]
    told = {words.figure_text(figure) for figure in figures} | {words.difference_text(figure) for figure in figures}
    told |= {f"{one.value:.3f}" for one in figures if hasattr(one, "value")} - {
        f"{value:.3f}" for value in evaluation.validation_macro.values()
    }
    told |= {words.check_text(check) for check in verdict.checks} | {
        reason.sentence for reason in verdict.reasons if reason.code != "OUTSIDE_PLAN"
    }
    told |= {f"{evaluation.test_images} images", f"{evaluation.test_patients} patients", "data:image/jpeg", "Hernia:"}
    texts = re.sub(r"<svg.*?</svg>", "", summary, flags=re.DOTALL)
    assert not [text for text in told if text != words.NOT_EVALUABLE and text in texts]
    assert verdict.verdict in summary
    assert f"{evaluation.validation_macro['challenger']:.3f}" in summary
    assert evaluation.digest() not in summary


def test_no_patient_or_image_is_named(html, workspace):
    """No id of the manifest is in the page, nor the folder it was made in."""
    frame = manifest.read_manifest(workspace / "validate/manifest.csv")
    # Five digits stand somewhere in a digest by chance.
    text = re.sub(r'src="data:image/jpeg;base64,[^"]*"|\b[0-9a-f]{64}\b', "", html)
    for identifier in {*frame["image_id"], *frame["patient_id"], *(name.split("_")[0] for name in frame["image_id"])}:
        assert identifier not in text
    assert str(workspace) not in html


def test_each_printed_command_prints_the_digest_beside_it(html, workspace):
    """Whoever types the commands of the page in a checkout gets the digests of the page."""
    cells = re.findall(
        r'<code class="digest">([0-9a-f]{64})</code><pre><code>(.*?)</code></pre>', html, flags=re.DOTALL
    )
    assert len(cells) == 11
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    for digest, command in cells:
        typed = ["bash", "-c", unescape(command)]
        done = subprocess.run(typed, cwd=workspace, capture_output=True, text=True, check=True, env=environ)
        assert done.stdout.split()[0] == digest, command


def test_a_first_release_has_no_champion_to_verify(tmp_path):
    """Without a champion the page is made all the same, and names no champion's package."""
    root = make_workspace(tmp_path, champion=False)
    report.run(root, Params())
    text = (root / "report/report.html").read_text(encoding="utf-8")
    assert "There is no champion to compare with" in text
    assert "champion/package" not in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("evaluate/evaluation.json", "stems from another evaluation"),
        ("inputs.json", "stems from another inputs"),
        ("train/train.json", "about another package than train/train"),
        ("explain/explain.json", "explain.json is about another package"),
    ],
)
def test_files_of_different_runs_are_not_mixed(copy, spoil, message):
    """A file that is not the one the verdict was given on is refused, and no report is left."""
    path = copy / spoil
    replacement = {
        "evaluate/evaluation.json": (b'"test_images": ', b'"test_images": 1'),
        "inputs.json": (b'"looks": 1', b'"looks": 2'),
        "train/train.json": (b'"package": "', b'"package": "0'),
        "explain/explain.json": (b'"package": "', b'"package": "0'),
    }[spoil]
    path.write_bytes(path.read_bytes().replace(*replacement))
    with pytest.raises(DataError, match=message):
        report.run(copy, Params())
    assert not (copy / "report").exists()


@pytest.mark.parametrize(
    "name",
    [
        "gate/verdict.json",
        "evaluate/roc.csv",
        "train/history.csv",
        "explain/explain.json",
        "split/split.json",
        "inputs.json",
    ],
)
def test_a_stage_that_has_not_run_is_named(copy, name):
    """A missing file is an error that names it."""
    (copy / name).unlink()
    with pytest.raises(DataError, match=re.escape(f"{Path(name).name} is missing")):
        report.run(copy, Params())


def test_the_title_is_that_of_the_settings(workspace, copy):
    """`report.title` heads the page."""
    report.run(copy, Params.check({"report": {"title": "St. Elsewhere"}}, "test"))
    assert "<h1>St. Elsewhere</h1>" in (copy / "report/report.html").read_text(encoding="utf-8")


def test_a_digest_of_the_page_is_that_of_the_file(html, workspace):
    """The inputs' digest on the page is the SHA-256 of the file, computed here from its bytes."""
    assert hashlib.sha256((workspace / "inputs.json").read_bytes()).hexdigest() in html
    assert sha256_file(workspace / "gate/verdict.json") in html
