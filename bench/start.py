"""Start-up of the command and parse time of the DAGs, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.measure import seconds, table

PROJECT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
REPEATS = 5
HEAVY = "import torch, torchvision, mlflow, great_expectations\n"


def _run(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=PROJECT)
    return time.perf_counter() - start


def start_section() -> str:
    """`cxr-ops --help` beside the help of the tools that it drives."""
    peers = {f"{name} --help": (str(BIN / name), "--help") for name in ("dvc", "mlflow", "airflow")}
    contenders = {**peers, "cxr-ops --help": (str(BIN / "cxr-ops"), "--help")}
    for command in contenders.values():
        _run(*command)  # warm-up: bytecode and page cache
    rows = seconds({n: lambda c=c: _run(*c) for n, c in contenders.items()}, repeats=REPEATS)
    return table("Start-up of the command", "seconds", rows, note="A fresh process each time.", repeats=REPEATS)


def parse_section() -> str:
    """Parse time of dags/cxr_retrain.py beside the same file with its stages' libraries imported at the top."""
    source = (PROJECT / "dags" / "cxr_retrain.py").read_text()
    program = (
        "import sys, time; sys.path.insert(0, '.'); import airflow.sdk; source = {source!r}; "
        "start = time.perf_counter(); exec(compile(source, 'dag', 'exec'), {{'__name__': 'dag'}}); "
        "print(time.perf_counter() - start)"
    )

    def parse(text: str) -> float:
        command = [sys.executable, "-c", program.format(source=text)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT)
        return float(done.stdout.split()[-1])

    heavy = source.replace("from __future__ import annotations\n", "from __future__ import annotations\n" + HEAVY, 1)
    parse(heavy)
    rows = seconds(
        {"the same DAG, heavy imports at the top": lambda: parse(heavy), "dags/cxr_retrain.py": lambda: parse(source)},
        repeats=REPEATS,
    )
    note = f"A fresh interpreter that has imported `airflow.sdk`. The heavy peer adds `{HEAVY.strip()}`."
    return table("Parse time of the DAG", "seconds", rows, note=note, repeats=REPEATS)
