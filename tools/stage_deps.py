"""Write each stage's code into `dvc.yaml` as dependencies, from the import graph.

A stage's code is every module that it can import, directly or through others, also from inside a function; the packages
that hold them (their `__init__.py` runs as well); files beside a module that it names, such as templates; and the
dispatcher that DVC starts.

    python tools/stage_deps.py            write dvc.yaml
    python tools/stage_deps.py --check    exit 1 if it would change
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import grimp
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "cxr_ops"
DISPATCHER = f"{PACKAGE}.stages.__main__"
_NO_DATA = {".py", ".pyc", ".typed"}
BEGIN, END = "      # code", "      # end of code"


def import_graph(root: Path) -> grimp.ImportGraph:
    """Read the import graph of the package that stands under a root, whatever is installed."""
    sys.path.insert(0, str(root))
    try:
        return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    finally:
        sys.path.remove(str(root))


def code_of(verb: str, graph: grimp.ImportGraph, root: Path) -> list[str]:
    """Paths of all code that a stage can run, sorted."""
    reached: set[str] = set()
    waiting = [f"{PACKAGE}.stages.{verb}", DISPATCHER]
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        if module not in graph.modules:
            raise SystemExit(f"error: there is no module {module}")
        reached.add(module)
        waiting += graph.find_modules_directly_imported_by(module)
        if module != PACKAGE:
            waiting.append(module.rpartition(".")[0])
    return sorted({path for module in reached for path in _files(root, module)})


def _files(root: Path, module: str) -> Iterable[str]:
    """The file of a module, and those beside it that are not Python and that it names."""
    path = root.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    yield source.relative_to(root).as_posix()
    package = source.parent
    within = [file for file in sorted(package.rglob("*")) if file.is_file() and _package_of(file) == package]
    others = [file for file in within if file.suffix not in _NO_DATA]
    texts = [file for file in within if file.suffix == ".py" or file in others]
    for file in others:
        # A template may be named by another template only.
        readers, found = {file}, set[Path]()
        while readers != found:
            found = set(readers)
            readers |= {
                text for text in texts if any(name.name in text.read_text("utf-8", "replace") for name in found)
            }
        modules = {reader for reader in readers if reader.suffix == ".py"}
        if source in modules or not modules:  # nobody names it, so anybody may read it
            yield file.relative_to(root).as_posix()


def _package_of(file: Path) -> Path:
    return next(folder for folder in file.parents if (folder / "__init__.py").is_file())


def rewrite(text: str, root: Path) -> str:
    """Return `dvc.yaml` with what stands between the marks made anew."""
    graph = import_graph(root)
    verbs = iter(yaml.safe_load(text)["stages"])
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line == END:
            inside = False
        if not inside:
            lines.append(line)
        if line == BEGIN:
            inside = True
            lines += [f"      - {path}" for path in code_of(next(verbs), graph, root)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Rewrite `dvc.yaml`, or check it."""
    path = ROOT / "dvc.yaml"
    old = path.read_text(encoding="utf-8")
    new = rewrite(old, ROOT)
    if old == new:
        return 0
    if "--check" in arguments:
        sys.stderr.write("dvc.yaml does not list what the stages import; next: make deps\n")
        return 1
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
