"""The published page's strip and record: links where there are addresses, and what the training took."""

from __future__ import annotations

import re

from books import Book
from second_truths import second_truth

from cxr_ops.records.run import Spent
from cxr_ops.report import published

PAGE = "<html><body><main>all</main></body></html>"
LINKS = {"MLflow run": "https://mlflow.example.org/#/runs/a&b", "Airflow run": "https://airflow.example.org/runs/1"}


def test_the_strip_is_made_of_links_where_addresses_are_known() -> None:
    """On the page and in Markdown each part with an address is a link, the others are text, and all stay named."""
    entry = Book().decide("1")
    page = published.render(PAGE, entry, None, [entry], links=LINKS)
    strip = re.search(r'<section class="strip".*?</section>', page)[0]
    assert '<b>Airflow run</b> <a href="https://airflow.example.org/runs/1" rel="noreferrer noopener"><code>' in strip
    assert 'href="https://mlflow.example.org/#/runs/a&amp;b"' in strip
    assert strip.count("<a ") == 2
    assert "<b>DVC revision</b> <code" in strip
    assert page.count('href="https://airflow.example.org/runs/1"') == 2  # in the record below too
    text = published.text("## All", entry, None, links=LINKS)
    assert "Airflow run [`manual__1`](https://airflow.example.org/runs/1)" in text
    assert "<a " not in published.render(PAGE, entry, None, [entry])


def test_time_and_energy_are_told_as_measured() -> None:
    """Time always where the training ran here; energy by what measured it, and where nothing did, that it was not."""
    entry = Book().decide("1")

    def told(spent: Spent | None) -> str:
        return published.render(PAGE, entry, None, [entry], spent=spent)

    assert "<dt>Training time</dt><dd>1 h 10 min</dd>" in told(Spent(training="a", attempts=1, seconds=4212))
    assert "processors not measured; GPUs not measured" in told(Spent(training="a", attempts=1, seconds=1))
    page = told(Spent(training="a", attempts=2, seconds=62.4, processor_joules=3600, gpu_joules=9000))
    assert "1 min 2 s, 2 attempts together" in page
    assert "processors 1 Wh (RAPL, all of the machine); GPUs 2.5 Wh (their own word, read every few seconds)" in page
    assert "not measured: nobody trained here" in told(None)
    assert "Energy" not in told(None)


def test_a_second_truth_stands_beside_the_first() -> None:
    """The record shows agreement and both columns, says which truth decides, and names what has no second label."""
    entry = Book().decide("1")
    page = published.render(PAGE, entry, None, [entry], second=second_truth())
    assert page.count("</section>") == 2  # the strip and the record, so that both can be taken out again
    text = re.sub(r"<[^>]+>", " ", page)
    assert "The labels that the plan judges by are the first truth, and the verdict is by them alone." in text
    assert "&lt;again&gt;.csv" in page
    assert "labels of 40 of the 99 images of the test set, and 2 rows of other images" in text
    assert "7 / 2 / 3 / 28" in text
    assert "0.61" in text
    assert "Without labels in both: Hernia." in text
    assert "second-truth" not in published.render(PAGE, entry, None, [entry])
