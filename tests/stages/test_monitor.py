"""The monitor on a real installation: answers with real receipts, and the scores that the champion was judged by."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scored_runs import rows_of, scores_of
from typer.testing import CliRunner

from cxr_ops import plan as plans
from cxr_ops.audit.entries import PlanAdopted
from cxr_ops.commands import app as command
from cxr_ops.contract import EXIT_ALARM
from cxr_ops.data import answers, receipts
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import CxrError, DataError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.inputs import Limits
from cxr_ops.report import monitoring as report
from cxr_ops.stages import monitor
from cxr_ops.stats import surveillance

WEEKS, PATIENTS = 8, 40


def begun(home: Home) -> datetime:
    """When the champion came into use."""
    return datetime.fromisoformat(open_ledger(home).champion().at)


def answer(home: Home, at: datetime, picture: bytes, scores: np.ndarray, model: str | None = None) -> dict[str, Any]:
    """What a server answers about a picture at a time."""
    served = receipts.Served(
        model=model or open_ledger(home).champion().promotion.package, preprocessing="b" * 64, operating_points=None
    )
    said = {name: float(value) for name, value in zip(FINDINGS, scores, strict=True)}
    return {"probabilities": said, "receipt": {**served.receipt(picture, said), "at": at.isoformat()}}


@pytest.fixture
def kept(scored_home: Home, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Makes eight weeks of answers about patients like those of the test set, and a table of what is known of them."""

    def make(*, shift: float = 0.0, labels: bool = True) -> tuple[Path, Path]:
        rows = rows_of("hospital", WEEKS * PATIENTS // 2, seed=5)
        scores = scores_of(rows, ("model",), seed=7)["model"].astype(float)
        late = np.repeat(np.arange(WEEKS), PATIENTS) >= 3
        scores[late] = 1 / (1 + np.exp(-np.log(scores[late] / (1 - scores[late])) - shift))
        log, table = tmp_path / "answers.jsonl", tmp_path / "labels.csv"
        start, lines = begun(scored_home), []
        for number in range(len(rows)):
            at = start + timedelta(weeks=number // PATIENTS, minutes=1 + number % PATIENTS)
            lines.append(answer(scored_home, at, b"%d" % number, scores[number]))
        answers.append(log, lines)
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sha256", "patient_id", "sex", "age", "view", "labelled", *FINDINGS])
            for number, row in enumerate(rows.itertuples(index=False)):
                day = (start + timedelta(weeks=number // PATIENTS, days=2)).date()
                known = (
                    [getattr(row, name) for name in FINDINGS] if labels and number % 4 == 0 else [""] * len(FINDINGS)
                )
                known = ["" if value is None or str(value) == "<NA>" else value for value in known]
                digest = hashlib.sha256(b"%d" % number).hexdigest()
                writer.writerow([digest, f"p{number}", row.sex, row.age, row.view, day, *known])
        return log, table

    return make


def look(home: Home, folder: Path, **more: Any) -> monitor.Monitored:
    now = begun(home) + timedelta(weeks=WEEKS, hours=1)
    return monitor.run(home, folder, **{"now": now, **more})


def test_patients_like_the_gates_are_in_control(scored_home: Home, kept: Callable[..., tuple[Path, Path]]) -> None:
    """Patients drawn as the test set's raise no alarm; each finding is said to be in control, by all that is known."""
    folder, labels = kept()
    found = look(scored_home, folder, labels=labels)
    assert not found.alarms
    assert (found.weeks, found.patients, found.labelled) == (WEEKS, WEEKS * PATIENTS, WEEKS * PATIENTS // 4)
    lines = report.lines(found)
    assert lines[0] == "In control: nothing has changed that this can see."
    assert sum(": in control" in line for line in lines) == 2 + len(FINDINGS)
    watched = {(one.kind, one.what) for one in found.streams if not one.unwatched}
    assert {("inputs", "view"), ("inputs", "age"), ("scores", "score"), ("labels", "brier")} <= watched
    assert {one.what for one in found.streams if one.unwatched} >= {"brightness", "contrast"}


def test_scores_that_rise_are_an_alarm_with_date_and_reason(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that rise in week 4 are in alarm from a week that is not before; lines, JSON and page say since when and
    that scores are higher; the command ends with 16."""
    folder, labels = kept(shift=2.0)
    found = look(scored_home, folder, labels=labels)
    [whole] = [one for one in found.alarms if one.what == "score" and one.finding is None]
    assert whole.alarms[0] >= 3
    day = (begun(scored_home) + timedelta(weeks=whole.alarms[0] + 1)).date().isoformat()
    lines = report.lines(found)
    assert any(line.startswith("  all findings, scores: They are higher than they were") for line in lines)
    monkeypatch.setenv("CXR_HOME", str(scored_home.root))
    monkeypatch.setenv("CXR_PROJECT", str(scored_home.project))
    page, at = tmp_path / "page.html", (begun(scored_home) + timedelta(weeks=WEEKS, hours=1)).isoformat()
    typed = ["monitor", str(folder), "--labels", str(labels), "--at", at, "--html", str(page), "--json"]
    done = CliRunner().invoke(command.app, typed)
    assert done.exit_code == EXIT_ALARM, done.output
    said = json.loads(done.stdout)
    assert said["alarm"] is True
    assert day in said["headline"]
    [stream] = [one for one in said["streams"] if one["what"] == "score" and one["finding"] is None]
    assert stream["since"] == [day]
    text = page.read_text()
    assert f"alarm since {day}" in text
    assert "<svg" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_second_look_says_the_same_of_the_weeks_before(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]]
) -> None:
    """What was in alarm after five weeks is in alarm since the same week after eight: nothing is kept in between."""
    folder, labels = kept(shift=2.0)
    early = look(scored_home, folder, labels=labels, now=begun(scored_home) + timedelta(weeks=5, hours=1))
    late = look(scored_home, folder, labels=labels)
    for one, other in zip(early.streams, late.streams, strict=True):
        assert other.peaks[: len(one.peaks)] == one.peaks
    assert early.left == (WEEKS - 5) * PATIENTS


def test_answers_are_held_against_what_may_be_told(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]], tmp_path: Path, project: Path
) -> None:
    """Once a plan withholds the test set's results the validation set's 60 patients are the reference; before, and for
    whoever audits, the test set's 150."""
    folder, _ = kept()
    strict = replace(scored_home, ledger_at=str(tmp_path / "ledger"), anchor_address=None)
    shutil.copytree(scored_home.ledger, strict.ledger)
    document = plans.load(project / "pccp.demo.yaml").model_dump(mode="json")
    limits = Limits(max_looks=9, approvals=0, disclosure="verdict", require_clean_code=False)
    told = {"name": "strict", "sha256": "0" * 64, "limits": limits, "by": "somebody", "reason": "a test"}
    open_ledger(strict).append("plan", PlanAdopted(**told, document=document))
    found = [look(scored_home, folder), look(strict, folder), look(strict, folder, withheld=True)]
    references = [(one.against, {s.reference for s in one.streams if s.kind == "scores"}) for one in found]
    assert references == [("test", {150}), ("validation", {60}), ("test", {150})]


def test_plan_in_force_says_what_is_watched(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]], tmp_path: Path, project: Path
) -> None:
    """Kinds, rate and tolerance are those of the plan in force, and options go before them; a plan without `watch`
    leaves all kinds at 5 %."""
    folder, labels = kept()
    plain = look(scored_home, folder, labels=labels)
    assert (plain.plan, plain.then, plain.rate, plain.kinds) == (None, None, 0.05, surveillance.KINDS)
    home = replace(scored_home, ledger_at=str(tmp_path / "ledger"), anchor_address=None)
    shutil.copytree(scored_home.ledger, home.ledger)
    plan = plans.load(project / "pccp.demo.yaml")
    document = plan.model_dump(mode="json")
    watch = {"kinds": ["labels"], "false_alarms_a_year": 0.2, "tolerance": 0.1, "then": "retrain"}
    document["modification_protocol"]["update_procedures"]["monitoring"]["watch"] = watch
    told = {"name": plan.name, "sha256": "0" * 64, "limits": plan.limits, "by": "somebody", "reason": "a test"}
    open_ledger(home).append("plan", PlanAdopted(**told, document=document))
    found = look(home, folder, labels=labels)
    assert (found.plan, found.then, found.rate, found.tolerance) == (plan.name, "retrain", 0.2, 0.1)
    assert {one.kind for one in found.streams} == {"labels"}
    assert sum(one.level for one in found.streams) == pytest.approx(0.2)
    bounds = [{one.finding: one.expected for one in run.streams if one.what == "brier"} for run in (found, plain)]
    assert bounds[0]["Mass"] > bounds[1]["Mass"]
    assert look(home, folder, labels=labels, rate=0.01, tolerance=0.0).rate == 0.01


def test_pictures_are_watched_by_their_grey(scored_home: Home, tmp_path: Path) -> None:
    """Pictures that become brighter in week 4 are in alarm as such, and a table may name them by their files."""
    folder, table, images = tmp_path / "kept", tmp_path / "labels.csv", tmp_path / "images"
    folder.mkdir()
    images.mkdir()
    draw, start = np.random.default_rng(0), begun(scored_home)
    scores = np.full(len(FINDINGS), 0.2)
    names = []
    for number in range(320):
        week = number // 40
        grey = draw.integers(0, 200, (8, 8)) + (40 if week >= 4 else 0)
        picture = cv2.imencode(".png", np.clip(grey, 0, 255).astype(np.uint8))[1].tobytes()
        names.append(f"{number}.png")
        (images / names[-1]).write_bytes(picture)
        one = answer(scored_home, start + timedelta(weeks=week, minutes=number % 40 + 1), picture, scores)
        (folder / f"{number}.json").write_text(json.dumps({"predictions": [one]}))
    table.write_text("image_id,patient_id\n" + "".join(f"{name},p{n}\n" for n, name in enumerate(names)))
    found = look(scored_home, folder, labels=table, images=images)
    alarms = {one.what: one for one in found.alarms if one.kind == "inputs"}
    assert alarms["brightness"].alarms[0] >= 4
    assert "They are brighter than they were" in report.why(found, alarms["brightness"])
    table.write_text("image_id,patient_id\nnone.png,p1\n")
    with pytest.raises(DataError, match=r"no picture is called 'none\.png'"):
        look(scored_home, folder, labels=table, images=images)


def test_a_patient_counts_once(scored_home: Home, tmp_path: Path) -> None:
    """A patient who comes every week is one patient, and who has no id is said to be nobody's."""
    folder, table = tmp_path / "answers.jsonl", tmp_path / "labels.csv"
    start, scores = begun(scored_home), np.full(len(FINDINGS), 0.9)
    answers.append(
        folder, [answer(scored_home, start + timedelta(weeks=n, minutes=1), b"%d" % n, scores) for n in range(8)]
    )
    assert look(scored_home, folder).patients == 8
    digests = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(8)]
    table.write_text("sha256,patient_id\n" + "".join(f"{digest},0007\n" for digest in digests))
    found = look(scored_home, folder, labels=table)
    assert found.patients == 1
    assert any("7 answers on patients who were seen before" in note for note in found.notes)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text.replace('"Mass":0', '"Mass":0.5', 1), "not those of their receipt|is damaged|no answer"),
        (lambda text: "what\n" + text, "line 1|not JSON"),
        (lambda text: text.replace('"input"', '"other"', 1), "no answer of POST /predict"),
        (lambda text: "\n".join(json.dumps(json.loads(x)["receipt"]) for x in text.splitlines()), "no score"),
        (lambda text: "", "no answers"),
    ],
)
def test_damaged_answers_are_named(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]], damage: Callable[[str], str], why: str
) -> None:
    """Altered probabilities, what is no answer, and receipts alone are refused with the line and a way on."""
    folder, _ = kept()
    text = folder.read_text()
    assert damage(text) != text
    folder.write_text(damage(text))
    with pytest.raises(DataError, match=why):
        look(scored_home, folder)


