"""Adds up the JUnit files of one `.ci/run`: what each test file cost, what was skipped and why, one line of counts.

`tests/costs.csv` holds what each file cost when it was last written down: a file that has grown since is marked. With
`--write` it is written anew.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

COSTS = Path(__file__).resolve().parents[1] / "tests" / "costs.csv"
SHOWN = 30
# A busy machine is slower by half; a test file that takes more than that, and is no trifle, has grown.
GROWN, TRIFLE = 1.5, 15.0


def main(folder: Path, *, stack: bool, write: bool) -> int:
    """Print the summary; a missing report of a suite that should have run is a failure."""
    passed = failed = skipped = 0
    costs: Counter[str] = Counter()
    for name in ("test", *(["stack"] if stack else [])):
        report = folder / f"{name}.xml"
        if not report.is_file():
            print(f"make {name if name == 'test' else 'test-stack'} ended before its tests")
            failed += 1
            continue
        for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
            costs[file_of(case.get("classname") or "")] += float(case.get("time") or 0)
            reason = case.find("skipped")
            if reason is not None:
                skipped += 1
                print(f"skipped: {case.get('classname')}::{case.get('name')}: {reason.get('message')}")
            elif case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            else:
                passed += 1
    if not stack:
        print("skipped: make test-stack: no Docker engine runs here, or make test failed before it")
    before = read_costs(COSTS)
    for line in table(costs, before):
        print(line)
    if write:
        rows = [f"{name},{seconds:.0f}" for name, seconds in sorted(costs.items()) if seconds >= 1]
        COSTS.write_text("\n".join(["file,seconds", *rows, ""]), encoding="utf-8")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


def file_of(classname: str) -> str:
    """The file of a test, from what JUnit calls its class.

    >>> file_of("tests.stages.test_open"), file_of("tests.stages.test_open.TestIt"), file_of("cxr_ops.contract")
    ('tests/stages/test_open.py', 'tests/stages/test_open.py', 'cxr_ops/contract.py')
    """
    parts = classname.split(".")
    modules = [part for part in parts if not part[:1].isupper()]
    return "/".join(modules) + ".py"


def read_costs(path: Path) -> dict[str, float]:
    """Seconds of each file, as they were written down."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["file"]: float(row["seconds"]) for row in csv.DictReader(file)}


def table(costs: Mapping[str, float], before: Mapping[str, float]) -> Iterable[str]:
    """The dearest files, a line each: seconds now, seconds before, and whether the file has grown."""
    dearest = sorted(costs.items(), key=lambda item: -item[1])
    yield f"{sum(costs.values()):,.0f} s of tests in {len(costs)} files; seconds now, before, file:"
    for name, seconds in dearest[:SHOWN]:
        old = before.get(name)
        grown = seconds > TRIFLE and seconds > GROWN * (old or 0)
        mark = "  GREW" if grown and old is not None else "  NEW" if grown else ""
        yield f"{seconds:8.0f} {'-' if old is None else f'{old:.0f}':>7}  {name}{mark}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), stack="--stack" in sys.argv, write="--write" in sys.argv))
