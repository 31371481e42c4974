"""The wheel: what it holds, what of it runs where nothing else is installed, and what it says of the rest."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from test_compare import Files

from cxr_ops import compare, contract, plan_templates
from cxr_ops import plan as plans
from cxr_ops.audit.entries import Look
from cxr_ops.commands.extras import MODULES
from cxr_ops.edges.ledger import Folder, Ledger
from cxr_ops.records.base import canonical_json

PROJECT = Path(__file__).resolve().parents[1]
UV = str(Path(sys.executable).with_name("uv"))
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [UV, "build", "--quiet", "--wheel", "--offline", "--no-build-isolation", "--out-dir", str(folder)]
    subprocess.run([*build, str(PROJECT)], check=True, env={**os.environ, "VIRTUAL_ENV": sys.prefix})
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and no extra; its packages come from uv's cache, or else from PyPI."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    install = [UV, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
    install += ["--constraint", str(PROJECT / "requirements" / "all.lock"), str(wheel)]
    if subprocess.run([*install, "--offline"], capture_output=True).returncode:
        subprocess.run(install, check=True)
    return folder


def _cxr(base: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath, "HOME": str(cwd), "LANG": "C.UTF-8"}
    return subprocess.run(
        [str(base / "bin" / "cxr-ops"), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    """Every module and every file beside one is in the wheel, with the mark of types and the plans, and no test."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "cxr_ops"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    here = {name for name in tracked if (PROJECT / name).is_file()}
    assert held - here == {f"cxr_ops/templates/{file}" for file in plan_templates.FILES.values()}
    assert here <= held
    assert {"cxr_ops/py.typed", "cxr_ops/launchers/process.py", "cxr_ops/commands/app.py"} <= held


def test_the_wheel_carries_the_plans_byte_for_byte(wheel: Path) -> None:
    """The plans of the wheel are those of the checkout, all of them, and each has the name that it is asked for by."""
    assert set(plan_templates.FILES.values()) == {path.name for path in PROJECT.glob("pccp*.yaml")}
    for name, file in plan_templates.FILES.items():
        assert plans.load(PROJECT / file).name == name
        assert zipfile.ZipFile(wheel).read(f"cxr_ops/templates/{file}") == (PROJECT / file).read_bytes()


def test_the_base_install_is_light(base: Path) -> None:
    """None of the packages that train, store, track or schedule comes with the base install."""
    installed = {path.name.partition("-")[0].lower() for path in base.glob("lib/*/site-packages/*.dist-info")}
    assert installed >= {"cxr_ops", "numpy", "scipy", "pandas"}
    assert not installed & {"torch", "mlflow", "dvc", "apache_airflow", "boto3", "great_expectations", "opencv_python"}


