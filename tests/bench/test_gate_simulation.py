"""The simulation of the gate: true AUCs are true, its quick path is the gate, and clustering matters as claimed.

Replicates are few, so shares are compared with binomial limits; the full figures stand in docs/gate-simulation.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bench.gate import gaps, page, procedures, run, shapes, structure, study
from bench.gate.procedures import MACRO, WHOLE
from bench.gate.results import Results, Tally
from bench.gate.scores import AREAS, World
from cxr_ops import plan as plans
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.stats import auc

PLAN = Path(__file__).parents[2] / "pccp.yaml"
ALPHA = 0.025
REPLICATES = 150


@pytest.fixture(scope="module")
def setup():
    return procedures.setup(World(structure.generated(400)), plans.load(PLAN))


def _rng(seed):
    return np.random.Generator(np.random.SFC64(seed))


def _models(setup, rng, count=2):
    common = setup.world.noise(rng)
    return [procedures.Model(setup, setup.world.scores(common, setup.world.noise(rng))) for _ in range(count)]


def test_the_true_auc_is_the_mean_of_the_estimates(setup):
    """Over many draws the mean AUC is what the shift was solved for, in all patients and in a subgroup."""
    group = next(iter(setup.masks))
    whole, inside = [], []
    rng = _rng(0)
    for _ in range(60):
        (model,) = _models(setup, rng, 1)
        whole.append([model.at(-0.05).rank(f).value for f in range(3)])
        first = model.at(0.0, group)
        inside.append(model.at(-0.05, group).rank(0, group).value - first.rank(0, group).value)
    errors = np.std(whole, axis=0, ddof=1) / np.sqrt(60)
    assert np.abs(np.mean(whole, axis=0) - np.array(AREAS[:3]) + 0.05).max() < 4 * errors.max()
    assert np.mean(inside) == pytest.approx(-0.05, abs=4 * np.std(inside) / np.sqrt(60))


def test_the_sorted_ranking_is_the_projects_ranking(setup):
    """Ranking by a shift of sorted scores gives `auc.rank` of the shifted scores, in all its parts."""
    given = setup.world.structure
    (model,) = _models(setup, _rng(1), 1)
    view = model.at(-0.03)
    mask = setup.masks["sex=F"]
    for f in (0, 7, 13):
        truth, scores = given.truth[:, f], view.finished(f)
        expected = auc.rank(truth, scores, given.patients)
        for name in ("value", "positive", "negative", "positives", "negatives", "without"):
            np.testing.assert_allclose(getattr(view.rank(f), name), getattr(expected, name), atol=1e-6)
        np.testing.assert_allclose(view.by_image(f), expected.image, atol=1e-6)
        inside = auc.rank(truth[mask], scores[mask], given.patients[mask], given.patient_count)
        assert view.rank(f, "sex=F").value == pytest.approx(inside.value, abs=1e-6)
        for name in ("negative", "without"):
            np.testing.assert_allclose(getattr(view.rank(f, "sex=F"), name), getattr(inside, name), atol=1e-6)


def test_a_quick_verdict_is_the_rules_verdict(setup):
    """On the same scores the quick path and `rule.judge` make the same checks with the same outcome."""
    for seed in range(4):
        found = dict(study.agreement(setup, _rng(seed)))
        assert found["agreement/checks"]
        assert all(0.3 < found[f"within patients/{finding}"] < 0.75 for finding in FINDINGS)


@pytest.fixture(scope="module")
def at_the_margin(setup):
    """Passes at nominal 2.5 % with every finding at the macro margin: by patient, and by image."""
    margin = setup.plan.performance.macro.margin
    normal = stats.norm.ppf(1 - ALPHA)
    by_patient, by_image = [], []
    rng = _rng(2)
    for _ in range(REPLICATES):
        challenger, champion = (
            model.at(apart) for model, apart in zip(_models(setup, rng), (-margin, 0.0), strict=True)
        )
        pairs = procedures.pairs_of(challenger, champion)
        seen, _ = procedures.points(challenger, champion)
        lows = [procedures.difference([pair]).low for pair in pairs]
        by_patient.append([procedures.difference(pairs).low > -margin, *(low > -margin for low in lows)])
        lows = seen.losses - normal * seen.errors
        by_image.append([seen.losses.mean() - normal * seen.macro_error > -margin, *(lows > -margin)])
    return np.array(by_patient), np.array(by_image)


def test_the_gate_passes_a_loss_at_the_margin_as_rarely_as_it_says(at_the_margin):
    """At nominal 2.5 % the macro-AUC and the findings pass no more often than binomial chance lets them."""
    by_patient, _ = at_the_margin
    assert stats.binomtest(int(by_patient[:, 0].sum()), REPLICATES, ALPHA, alternative="greater").pvalue > 0.001
    # The findings of a replicate are correlated: compare the mean of their shares by its own spread.
    shares = by_patient[:, 1:].mean(axis=1)
    assert shares.mean() - 3 * shares.std(ddof=1) / np.sqrt(REPLICATES) < ALPHA


def test_delong_by_image_is_too_liberal_where_patients_have_many_images(at_the_margin):
    """The same losses pass far more often than 2.5 % where every image counts as a patient."""
    by_patient, by_image = at_the_margin
    shares = by_image[:, 1:].mean(axis=1)
    assert shares.mean() - 3 * shares.std(ddof=1) / np.sqrt(REPLICATES) > ALPHA
    assert by_image.mean() > 2 * by_patient.mean()


def test_a_poisson_bootstrap_over_images_states_delongs_error(setup):
    """TFMA's kind of bootstrap has the standard error by image, which lies below the one by patient."""
    found = dict(study.bootstrap(setup, _rng(3)))
    over = [FINDINGS[f] for f in setup.over[WHOLE]]
    assert np.mean([found[f"bootstrap/{finding}"] for finding in over]) == pytest.approx(1.0, abs=0.1)
    assert np.mean([found[f"by patient/{finding}"] for finding in over]) > 1.1


