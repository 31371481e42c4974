"""The flow's picture holds every number of the flow, in boxes that lie within it and do not overlap."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from cxr_ops.records.report import Counted, Excluded, Flow
from cxr_ops.report import flow


def make(batches: int = 2, excluded: int = 2, *, lost: bool = False) -> Flow:
    before = {
        "left_out": [
            Excluded(reason="left out of batch-0 at ingestion", images=12),
            Excluded(reason="batch north-2026-07 was refused", images=4321),
            Excluded(reason="batch south was refused", images=0),
        ],
        "unrecorded": [f"batch-{i}" for i in range(batches)],
        "corrected": 7,
    }
    return Flow(
        **(before if lost else {}),
        batches=[Counted(name=f"batch-{i}", images=1000 + i, patients=400 + i) for i in range(batches)],
        total=Counted(name="all", images=2001, patients=801),
        excluded=[
            Excluded(reason=reason, images=31 + i, patients=17 + i)
            for i, reason in enumerate(["view LL", "tested in an earlier test period"][:excluded])
        ],
        sides=[
            Counted(name=name, images=i, patients=i // 2)
            for name, i in (("train", 1402), ("validation", 201), ("test", 334))
        ],
    )


def drawn(given: Flow) -> ET.Element:
    return ET.fromstring(flow.draw(given).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def texts(root: ET.Element) -> str:
    lines = [element.text or "" for element in root.iter() if element.tag.endswith("}text")]
    return " ".join(lines).replace("\u202f", "")


@pytest.mark.parametrize(("batches", "excluded"), [(1, 0), (2, 2), (30, 1)])
def test_every_number_stands_in_the_picture(batches, excluded):
    """Batches (or how many more there are), what left with its reason, and each side stand as text."""
    given = make(batches, excluded)
    said = texts(drawn(given))
    for one in given.batches[: flow.BATCHES]:
        assert f"{one.name}: {one.images} images of {one.patients} patients" in said
    if batches > flow.BATCHES:
        rest = sum(one.images for one in given.batches[flow.BATCHES :])
        assert f"and {batches - flow.BATCHES} more: {rest} images" in said
    for one in given.excluded:
        assert f"{one.reason}: {one.images} images of {one.patients} patients" in said
    for side in given.sides:
        assert f"{side.name.capitalize()} {side.images} images {side.patients} patients" in said
    assert ("On no side" in said) == bool(excluded)


def test_what_never_entered_stands_first():
    """Rows in quarantine, of refused batches, and what nobody recorded stand in the first boxes, and in words."""
    given = make(1, 1, lost=True)
    for said in (texts(drawn(given)), flow.in_words(given).replace("\u202f", "")):
        assert "eft out of batch-0 at ingestion: 12 rows" in said
        assert "atch north-2026-07 was refused: 4321 rows" in said
        assert "atch south was refused: rows not on record" in said
        assert "hat was left out of batch-0 is not on record" in said
        assert re.search("abels of 7 images", said)
    assert texts(drawn(given)).startswith(f"Rows of the tables that were brought at least {2001 + 12 + 4321} rows")
    known = make(1, 1, lost=True)
    known = known.model_copy(update={"unrecorded": [], "left_out": known.left_out[:2]})
    assert texts(drawn(known)).startswith(f"Rows of the tables that were brought {2001 + 12 + 4321} rows")
    assert "Did not enter" not in texts(drawn(make()))


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(("batches", "excluded"), [(1, 0), (2, 2), (30, 1)])
def test_boxes_lie_within_the_picture_and_apart(batches, excluded, lost):
    """No box reaches out of the picture or over another, and each line of text lies in a box."""
    root = drawn(make(batches, excluded, lost=lost))
    width, height = map(float, root.get("viewBox").split()[2:])
    boxes = [
        tuple(float(one.get(name)) for name in ("x", "y", "width", "height"))
        for one in root.iter()
        if one.tag.endswith("}rect")
    ]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    for i, (x, y, w, h) in enumerate(boxes):
        for a, b, c, d in boxes[:i]:
            assert x >= a + c or a >= x + w or y >= b + d or b >= y + h
    for line in (one for one in root.iter() if one.tag.endswith("}text")):
        x, y = float(line.get("x")), float(line.get("y"))
        assert any(a <= x and x + 5.5 * len(line.text) <= a + c + 12 and b <= y <= b + d for a, b, c, d in boxes), (
            line.text
        )


def test_a_screen_reader_hears_the_same():
    """The description holds the numbers of the picture in sentences."""
    root = drawn(make())
    said = next(one.text for one in root.iter() if one.tag.endswith("}desc")).replace("\u202f", "")
    assert "2001 images of 801 patients came in 2 batches." in said
    assert "31 images are on no side: view LL." in said
    assert "Test: 334 images of 167 patients." in said


def test_names_are_text_and_not_markup():
    """A batch's name and a reason are escaped."""
    given = make().model_copy(
        update={"batches": [Counted(name="<b>&", images=1, patients=1)], "excluded": [Excluded(reason="<i>", images=1)]}
    )
    svg = flow.draw(given)
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert "&lt;b&gt;&amp;" in svg
    assert re.findall(r"&lt;i&gt;: 1 images", svg)
