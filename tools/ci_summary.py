"""Adds up the JUnit files of one `.ci/run`: what was skipped and why, then one line of counts."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def main(folder: Path, *, stack: bool) -> int:
    """Print the summary; a missing report of a suite that should have run is a failure."""
    passed = failed = skipped = 0
    for name in ("test", *(["stack"] if stack else [])):
        report = folder / f"{name}.xml"
        if not report.is_file():
            print(f"make {name if name == 'test' else 'test-stack'} ended before its tests")
            failed += 1
            continue
        for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
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
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), stack="--stack" in sys.argv))