def test_without_a_reference_quality_drifts(setup, monkeypatch):
    """Steps too small for the margin are promoted one after another, unless a frozen model is kept beside."""
    monkeypatch.setattr(study, "RELEASES", 4)
    monkeypatch.setattr(study, "STEP", 0.02)
    monkeypatch.setattr(study.procedures, "floors_met", lambda *_: [])
    monkeypatch.setattr(
        study, "_margins", lambda _, pairs: np.mean([ours.value - other.value for ours, other in pairs]) > -0.03
    )
    found = dict(study.drift(setup, _rng(4)))
    assert found["drift/gate, no reference/4"] >= found["drift/gate/4"] + 0.02
    assert found["drift/gate/4"] <= 0.04


def test_a_test_set_of_the_official_kind_has_the_asked_counts():
    """Exactly as many patients as asked for, images within one patient's worth, all with a finding, always the same."""
    whole = structure.generated(900, seed=5)
    import pandas as pd

    frame = pd.DataFrame(whole.truth.astype(int), columns=list(FINDINGS)).assign(
        patient=whole.patients + 7, **whole.attributes
    )
    drawn, again = (structure.official_kind(frame, patients=200, images=1500) for _ in range(2))
    assert drawn.patient_count == 200
    assert 1500 - 40 <= len(drawn.patients) <= 1500
    assert np.bincount(drawn.patients, drawn.truth.any(axis=1)).min() > 0
    assert drawn.digest() == again.digest() != structure.official_kind(frame, 200, 1500, seed=1).digest()
    with pytest.raises(DataError, match="patients have a finding"):
        structure.official_kind(frame, patients=901)


def test_of_several_draws_the_one_with_the_official_counts_is_taken(monkeypatch):
    """The draw whose numbers of images come nearest to those of the official list is found again."""
    made = {seed: structure.generated(120, seed=seed) for seed in range(6)}
    monkeypatch.setattr(structure, "official_kind", lambda _, seed: made[seed])
    monkeypatch.setattr(structure, "OFFICIAL", tuple(made[4].truth.sum(axis=0) + 1))
    found, seed = structure.likest_official(None, draws=6)
    assert seed == 4
    assert found is made[4]


