"""The first two sentences of a report: sums of the flips, and the ends of the subgroups, as the evidence holds them."""

from __future__ import annotations

import pytest

from cxr_ops.records.evidence import Flip, Flips, Undefined
from cxr_ops.report import words

GONE = Undefined(reason="not computed here")


def flips(missed: int, found: int, alarmed: int, cleared: int) -> Flips:
    named = {"missed": missed, "found": found, "alarmed": alarmed, "cleared": cleared}
    return Flips.model_validate({name: Flip(share=GONE, images=n, patients=n) for name, n in named.items()})


def with_flips(evaluation):
    """The first two findings have flips, the others none."""
    given = [flips(1, 2, 30, 40), flips(500, 600, 7000, 8000)]
    first = [one.model_copy(update={"flips": of}) for one, of in zip(evaluation.performance, given, strict=False)]
    return evaluation.model_copy(update={"performance": [*first, *evaluation.performance[2:]]})


def test_the_first_sentence_sums_what_changes_over_findings(evidence):
    """Found, missed, cleared and raised are the sums over findings, on the scored images."""
    [first, _] = words.headline(with_flips(evidence()))
    assert first == (
        "On the 498 images of 161 patients of the test set the challenger would find 602 findings that the champion "
        "misses and miss 501 that it finds, and would clear 8040 of its false alarms and raise 7030 new ones."
    )
    [first, _] = words.headline(with_flips(evidence(scored="validation")))
    assert "of the validation set" in first


def test_without_thresholds_or_a_champion_that_is_said(evidence):
    """What is not known is said, and a first release changes nothing."""
    assert "is not known: no finding has a threshold" in words.headline(evidence())[0]
    assert "nothing changes" in words.headline(evidence(champion=False))[0]


@pytest.mark.parametrize("champion", [True, False])
def test_the_second_sentence_names_the_ends_of_the_subgroups(evidence, champion):
    """The lowest and the highest subgroup stand with their values and over how many findings they are."""
    given = evidence(champion=champion)
    of = {one.name: (one.macro_difference if champion else one.macro_challenger).value for one in given.subgroups}
    worst, best = min(of, key=of.get), max(of, key=of.get)
    [_, second] = words.headline(given, 2)
    for name in (worst, best):
        value = f"{of[name]:{'+' if champion else ''}.3f}".replace("-", "\u2212")
        assert f"{value} for {words.group_text(name)} (over 13 findings)" in second
    assert second.index(words.group_text(worst)) < second.rindex(words.group_text(best))
    assert second.endswith("; 2 harm signals ask for a look.")


def test_without_subgroups_that_is_said(evidence):
    """Where no subgroup has a mean AUC, the sentence says so and names no signal."""
    assert words.headline(evidence(subgroups=[]))[1].endswith("is not known for any subgroup of patients.")
