"""`cxr-ops compare` on files of scores: the numbers of scikit-learn, the gate's verdict, and clear refusals."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from cxr_ops import compare
from cxr_ops import plan as plans
from cxr_ops.commands import app as command
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.verdict import Reason
from cxr_ops.report import comparison, words
from cxr_ops.stats import bootstrap

PROJECT = Path(__file__).resolve().parents[1]
DEMO = PROJECT / "pccp.demo.yaml"


class Files:
    """A truth and two files of scores: 600 images of 300 patients, two correlated models of AUC 0.86."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.patients = np.repeat(np.arange(300), 2)
        self.ids = [f"{patient:08d}_{image % 2:03d}.png" for image, patient in enumerate(self.patients)]
        self.truth = (rng.random((600, 14)) < 0.15).astype(int)
        shared = rng.standard_normal((300, 14))[self.patients] * 0.7 + rng.standard_normal((600, 14)) * 0.7
        self.a, self.b = (
            ndtr(1.6 * self.truth - 1.5 + 0.9 * shared + 0.4 * rng.standard_normal((600, 14))) for _ in range(2)
        )
        self.folder = folder
        self.paths = [folder / name for name in ("truth.csv", "a.csv", "b.csv")]
        self.write_truth(self.truth)
        for path, scores in zip(self.paths[1:], (self.a, self.b), strict=True):
            self.write_scores(path, scores)

    def write_truth(self, labels: np.ndarray, *, patients: bool = True, findings: tuple[str, ...] = FINDINGS) -> None:
        extra = ["patient_id"] if patients else []
        rows = [
            [image, *([patient] if patients else []), "FM"[patient % 2], ("PA", "AP")[int(patient % 3 == 0)], *values]
            for image, patient, values in zip(self.ids, self.patients, labels.tolist(), strict=True)
        ]
        write(self.paths[0], ["image_id", *extra, "sex", "view", *findings], rows)

    def write_scores(self, path: Path, scores: np.ndarray, findings: tuple[str, ...] = FINDINGS) -> None:
        rows = [[image, *values] for image, values in zip(self.ids, scores.tolist(), strict=True)]
        write(path, ["Image Index", *findings], rows)


def write(path: Path, header: list[str], rows: list[list]) -> None:
    """A CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of one comparison."""
    return Files(tmp_path)


def test_figures_are_those_of_scikit_learn_and_of_the_images_in_any_order(files):
    """Each finding's AUC is scikit-learn's, though the rows of each file stand in another order."""
    order = np.random.default_rng(1).permutation(600)
    rows = [[files.ids[i], *files.b[i].tolist()] for i in order]
    write(files.paths[2], ["Image Index", *FINDINGS], rows)
    found = compare.as_json(compare.run(*files.paths, plan=DEMO))
    for f, finding in enumerate(FINDINGS):
        row = found["findings"][finding]
        assert row["auc"] == pytest.approx(roc_auc_score(files.truth[:, f], files.a[:, f]), abs=1e-12)
        assert row["b"]["auc"] == pytest.approx(roc_auc_score(files.truth[:, f], files.b[:, f]), abs=1e-12)
        assert row["difference"]["value"] == pytest.approx(row["auc"] - row["b"]["auc"], abs=1e-12)
        assert row["positives"] == files.truth[:, f].sum()
        assert row["positive_patients"] == len(set(files.patients[files.truth[:, f] == 1]))
        assert row["ci"][0] < row["auc"] < row["ci"][1]
        assert row["se"] > 0 < row["se_image"]
    assert found["macro"]["auc"] == pytest.approx(np.mean([found["findings"][name]["auc"] for name in FINDINGS]))
    assert set(found["subgroups"]) == {"sex=F", "sex=M", "view=AP", "view=PA"}


def test_patients_count_and_not_images(files):
    """Scores that are alike within a patient have a larger standard error than images counted one by one would give."""
    rng = np.random.default_rng(3)
    owned = rng.standard_normal((300, 14))[files.patients]
    truth = (rng.random((300, 14)) < 0.2).astype(int)[files.patients]
    files.write_truth(truth)
    files.write_scores(files.paths[1], ndtr(truth + owned + 0.1 * rng.standard_normal((600, 14))))
    found = compare.as_json(compare.run(*files.paths[:2], plan=DEMO))
    ratios = [found["findings"][name]["se"] / found["findings"][name]["se_image"] for name in FINDINGS]
    assert 1.3 < np.median(ratios) < 1.5  # two images that are one: the square root of two


