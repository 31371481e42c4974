"""gate: execute the change-control plan on the evidence.

Reads `evaluate/evaluation.json`, `inputs.json` and the plan; writes `gate/verdict.json`. A verdict is data: the stage
ends well on REJECT too.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cxr_ops import contract
from cxr_ops import plan as plans
from cxr_ops.params import Params
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.inputs import Inputs
from cxr_ops.stats import rule


def run(root: Path, params: Params) -> None:
    """Decide.

    Args:
        root: the workspace.
        params: `gate` is used.

    Raises:
        DataError: `evaluate` has not run, or its file or `inputs.json` is damaged.
        SettingsError: the plan is not the one that the run was opened with.
    """
    out = root / "gate"
    shutil.rmtree(out, ignore_errors=True)
    inputs = Inputs.read(root / contract.INPUTS)
    plan = plans.load_bound(root, params.gate.plan, inputs.plan)
    evaluation = Evaluation.read(root / "evaluate" / "evaluation.json")
    verdict = rule.decide(evaluation, inputs, plan)
    out.mkdir(parents=True)
    verdict.write(out / "verdict.json")
