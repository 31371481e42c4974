"""500 cases explained and reported: seconds, peak memory, and the same for a fifth of the cases."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
IMAGES = 600
SIDE = 512  # pixels of a picture
PER_KIND = (1, 5)  # cases a finding and kind
SIZE = 96  # pixels that the network sees
PLAN = "pccp.demo.yaml"


@dataclass(frozen=True)
class Cost:
    """What `explain` and `report` took: cases, seconds of each, and peak MB of the stages and of a model's process."""

    cases: int
    explain: float
    report: float
    stage: float
    model: float
    page: float


def section() -> str:
    """Explain and report few cases, then 500, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gallery-") as scratch:
        root = Path(scratch) / "workspace"
        _make(root, Path(scratch))
        costs = [_measure(root, number) for number in PER_KIND]
    few, many = costs
    note = (
        f"`explain` and `report` of {many.cases} cases of generated radiographs of {SIDE} x {SIDE} pixels, by "
        f"challenger and champion at {SIZE} px (random weights; scores are drawn), beside {few.cases} cases. Peaks are "
        "of the process that runs the stages, and of the largest that holds a package's code and torch."
    )
    lines = [
        "## Cases explained and reported",
        "",
        note,
        "",
        f"| | {few.cases} cases | {many.cases} cases | ratio |",
        "|---|---|---|---|",
    ]
    for name, what in (
        ("seconds of `explain`", "explain"),
        ("seconds of `report`", "report"),
        ("peak MB of the stages", "stage"),
        ("peak MB of a package's process", "model"),
        ("MB of report.html", "page"),
    ):
        small, large = getattr(few, what), getattr(many, what)
        lines.append(f"| {name} | {small:.3g} | {large:.3g} | {large / small:.2f} |")
    return "\n".join(lines) + "\n"


def _measure(root: Path, per_kind: int) -> Cost:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_work, (str(root), per_kind))


def _work(folder: str, per_kind: int) -> Cost:
    from cxr_ops.records.explanation import Explanation
    from cxr_ops.stages import explain, report

    root, params = Path(folder), _params(per_kind)
    start = time.perf_counter()
    explain.run(root, params)
    between = time.perf_counter()
    report.run(root, params)
    end = time.perf_counter()
    return Cost(
        cases=len(Explanation.read(root / "explain" / "explain.json").cases),
        explain=between - start,
        report=end - between,
        stage=_peak(),
        model=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3,
        page=(root / "report" / "report.html").stat().st_size / 1e6,
    )


def _peak() -> float:
    """Peak MB of this process since its program began; what `getrusage` tells is at least its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3


def _params(per_kind: int = 1):
    from cxr_ops.params import Params

    return Params.check(
        {
            "split": {"test": 0.6},
            "prepare": {"image_size": SIZE},
            "train": {"device": "cpu"},
            "explain": {"cases_per_finding": per_kind},
            "gate": {"plan": PLAN},
        },
        "the benchmark",
    )


def _make(root: Path, scratch: Path) -> None:
    """A workspace in which the stages up to `gate` have ended: data and packages are real, scores are drawn."""
    import numpy as np

    from cxr_ops import plan as plans
    from cxr_ops.data import manifest, splits
    from cxr_ops.data.checking.batch import build, check
    from cxr_ops.data.sources import nih
    from cxr_ops.data.synthetic.synth import synthesize
    from cxr_ops.labels import FINDINGS
    from cxr_ops.records.data import Batch, DataRevision
    from cxr_ops.records.evidence import Evaluation
    from cxr_ops.records.inputs import Champion, Code, Inputs, LedgerState, Period
    from cxr_ops.records.training import Trained
    from cxr_ops.stages import evaluate, gate, split, validate
    from cxr_ops.stats import evidence

    params = _params()
    synthesize(scratch / "made", images=IMAGES, seed=0, size=SIDE)
    shutil.copytree(PROJECT / "expectations", root / "expectations")
    shutil.copy(PROJECT / PLAN, root / PLAN)
    build(root / "dataset" / "made", check(nih.read_folder(scratch / "made"), "made", processes=1))
    Period().write(root / "test-period.json")
    validate.run(root, params)
    split.run(root, params)
    challenger = _package(root / "train" / "package", 0)
    champion = _package(root / "champion" / "package", 1)
    Trained(
        package=challenger,
        best_epoch=1,
        epochs_run=1,
        validation_auc=0.7,
        train_images=1,
        validation_images=1,
        patients=1,
        seed=0,
        device="cpu",
        precision="fp32",
        threads=1,
    ).write(root / "train" / "train.json")
    (root / "train" / "history.csv").write_text(
        "epoch,train_loss,validation_loss,validation_auc,learning_rate\n1,0.9,0.95,0.7,0.001\n", encoding="utf-8"
    )
    rng = np.random.default_rng(0)
    frame = manifest.read_split(root)
    rows = {side: frame[frame["split"] == side].reset_index(drop=True) for side in ("test", "validation")}
    scores, scored = {}, {}
    for side, of in rows.items():
        truth = manifest.label_array(of).astype(np.float64)
        shared = 1.5 * np.nan_to_num(truth) + rng.normal(size=truth.shape) - 1
        scores[side] = {
            role: (1 / (1 + np.exp(-shared - 0.7 * rng.normal(size=truth.shape)))).astype(np.float32)
            for role in ("challenger", "champion")
        }
        scored[side] = evidence.Scored(truth=truth, patients=of["patient_id"].to_numpy(), scores=scores[side])
    found = evidence.assess(
        FINDINGS,
        scored["test"],
        validation=scored["validation"],
        attributes={},
        rules=plans.load(root / PLAN).performance,
        level=params.evaluate.level,
    )
    test = rows["test"]
    (root / "evaluate").mkdir()
    Evaluation(
        **dict(found.evidence),
        test_digest=splits.test_digest(test),
        test_images=len(test),
        test_patients=int(test["patient_id"].nunique()),
        challenger=challenger,
        champion=champion,
        problems=[],
        performance=found.performance,
        missing_groups=found.missing_groups,
    ).write(root / "evaluate" / "evaluation.json")
    (root / "evaluate" / "scores.csv").write_bytes(evaluate.scores_table(test, scores["test"]))
    (root / "evaluate" / "roc.csv").write_bytes(evaluate.roc_table(test, scores["test"]))
    batch = Batch.read(root / "dataset" / "made" / "batch.json")
    Inputs(
        code=Code(commit="c" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={"made": batch.digest()}),
        champion=Champion(package=champion, version="1", entry="e" * 64),
        reference=None,
        ledger=LedgerState(entries=1, head="e" * 64, looks=1),
        plan=plans.identify(root, PLAN),
    ).write(root / "inputs.json")
    gate.run(root, params)


def _package(folder: Path, seed: int) -> str:
    import torch

    from cxr_ops.model import network, package

    training = {"settings": _params().train.model_dump(mode="json"), "patient_salt": "s", "machine": {"threads": 1}}
    terms = package.contract(image_size=SIZE, mean=0.449, std=0.226, training=training)
    torch.manual_seed(seed)
    net = network.build(terms)
    net(torch.randn(8, 1, SIZE, SIZE))  # warms the statistics of batch normalisation
    return package.write(folder, state=net.state_dict(), contract=terms, patients=set())