def test_equal_models_are_not_worse_under_the_demonstration_plan(files):
    """The verdict is the gate's: equal models pass the demonstration's margins, and fail the production template's."""
    assert compare.run(*files.paths, plan=DEMO).judgement.evidence_says == "PROMOTE"
    strict = compare.run(*files.paths, plan=PROJECT / "pccp.yaml").judgement
    assert strict.evidence_says == "INSUFFICIENT EVIDENCE"


def test_the_same_file_twice_differs_by_nothing(files):
    """A model compared with itself has a difference of 0 with the interval [0, 0] in every finding."""
    found = compare.as_json(compare.run(files.paths[0], files.paths[1], files.paths[1], plan=DEMO))
    for row in [found["macro"], *found["findings"].values()]:
        assert (row["difference"]["value"], row["difference"]["ci"]) == (0.0, [0.0, 0.0])


def test_a_model_compared_with_itself_is_warned_of(files, tmp_path):
    """Where both files hold the same scores, in whatever order, terminal, page and JSON say so before the reasons."""
    turned = tmp_path / "turned.csv"
    head, *rows = files.paths[1].read_text().splitlines()
    turned.write_text("\n".join([head, *rows[::-1]]) + "\n")
    for other in (files.paths[1], turned):
        compared = compare.run(files.paths[0], files.paths[1], other, plan=DEMO)
        [warning] = compare.as_json(compared)["warnings"]
        assert "the same scores for every image" in warning
        assert _printed(compared).startswith("warning: both models have the same scores")
        assert comparison.render(compared).index("same scores for every image") < comparison.render(compared).index(
            'id="reasons"'
        )
    assert compare.run(*files.paths, plan=DEMO).warnings == compare.run(*files.paths[:2], plan=DEMO).warnings == ()


def test_what_decides_is_printed_before_signals_and_each_code_a_few_times(files):
    """A model that is worse everywhere is said to be WORSE first; its many signals are folded, and JSON has all."""
    files.write_scores(files.paths[1], 0.2 * files.a + 0.8 * np.random.default_rng(2).random((600, 14)))
    compared = compare.run(*files.paths, plan=DEMO)
    signals = sum(reason.code == "HARM_SIGNAL" for reason in compared.judgement.reasons)
    assert signals > 20
    text = _printed(compared)
    assert text.index("WORSE  ") < text.index("HARM_SIGNAL  ")
    assert text.count("HARM_SIGNAL  ") == 14
    assert f"{signals - 14} HARM_SIGNAL" in text
    assert sum(reason["code"] == "HARM_SIGNAL" for reason in compare.as_json(compared)["reasons"]) == signals


def test_names_in_the_output_are_explained(files):
    """The findings that the mean is over, and each composite that a reason names, have a line."""
    found = compare.run(*files.paths, plan=PROJECT / "pccp.yaml")
    [rare] = found.plan.performance.composites
    about = [Reason(code="MARGIN_NOT_SHOWN", finding=name, sentence="s") for name in (rare.name, "Hernia")]
    found = replace(found, judgement=replace(found.judgement, reasons=about))
    assert f"rare: a composite of the plan, the mean AUC of {', '.join(rare.findings)}" in comparison._legend(found)
    high = plans.load(DEMO)
    rules = high.performance.model_copy(update={"min_positive_patients": 10_000})
    protocol = high.modification_protocol.model_copy(update={"performance_evaluation": rules})
    none = compare.run(*files.paths, plan=DEMO)
    empty = none.evaluation.model_copy(update={"macro_over": []})
    plan = high.model_copy(update={"modification_protocol": protocol})
    lines = comparison._legend(replace(none, plan=plan, evaluation=empty))
    assert "mean of 0: of the findings that have scores in all files and at least 10000 positive" in lines[2]
    assert lines[2].endswith("; none has")


