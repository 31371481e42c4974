"""The figures are arrays in, SVG out: same bytes for same arrays, safe inside a page, nothing lost on the way."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxr_ops.labels import FINDINGS
from cxr_ops.report import figures


def draw_forest(name: str = "auc", **changes: object) -> str:
    values = np.linspace(0.6, 0.9, len(FINDINGS))
    rows = [
        figures.Row(
            label=finding.replace("_", " "), support=f"{i} patients", intervals=[(v, v - 0.05, v + 0.05)], limit=0.55
        )
        for i, (finding, v) in enumerate(zip(FINDINGS, values, strict=True))
    ]
    rows[FINDINGS.index("Hernia")] = figures.Row(label="Hernia", support="0 patients", intervals=[None], limit=0.55)
    settings: dict[str, object] = {
        "groups": [figures.Group(heading="Findings", support="positive", rows=rows)],
        "series": [figures.Series(name="challenger", label="Challenger")],
        "title": "AUC by finding",
        "description": "Intervals.",
        "axis": "AUC",
        "neutral": 0.5,
        "limit_label": "Floor",
    }
    return figures.forest(name, **(settings | changes))  # type: ignore[arg-type]


def draw_roc(**changes: object) -> str:
    rates = np.linspace(0, 1, 50)
    curves = {"challenger": (rates, rates**0.5)}
    panels = [figures.Panel(finding=finding, note="challenger 0.812", curves=curves) for finding in FINDINGS]
    panels[-1] = figures.Panel(finding="Hernia", note="not evaluable")
    settings: dict[str, object] = {"x_label": "FPR", "y_label": "TPR", "title": "ROC", "description": "Panels."}
    return figures.curve_grid("roc", panels, **(settings | changes))  # type: ignore[arg-type]


def draw_training(**changes: object) -> str:
    epochs = np.arange(1.0, 5.0)
    settings: dict[str, object] = {"kept": 3, "title": "Training", "description": "Curves."}
    return figures.training_curves("training", epochs, 1 / epochs, 1.2 / epochs, epochs / 10, **(settings | changes))  # type: ignore[arg-type]


def draw_flips(**changes: object) -> str:
    pair = ((0.05, 0.02, 0.11), (0.07, 0.03, 0.14))
    rows = [figures.FlipRow(finding=finding, with_finding=pair, without=pair) for finding in FINDINGS]
    rows[-1] = figures.FlipRow(finding="Hernia", with_finding=None, without=None)
    settings: dict[str, object] = {"title": "Flips", "description": "Bars."}
    return figures.flips("flips", rows, **(settings | changes))  # type: ignore[arg-type]


class Texts(HTMLParser):
    """Collects ids, tags and the words of an SVG."""

    def __init__(self, svg: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(svg)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())


@pytest.mark.parametrize("draw", [draw_forest, draw_roc, draw_training, draw_flips])
def test_a_figure_is_the_same_in_another_process_with_another_hash_seed_and_matplotlibrc(draw, tmp_path):
    """A figure's bytes depend on its arrays, not on the process, the hash seed or a person's matplotlibrc."""
    (tmp_path / "matplotlibrc").write_text("font.size: 31\naxes.grid: True\nxtick.major.size: 20\nsvg.fonttype: path\n")
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('other', {__file__!r})\n"
        "other = importlib.util.module_from_spec(spec); spec.loader.exec_module(other)\n"
        f"sys.stdout.write(other.{draw.__name__}())\n"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout == draw()


@pytest.mark.parametrize("draw", [draw_forest, draw_roc, draw_training, draw_flips])
def test_a_figure_stands_alone_in_a_page(draw):
    """A figure holds no address, script or style sheet, its ids carry its name, and every reference has its target."""
    svg = draw()
    assert "://" not in svg
    for word in ("<script", "<style", "<metadata", "<?xml", "Matplotlib", "matplotlib"):
        assert word not in svg
    ids = Texts(svg).ids
    name = svg.split('aria-labelledby="')[1].split("-title")[0]
    assert len(ids) == len(set(ids))
    assert all(one.startswith(f"{name}-") for one in ids)
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert targets
    assert set(targets) <= set(ids)


@pytest.mark.parametrize("draw", [draw_forest, draw_roc, draw_training, draw_flips])
def test_a_figure_has_a_title_and_a_description_for_a_screen_reader(draw):
    """The picture's role, title and description are there for whoever does not see it."""
    svg = draw(title="a <b> & c")
    assert 'role="img"' in svg
    tags = Texts(svg).tags
    assert tags[:3] == ["svg", "title", "desc"]
    assert "<b>" not in svg