def test_each_probability_is_bound_to_its_receipt(scored_home: Home, kept: Callable[..., tuple[Path, Path]]) -> None:
    """One probability that was written anew is found by the receipt's digest."""
    folder, _ = kept()
    lines = [json.loads(line) for line in folder.read_text().splitlines()]
    lines[9]["probabilities"]["Mass"] = 0.5
    folder.write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(DataError, match="not those of their receipt") as refused:
        look(scored_home, folder)
    assert refused.value.where.endswith("line 10")


def test_answers_of_other_models_are_told_apart(scored_home: Home, kept: Callable[..., tuple[Path, Path]]) -> None:
    """An earlier model's answers are passed over and counted; those of the champion alone are needed; a model that the
    ledger never decided on is refused."""
    ledger = open_ledger(scored_home)
    other = next(one.decision.package for one in ledger.entries() if one.kind == "decision"
                 and one.decision.package != ledger.champion().promotion.package)  # fmt: skip
    folder, _ = kept()
    start, scores = begun(scored_home), np.full(len(FINDINGS), 0.5)
    answers.append(folder, [answer(scored_home, start + timedelta(days=3), b"late", scores, other)])
    answers.append(folder, [answer(scored_home, start - timedelta(days=3), b"early", scores)])
    notes = look(scored_home, folder).notes
    assert any(note.startswith("1 answer since the promotion of another model") for note in notes)
    assert any(note.startswith("1 answer from before the promotion") for note in notes)
    alone = folder.with_name("alone.jsonl")
    answers.append(alone, [answer(scored_home, start + timedelta(days=3), b"late", scores, other)])
    with pytest.raises(DataError, match="no answer is of the champion"):
        look(scored_home, alone)
    answers.append(folder, [answer(scored_home, start + timedelta(days=3), b"strange", scores, "0" * 64)])
    with pytest.raises(DataError, match="never decided on"):
        look(scored_home, folder)