def test_the_interval_of_a_difference_is_told_from_the_bound_that_is_judged(files):
    """Far from a good model the interval is what drawing patients again gives, and the bound stands beside it."""
    files.write_scores(files.paths[1], 0.2 * files.a + 0.8 * np.random.default_rng(2).random((600, 14)))
    compared = compare.run(*files.paths, plan=DEMO)
    found = compare.as_json(compared)["findings"]["Mass"]["difference"]
    f = FINDINGS.index("Mass")
    truth, scores = files.truth[:, [f]].astype(float), [one[:, [f]] for one in (_scores(files.paths[1]), files.b)]
    draws = bootstrap.replicate_aucs(truth, files.patients, scores, 2000, np.random.default_rng(1))[:, :, 0]
    low, high = np.percentile(draws[0] - draws[1], [2.5, 97.5])
    assert found["ci"] == pytest.approx([low, high], abs=0.015)
    row = compared.evaluation.findings[f].difference
    assert found["bounds"] == [row.low, row.high]
    assert found["bounds"][0] < found["ci"][0] - 0.02  # the bound of a worse model lies far below the interval
    check = next(one for one in compared.judgement.checks if one.finding == "Mass" and one.kind == "margin")
    text = _printed(compared)
    line = next(line for line in text.splitlines() if line.startswith("Mass"))
    assert len(line) <= 80
    assert f"{found['value']:+.3f} [{found['ci'][0]:+.3f},{found['ci'][1]:+.3f}]".replace("0.", ".") in line
    assert f"{check.low:+.3f}".replace("0.", ".") in line
    assert "bound: what the plan compares with its margin" in " ".join(text.split())
    page = comparison.render(compared)
    assert words.difference_text(row) in page.replace(" <small>", " ").replace("</small>", "")
    assert words.check_text(check) in page


def _scores(path: Path) -> np.ndarray:
    with path.open(newline="") as file:
        return np.array([[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]])


def _printed(compared) -> str:
    console = Console(file=io.StringIO(), width=80)
    for part in comparison.parts(compared):
        console.print(part)
    return console.file.getvalue()


def test_a_worse_model_is_rejected(files):
    """Scores of noise against a good model are REJECT, and the reasons say worse."""
    files.write_scores(files.paths[1], np.random.default_rng(2).random((600, 14)))
    judgement = compare.run(*files.paths, plan=DEMO).judgement
    assert judgement.evidence_says == "REJECT"
    assert "WORSE" in {reason.code for reason in judgement.reasons}


def test_without_patient_ids_nothing_is_promoted(files):
    """A truth that does not say whose the images are gives INSUFFICIENT EVIDENCE, and says why."""
    files.write_truth(files.truth, patients=False)
    judgement = compare.run(*files.paths, plan=DEMO).judgement
    assert judgement.evidence_says == "INSUFFICIENT EVIDENCE"
    assert "NO_PATIENT_IDS" in {reason.code for reason in judgement.reasons}


def test_a_finding_without_scores_is_left_out_and_said_so(files):
    """Files with thirteen findings are compared over thirteen, the last is null with a reason, and nothing passes."""
    for path, scores in zip(files.paths[1:], (files.a, files.b), strict=True):
        files.write_scores(path, scores[:, :13], FINDINGS[:13])
    compared = compare.run(*files.paths, plan=DEMO)
    found = compare.as_json(compared)
    assert found["findings"][FINDINGS[13]]["auc"] is None
    assert found["findings"][FINDINGS[13]]["undefined"]["reason"]
    assert found["macro"]["over"] == list(FINDINGS[:13])
    assert any(FINDINGS[13] in note for note in found["notes"])
    assert compared.judgement.evidence_says == "INSUFFICIENT EVIDENCE"
    row = next(one for one in compared.evaluation.findings if one.finding == FINDINGS[13])
    assert row.support.positives == files.truth[:, 13].sum()  # the truth's patients are there


@pytest.mark.parametrize("which", [(1,), (2,), (1, 2)])
def test_scores_that_a_file_lacks_are_told_and_never_taken_for_a_want_of_patients(files, which):
    """Twelve of fourteen columns missing, by a plan that asks for few findings: NOT_SCORED, no word of patients."""
    for place in which:
        scores = (files.a, files.b)[place - 1]
        files.write_scores(files.paths[place], scores[:, :2], FINDINGS[:2])
    plan = files.folder / "few.yaml"
    plan.write_text(re.sub(r"(?m)^( *required_findings:).*", r"\1 [Atelectasis]", DEMO.read_text()))
    compared = compare.run(*files.paths, plan=plan)
    assert compared.judgement.evidence_says == "INSUFFICIENT EVIDENCE"
    reasons = compared.judgement.reasons
    assert reasons[0].code == "NOT_SCORED"
    assert {reason.finding for reason in reasons if reason.code == "NOT_SCORED"} >= set(FINDINGS[2:])
    assert not any("more positive patient" in reason.sentence for reason in reasons)
    assert "EVIDENCE_INCOMPLETE" not in {reason.code for reason in reasons}
    names = [files.paths[place].name for place in which]
    assert [sentence.split(" ")[0] for sentence in compared.missing] == names
    assert all("Hernia" in sentence for sentence in compared.missing)
    printed = _printed(compared)
    assert printed.index("missing:") < printed.index("AUC by finding")
    assert comparison.render(compared).index("What is missing") < comparison.render(compared).index("Reasons")