def test_a_table_that_is_not_the_nihs_is_refused(tmp_path):
    """A file without the NIH's columns is named."""
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not the NIH's table"):
        structure.read(tmp_path / "other.csv")


def test_labels_that_cannot_be_downloaded_are_asked_for(tmp_path, monkeypatch):
    """Without a package index the error names the package and the option that takes a local copy."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(StorageError, match=r"torchxrayvision.*cannot be downloaded") as raised:
        structure.fetch(tmp_path)
    assert "--labels" in raised.value.fix
    (tmp_path / "Data_Entry_2017_v2020.csv.gz").write_bytes(b"another table")
    with pytest.raises(DataError, match="was expected"):
        structure.fetch(tmp_path)


def test_results_grow_block_by_block_and_survive_the_file(tmp_path):
    """Blocks that are there are not asked for again, and a written file reads as it was."""
    results = Results({"x": 1}, {name: Tally("mark") for name in study.STUDIES})
    todo = run.tasks(results, 100)
    assert {name for name, _ in todo} == set(study.STUDIES)
    one = Tally()
    one.add([("yes", True), ("number", 0.25)])
    one.add([("yes", False), ("number", 0.75)])
    results.studies["look"].merge(0, one)
    results.write(tmp_path / "results.json")
    read = Results.read(tmp_path / "results.json")
    assert read == results
    assert ("look", 0) in todo
    assert run.tasks(read, 100) == [task for task in todo if task != ("look", 0)]
    assert (read.mean("yes"), read.mean("number"), read.count("yes")) == (0.5, 0.5, 2)
    assert read.deviation("number") == pytest.approx(np.std([0.25, 0.75], ddof=1))
    assert read.error("yes") == pytest.approx(np.sqrt(0.25 / 2))


def test_results_are_kept_until_their_numbers_would_change(setup, monkeypatch):
    """Other rules, seed, test set or arithmetic begin anew; the sentences of the plan do not matter."""
    monkeypatch.setattr(study, "STUDIES", {name: study.STUDIES[name] for name in ("look", "period")})
    plan, given = setup.plan, setup.world.structure
    marks = [
        run.fingerprints(plan, given, 0),
        run.fingerprints(plan, given, 1),
        run.fingerprints(plan, structure.generated(401), 0),
        run.fingerprints(plans.load(PLAN.with_name("pccp.demo.yaml")), given, 0),
    ]
    assert len({mark for of in marks for mark in of.values()}) == 8
    text = PLAN.read_text().replace("notice: ", "notice: Also, ", 1)
    assert run.fingerprints(plans.parse(text.encode(), "plan"), given, 0) == marks[0]
    monkeypatch.setattr(auc, "midranks", lambda scores: scores)  # nothing here uses it
    assert run.fingerprints(plan, given, 0) == marks[0]
    monkeypatch.setattr(auc, "_inflation", lambda patients: 1 + 1 / patients)
    assert not set(run.fingerprints(plan, given, 0).values()) & set(marks[0].values())


def test_the_page_says_what_was_found_and_what_was_not(tmp_path, setup):
    """Each number comes from the results, a missing one is called so, and equal results give equal bytes."""
    results = Results(run.describe(setup.world.structure, setup.plan, 3), {name: Tally() for name in study.STUDIES})
    for seed in range(2):
        results.studies["look"].add(study.look(setup, _rng(seed)))
    results.studies["look"].sums["equal/promoted"] = [10_000, 9_000.0, 9_000.0]
    first = page.write(tmp_path / "first", results, 7).read_text()
    assert "| An equally good model is promoted in at least 95 % of looks | 90.00 ± 0.30 % | not met |" in first
    assert "in a period of 10 looks: at most 5.5 % | not run | not run |" in first
    assert "nan" not in first.split("## Side by side")[0].lower()
    page.write(tmp_path / "second", results, 7)
    for name in ("gate-power.svg", "gate-drift.svg", "gate-rules.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_intervals_of_differences_can_be_simulated_and_written_alone(tmp_path, setup):
    """Their section says what was held, beside the bounds; the rest of the page stays as it is to the last byte."""
    with pytest.raises(DataError, match="no page yet"):
        page.rewrite(tmp_path, Results(), 7, "differences")
    results = Results(run.describe(setup.world.structure, setup.plan, 3), {name: Tally() for name in study.STUDIES})
    before = page.write(tmp_path, results, 7).read_text()
    for seed in range(20):
        results.studies["differences"].add(study.differences(setup, _rng(seed)))
    after = page.rewrite(tmp_path, results, 7, "differences").read_text()
    title = "## Intervals of a difference where models differ much"
    assert [part.split(title)[0] for part in (before, after)] == [before.split(title)[0]] * 2
    assert after.split("\n## Drift")[1] == before.split("\n## Drift")[1]
    first = gaps.CASES[0]
    assert results.mean(f"apart/interval/{first.name}") > results.mean(f"apart/bounds/{first.name}") + 0.15
    assert f"| 0.6 and 0.998 | 30 + 300 | 0.5 | {100 * results.mean(f'apart/interval/{first.name}'):.2f} ±" in after
    assert "20 studies of each case" in after


@pytest.mark.parametrize(
    ("mean", "count", "state"),
    [(94.0, 10_000, "met"), (94.0, 100, "not decided"), (98.0, 100, "not met"), (96.0, 100, "not decided")],
)
def test_a_target_is_met_only_by_enough_replicates(mean, count, state):
    """An estimate inside the range counts from 10,000 replicates, or if the range holds two standard errors."""
    results = Results({}, {"look": Tally(sums={"share": [count, mean * count / 100, mean * count / 100]})})
    assert page.Target("?", ["share"], high=95.0).verdict(results)[1] == state


def test_nothing_in_many_replicates_meets_a_limit():
    """A share of 0 has an error, and no share lies below 0: what is far below the limit is met."""
    results = Results({}, {"look": Tally(sums={"share": [6000, 0.0, 0.0]})})
    assert page.Target("?", ["share"], high=0.65).verdict(results)[1] == "met"


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    """With no time left one block of each call is done, kept, and not done again."""
    table = structure.generated(200)
    monkeypatch.setattr(study, "STUDIES", {name: study.STUDIES[name] for name in ("look", "bootstrap")})
    monkeypatch.setattr(structure, "read", lambda _: None)
    monkeypatch.setattr(structure, "likest_official", lambda _: (table, 3))
    monkeypatch.setattr(run, "tasks", lambda results, _: [("bootstrap", len(results.studies["bootstrap"].blocks))])
    project = PLAN.parent
    for blocks in (1, 2):
        found = run.run(project, tmp_path, Path("labels"), 0, 10, 1, deadline=0.0)
        assert found.studies["bootstrap"].blocks == list(range(blocks))
    assert found.count(f"bootstrap/{MACRO}") == 2 * study.STUDIES["bootstrap"].block


@pytest.mark.parametrize("shape", ["fails", "fails to any rank", "negatives fail", "bimodal"])
def test_patients_who_fail_lose_the_margin_in_expectation(shape):
    """The AUC of a challenger of whom some patients fail is lower by the margin, in many patients."""
    case = shapes.Case("Hernia", 0.10, shape)
    area, positives = AREAS[FINDINGS.index("Hernia")], 6000
    rng = np.random.default_rng(0)
    owners = np.arange(positives + shapes.NEGATIVES)
    truth = (owners < positives).astype(float)
    scores = rng.standard_normal(owners.size) + np.sqrt(2) * stats.norm.ppf(area) * truth
    failed = shapes._failing(case, scores, owners, positives, rng)
    before, after = (auc.rank(truth, each, owners).value for each in (scores, failed))
    few = 1.0 / np.sqrt(shapes.NEGATIVES if shape == "negatives fail" else positives)
    assert before - after == pytest.approx(case.margin, abs=few)


def test_scores_that_are_not_normal_are_counted_with_and_without_the_check(setup):
    """Each case yields both levels; with the check nothing passes that the margin alone does not pass."""
    found = dict(shapes.draw(setup, _rng(5)))
    names = [name for name in found if name.startswith("shape/margin/alone")]
    assert len(names) == len(shapes.CASES) * len(shapes.LEVELS)
    assert all(found[name.replace("/alone/", "/both/")] <= found[name] for name in names)
