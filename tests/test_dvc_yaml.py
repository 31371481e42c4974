"""Tests of dvc.yaml and of tools/stage_deps.py, which writes a part of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from projects import PROJECT, commit_all, make_home, run_git

from cxr_ops import contract, recipe
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home

TOOL = PROJECT / "tools" / "stage_deps.py"
PIPELINE = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
# Notes which files of the workspace each stage opens for reading.
SPY = """
import os, sys
if "cxr_ops.stages" in sys.orig_argv:
    os.environ["SPY_STAGE"] = sys.orig_argv[-1]
if "SPY_STAGE" in os.environ:
    stage, root, log = os.environ["SPY_STAGE"], os.getcwd(), os.environ["SPY_LOG"]
    def note(event, arguments):
        if event == "open" and isinstance(arguments[0], str) and not (arguments[2] or 0) & 3:
            path = os.path.realpath(os.path.join(root, arguments[0]))
            if path.startswith(root + os.sep) and os.path.isfile(path):
                fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(fd, f"{stage} {os.path.relpath(path, root)}\\n".encode())
                os.close(fd)
    sys.addaudithook(note)
"""


def deps_of(root: Path, verb: str) -> list[str]:
    """What the tool finds under a root; in a process of its own, for modules of one name can be imported once."""
    code = (
        f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); from pathlib import Path; import stage_deps as tool\n"
    )
    code += f"root = Path({str(root)!r}); print(*tool.code_of({verb!r}, tool.import_graph(root), root), sep='\\n')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_stages_are_those_of_the_contract() -> None:
    """Stage, command, settings and folder have one name, in the order in which they run."""
    stages = dvc.read_pipeline(PROJECT)

    assert tuple(stages) == contract.DETERMINISTIC
    for name, stage in stages.items():
        assert stage.cmd == f"python -m cxr_ops.stages {name}"
        assert name in stage.params
        assert all(out == name or out.startswith(f"{name}/") for out in stage.outs)
        assert {"image.json", "requirements/image.lock"} <= set(stage.deps)
    sections = list(yaml.safe_load((PROJECT / "params.yaml").read_text()))
    assert sections == ["ingest", *contract.DETERMINISTIC]


def test_every_stage_can_be_restored_from_the_run_cache() -> None:
    """DVC keeps no record of the runs of a stage with an output outside its cache, unless that is a metric."""
    for stage in PIPELINE["stages"].values():
        assert all(isinstance(out, str) for out in stage["outs"])
        assert stage["deps"]


def test_code_deps_are_those_of_the_import_graph() -> None:
    """dvc.yaml lists what each stage can import, as the tool finds it; if not: make deps."""
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", contract.DETERMINISTIC)
def test_settings_that_a_stage_reads_are_those_that_it_declares(verb: str) -> None:
    """A stage's module touches the sections of params.yaml that dvc.yaml lists for it, and no others."""
    source = (PROJECT / "cxr_ops" / "stages" / f"{verb}.py").read_text()
    read = {section.rstrip("_") for section in re.findall(r"\bparams\.(?!yaml|model_dump)([a-z_]+)", source)}

    assert read == set(PIPELINE["stages"][verb]["params"])


def test_suites_stand_where_the_stage_looks_for_them() -> None:
    """The suites that params.yaml names are in a folder that validate depends on."""
    suites = yaml.safe_load((PROJECT / "params.yaml").read_text())["validate"]["suites"]

    assert all(Path(suite).parts[0] in PIPELINE["stages"]["validate"]["deps"] for suite in suites)


def test_services_are_no_dependency_of_a_stage() -> None:
    """A change of the command or of an edge makes no model stale."""
    code = {dep for stage in PIPELINE["stages"].values() for dep in stage["deps"] if dep.startswith("cxr_ops/")}

    assert not [dep for dep in code if dep.startswith(("cxr_ops/edges/", "cxr_ops/commands/", "cxr_ops/retrain"))]


