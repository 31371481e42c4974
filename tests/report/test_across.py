"""The index and the page of two runs: what was published, and nothing that a plan withholds; damage hides nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.errors import DataError
from cxr_ops.records.data import DataRevision
from cxr_ops.records.inputs import Champion, Code
from cxr_ops.records.run import Opened, Result
from cxr_ops.report import across, page, words


@pytest.fixture
def publish(tmp_path, material) -> Callable[..., across.Run]:
    """Write what a published run leaves, and read it."""

    def make(name: str, *, withheld: bool = False, day: int = 1, **changes: object) -> across.Run:
        given = material(**changes)
        reports, folder = tmp_path / "reports", tmp_path / "runs" / name
        Opened(
            run=name,
            opened_at=f"2026-03-{day:02}T04:05:06+00:00",
            no_change=False,
            code=Code(commit="c" * 40, dirty=False),
            data=DataRevision(revision="d" * 40, batches={}),
            champion=Champion(),
            recipe="r",
            recipe_parts={},
        ).write(folder / "run.json")
        Result(run=name, verdict="NOT PROMOTED" if withheld else given.verdict.verdict, model_version=str(day)).write(
            folder / "result.json"
        )
        document = page.summary_document(given) if withheld else page.document(given)
        document.write(reports / f"{name}.json")
        (reports / f"{name}.html").write_text("<p>report</p>")
        return across.read(tmp_path / "runs", reports, name)

    return make


def all_runs(tmp_path: Path) -> list[across.Run]:
    return across.read_all(tmp_path / "runs", tmp_path / "reports")


def test_the_index_lists_every_run_the_latest_first(publish, tmp_path):
    """Each run has a row with its date, verdict, figures and a link to its page."""
    first, second = publish("first", day=1), publish("second", day=2, word="REJECT")
    html = across.render_index(all_runs(tmp_path))
    assert html.index("second.html") < html.index("first.html")
    for run in (first, second):
        assert f'<a href="{run.name}.html">' in html
        assert run.opened_at in html
        assert run.result.verdict in html
    assert f"{first.evaluation.macro_challenger.value:.3f}" in html


def test_the_index_tells_no_test_result_that_is_withheld(publish, tmp_path):
    """Of a run whose results are withheld only the validation figure stands, and that others are withheld."""
    run = publish("held", withheld=True, word="REJECT")
    html = across.render_index(all_runs(tmp_path))
    assert run.evaluation is None
    assert "REJECT" not in html
    assert html.count("withheld</td>") == 2
    assert f"{run.validation:.3f}" in html


@pytest.mark.parametrize("name", ["runs/first/run.json", "runs/first/result.json", "reports/first.json"])
def test_a_damaged_record_is_said_and_hides_no_other_run(publish, tmp_path, name):
    """A record that is cut in the middle is named in its run's row; the others stand as before."""
    publish("first", day=1)
    publish("second", day=2)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    html = across.render_index(all_runs(tmp_path))
    assert f"{path.name} is not" in html
    assert "second.html" in html


def test_without_a_run_the_index_says_what_makes_one(tmp_path):
    """An installation without runs has an index that says so."""
    assert "There is no run yet" in across.render_index(all_runs(tmp_path))


@pytest.mark.parametrize(
    ("index", "way"), [("reports/index.html", ""), ("index.html", "reports/"), ("a/b.html", "../reports/")]
)
def test_links_lead_to_the_reports_from_where_the_index_stands(tmp_path, index, way):
    """The way is relative, so that a copied folder keeps its links."""
    assert across.way(tmp_path / index, tmp_path / "reports") == way


def test_two_runs_stand_side_by_side(publish, evidence):
    """Both AUCs of each finding, settings and batches that differ, and that the test set is the same."""
    other = evidence(seed=5)
    settings = other.facts.settings | {"train.epochs": 12, "train.extra": True}
    facts = other.facts.model_copy(update={"settings": settings})
    first = publish("first")
    second = publish("second", evaluation=other.model_copy(update={"facts": facts}))
    html = across.render_pair(first, second).replace("<small>", "").replace("</small>", "")
    for before, now in zip(first.evaluation.findings, second.evaluation.findings, strict=True):
        row = f"<td>{words.figure_text(before.challenger)}</td><td>{words.figure_text(now.challenger)}</td>"
        assert row in html
    assert "<code>train.epochs</code></th><td>9</td><td>12</td>" in html
    assert "<code>train.extra</code></th><td>not on record</td><td>yes</td>" in html
    assert "<code>train.seed</code>" not in html
    assert "scored on the same test set" in html


def test_different_test_sets_are_not_compared(publish, evidence):
    """Where the test sets differ the page says that the figures cannot be compared."""
    html = across.render_pair(publish("first"), publish("second", evaluation=evidence(test_digest="f" * 64)))
    assert "scored on different test sets" in html


def test_a_withheld_run_shows_validation_figures_alone(publish):
    """If one of the two is withheld, no test figure of either stands on the page."""
    first, second = publish("first"), publish("second", withheld=True)
    html = across.render_pair(first, second)
    assert "withholds test results of second" in html
    assert "Withheld." in html
    assert not [
        one
        for one in first.evaluation.findings
        if words.figure_text(one.challenger) in html and one.finding != "Hernia"
    ]
    assert f"{second.validation:.3f}" in html


def test_a_run_without_a_report_cannot_be_compared(publish, tmp_path):
    """The error names the run, why, and what to type."""
    first = publish("first")
    (tmp_path / "reports" / "first.json").unlink()
    bare = across.read(tmp_path / "runs", tmp_path / "reports", "first")
    with pytest.raises(DataError, match="no report of first to compare with: It was published by a version") as caught:
        across.render_pair(first, bare)
    assert "cxr-ops checkout first FOLDER" in str(caught.value)
    (tmp_path / "reports" / "first.html").unlink()
    with pytest.raises(DataError, match="it is not published") as caught:
        across.render_pair(first, across.read(tmp_path / "runs", tmp_path / "reports", "first"))
    assert "cxr-ops publish --run first" in str(caught.value)
