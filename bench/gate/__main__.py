"""Simulate the gate and write docs/gate-simulation.md.

The results grow block by block in `.cxr/gate-simulation/results.json`: a run that is stopped, or ends with its minutes,
goes on where it was. A change of the code that makes the numbers, of the plan or of the labels begins anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SEED = 20_170_501  # of all random numbers of the simulation


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--labels", type=Path, help="the NIH's Data_Entry_2017_v2020.csv(.gz); otherwise downloaded")
    # With so many the error of a power of 92 % is a quarter of a point.
    parser.add_argument("--replicates", type=int, default=12_000, help="of the largest study (default 12,000)")
    parser.add_argument("--minutes", type=float, help="stop after this time; 0 only writes the page anew")
    parser.add_argument(
        "--differences", action="store_true", help="go on with intervals of differences alone, and rewrite that section"
    )
    parser.add_argument(
        "--shapes", action="store_true", help="go on with scores that are not normal alone, and rewrite that section"
    )
    parser.add_argument(
        "--sequences", action="store_true", help="go on with periods of ten looks alone, and rewrite that section"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    parser.add_argument("--cache", type=Path, default=PROJECT / ".cxr" / "gate-simulation", help="labels and results")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where the page is written")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Simulate, and write the page."""
    for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy is loaded; its threads would fight over the cores
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    from bench.gate import page, run, sequences, tree
    from cxr_ops.errors import CxrError

    asked = arguments(words)
    alone = "differences" if asked.differences else "shapes" if asked.shapes else ""
    deadline = None if asked.minutes is None else time.monotonic() + 60 * asked.minutes
    places = (PROJECT, asked.cache, asked.labels, SEED)
    try:
        if not asked.sequences:
            only = (alone,) if alone else ()
            results = run.run(*places, asked.replicates, asked.processes, deadline=deadline, only=only)
            written = page.rewrite(asked.docs, results, SEED, alone) if alone else page.write(asked.docs, results, SEED)
        if not alone:
            found = sequences.run(*places, asked.replicates // 4, asked.processes, deadline=deadline)
            written = sequences.write(asked.docs, found, SEED)
            tree.write(asked.docs)
    except CxrError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
