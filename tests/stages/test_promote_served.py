"""promote, where the plan has the model served first: fresh processes are asked about golden pictures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from finished import Case, finish
from served import Signed, signed  # noqa: F401 - a fixture

from cxr_ops.edges import serving
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import versions
from cxr_ops.edges.serving import Answered
from cxr_ops.errors import RefusedError
from cxr_ops.labels import FINDINGS
from cxr_ops.stages import promote, publish

ASKED = {"tolerance": 1e-5, "seconds": 60}


def test_a_model_that_answers_as_it_was_evaluated_is_promoted(published: Home, packages: dict[str, Path]) -> None:
    """Served by `cxr-ops serve` and loaded by MLflow, each in a fresh process, the model says what the evaluation's
    own way gives, and is promoted."""
    run = finish(published, packages, Case(name="third", package="c"), serving=ASKED)
    publish.run(published, run)
    assert promote.run(published, run)["champion"] is True


def test_a_model_that_answers_otherwise_is_refused(
    published: Home, packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signed script whose probabilities are a thousandth too low is found in the process that MLflow serves it in,
    and nothing changes: no promotion, no champion."""
    script = versions.script().replace(".sigmoid().double()", ".sigmoid().double().mul(0.999)")
    monkeypatch.setattr(versions, "script", lambda: script)
    run = finish(published, packages, Case(name="third", package="c"), serving=ASKED)
    publish.run(published, run)
    before = open_ledger(published).state()
    with pytest.raises(RefusedError, match=r"MLflow.*says 0\.\d+ of Atelectasis in golden picture 1, where the ev"):
        promote.run(published, run)
    assert open_ledger(published).state() == before


def test_a_model_that_cannot_be_loaded_is_refused(signed: Signed, tmp_path: Path) -> None:  # noqa: F811
    """A directory that MLflow cannot load is refused with what its process said."""
    with pytest.raises(RefusedError, match=r"MLflow.* does not answer: .*loader_module"):
        serving.by_mlflow(signed.folder, [b""], tmp_path)


RIGHT: list[list[float | None]] = [[0.5] * len(FINDINGS)]


@pytest.mark.parametrize(
    ("row", "seconds", "why"),
    [
        ([0.5] * 13 + [0.50002], None, "says 0.5000200 of"),
        ([None] + [0.5] * 13, None, "says nothing of"),
        ([math.nan] + [0.5] * 13, None, "says nan of"),
        ([0.5] * 14, 0.3, "takes 0.3 s for a picture at the median, and the plan allows 0.2 s"),
    ],
)
def test_what_differs_or_is_slow_is_refused(row: list[float | None], seconds: float | None, why: str) -> None:
    """A difference above the tolerance, no probability, NaN, and an answer above the budget each have a sentence."""
    with pytest.raises(RefusedError, match=why):
        serving.check([Answered(by="it", scores=[row], seconds=seconds)], RIGHT, tolerance=1e-5, seconds=0.2)


def test_what_was_not_trained_has_no_probability() -> None:
    """Where the evaluation has no number, none is what is right; and a small difference is none."""
    right = [[math.nan, *([0.5] * 13)]]
    serving.check(
        [Answered(by="it", scores=[[None, *([0.500009] * 13)]], seconds=0.1)], right, tolerance=1e-5, seconds=0.2
    )
    with pytest.raises(RefusedError, match="where the evaluation says nothing"):
        serving.check([Answered(by="it", scores=RIGHT, seconds=0.1)], right, tolerance=1e-5, seconds=0.2)


def test_a_number_of_pictures_must_fit() -> None:
    """Answers to fewer pictures than were asked are no answers."""
    with pytest.raises(RefusedError, match="answers 0 pictures of 1"):
        serving.check([Answered(by="it", scores=[], seconds=None)], RIGHT, tolerance=1e-5, seconds=1)
