"""Are vulnerabilities known of the packages that the lock files pin? Asks PyPI's database through pip-audit.

    python tools/audit.py [options of pip-audit, such as --ignore-vuln ID]

What could not be looked up is not called safe: pip-audit itself ends with 0 where its database knows no package at all,
as behind a mirror. Ends with 0 where all packages were looked up and nothing is known of any, with 1 where something is
known of one, and with 3 where some or all could not be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

PROJECT: Final = Path(__file__).resolve().parents[1]
LOCKS: Final = ("all.lock", "image.lock", "serve.lock", "uv.lock")
KNOWN: Final = 1
UNCHECKED: Final = 3
NAMED: Final = 5  # packages that a sentence names


def main(words: Sequence[str]) -> int:
    """Look up the packages of all lock files, each once."""
    locks = [word for lock in LOCKS for word in ("--requirement", str(PROJECT / "requirements" / lock))]
    asked = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run([sys.executable, "-m", "pip_audit", *locks, *asked, *words], capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        print(f"nothing was checked: pip-audit ended with {done.returncode}: {said[-1]}", file=sys.stderr)
        print("  next:  if its database cannot be reached from here, run this where it can", file=sys.stderr)
        return UNCHECKED
    lines, code = told(found)
    print(*lines, sep="\n")
    return code


def told(packages: Sequence[dict[str, Any]]) -> tuple[list[str], int]:
    """What was found, in sentences, and the exit code.

    >>> told([{"name": "six", "version": "1.17.0", "vulns": []}])
    (['1 package was looked up: no vulnerability is known of it'], 0)
    """
    checked = [one for one in packages if "skip_reason" not in one]
    skipped = sorted({one["name"] for one in packages if "skip_reason" in one})
    known = {
        f"{one['name']} {one['version']}: {vulnerability['id']}, mended in "
        f"{' and '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for one in checked
        for vulnerability in one["vulns"]
    }
    number = len({one["name"] for one in checked})
    lines = sorted(known)
    if number and not known:
        lines.append(
            f"{number} package{'s were' if number > 1 else ' was'} looked up: no vulnerability is known of "
            f"{'them' if number > 1 else 'it'}"
        )
    if skipped:
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        lines.append(f"NOT looked up, so nothing is known of: {', '.join(skipped[:NAMED])}{more}")
    if not packages:
        lines.append("nothing was checked: the lock files name no package")
    return lines, KNOWN if known else UNCHECKED if skipped or not packages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
