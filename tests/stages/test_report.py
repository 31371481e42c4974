"""The report of a workspace: made from the stages' files, the same bytes each time, anonymous, checkable by hand."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluations import trained
from PIL import Image

from cxr_ops.audit import facts
from cxr_ops.data import manifest, validation
from cxr_ops.data.regions import REGIONS
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.params import Params
from cxr_ops.plan import ATTRIBUTES, identify, load
from cxr_ops.records.acceptance import Acceptance
from cxr_ops.records.base import canonical_json, sha256_file, tree_digest
from cxr_ops.records.data import Batch, DataRevision, Event, Relabelled
from cxr_ops.records.evidence import Evaluation, Facts
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Champion, Code, Inputs, LedgerState, Period, Reference
from cxr_ops.records.report import Report as Document
from cxr_ops.records.training import StartingWeights
from cxr_ops.records.verdict import Verdict
from cxr_ops.report import page, words
from cxr_ops.stages import evaluate, gate, report, split
from cxr_ops.stats import evidence, reliance
from cxr_ops.stats.cases import RULE

SEED = 0
page_draw = page.draw
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
        reliance=reliance.measure(
            FINDINGS,
            scored["test"].truth,
            scored["test"].patients,
            {role: scores[role] for role in roles if role != "reference"},
            {region: {role: scores[role] for role in roles if role != "reference"} for region in REGIONS},
            0.95,
        ),
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
        seen = {"probability": 0.5, "calibrated": True, "threshold": 0.4, "called": True, "peak_in_box": inside}
        seen["map"] = [[0.0, 0.0], [0.0, 0.0 if empty else 1.0]]
        case = {"finding": "Mass", "kind": kind, "truth": True, "probability": 0.5, "sha256": digest}
        case["challenger"] = seen
        cases.append({**case, "picture": f"mass-{i}.png", "empty": empty, "peak_in_box": inside})
    found = Explanation(package=package, rule=RULE, cases=cases, missing=["Hernia: no test image has it."])
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
    read = report.read(workspace, Params().report)
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
    read = report.read(workspace, Params().report)
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
    assert verdict.verdict not in summary
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
    assert len(cells) == 12
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


def spoilt(path: Path, how: str) -> None:
    """Take a file away, cut it in the middle, or put other bytes in its place."""
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(data[: len(data) // 2] if how == "cut" else b"\xff\x00\xfe nonsense")


@pytest.mark.parametrize("how", ["missing", "cut", "other"])
@pytest.mark.parametrize(
    "name",
    [
        "gate/verdict.json",
        "explain/explain.json",
        "evaluate/evaluation.json",
        "split/split.json",
        "split/split.csv",
        "train/train.json",
        "train/package/model.json",
        "validate/manifest.csv",
        "validate/validation.json",
        "inputs.json",
    ],
)
def test_a_record_that_is_missing_or_damaged_is_named(copy, name, how):
    """Without a record there is no report: the error names the file."""
    spoilt(copy / name, how)
    with pytest.raises(DataError) as caught:
        report.run(copy, Params())
    assert Path(name).name in f"{caught.value}"
    assert not (copy / "report").exists()


@pytest.mark.parametrize("how", ["missing", "cut", "other"])
@pytest.mark.parametrize("name", ["evaluate/roc.csv", "train/history.csv", "explain/mass-0.png"])
def test_what_is_only_shown_is_missed_on_the_page(copy, monkeypatch, name, how):
    """Without curves or a picture the report is made, and says at its top and for machines what is missing."""
    monkeypatch.setattr(page, "draw", lambda material: defaultdict(str) if material.curves else page_draw(material))
    spoilt(copy / name, how)
    report.run(copy, Params())
    html = (copy / "report/report.html").read_text(encoding="utf-8")
    [sentence] = Document.read(copy / "report/report.json").told.missing
    assert Path(name).name in sentence
    assert html.index("INCOMPLETE.") < html.index(sentence.replace("'", "&#39;")) < html.index("<main>")
    assert "INCOMPLETE" in (copy / "report/report.md").read_text(encoding="utf-8")


def test_the_title_is_that_of_the_settings(workspace, copy):
    """`report.title` heads the page."""
    report.run(copy, Params.check({"report": {"title": "St. Elsewhere"}}, "test"))
    assert "<h1>St. Elsewhere</h1>" in (copy / "report/report.html").read_text(encoding="utf-8")


def test_a_digest_of_the_page_is_that_of_the_file(html, workspace):
    """The inputs' digest on the page is the SHA-256 of the file, computed here from its bytes."""
    assert hashlib.sha256((workspace / "inputs.json").read_bytes()).hexdigest() in html
    assert sha256_file(workspace / "gate/verdict.json") in html