def test_two_models_are_compared_with_the_base_install_alone(base: Path, tmp_path: Path) -> None:
    """Outside any checkout `compare` gives the same figures, to the last bit, as where all is installed."""
    files = Files(tmp_path)
    (tmp_path / "plan.yaml").write_text(_cxr(base, "plan", "template", "demonstration", cwd=tmp_path).stdout)
    truth, a, b = map(str, files.paths)
    arguments = [
        "--truth",
        truth,
        "--a",
        a,
        "--b",
        b,
        "--plan",
        "plan.yaml",
        "--json",
        "all.json",
        "--html",
        "page.html",
    ]
    done = _cxr(base, "compare", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here = compare.run(*files.paths, plan=tmp_path / "plan.yaml")
    assert json.loads((tmp_path / "all.json").read_text()) == json.loads(canonical_json(compare.as_json(here)))
    assert "<svg" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_plans_are_worked_on_with_the_base_install_alone(base: Path, tmp_path: Path) -> None:
    """Outside any checkout a plan is made from a template, checked, explained, compared and sized."""
    (tmp_path / "pccp.yaml").write_text(_cxr(base, "plan", "template", "nih-production", cwd=tmp_path).stdout)
    assert (tmp_path / "pccp.yaml").read_bytes() == (PROJECT / "pccp.yaml").read_bytes()
    for arguments, said in (
        (("template",), "nih-sample-demo"),
        (("check", "pccp.yaml"), "nih-production, not for clinical use"),
        (("explain", "pccp.yaml"), "Hernia may lose at most 0.15"),
        (("diff", "pccp.yaml", "pccp.yaml"), "the plans say the same"),
        (("power", "pccp.yaml", "--patients", "60"), "stops every release: 60 test patients"),
    ):
        done = _cxr(base, "plan", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


def test_a_copy_of_a_ledger_is_read_with_the_base_install_alone(base: Path, tmp_path: Path) -> None:
    """Outside any checkout `ledger verify` and `show` read the folder that they are given, but no altered one."""
    ledger = Ledger(Folder(tmp_path / "copy"))
    for digest in "ab":
        ledger.record_look(Look(model="c" * 64, test_digest=digest * 64, run="run-1"))
    verified = _cxr(base, "ledger", "verify", "--folder", "copy", cwd=tmp_path)
    assert (verified.returncode, verified.stdout.splitlines()[0]) == (0, "2 entries, chain whole")
    assert "challenger cccccccc" in _cxr(base, "ledger", "show", "--folder", "copy", cwd=tmp_path).stdout
    first = tmp_path / "copy" / "00000001.json"
    first.write_text(first.read_text().replace("a" * 64, "e" * 64))
    assert _cxr(base, "ledger", "verify", "--folder", "copy", cwd=tmp_path).returncode == contract.EXIT_STORAGE
    lost = _cxr(base, "ledger", "verify", "--folder", "elsewhere", cwd=tmp_path)
    assert "there is no such folder" in lost.stderr


def test_a_bundle_is_verified_with_the_base_install_alone(base: Path, tmp_path: Path) -> None:
    """Outside any checkout a bundle is checked whole, signature and figures too, and its papers are written."""
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(lzma.decompress((PROJECT / "tests" / "golden" / "next" / "bundle.tar.xz").read_bytes()))
    done = _cxr(base, "verify", "bundle.tar", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    held = " ".join(line["what"] for line in json.loads(done.stdout)["lines"] if line["outcome"] == "holds")
    for word in ("chain whole", "computed again from 300 images", "executed again", "signature over"):
        assert word in held
    assert _cxr(base, "documents", "bundle.tar", "papers", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "papers" / "sbom.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    bundle.write_bytes(bundle.read_bytes().replace(b"Mass_truth", b"Moss_truth"))
    damaged = _cxr(base, "verify", "bundle.tar", cwd=tmp_path)
    assert damaged.returncode == contract.EXIT_REFUSED
    assert "fails       scores/test.csv was changed" in damaged.stdout


def test_lineage_and_looks_are_read_with_the_base_install_alone(base: Path, tmp_path: Path) -> None:
    """In a project's folder `lineage` and `period show` read its ledger, though no stage could run there."""
    for name in ("params.yaml", "dvc.yaml", "pccp.demo.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    look = Look(model="c" * 64, test_digest="a" * 64, run="run-1")
    Ledger(Folder(tmp_path / ".cxr" / "ledger")).record_look(look)
    (tmp_path / ".cxr" / "runs" / "run-1").mkdir(parents=True)
    traced = _cxr(base, "lineage", "run-1", cwd=tmp_path)
    assert (traced.returncode, traced.stdout) == (contract.EXIT_DATA, "")
    assert "the run run-1 has not ended, or failed" in traced.stderr
    assert "1 of 1000 spent" in _cxr(base, "period", "show", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (("retrain",), "stages,airflow"),
        (("ui",), "stages,airflow"),
        (("open",), "stages"),
        (("train",), "stages"),
        (("train", "--ablate"), "stages"),
        (("publish", "--run", "x"), "stages"),
        (("bundle", "x"), "stages"),
        (("replay", "x"), "stages"),
        (("promote", "--run", "x"), "stages"),
        (("checkout", "x", "y"), "stages"),
        (("stage", "open", "--run", "x"), "stages"),
        (("stage", "gate", "--run", "x"), "stages"),
        (("stage", "ingest", "x", "--batch", "x"), "stages"),
        (("ingest", "nih", "x", "--batch", "x"), "stages"),
        (("data", "synth", "--out", "x"), "stages"),
    ],
)
def test_a_command_that_needs_an_extra_says_which(
    base: Path, tmp_path: Path, arguments: tuple[str, ...], extras: str
) -> None:
    """With the base install, a command that needs more ends with exit code 11 and what to type, and no traceback."""
    done = _cxr(base, *arguments, cwd=tmp_path)
    assert done.returncode == contract.EXIT_SETTINGS, done.stderr
    assert f'pip install ".[{extras}]"' in done.stderr
    assert "Traceback" not in done.stderr


# Runs every command with its least arguments, and prints those that end in what is no error of ours.
EVERY_COMMAND = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from cxr_ops.commands.app import app
from cxr_ops.errors import CxrError

def leaves(command, path=()):
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command

count = 0
for path, command in leaves(get_command(app)):
    needed = [param for param in command.params if param.required]
    given = [word for param in needed for word in ((param.opts[0], "x") if param.opts[0][0] == "-" else ("x",))]
    error = CliRunner().invoke(app, [*path, *given]).exception
    count += 1
    if not isinstance(error, CxrError | SystemExit | None):
        print(*path, repr(error), file=sys.stderr)
print(count)
"""


def test_no_command_ends_in_a_missing_module(base: Path, tmp_path: Path) -> None:
    """With the base install, in a project's folder, every command there is works or says what is wrong."""
    for name in ("params.yaml", "dvc.yaml", "pccp.demo.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    program = [str(base / "bin" / "python"), "-c", EVERY_COMMAND]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.split()[-1]) > 30


def test_the_modules_that_are_looked_for_are_those_of_the_extras() -> None:
    """For each package of an extra in pyproject.toml one of its modules is looked for, and for no other."""
    brings: dict[str, set[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for name in distributions:
            brings.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(module)
    for extra, modules in MODULES.items():
        wanted = {re.match(r"[a-z0-9-]+", item)[0] for item in PYPROJECT["optional-dependencies"][extra]}
        if extra == "airflow":  # its providers share the namespace, and psutil is among the stages'
            assert modules == ("airflow",)
            continue
        assert all(brings[name] & set(modules) for name in wanted)
        assert set(modules) <= set().union(*(brings[name] for name in wanted))
