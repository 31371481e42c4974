"""Run all benchmarks and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from string import ascii_uppercase

from bench.measure import put

PROJECT = Path(__file__).resolve().parents[1]
HEAD = (
    "# Benchmarks\n\nWritten by `make bench`. A ratio above 1 is faster than the first contender of its table, "
    "measured in the same run, the contenders taking turns. Compare ratios across machines, and no seconds.\n\n"
)


def machine() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags = ""
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        model = next((x.split(":")[1].strip() for x in text.splitlines() if x.startswith("model name")), model)
        found = next((x for x in text.splitlines() if x.startswith("flags")), "").split()
        flags = ", ".join(f for f in ("avx512_bf16", "amx_bf16") if f in found)
    packages = ", ".join(
        f"{p} {version(p)}" for p in ("torch", "torchvision", "pillow", "numpy", "scipy", "apache-airflow")
    )
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {model} ({flags or 'no bf16'}), {system}; {packages}"


def main(words: list[str] | None = None) -> int:
    """Measure, print and write."""
    from bench import (
        audit,
        feed,
        gallery,
        growth,
        heat_maps,
        ledger,
        prepare,
        pull,
        serving,
        start,
        statistics,
        step,
        tables,
    )

    shared = Path(os.environ.get("CXR_SHARED") or PROJECT.parent / "shared") / "data" / "nih-originals"
    originals = shared if shared.is_dir() else None
    sections: dict[str, Callable[[], str]] = {
        "ingest": lambda: prepare.ingest_section(originals),
        "prepare": lambda: prepare.section(originals),
        "tables": tables.section,
        "pull": pull.section,
        "growth": growth.section,
        "feed": feed.section,
        "step": step.section,
        "heat-maps": heat_maps.section,
        "gallery": gallery.section,
        "statistics": statistics.section,
        "ledger": ledger.section,
        "audit": audit.section,
        "serving": serving.section,
        "parse": start.parse_section,
        "start": start.start_section,
    }
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=sections, help="measure this anew and keep the rest")
    parser.add_argument("--page", type=Path, default=PROJECT / "docs" / "benchmarks.md", help="where it is written")
    asked = parser.parse_args(words)
    text = asked.page.read_text(encoding="utf-8") if asked.page.exists() else ""
    for name in asked.only or sections:  # written after each, so that what was measured is not lost
        found = sections[name]()
        print(found, flush=True)
        text = with_measured(text, found, machine())
        asked.page.write_text(text, encoding="utf-8")
    return 0


def with_measured(page: str, found: str, here: str) -> str:
    """The page with newly measured sections, each naming the machine by its letter, and the letters at the top."""
    machines = dict(re.findall(r"(?m)^\* ([A-Z]): (.*)\.$", page.partition("\n## ")[0]))
    letter = next((known for known, text in machines.items() if text == here), None)
    if letter is None:
        letter = next(free for free in ascii_uppercase if free not in machines)
        machines[letter] = here
    for part in parts(found):
        heading, _, body = part.partition("\n")
        page = put(page, f"{heading}\n\nMachine {letter}. {body.strip()}\n")
    sections = parts(page)
    used = {name for part in sections for name in re.findall(r"(?m)^Machine ([A-Z])\.", part)}
    told = "".join(f"* {name}: {text}.\n" for name, text in sorted(machines.items()) if name in used)
    return f"{HEAD}{told}\n{''.join(sections)}"


def parts(page: str) -> list[str]:
    """The sections of a page, each with its heading."""
    return re.split(r"(?m)^(?=## )", page)[1:]


if __name__ == "__main__":
    sys.exit(main())