def test_tool_counts_imports_inside_functions_and_files_that_are_named(tmp_path: Path) -> None:
    """A lazy import counts with what it imports in turn, a type-checking one does not; a named template counts."""
    files = {
        "__init__": "",
        "stages/__init__": "from cxr_ops import always\n",
        "stages/__main__": "import importlib\n",
        "stages/one": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cxr_ops import typing_only\n"
        "def run():\n    from cxr_ops.deep import lazy\n",
        "always": "",
        "typing_only": "",
        "unrelated": "TEMPLATE = 'other.html'\n",
        "deep/__init__": "",
        "deep/lazy": "import cxr_ops.deeper\nTEMPLATE = 'page.html'\n",
        "deep/unused": "STYLE = 'print.css'\n",
        "deeper": "",
    }
    for name, text in files.items():
        path = tmp_path / "cxr_ops" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    templates = tmp_path / "cxr_ops" / "deep" / "templates"
    templates.mkdir()
    (templates / "page.html").write_text("{% include 'style.css' %}")
    (templates / "style.css").write_text("")
    (templates / "print.css").write_text("")

    assert deps_of(tmp_path, "one") == sorted(
        f"cxr_ops/{name}"
        for name in (
            *("__init__.py", "always.py", "deeper.py", "stages/__init__.py", "stages/__main__.py", "stages/one.py"),
            *("deep/__init__.py", "deep/lazy.py", "deep/templates/page.html", "deep/templates/style.css"),
        )
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Home:
    """A copy of this project in a repository of its own."""
    home = make_home(tmp_path / "home", PROJECT)
    files = run_git(PROJECT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (PROJECT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, tmp_path / "project" / name)
    run_git(tmp_path / "project", "init", "--quiet")
    commit_all(tmp_path / "project", "All")
    return make_home(home.root, tmp_path / "project")


# What split reads of validate.
_VALIDATED = ("validate/manifest.csv", "validate/sides.csv", "validate/withdrawn.csv")


def test_edited_import_makes_its_stages_stale(checkout: Home) -> None:
    """After an edit of a module that a stage imports, DVC wants to run it again; other edits change nothing."""
    project = checkout.project
    for path in (
        "dataset/one",
        "test-period.json",
        "image.json",
        *_VALIDATED,
        "split/split.csv",
    ):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_text("x\n")
    dvc.dvc(checkout, project, "commit", "--force", "split")

    def stale() -> dict:
        return json.loads(dvc.dvc(checkout, project, "status", "--json", "split"))

    assert stale() == {}
    edit(project / "cxr_ops" / "edges" / "git.py")
    assert stale() == {}
    edit(project / "cxr_ops" / "data" / "splits.py")
    assert stale() == {"split": [{"changed deps": {"cxr_ops/data/splits.py": "modified"}}]}


def test_another_default_makes_stages_stale(checkout: Home) -> None:
    """After a default was changed and `make deps` wrote it down, DVC wants to run the stages up to train again."""
    project = checkout.project
    for path in ("test-period.json", "image.json", *_VALIDATED, "split/split.csv"):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_text("x\n")
    dvc.dvc(checkout, project, "commit", "--force", "split")
    settings = project / "cxr_ops" / "params.py"
    text = settings.read_text()
    assert text.count("validation: float = Field(0.1,") == 1
    settings.write_text(text.replace("validation: float = Field(0.1,", "validation: float = Field(0.15,"))

    tool = [sys.executable, "tools/stage_deps.py"]
    refused = subprocess.run([*tool, "--check"], cwd=project, capture_output=True, text=True)
    assert (refused.returncode, "defaults/changed.json" in refused.stderr) == (1, True)
    subprocess.run(tool, cwd=project, check=True)

    before = json.loads((PROJECT / "defaults" / "changed.json").read_bytes())
    assert json.loads((project / "defaults" / "changed.json").read_bytes()) == {**before, "split": {"validation": 0.15}}
    stale = json.loads(dvc.dvc(checkout, project, "status", "--json", "split"))
    assert stale == {"split": [{"changed deps": {"defaults/changed.json": "modified"}}]}


def test_a_module_that_nobody_judged_stops_the_tool(tmp_path: Path) -> None:
    """A stage up to train that imports what the recipe does not name is an error, and names it; a later one may."""
    for name, text in {
        "__init__": "",
        "novel": "",
        "stages/__init__": "",
        "stages/__main__": "",
        "stages/train": "from cxr_ops import novel\n",
        "stages/report": "from cxr_ops import novel\n",
    }.items():
        path = tmp_path / "cxr_ops" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code = (
        f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); from pathlib import Path; import stage_deps as tool\n"
        f"root = Path({str(tmp_path)!r}); print(*tool.listed(sys.argv[1], tool.import_graph(root), root))"
    )

    def listed(verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True)

    refused = listed("train")
    assert refused.returncode == 1
    assert "imports novel.py, and cxr_ops/recipe.py does not say" in refused.stderr
    assert "cxr_ops/novel.py" in listed("report").stdout.split()


def test_curves_of_two_trainings_are_compared(checkout: Home) -> None:
    """`dvc plots diff` draws losses, validation AUC and learning rate by epoch, of the commit and of what is here."""
    project = checkout.project
    history = project / "train" / "history.csv"
    header = "epoch,train_loss,validation_loss,validation_auc,learning_rate\n"
    for path in {*dvc.read_pipeline(project)["train"].deps, "train/history.csv"}:
        if not (project / path).exists():
            (project / path).parent.mkdir(exist_ok=True)
            (project / path).write_text(header + "1,0.5,0.6,0.7,0.001\n2,0.4,0.55,0.75,0.0005\n")
    dvc.dvc(checkout, project, "commit", "--force", "train")
    commit_all(project, "Trained")
    history.unlink()  # a link into the cache
    history.write_text(header + "1,0.5,0.6,0.7,0.001\n2,0.3,0.45,0.8,0.0005\n")

    drawn = json.loads(dvc.dvc(checkout, project, "plots", "diff", "--json", "HEAD"))["data"]

    def curves(title: str) -> dict[tuple[str, str], list[str]]:
        [plot] = drawn[title]
        y = plot["content"]["layer"][0]["encoding"]["y"]["field"]  # one column, or that into which DVC puts several
        found: dict = {}
        for row in plot["content"]["data"]["values"]:
            found.setdefault((row["rev"], row.get("field", y)), []).append(row[y])
        return found

    assert all(plot[0]["content"]["encoding"]["x"]["field"] == "epoch" for title, plot in drawn.items() if plot)
    assert curves("Loss") == {
        ("HEAD", "train_loss"): ["0.5", "0.4"],
        ("HEAD", "validation_loss"): ["0.6", "0.55"],
        ("workspace", "train_loss"): ["0.5", "0.3"],
        ("workspace", "validation_loss"): ["0.6", "0.45"],
    }
    assert curves("Validation AUC") == {
        ("HEAD", "validation_auc"): ["0.7", "0.75"],
        ("workspace", "validation_auc"): ["0.7", "0.8"],
    }
    assert curves("Learning rate")["HEAD", "learning_rate"] == ["0.001", "0.0005"]


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n# edited\n")


@pytest.mark.slow
def test_whole_pipeline_by_dvc_alone(checkout: Home, tmp_path: Path) -> None:
    """`dvc repro` makes all stages, each reading only its deps; again it runs nothing; metrics and plots work."""
    from cxr_ops.data.synthetic.synth import synthesize
    from cxr_ops.stages import ingest
    from cxr_ops.stages import open as stage

    project = checkout.project
    synthesize(tmp_path / "nih", images=300, seed=1, size=64)
    ingest.run("nih", tmp_path / "nih", batch="one", home=checkout)
    params = (project / "params.yaml").read_text()
    params = re.sub(r"epochs: \d+", "epochs: 1", params).replace("image_size: 96", "image_size: 32")
    (project / "params.yaml").write_text(params)
    stage.run(checkout)
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    spied = tmp_path / "spied.txt"
    env = dvc.environment(checkout) | {
        "PYTHONPATH": str(tmp_path / "spy"),
        "SPY_LOG": str(spied),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], cwd=project, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("repro")

    stages = dvc.read_pipeline(project)
    undeclared = set()
    for line in set(spied.read_text().splitlines()):
        verb, path = line.split(" ", 1)
        allowed = (*stages[verb].deps, *stages[verb].outs, "params.yaml")
        # Inert code cannot change an output; `train` reads the rest of the recipe's for what guards its checkpoints.
        ours = path.removeprefix("cxr_ops/")
        inert = verb in recipe.STAGES and path != ours and recipe.reason(ours)
        guarded = verb == "train" and ours in recipe.OWN
        if not inert and not guarded and not any(path == dep or path.startswith(f"{dep}/") for dep in allowed):
            undeclared.add(line)
    assert not undeclared
    assert {line.split(" ", 1)[0] for line in spied.read_text().splitlines()} == set(contract.DETERMINISTIC)

    assert "Running stage" not in run("repro")
    recorded = {yaml.safe_load(path.read_text())["cmd"].split()[-1] for path in checkout.dvc_cache.glob("runs/*/*/*")}
    assert recorded == set(contract.DETERMINISTIC)
    commit_all(project, "With results")
    metrics = project / "evaluate" / "metrics.json"
    metrics.write_text(re.sub(r"0\.\d+", "0.25", metrics.read_text(), count=1))
    assert "evaluate/metrics.json" in run("metrics", "diff")
    run("plots", "show", "--out", "plots_out")
    page = (project / "plots_out" / "index.html").read_text()
    assert "ROC curves" in page
    assert "vegaEmbed" in page
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=", page)
    assert {path.name for path in (project / "report").iterdir()} == {
        f"{kind}.{suffix}" for kind in ("report", "summary") for suffix in ("html", "json", "md")
    }
