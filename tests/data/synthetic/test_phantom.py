"""Phantom radiographs: each finding is where its box is, a person stays the same person, the two views differ."""

import numpy as np
import pytest

from cxr_ops.data.synthetic import phantom
from cxr_ops.labels import FINDINGS

SIZE = 128
# These change the shape of the whole chest: their boxes hold most of the change, not nearly all of it.
SHAPES = {"Emphysema", "Atelectasis", "Cardiomegaly"}


def person(number, *, female=False):
    return phantom.draw_person(np.random.default_rng([7, number]), female=female)


def visit(number, *, portable=False):
    return phantom.draw_visit(np.random.default_rng([8, number]), portable=portable)


def attenuation(number, findings, *, at=None, portable=False):
    """The map before exposure and noise, and the boxes, of a person at a visit."""
    when = visit(number if at is None else at, portable=portable)
    return phantom.attenuate(person(number), when, findings, np.random.default_rng(number), SIZE)


def inside(box):
    x, y, width, height = map(int, box)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_picture_inside_its_boxes(finding):
    """Adding one finding to a healthy chest changes what its boxes hold much more than what they leave out."""
    for number in range(6):
        healthy, _ = attenuation(number, ())
        ill, boxes = attenuation(number, (finding,))
        held = np.any([inside(box) for name, box in boxes if name == finding], axis=0)
        change = np.abs(ill - healthy)
        assert change[held].mean() > 0.01
        assert change[held].mean() > (1.5 if finding in SHAPES else 8) * change[~held].mean()


@pytest.mark.parametrize("finding", [finding for finding in FINDINGS if finding not in SHAPES])
def test_a_finding_leaves_the_boxes_of_the_others_alone(finding):
    """A finding that joins another moves neither the other's place nor its severity."""
    other = "Mass" if finding != "Mass" else "Nodule"
    alone = [box for name, box in attenuation(3, (other,))[1] if name == other]
    joined = [box for name, box in attenuation(3, (other, finding))[1] if name == other]
    assert alone == joined


def test_boxes_lie_in_the_picture_and_name_what_is_present():
    """Whatever is present, each finding has a box, no other finding has one, and no box leaves the picture."""
    rng = np.random.default_rng(0)
    for number in range(40):
        present = {name for name in FINDINGS if rng.random() < 0.4}
        _, boxes = attenuation(number, present, portable=number % 2 == 0)
        assert {name for name, _ in boxes} == present
        for _, (x, y, width, height) in boxes:
            assert width >= 2
            assert height >= 2
            assert 0 <= x < x + width <= SIZE
            assert 0 <= y < y + height <= SIZE


def test_a_person_looks_more_like_themselves_than_like_others():
    """Two radiographs of one person correlate more than those of two people, taken in the same two ways."""
    visits = [visit(number) for number in range(2)]
    maps = np.array(
        [
            [phantom.attenuate(person(n), when, (), np.random.default_rng(n), SIZE)[0].ravel() for when in visits]
            for n in range(12)
        ]
    )
    maps -= maps.mean(axis=0)
    correlation = np.array([[np.corrcoef(a[0], b[1])[0, 1] for b in maps] for a in maps])
    own = np.diag(correlation).mean()
    others = correlation[~np.eye(12, dtype=bool)].mean()
    assert own > others + 0.3


def test_the_portable_view_magnifies_the_heart():
    """In AP, with the detector behind the patient, the same heart's shadow is wider than in PA."""
    for number in range(8):
        widths = [
            dict(attenuation(number, ("Cardiomegaly",), portable=portable, at=0)[1])["Cardiomegaly"][2]
            for portable in (False, True)
        ]
        assert widths[1] > 1.05 * widths[0]


def test_exposure_hides_how_much_was_added():
    """Mean and deviation of the grey values are those that the visit drew, whatever the findings."""
    for number in range(6):
        when = visit(number)
        for findings in ((), ("Effusion", "Edema", "Cardiomegaly"), ("Emphysema",)):
            stream = np.random.default_rng(number)
            pixels = phantom.render(person(number), when, findings, stream, SIZE).pixels
            assert pixels.dtype == np.uint8
            assert pixels.mean() == pytest.approx(when.mean, abs=2)
            assert pixels.std() == pytest.approx(when.deviation, abs=2.5)


def test_the_picture_scales():
    """The same person at the same visit has the same boxes, but for rounding, in a picture of another size."""
    findings = ("Mass", "Cardiomegaly")
    small, large = (
        phantom.render(person(1), visit(1), findings, np.random.default_rng(1), size).boxes for size in (96, 256)
    )
    for (name, box), (other, bigger) in zip(small, large, strict=True):
        assert name == other
        assert np.array(box) / 96 == pytest.approx(np.array(bigger) / 256, abs=0.025)