def test_images_of_the_truth_without_scores_are_told_first_and_nothing_passes(files):
    """Files without the images of the missed positives promote nothing, and say whose positives are gone."""
    missed = [i for i in np.flatnonzero(files.truth[:, 13]) if files.a[i, 13] < np.median(files.a[:, 13])]
    kept = [i for i in range(600) if i not in missed]
    for path, scores in zip(files.paths[1:], (files.a, files.b), strict=True):
        write(path, ["image_id", *FINDINGS], [[files.ids[i], *scores[i].tolist()] for i in kept])
    compared = compare.run(*files.paths, plan=DEMO)
    assert compared.judgement.evidence_says == "INSUFFICIENT EVIDENCE"
    first = compared.judgement.reasons[0]
    assert first.code == "NOT_SCORED"
    assert f"{len(missed)} of 600 images" in first.sentence
    owners = files.patients[files.truth[:, 13] == 1]
    gone = set(owners) - set(files.patients[[i for i in kept if files.truth[i, 13]]])
    assert f"{len(gone)} of {len(set(owners))} with Hernia" in first.sentence
    assert compare.as_json(compared)["missing"] == [first.sentence]


def test_a_list_names_the_images_of_the_test_set(files):
    """With a list, other images of the truth are neither judged nor missing, whether they are scored or not."""
    named = files.ids[:400]
    images = files.folder / "test_list.txt"
    images.write_text("\n".join(named) + "\n\n")
    for path, scores in zip(files.paths[1:], (files.a, files.b), strict=True):
        write(path, ["image_id", *FINDINGS], [[files.ids[i], *scores[i].tolist()] for i in range(500)])
    compared = compare.run(*files.paths, plan=DEMO, images=images)
    assert compared.missing == ()
    assert compared.evaluation.test_images == 400
    assert compared.evaluation.findings[0].challenger.value == pytest.approx(
        roc_auc_score(files.truth[:400, 0], files.a[:400, 0])
    )
    assert "100 of 600 images" in compare.run(*files.paths, plan=DEMO).missing[0]
    images.write_text("\n".join([*named, "other.png"]))
    with pytest.raises(DataError, match=r"1 of 401 images of the list are not in the truth.*'other.png'"):
        compare.run(*files.paths, plan=DEMO, images=images)


def test_patients_that_a_file_of_scores_invents_count_for_nothing(files):
    """A patient an image: refused where the truth names patients, and no ground for a promotion where it does not."""
    for path, scores in zip(files.paths[1:], (files.a, files.b), strict=True):
        rows = [[image, f"p{i}", *values] for i, (image, values) in enumerate(zip(files.ids, scores.tolist()))]  # noqa: B905  # of one length
        write(path, ["image_id", "patient_id", *FINDINGS], rows)
    with pytest.raises(DataError, match=r"truth and a\.csv contradict each other in whose images"):
        compare.run(*files.paths, plan=DEMO)
    files.write_truth(files.truth, patients=False)
    judgement = compare.run(*files.paths, plan=DEMO).judgement
    assert judgement.evidence_says == "INSUFFICIENT EVIDENCE"
    assert any(reason.code == "NO_PATIENT_IDS" and "invented" in reason.sentence for reason in judgement.reasons)


def test_patients_may_have_other_names_in_the_scores(files):
    """A pseudonym for each patient, the same for all images of the patient, contradicts nothing."""
    rows = [
        [image, f"x{7 * patient}", *values]
        for image, patient, values in zip(files.ids, files.patients, files.a.tolist(), strict=True)
    ]
    write(files.paths[1], ["image_id", "patient_id", *FINDINGS], rows)
    assert compare.run(*files.paths, plan=DEMO).judgement.evidence_says == "PROMOTE"