def test_a_forest_plot_names_every_row_with_its_support_and_says_what_is_not_evaluable():
    """Every row has its label and what it stands on as text; a row without a number says so; limits are explained."""
    words = Texts(draw_forest()).words
    for i, finding in enumerate(FINDINGS):
        assert words.count(finding.replace("_", " ")) == 1
        assert (f"{i} patients" if finding != "Hernia" else "0 patients") in words
    assert words.count("not evaluable") == 1
    assert {"Floor", "Challenger", "Findings", "positive"} <= set(words)


def places(svg: str, colour: str) -> list[float]:
    return [
        float(x) for x in re.findall(rf'<use href="#[^"]*" x="([\d.]+)" y="[^"]*" style="[^"]*--{colour}[^"]*"', svg)
    ]


def test_positions_in_a_forest_plot_are_linear_in_the_values():
    """Where a mark or a margin stands is an affine function of its value: checked against the values, mark by mark."""
    values = np.array([-0.05, 0.01, 0.09, -0.02])
    limits = np.array([-0.03, -0.05, -0.1, -0.01])
    rows = [
        figures.Row(label="a", support="", intervals=[(v, v, v)], limit=limit)
        for v, limit in zip(values, limits, strict=True)
    ]
    groups = [figures.Group(heading="", support="", rows=part) for part in (rows[:1], rows[1:])]
    svg = draw_forest(groups=groups, series=[figures.Series(name="champion", label="c")], neutral=0.0)
    x = np.array(places(svg, "champion")[:4])  # the last mark is the legend's
    slope = (x[2] - x[0]) / (values[2] - values[0])
    np.testing.assert_allclose(x, x[0] + slope * (values - values[0]), atol=0.02)
    lines = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*"[^>]*style="[^"]*--limit', svg)
    assert [first for first, _ in lines] == [second for _, second in lines]
    margins = np.array([float(first) for first, _ in lines])
    np.testing.assert_allclose(margins, x[0] + slope * (limits - values[0]), atol=0.02)


def test_two_differences_of_a_row_stand_one_above_the_other_and_differ_in_mark():
    """Against champion and reference: other colour, other marker, other height, the same row."""
    rows = [figures.Row(label="Mass", support="40", intervals=[(0.01, 0, 0.02), (0.02, 0.01, 0.03)], limit=-0.05)]
    series = [figures.Series(name=name, label=f"minus {name}") for name in ("champion", "reference")]
    svg = draw_forest(groups=[figures.Group(heading="Findings", support="", rows=rows)], series=series, neutral=0.0)
    marks = re.findall(r'<use href="#([^"]*)" x="[\d.]+" y="([\d.]+)" style="[^"]*--(champion|reference)', svg)
    assert {name for _, _, name in marks} == {"champion", "reference"}
    assert len({shape for shape, _, _ in marks}) == len({height for _, height, _ in marks[:2]}) == 2
    assert Texts(svg).words.count("Mass") == 1


def test_a_forest_plot_refuses_a_row_without_an_interval_for_each_series():
    """A missing figure must not shift the others to another model."""
    with pytest.raises(ValueError, match="2 intervals"):
        draw_forest(series=[figures.Series(name=name, label="") for name in ("champion", "reference")])


def test_text_in_a_figure_is_not_rounded():
    """Coordinates are shortened; a number that a person reads is not."""
    assert "challenger 0.812" in Texts(draw_roc()).words


def test_roc_panels_name_all_findings_and_both_models_differ_in_dash():
    """Every finding has a panel, and a model is told apart without colour."""
    words = [word.replace(" ", "_") for word in Texts(draw_roc()).words]
    assert [word for word in words if word in FINDINGS] == list(FINDINGS)
    rates = np.linspace(0, 1, 5)
    panel = figures.Panel(finding="Mass", note="", curves=dict.fromkeys(figures.MODELS, (rates, rates)))
    labels = {"x_label": "x", "y_label": "y", "title": "t", "description": "d"}
    styles = re.findall(r'style="([^"]*)"', figures.curve_grid("roc", [panel], **labels))
    dashes = {
        model: {tuple(re.findall(r"stroke-dasharray: ([^;]*)", style)) for style in styles if f"--{model}" in style}
        for model in figures.MODELS
    }
    assert dashes["challenger"] == {()}
    assert all(len(dash) == 1 for dash in dashes.values())
    assert len(set().union(*dashes.values())) == 3


def test_panels_of_other_scales_say_their_own_numbers_and_mark_their_points():
    """A panel whose axes end at 0.1 fills its width as one that ends at 1 does, and each point has a mark."""
    x = np.array([0.0, 0.02, 0.05, 0.1])
    labels = {"x_label": "x", "y_label": "y", "title": "t", "description": "d", "points": True}
    small, large = (
        figures.curve_grid(
            "one",
            [figures.Panel(finding="Mass", note="", curves={"champion": (k * x, k * x)}, limit=0.1 * k)],
            **labels,
        )
        for k in (1, 10)
    )
    assert len(places(small, "champion")) == len(x) + 1  # and the legend's
    steps = [np.diff(places(svg, "champion")[:-1]) for svg in (small, large)]
    np.testing.assert_allclose(*steps, rtol=0.05)  # up to the room that the numbers take
    assert {"0.05", "0.1"} <= set(Texts(small).words)
    assert {"0.5", "1"} <= set(Texts(large).words)


def test_thinning_keeps_the_area_under_a_curve():
    """A thinned ROC curve of 20,000 points has the full one's area to half a step of the grid, in few points."""
    rng = np.random.default_rng(0)
    fpr, tpr = np.sort(rng.random(20_000)), np.sort(rng.random(20_000) ** 0.4)
    x, y = figures.thin(np.r_[0, fpr, 1], np.r_[0, tpr, 1])
    assert abs(np.trapezoid(y, x) - np.trapezoid(np.r_[0, tpr, 1], np.r_[0, fpr, 1])) < 0.5 / 250
    assert len(x) <= 501
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_a_compressed_picture_looks_the_same_and_keeps_no_metadata():
    """The JPEG differs from a smooth PNG by less than 2 grey values on average, and carries nothing but pixels."""
    rows, columns = np.mgrid[0:64, 0:128]
    pixels = np.stack([4 * rows % 256, 2 * columns, 255 - rows], axis=2).clip(0, 255).astype(np.uint8)
    pixels[:, :, 0] = np.minimum(4 * rows, 255)
    note = PngInfo()
    note.add_text("Comment", "00000001_000.png")
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG", pnginfo=note)
    jpeg = figures.compress(png.getvalue())
    assert jpeg == figures.compress(png.getvalue())
    assert b"00000001" not in jpeg
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.format == "JPEG"
        assert np.abs(np.asarray(picture).astype(int) - pixels).mean() < 2


def test_a_name_that_could_not_be_part_of_an_id_is_refused():
    """A figure's name goes into ids unescaped, so it is checked."""
    with pytest.raises(ValueError, match="cannot name a figure"):
        draw_forest('x" onload="y')


def outlined(paths: list[str]) -> list[np.ndarray]:
    """Which of 100 x 100 places lie in each path, by OpenCV's own filling of polygons."""
    masks = []
    for path in paths:
        mask = np.zeros((100, 100), np.uint8)
        rings = [
            np.array([[int(number) // 10 for number in place.split()] for place in ring.split("L")], np.int32)
            for ring in path.replace("Z", "").split("M")
            if ring
        ]
        if rings:
            cv2.fillPoly(mask, rings, 1)
        masks.append(mask.astype(bool))
    return masks


def test_outlines_hold_what_reaches_their_level():
    """The regions are those of the map, enlarged linearly by OpenCV, that reach 25, 50 and 75 % of the scale's end."""
    heat = np.random.default_rng(3).gamma(1.0, 1.0, (4, 5)).astype(np.float32)
    # OpenCV's own linear enlargement, at the same places: between centres of cells, and level beyond the outermost.
    smooth = cv2.resize(heat, (100, 100), interpolation=cv2.INTER_LINEAR)
    found = outlined(figures.overlay(heat.tolist(), 3.0))
    for share, mask in zip(figures.SHARES, found, strict=True):
        assert np.mean(mask == (smooth >= share * 3.0)) > 0.97
    assert found[0].any()


def test_an_empty_map_and_a_weak_one_have_no_outline():
    """What does not reach the lowest level is not outlined, however it compares with its own peak."""
    assert figures.overlay([], 2.0) == figures.overlay([[0.1, 0.2], [0.3, 0.4]], 2.0) == ["", "", ""]
