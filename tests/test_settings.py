"""What the environment says is read in one place, checked, and documented."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cxr_ops import settings
from cxr_ops.errors import SettingsError
from cxr_ops.settings import BETWEEN, DEVELOPMENT, VARIABLES, Settings

PROJECT = Path(__file__).resolve().parents[1]
KNOWN = {one.name for one in VARIABLES.values()}
# Files that read variables themselves; why, is said in cxr_ops/settings.py.
WHERE_AIRFLOW_RUNS = ("launchers/", "contract.py")  # contract.py: progress, of the standard library alone
TOLD_BY_ANOTHER_PROCESS = ("edges/supervisor.py", "stages/__main__.py", "stages/prepare.py", "stages/train.py")


def test_page_is_what_the_class_says() -> None:
    """docs/settings.md ends with the tables that are made from the class."""
    page = (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert settings.tables() in page, "write the output of cxr_ops.settings.tables() into docs/settings.md"


def test_every_variable_that_is_named_is_known() -> None:
    """No file of the package, the DAGs or the docs names a variable that no table has, and no table has one more."""
    files = [
        path
        for folder in ("cxr_ops", "dags", "docs", "docker")
        for path in (PROJECT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yaml", ".j2") and path.name != "settings.py"
    ]
    named = {name for path in files for name in re.findall(r"\bCXR_[A-Z0-9_]*[A-Z0-9]\b", path.read_text("utf-8"))}
    assert not named - KNOWN - BETWEEN.keys() - DEVELOPMENT.keys()
    assert {name for name in (*KNOWN, *BETWEEN) if name.startswith("CXR_")} <= named


def read_in(path: Path) -> set[str]:
    """Variables CXR_* that a file reads from the environment, by name or by a constant that holds the name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            owner, key = node.value, node.slice
        elif isinstance(node, ast.Call) and node.args:
            owner, key = node.func, node.args[0]
        else:
            continue
        name = constants.get(key.id) if isinstance(key, ast.Name) else getattr(key, "value", None)
        if re.search(r"\b(environ|getenv)\b", ast.unparse(owner)) and str(name).startswith("CXR_"):
            found.add(str(name))
    return found


def test_nothing_else_reads_a_setting() -> None:
    """Outside the class, a setting is read only where Airflow runs, and what is no setting where it is used."""
    package = PROJECT / "cxr_ops"
    read = {path.relative_to(package).as_posix(): read_in(path) for path in package.rglob("*.py")}
    elsewhere = {name: found for name, found in read.items() if found and not name.startswith(WHERE_AIRFLOW_RUNS)}
    assert set().union(*elsewhere.values()) <= BETWEEN.keys()
    assert elsewhere.keys() <= set(TOLD_BY_ANOTHER_PROCESS)
    assert elsewhere["stages/train.py"] == {"CXR_CHECKPOINTS", "CXR_PARTS"}


def test_what_is_set_is_read_with_its_type() -> None:
    """Each variable becomes a value of its type; an empty one is as none; what is not set has its default."""
    found = Settings.read(
        {
            "CXR_HOME": "/srv/cxr",
            "CXR_GRACE_SECONDS": "1.5",
            "CXR_APPROVERS": "lee, ito,",
            "CXR_LAUNCHER": "",
            "CXR_MAX_ACTIVE_RUNS": "3",
            "CXR_AIRFLOW_URL": "http://host:8080/",
        }
    )
    assert found == Settings(
        home=Path("/srv/cxr"),
        grace_seconds=1.5,
        approvers=("lee", "ito"),
        max_active_runs=3,
        airflow_url="http://host:8080",
        given=frozenset({"CXR_HOME", "CXR_GRACE_SECONDS", "CXR_APPROVERS", "CXR_MAX_ACTIVE_RUNS", "CXR_AIRFLOW_URL"}),
    )
    assert (found.launcher, found.shm_bytes, found.image) == ("process", 8 * 2**30, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CXR_GRACE_SECONDS", "soon"),
        ("CXR_GRACE_SECONDS", "-1"),
        ("CXR_GRACE_SECONDS", "nan"),
        ("CXR_GRACE_SECONDS", "inf"),
        ("CXR_LAUNCHER", "dokcer"),
        ("CXR_MAX_ACTIVE_RUNS", "0"),
        ("CXR_MAX_ACTIVE_RUNS", "two"),
        ("CXR_SHM_BYTES", "8GiB"),
        ("CXR_S3_ENDPOINT", "localhost:8333"),
        ("CXR_AIRFLOW_URL", "airflow"),
        ("CXR_HOME", "s3://bucket"),
    ],
)
def test_value_of_no_use_is_refused(name: str, value: str) -> None:
    """The error names the variable and the value, and says what to write."""
    with pytest.raises(SettingsError) as caught:
        Settings.read({name: value})
    assert name in str(caught.value)
    assert value in str(caught.value)
    assert caught.value.fix


def test_misspelt_variable_is_found_with_the_nearest_one() -> None:
    """What begins with CXR_ and is read by nobody is told with the name that was probably meant; the rest is left."""
    environ = {"CXR_HOM": "/x", "CXR_S3_ENDPOINTS": "y", "CXR_IMAGE": "z", "CXR_SHARED": "/s", "HOME": "/h"}
    assert settings.unknown(environ) == {"CXR_HOM": "CXR_HOME", "CXR_S3_ENDPOINTS": "CXR_S3_ENDPOINT"}


def test_secrets_are_not_shown() -> None:
    """A token is said to be set, and a password in an address is left out."""
    environ = {"CXR_AIRFLOW_TOKEN": "canary", "MLFLOW_TRACKING_URI": "https://lee:canary@host"}
    shown = Settings.read(environ).shown()
    assert shown["CXR_AIRFLOW_TOKEN"] == "(set)"
    assert shown["MLFLOW_TRACKING_URI"] == "https://host"
    assert shown["CXR_HOME"] is None


def test_defaults_are_those_of_the_launchers() -> None:
    """What the table says of a setting that launchers and DAGs read for themselves is what holds there."""
    from cxr_ops.launchers import docker

    assert VARIABLES["shm_bytes"].without.startswith(str(docker.SHM_BYTES))
    dag = (PROJECT / "dags" / "cxr_retrain.py").read_text(encoding="utf-8")
    assert f'"CXR_SCHEDULE") or "{VARIABLES["schedule"].without.strip("`")}"' in dag