@pytest.mark.parametrize(
    ("value", "said"), [("", "missing"), (np.nan, "missing"), (np.inf, "not finite"), (-2.5, "outside 0 to 1")]
)
def test_a_score_that_is_none_is_an_error_of_the_file_and_no_verdict(files, value, said):
    """One cell that is empty, NaN, infinite or a logit is named with its line, and ends the comparison."""
    scores = files.a.astype(object)
    scores[7, 3] = value
    rows = [[image, *values] for image, values in zip(files.ids, scores.tolist(), strict=True)]
    write(files.paths[1], ["Image Index", *FINDINGS], rows)
    with pytest.raises(DataError, match=rf"1 of 600 scores of 'Infiltration' are {said}") as caught:
        compare.run(*files.paths, plan=DEMO)
    assert caught.value.exit_code == 10
    assert str(caught.value.where).endswith("a.csv, line 9")
    assert caught.value.fix


def test_uncertain_labels_are_judged_both_ways(files):
    """-1 in the truth is uncertain: missing in the figures, and counted for both scenarios."""
    labels = files.truth.copy()
    labels[:30, 0] = -1
    files.write_truth(labels)
    compared = compare.run(*files.paths, plan=DEMO)
    assert compared.evaluation.uncertain == {FINDINGS[0]: 30}
    assert [scenario.uncertain_as for scenario in compared.evaluation.scenarios] == [0, 1]
    assert compared.evaluation.findings[0].support.positives == (labels[:, 0] == 1).sum()