def test_what_cannot_be_looked_at_is_refused(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """No week that is over, labels of pictures nobody asked about, a label that is none, a row twice and a missing
    folder are each an error that says what to do."""
    folder, labels = kept()
    with pytest.raises(DataError, match="no answer is of a week that is over") as refused:
        look(scored_home, folder, now=begun(scored_home) + timedelta(days=3))
    assert "look again from" in str(refused.value)
    lines = labels.read_text().splitlines()
    head = lines[0]
    for row, why in (
        ("a" * 64 + lines[1][64:], "never answered"),
        (lines[1] + "\n" + lines[1], "twice"),
        (lines[1].rsplit(",", 1)[0] + ",7", "not 1, 0"),
        (lines[1].replace(lines[1].split(",")[5], "soon"), "no date"),
    ):
        labels.write_text(f"{head}\n{row}\n")
        with pytest.raises(DataError, match=why):
            look(scored_home, folder, labels=labels)
    with pytest.raises(DataError, match="no answers"):
        look(scored_home, tmp_path / "nowhere")
    with pytest.raises(StorageError, match="no such folder"):
        look(scored_home, folder, images=tmp_path / "nowhere")


def test_log_of_receipts_must_hold_each_answer(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """An answer without a receipt in the log is refused; a receipt without its answer is counted."""
    folder, _ = kept()
    given = [json.loads(line)["receipt"] for line in folder.read_text().splitlines()]
    log = tmp_path / "receipts.jsonl"
    receipts.append(log, given)
    more = answer(scored_home, begun(scored_home) + timedelta(days=1), b"lost", np.full(len(FINDINGS), 0.5))
    receipts.append(log, [more["receipt"]])
    assert any(note.startswith("1 receipt of the champion") for note in look(scored_home, folder, log=log).notes)
    part = tmp_path / "part.jsonl"
    receipts.append(part, given[1:])
    with pytest.raises(DataError, match="1 of 320 answers have no receipt"):
        look(scored_home, folder, log=part)


def test_nothing_is_in_use(scored_home: Home, kept: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    """Without a champion there is nothing to watch."""
    folder, _ = kept()
    empty = replace(scored_home, ledger_at=str(tmp_path / "empty"), anchor_address=None)
    with pytest.raises(CxrError, match="no model is in use"):
        monitor.run(empty, folder, now=begun(scored_home))


def test_stage_leaves_a_page_and_says_what_follows(
    scored_home: Home, kept: Callable[..., tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Airflow starts ends with 0 in alarm too; its result says that there is one, since when and what follows."""
    folder, labels = kept(shift=2.0)
    monkeypatch.setenv("CXR_HOME", str(scored_home.root))
    monkeypatch.setenv("CXR_PROJECT", str(scored_home.project))
    at = (begun(scored_home) + timedelta(weeks=WEEKS, hours=1)).isoformat()
    typed = ["stage", "monitor", "--answers", str(folder), "--labels", str(labels), "--at", at]
    done = CliRunner().invoke(command.app, typed)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["alarm"], said["then"]) == (True, "notify")
    assert said["headline"] == report.headline(look(scored_home, folder, labels=labels))
    assert said["headline"].split(":")[0] in Path(said["page"]).read_text()
