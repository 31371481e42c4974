"""Run all benchmarks and write docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


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


def main() -> int:
    """Measure, print and write."""
    from bench import gpu, prepare, start, statistics, step

    shared = Path(os.environ.get("CXR_SHARED") or PROJECT.parent / "shared") / "data" / "nih-originals"
    sections = [
        prepare.section(shared if shared.is_dir() else None),
        step.section(),
        statistics.section(),
        start.parse_section(),
        start.start_section(),
    ]
    head = (
        "# Benchmarks\n\nWritten by `make bench`. A ratio above 1 is faster than the first contender of its table, "
        f"measured in the same run, the contenders taking turns.\n\nMachine: {machine()}.\n"
    )
    page = PROJECT / "docs" / "benchmarks.md"
    text = gpu.put("\n".join([head, *sections]), gpu.kept(page.read_text()))  # that part is `make bench-gpu`'s
    page.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
