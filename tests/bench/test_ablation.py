"""`make bench-ablation`: what it hands to the ablation, and the page. The trainings themselves are tested elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import ablation as bench
from cxr_ops import ablation
from cxr_ops.data.synthetic import synth
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file
from cxr_ops.records.evidence import Estimate
from cxr_ops.report.ablation import Ablation, Row


def result(gain: float) -> Ablation:
    """A table with one choice."""
    figure = Estimate(value=gain, se=0.01, low=gain - 0.02, high=gain + 0.02, level=0.95, df=2)
    return Ablation(
        rows=[
            Row(name="baseline", says="plain", settings={}, aucs=[0.6], auc=0.6, target=[4]),
            Row(
                name="focal",
                says="focal loss",
                settings={"train.loss": "focal"},
                against="baseline",
                aucs=[0.6 + gain],
                auc=0.6 + gain,
                over_seeds=figure,
                over_patients=figure,
                relative=gain / 0.6,
                target=[4],
                reached=[2],
                saved=figure,
            ),
        ],
        seeds=[0],
        level=0.95,
        epochs=4,
        image_size=64,
        train_images=100,
        validation_images=50,
        validation_patients=40,
        findings=list(FINDINGS),
        data={},
        machine={},
        notes=[],
    )


def test_each_data_set_starts_from_the_other_ones_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both workspaces are prepared, transfer learning is told of the other's weights, and the page has both tables."""
    synth.synthesize(tmp_path / "sample", images=40, seed=1, size=64, min_prevalence=0.3, processes=1)
    asked: dict[str, Params] = {}

    def trained(root: Path, params: Params) -> Path:
        (root / "weights").write_text(root.name)
        assert (root / "prepare" / "images.npy").is_file()
        return root / "weights"

    def run(root: Path, params: Params, **_: object) -> Ablation:
        asked[root.name] = params
        return result({"generated": 0.0125, "nih-sample": 0.0375}[root.name])

    monkeypatch.setattr(bench, "_trained", trained)
    monkeypatch.setattr(ablation, "run", run)
    given = ["--sample", tmp_path / "sample", "--cache", tmp_path / "cache", "--docs", tmp_path / "docs"]
    assert bench.main([*map(str, given), "--images", "40"]) == 0
    for own, other in (("generated", "nih-sample"), ("nih-sample", "generated")):
        settings = asked[own].train
        [weights] = tmp_path.glob(f"cache/*/{other}/weights")
        assert settings.weights_sha256 == sha256_file(weights)
        assert (settings.weights_data, settings.weights_patients) == ((other,), "none")
    page = (tmp_path / "docs" / "ablation.md").read_text()
    real, generated = page.split("## Generated radiographs")
    assert "+0.0375" in real
    assert "+0.0125" in generated
    assert "A gain is shown where both lie above 0: focal." in real
    assert "A gain is shown where both lie above 0: no choice." in generated
    assert str(tmp_path) not in page
    assert (tmp_path / "docs" / "ablation-generated.svg").read_text().startswith("<svg xmlns=")


def test_without_real_radiographs_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the sample nothing is measured, and the option that names it is told."""
    assert bench.main(["--sample", str(tmp_path / "none"), "--cache", str(tmp_path), "--docs", str(tmp_path)]) == 1
    assert "--sample" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
