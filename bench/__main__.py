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

PROJECT = Path(__file__).resolve().parents[1]
HEAD = (
    "# Benchmarks\n\nWritten by `make bench`. A ratio above 1 is faster than the first contender of its table, "
    "measured in the same run, the contenders taking turns.\n"
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
    from bench import gpu, prepare, start, statistics, step
    from bench.measure import kept, put

    shared = Path(os.environ.get("CXR_SHARED") or PROJECT.parent / "shared") / "data" / "nih-originals"
    sections: dict[str, Callable[[], str]] = {
        "prepare": lambda: prepare.section(shared if shared.is_dir() else None),
        "step": step.section,
        "statistics": statistics.section,
        "parse": start.parse_section,
        "start": start.start_section,
    }
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=sections, help="measure this anew and keep the rest")
    parser.add_argument("--page", type=Path, default=PROJECT / "docs" / "benchmarks.md", help="where it is written")
    asked = parser.parse_args(words)
    old = asked.page.read_text(encoding="utf-8")
    here = f"Machine: {machine()}."
    if asked.only and here not in old:
        print(f"{asked.page} was measured on another machine or with other versions: measure all of it, without --only")
        return 1
    found = "\n".join(sections[name]() for name in asked.only or sections)
    if asked.only:
        text = old
        for part in re.split(r"(?m)^(?=## )", found)[1:]:
            text = put(text, f"{part.rstrip()}\n")
    else:
        text = put(f"{HEAD}\n{here}\n\n{found}", kept(old, gpu.TITLE))  # that part is `make bench-gpu`'s
    asked.page.write_text(text, encoding="utf-8")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