def test_thresholds_come_from_the_validation_set(files, tmp_path):
    """With labels of further images, thresholds are chosen there, and the test set is what the truth holds."""
    validation = tmp_path / "validation.csv"
    half = [i for i in range(600) if files.patients[i] < 100]
    rest = [i for i in range(600) if files.patients[i] >= 100]
    header = ["image_id", "patient_id", *FINDINGS]
    for path, kept in ((validation, half), (files.paths[0], rest)):
        write(path, header, [[files.ids[i], files.patients[i], *files.truth[i].tolist()] for i in kept])
    compared = compare.run(*files.paths, plan=DEMO, validation=validation)
    one = compared.evaluation.performance[0]
    negatives = files.a[half, 0][files.truth[half, 0] == 0]
    assert np.mean(negatives < one.thresholds["challenger"]) >= 0.8  # the demonstration's rule: specificity 0.80
    assert compared.evaluation.test_images == len(rest)
    assert compared.evaluation.findings[0].challenger.value == pytest.approx(
        roc_auc_score(files.truth[rest, 0], files.a[rest, 0])
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.paths[1].unlink(), "a.csv is missing"),
        (lambda f: f.paths[1].write_text("image_id,Hernia\nx.png\n"), "fields"),
        (lambda f: f.paths[1].write_text("image_id,Hernia\nx.png,high\n"), "not a number"),
        (lambda f: f.paths[1].write_text("image_id,Herna\nx.png,0.5\n"), "Hernia"),
        (lambda f: f.paths[1].write_text("image_id,score\nx.png,0.5\n"), "no column holds scores"),
        (lambda f: f.paths[2].write_text(f"image_id,Hernia\n{f.ids[0]},0.5\n"), "600|599"),
        (
            lambda f: f.paths[0].write_text("image_id,patient_id,Hernia\nother.png,1,0\n"),
            "not in the truth",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_with_the_place(files, damage, message):
    """Each kind of damage is an error that names it."""
    damage(files)
    with pytest.raises(DataError, match=message):
        compare.run(*files.paths, plan=DEMO)


def test_the_command_writes_table_json_and_page(files, tmp_path, monkeypatch, capsys):
    """The command prints a table, and leaves JSON and a self-contained page without image or patient ids."""
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    arguments = ["--truth", files.paths[0], "--a", files.paths[1], "--b", files.paths[2], "--plan", DEMO]
    monkeypatch.setattr(
        sys, "argv", ["cxr-ops", "compare", *map(str, arguments), "--json", str(out), "--html", str(page)]
    )
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "PROMOTE" in printed
    assert all(finding.replace("_", " ") in printed.replace("_", " ") for finding in FINDINGS)
    assert json.loads(out.read_text())["evidence_says"] == "PROMOTE"
    text = page.read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", text)
    assert "<script" not in text
    assert not any(image in text for image in files.ids)
    assert text.count("<svg") == 2


def _run(monkeypatch, folder: Path, *arguments: object) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["cxr-ops", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return int(ended.value.code or 0)


def test_nothing_of_the_platform_is_needed_and_the_plan_may_be_left_out(files, tmp_path, monkeypatch, capsys):
    """In a folder of tables the template for production judges and says so, and torch and services stay out."""
    code = (
        "import sys; from cxr_ops.commands.app import main; sys.argv[0] = 'cxr-ops'\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'mlflow', 'dvc', 'airflow'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", "--truth", "truth.csv", "--a", "a.csv", "--b", "b.csv"],
        cwd=files.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "under the plan nih-production" in done.stdout
    assert "cxr-ops plan template nih-production > pccp.yaml" in done.stdout
    own = DEMO.read_text().replace("name: demonstration", "name: ours")
    (files.folder / "pccp.yaml").write_text(own)
    compared = _in(monkeypatch, files.folder, lambda: compare.run(*files.paths))
    assert compared.plan.name == "ours"
    assert any("pccp.yaml of this folder" in note for note in compared.notes)


def _in(monkeypatch, folder: Path, work):
    with monkeypatch.context() as here:
        here.chdir(folder)
        return work()


def test_a_plan_that_is_missing_is_asked_for_by_its_option(files, monkeypatch, capsys):
    """The error names --plan and how to make a plan, and nothing of a platform that need not be here."""
    names = ["--truth", "truth.csv", "--a", "a.csv", "--plan", "no.yaml"]
    assert _run(monkeypatch, files.folder, *names) == 11
    said = capsys.readouterr().err
    assert "--plan" in said
    assert "cxr-ops plan template" in said
    assert "params.yaml" not in said


def test_long_names_of_files_are_not_folded(files, monkeypatch, capsys):
    """A name longer than a line stands in the output in one piece, and so does a file of the same name elsewhere."""
    name = "x" * 180 + ".csv"
    files.paths[1].rename(files.folder / name)
    assert _run(monkeypatch, files.folder, "--truth", "truth.csv", "--a", name, "--plan", DEMO) == 0
    assert name in capsys.readouterr().out
    (files.folder / "other").mkdir()
    (files.folder / "other" / "b.csv").write_bytes(files.paths[2].read_bytes())
    compared = compare.run(files.paths[0], files.paths[2], files.folder / "other" / "b.csv", plan=DEMO)
    assert (compared.challenger, compared.champion) == (str(files.paths[2]), str(files.folder / "other" / "b.csv"))


def test_inputs_may_be_pipes(files):
    """What comes through a pipe is read once, and its digest is that of its bytes."""
    whole = files.paths[1].read_bytes()
    files.paths[1].unlink()
    os.mkfifo(files.paths[1])
    writer = threading.Thread(target=files.paths[1].write_bytes, args=(whole,), daemon=True)
    writer.start()
    found = compare.as_json(compare.run(files.paths[0], files.paths[1], plan=DEMO))
    writer.join(timeout=30)
    assert found["a"]["sha256"] == hashlib.sha256(whole).hexdigest()


def test_figures_can_go_to_the_output_itself(files, tmp_path):
    """With `--json -` standard output is JSON alone, and the table stands on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "cxr_ops", "compare", "--truth", "truth.csv", "--a", "a.csv", "--json", "-"],
        cwd=files.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)["findings"]) == set(FINDINGS)
    assert "AUC by finding" in done.stderr


@pytest.mark.parametrize("output", ["--json", "--html"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(files, output, monkeypatch, capsys):
    """A folder that is missing, and a place that is a folder, end with a next step before a file is read."""
    monkeypatch.setattr(compare, "run", lambda *_, **__: pytest.fail("the work began"))
    inputs = ["--truth", "truth.csv", "--a", "a.csv"]
    for place, said in (("out/x", "mkdir -p"), (".", "names a folder"), ("a.csv/x", "not a folder")):
        assert _run(monkeypatch, files.folder, *inputs, output, place) == 12
        assert said in capsys.readouterr().err
    assert _run(monkeypatch, files.folder, *inputs, output, "truth.csv") == 11
    assert "same file" in capsys.readouterr().err
