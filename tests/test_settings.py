"""What the environment says is read in one place, checked, and documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxr_ops import settings
from cxr_ops.errors import SettingsError
from cxr_ops.settings import BETWEEN, DEVELOPMENT, VARIABLES, Settings

PROJECT = Path(__file__).resolve().parents[1]
KNOWN = {one.name for one in VARIABLES.values()}
# Files that read variables themselves; why, is said in cxr_ops/settings.py.
WHERE_AIRFLOW_RUNS = ("launchers/", "contract.py")
TOLD_BY_ANOTHER_PROCESS = ("stages/__main__.py", "stages/train.py", "contract.py")


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


def test_nothing_else_reads_a_setting() -> None:
    """Outside the class, a setting is read only where Airflow runs, and what is no setting where it is used."""
    for path in (PROJECT / "cxr_ops").rglob("*.py"):
        name = path.relative_to(PROJECT / "cxr_ops").as_posix()
        if name == "settings.py" or name.startswith(WHERE_AIRFLOW_RUNS):
            continue
        text = path.read_text(encoding="utf-8")
        read = set(re.findall(r"""environ(?:\.get\(|\[)\s*["'](CXR_\w+)["']""", text))
        assert not read - BETWEEN.keys(), name
        assert not read or name in TOLD_BY_ANOTHER_PROCESS, name


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