def test_flow_and_characteristics_are_those_of_the_manifest(workspace):
    """Batches, sides and who the patients are agree with counts of the manifest and the split by pandas."""
    found = report.read(workspace, Params().report)
    rows = manifest.read_manifest(workspace / "validate/manifest.csv")
    rows["side"] = pd.read_csv(workspace / "split/split.csv")["split"]
    flow = found.flow
    assert (flow.total.images, flow.total.patients) == (len(rows), rows["patient_id"].nunique())
    assert sum(batch.images for batch in flow.batches) == flow.total.images
    assert sum(side.images for side in flow.sides) + sum(one.images for one in flow.excluded) == flow.total.images
    for side, one in zip(flow.sides, found.characteristics, strict=True):
        part = rows[rows["side"] == side.name]
        assert (side.name, side.images, side.patients) == (one.name, one.images, one.patients)
        assert (side.images, side.patients) == (len(part), part["patient_id"].nunique())
        assert one.views == part["view"].value_counts().to_dict()
        assert one.ages.median == part.groupby("patient_id")["age"].min().median()


def test_what_leaves_the_flow_is_counted_by_its_reason():
    """What is on no side of the split is counted by why: withdrawn, its view, or an earlier test period."""
    rows = pd.DataFrame(
        {
            "patient_id": ["a", "a", "b", "c", "c", "d"],
            "batch": ["one", "one", "one", "two", "two", "two"],
            "view": ["PA", "LL", "", "AP", "PA", "PA"],
            "split": ["train", "not-frontal", "not-frontal", "retired", "retired", "test"],
        }
    )
    withdrawn = pd.DataFrame({"patient_id": ["a", "e", "e"], "batch": ["one", "three", "three"]})
    flow = report.flow(rows, withdrawn, ["one", "three", "two"])
    assert [(one.reason, one.images, one.patients) for one in flow.excluded] == [
        ("withdrawn after ingestion", 3, 2),
        ("view not known", 1, 1),
        ("view LL", 1, 1),
        ("tested in an earlier test period", 2, 1),
    ]
    assert [(one.name, one.images, one.patients) for one in flow.batches] == [
        ("one", 4, 2),
        ("three", 2, 1),
        ("two", 3, 2),
    ]
    assert (flow.total.images, flow.total.patients) == (9, 5)
    assert [(side.name, side.images) for side in flow.sides] == [("train", 1), ("validation", 0), ("test", 1)]


def test_what_ingestion_left_out_is_told_by_batch(copy):
    """Quarantined rows come from each batch's own record, refused batches from the run's inputs; events count."""
    inputs = Inputs.read(copy / "inputs.json")
    first, *others = sorted(inputs.data.batches)
    told = {"max_quarantined": 0.1, "drift_alpha": 0.01, "drift": "warning"}
    Acceptance(batch=first, outcome="quarantine", rows=50, images=47, **told).write(
        copy / "dataset" / first / "acceptance.json"
    )
    labels = [Relabelled(image_id=image, finding="Mass", was=1, now=0) for image in ("a", "b", "b")]
    event = Event(name="event.00001", kind="relabel", by="dr_lee", reason="read again", labels=labels)
    (copy / "dataset" / "event.00001").mkdir()
    event.write(copy / "dataset" / "event.00001" / "event.json")
    data = inputs.data.model_copy(update={"events": {"event.00001": "e" * 64}})
    found = report.brought(copy, inputs.model_copy(update={"data": data, "refused": {"north": 300}}))
    assert [(one.reason, one.images) for one in found["left_out"]] == [
        (f"left out of {first} at ingestion", 3),
        ("batch north was refused", 300),
    ]
    assert (found["unrecorded"], found["corrected"]) == (others, 2)


