"""The figures are arrays in, SVG out: same bytes for same arrays, safe inside a page, nothing lost on the way."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxr_ops.labels import FINDINGS
from cxr_ops.report import figures

ROWS = [*FINDINGS, "Mean"]


def draw_forest(name: str = "auc", **changes: object) -> str:
    values = np.linspace(0.6, 0.9, len(ROWS))
    intervals = np.column_stack([values, values - 0.05, values + 0.05])
    intervals[ROWS.index("Hernia")] = np.nan
    settings: dict[str, object] = {
        "rows": ROWS,
        "series": [figures.Series(name="challenger", label="Challenger", intervals=intervals)],
        "title": "AUC by finding",
        "description": "Intervals.",
        "axis": "AUC",
        "neutral": 0.5,
        "limits": [0.55] * len(ROWS),
        "limit_label": "Floor",
    }
    return figures.forest(name, **(settings | changes))  # type: ignore[arg-type]


def draw_roc() -> str:
    rates = np.linspace(0, 1, 50)
    curves = {"challenger": (rates, rates**0.5)}
    panels = [figures.Roc(finding=finding, note="challenger 0.812", curves=curves) for finding in FINDINGS]
    panels[-1] = figures.Roc(finding="Hernia", note="not evaluable")
    return figures.roc_grid("roc", panels, title="ROC", description="Panels.")


def draw_training(**changes: object) -> str:
    epochs = np.arange(1.0, 5.0)
    settings: dict[str, object] = {"kept": 3, "title": "Training", "description": "Curves."}
    return figures.training_curves("training", epochs, 1 / epochs, 1.2 / epochs, epochs / 10, **(settings | changes))  # type: ignore[arg-type]


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


@pytest.mark.parametrize("draw", [draw_forest, draw_roc, draw_training])
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


@pytest.mark.parametrize("draw", [draw_forest, draw_roc, draw_training])
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


@pytest.mark.parametrize("draw", [draw_forest, draw_roc, draw_training])
def test_a_figure_has_a_title_and_a_description_for_a_screen_reader(draw):
    """The picture's role, title and description are there for whoever does not see it."""
    svg = draw(**({"title": "a <b> & c"} if draw is not draw_roc else {}))
    assert 'role="img"' in svg
    tags = Texts(svg).tags
    assert tags[:3] == ["svg", "title", "desc"]
    assert "<b>" not in svg


def test_a_forest_plot_names_every_row_and_says_what_is_not_evaluable():
    """Each finding and the mean have a label; a row without a number says so in words."""
    words = Texts(draw_forest()).words
    assert [word.replace(" ", "_") for word in words if word.replace(" ", "_") in ROWS] == ROWS
    assert words.count("not evaluable") == 1
    assert "Floor" in words


def test_positions_in_a_forest_plot_are_linear_in_the_values():
    """Where a mark stands is an affine function of its value: checked against the values themselves, mark by mark."""
    values = np.array([0.5, 0.6, 0.9, 0.7])
    intervals = np.column_stack([values, values, values])
    series = [figures.Series(name="challenger", label="Challenger", intervals=intervals)]
    svg = draw_forest(rows=["a", "b", "c", "Mean"], series=series, limits=[])
    marks = [
        float(x) for x in re.findall(r'<use href="#[^"]*" x="([\d.]+)" y="[^"]*" style="[^"]*--challenger[^"]*"', svg)
    ]
    x = np.array(marks[:4])  # the last mark is the legend's
    slope = (x[2] - x[0]) / (values[2] - values[0])
    np.testing.assert_allclose(x, x[0] + slope * (values - values[0]), atol=0.02)


def test_a_forest_plot_refuses_lengths_that_differ():
    """A missing row must not shift the others."""
    with pytest.raises(ValueError, match="15 rows"):
        draw_forest(limits=[0.5])


def test_text_in_a_figure_is_not_rounded():
    """Coordinates are shortened; a number that a person reads is not."""
    assert "challenger 0.812" in Texts(draw_roc()).words


def test_roc_panels_name_all_findings_and_both_models_differ_in_dash():
    """Every finding has a panel, and a model is told apart without colour."""
    words = [word.replace(" ", "_") for word in Texts(draw_roc()).words]
    assert [word for word in words if word in FINDINGS] == list(FINDINGS)
    rates = np.linspace(0, 1, 5)
    curves = {"challenger": (rates, rates), "champion": (rates, rates)}
    both = figures.roc_grid("roc", [figures.Roc(finding="Mass", note="", curves=curves)], title="t", description="d")
    champion = [style for style in re.findall(r'style="([^"]*)"', both) if "--champion" in style]
    challenger = [style for style in re.findall(r'style="([^"]*)"', both) if "--challenger" in style]
    assert all("stroke-dasharray" in style for style in champion)
    assert not any("stroke-dasharray" in style for style in challenger)


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
