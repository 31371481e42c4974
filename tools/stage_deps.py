"""Write each stage's code into `dvc.yaml` as dependencies, from the import graph.

A stage's code is every module that it can import, directly or through others, also from inside a function; the packages
that hold them (their `__init__.py` runs as well); files beside a module that it names, such as templates; modules that
it starts as another process; and the dispatcher that DVC starts.

The stages up to `train` depend on those of them that `cxr_ops/recipe.py` calls training's own, and on the defaults that
are no longer as they were introduced, which are written as well. A file that it does not name is an error.

    python tools/stage_deps.py            write dvc.yaml and defaults/
    python tools/stage_deps.py --check    exit 1 if one of them would change
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import grimp
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "cxr_ops"
DISPATCHER = f"{PACKAGE}.stages.__main__"
# What a module starts as a process of its own, of which the import graph knows nothing.
STARTED = {f"{PACKAGE}.model.apart.parent": f"{PACKAGE}.model.apart.child"}
_NO_DATA = {".py", ".pyc", ".typed"}
BEGIN, END = "      # code", "      # end of code"


def import_graph(root: Path) -> grimp.ImportGraph:
    """Read the import graph of the package under a root, whatever is installed."""
    sys.path.insert(0, str(root))
    try:
        return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    finally:
        sys.path.remove(str(root))


def lists() -> ModuleType:
    """`cxr_ops.recipe` of this checkout. After the graph: of a package that was imported, grimp finds no other copy."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module(f"{PACKAGE}.recipe")


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
        waiting += [STARTED[module]] if module in STARTED else []
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


def rewrite(text: str, root: Path, graph: grimp.ImportGraph) -> str:
    """Return `dvc.yaml` with what stands between the marks made anew."""
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
            lines += [f"      - {path}" for path in listed(next(verbs), graph, root)]
    return "\n".join(lines) + "\n"


def listed(verb: str, graph: grimp.ImportGraph, root: Path) -> list[str]:
    """What `dvc.yaml` lists as a stage's code: all of it, or of a stage up to `train` what can change a weight."""
    recipe = lists()
    code = code_of(verb, graph, root)
    if verb not in recipe.STAGES:
        return code
    within = {path: path.removeprefix(f"{PACKAGE}/") for path in code}
    if unknown := recipe.unnamed(within.values()):
        raise SystemExit(
            f"error: the stage {verb} imports {', '.join(unknown)}, and cxr_ops/recipe.py does not say whether that "
            "can change a weight\n  next:  name it in OWN, or in INERT with the reason why it cannot; then make deps"
        )
    return sorted([path for path, name in within.items() if name in recipe.OWN] + [recipe.CHANGED])


def idle(root: Path, graph: grimp.ImportGraph) -> list[str]:
    """What `cxr_ops/recipe.py` names and no stage up to `train` imports, sorted."""
    recipe = lists()
    code = {path.removeprefix(f"{PACKAGE}/") for verb in recipe.STAGES for path in code_of(verb, graph, root)}
    folders = {f"{parent.as_posix()}/" for path in code for parent in Path(path).parents}
    return sorted({*recipe.OWN, *recipe.INERT} - code - folders)


def generated(root: Path, graph: grimp.ImportGraph) -> dict[Path, str]:
    """Every file that this tool writes, with its text as it should be."""
    pipeline = root / "dvc.yaml"
    text = rewrite(pipeline.read_text(encoding="utf-8"), root, graph)
    recipe = lists()
    introduced = recipe.with_new(recipe.introduced(root))
    return {
        pipeline: text,
        root / recipe.INTRODUCED: _json(introduced),
        root / recipe.CHANGED: _json(recipe.changed(introduced)),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Rewrite `dvc.yaml` and the defaults, or check them."""
    graph = import_graph(ROOT)
    stale = {
        path: text
        for path, text in generated(ROOT, graph).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    if left := idle(ROOT, graph):
        sys.stderr.write(f"cxr_ops/recipe.py names what no stage up to train imports: {', '.join(left)}; take it out\n")
        return 1
    if "--check" in arguments and stale:
        names = ", ".join(path.relative_to(ROOT).as_posix() for path in stale)
        sys.stderr.write(f"{names}: not what the code of the stages says; next: make deps\n")
        return 1
    for path, text in stale.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
