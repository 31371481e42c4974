"""Guidelines: their items are all there, in order; records fill what they can, and leave the rest to a person."""

from __future__ import annotations

import re

import pytest

from cxr_ops.report import guidelines, page


def numbers(name: str) -> list[str]:
    return list(guidelines.GUIDELINES[name][1])


def test_the_numbered_guidelines_have_all_their_items():
    """CLAIM has 44 items, TRIPOD+AI 27 of which some have parts, Annex IV 9 of which two have."""
    assert numbers("CLAIM 2024") == [str(i) for i in range(1, 45)]
    assert list(dict.fromkeys(re.sub(r"[a-z]", "", one) for one in numbers("TRIPOD+AI"))) == [
        str(i) for i in range(1, 28)
    ]
    assert len(numbers("TRIPOD+AI")) == 52
    annex = numbers("AI Act, Annex IV")
    assert annex == [*(f"1({c})" for c in "abcdefgh"), *(f"2({c})" for c in "abcdefgh"), *map(str, range(3, 10))]


def test_every_answer_that_an_item_names_can_be_given(material):
    """A run with all its records gives every answer but those of people, and no answer that nobody asks for."""
    given = material()
    asked = {key for _, items in guidelines.GUIDELINES.values() for _, keys in items.values() for key in keys}
    found = answers_of(given)
    assert set(found) <= asked
    # These need what the usual material does not have: a known source, a class weight, an approval.
    assert asked - set(found) == {"standard", "imbalance", "approvals"}


def answers_of(given):
    return guidelines.answers(
        given.verdict,
        given.evaluation,
        given.inputs,
        given.explanation,
        given.flow,
        dict(given.model),
        kept_epoch=given.history.kept,
    )


def test_what_no_record_says_is_a_persons(material):
    """Funding, ethics and the like stay blank whatever the run holds; blanks are marked on the page."""
    found = {one.name: {row.item: row for row in one.items} for one in page.asked(material())}
    for name, item in (
        ("CLAIM 2024", "44"),
        ("TRIPOD+AI", "17"),
        ("AI Act, Annex IV", "8"),
        ("FDA labelling", "monitoring"),
    ):
        assert found[name][item].says == []
        assert found[name][item].sections == []
    html = page.render(material())
    blanks = sum(not row.says for rows in found.values() for row in rows.values())
    assert html.count("for a person to fill") == blanks


def test_every_section_that_is_named_is_on_the_page(material):
    """A row leads to a section of this page."""
    given = material()
    html = page.render(given)
    for one in page.asked(given):
        assert f"{one.name}: {one.filled} of {len(one.items)} items from records" in html
        for row in one.items:
            assert all(f'id="{section}"' in html for section in row.sections)


@pytest.mark.parametrize(
    ("sources", "filled"), [(["nih"], True), (["nih", "north-wing"], False), ([], False), (["generated"], True)]
)
def test_a_reference_standard_that_is_not_known_is_not_claimed(material, evidence, sources, filled):
    """Where the labels of one source are not on record, a person must state the reference standard."""
    evaluation = evidence()
    facts = evaluation.facts.model_copy(update={"sources": sources})
    found = answers_of(material(evaluation=evaluation.model_copy(update={"facts": facts})))
    assert ("standard" in found) == filled