def test_settings_that_differ_from_the_champions_are_named(copy):
    """A setting of the challenger that the champion was not made with stands with both values; equal ones do not."""
    model = json.loads((copy / "champion/package/model.json").read_bytes())
    model["training"]["settings"] |= {"epochs": 3, "optimizer": "sgd"}
    del model["training"]["settings"]["ema"]
    challenger = facts.settings(json.loads((copy / "train/package/model.json").read_bytes()))
    write(copy / "champion/package/model.json", canonical_json(model))
    evaluation = Evaluation.read(copy / "evaluate/evaluation.json")
    told = Facts(
        architecture="densenet121",
        findings=list(FINDINGS),
        settings=challenger,
        sources=["nih"],
        starting_weights=StartingWeights(start="none", patients="none"),
    )
    found = report.changes(copy, evaluation.model_copy(update={"facts": told}))
    assert [(one.name, one.champion, one.challenger) for one in found] == [
        ("train.ema", "not on record", "none"),
        ("train.epochs", "3", "6"),
        ("train.optimizer", "sgd", "adamw"),
    ]
    assert report.changes(copy, evaluation) is None  # this evidence does not say what the challenger is


def test_a_champion_of_another_contract_hides_no_report(copy):
    """Where the champion's contract does not say what it was made with, that is not known, and the report is made."""
    write(copy / "champion/package/model.json", b'{"findings": []}\n')
    assert report.changes(copy, Evaluation.read(copy / "evaluate/evaluation.json")) is None


def test_the_document_for_machines_holds_what_the_page_shows(html, workspace):
    """`report.json` has a format, holds the records as they are, and its figures stand on the page."""
    found = Document.read(workspace / "report/report.json")
    assert found.format == 1
    assert found.evaluation == Evaluation.read(workspace / "evaluate/evaluation.json")
    assert found.verdict == Verdict.read(workspace / "gate/verdict.json")
    assert found.digests["Verdict"] == sha256_file(workspace / "gate/verdict.json")
    text = shown(html)
    assert all(unescape(sentence) in unescape(text) for sentence in found.told.headline)
    for one in found.predictive:
        assert words.figure_text(one.positive) in text
        assert words.figure_text(one.negative) in text
    stated = {one.prevalence for one in found.predictive if one.origin == "stated"}
    assert stated == {0.01, 0.1}
    assert len({one.prevalence for one in found.predictive if one.origin == "scored"}) > 1


def test_the_summarys_document_holds_no_figure_of_the_test_set(workspace):
    """`summary.json` and `summary.md` hold no figure, reason or case of the evaluation."""
    texts = [(workspace / "report" / name).read_text() for name in ("summary.json", "summary.md")]
    evaluation = Evaluation.read(workspace / "evaluate/evaluation.json")
    verdict = Verdict.read(workspace / "gate/verdict.json")
    figures = [evaluation.macro_challenger, *(one.challenger for one in evaluation.findings)]
    told = {f"{one.value:.6f}"[:7] for one in figures if hasattr(one, "value")}
    told |= {reason.sentence for reason in verdict.reasons} | {verdict.verdict, evaluation.digest()}
    assert not [one for one in told for text in texts if one in text]
    assert json.loads(texts[0])["validation_macro"] == evaluation.validation_macro
