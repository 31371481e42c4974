"""Addresses: understood, or refused with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from cxr_ops import addresses
from cxr_ops.errors import SettingsError

ODD = "a%2Fb #?$c:d~é"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/srv/cxr", "/srv/cxr"),
        ("/srv/cxr/", "/srv/cxr"),
        ("../store", "/home/lee/code/store"),
        ("./gs:/bucket", "/home/lee/code/project/gs:/bucket"),
        ("/srv/with space", "/srv/with space"),
        (f"/srv/{ODD}", f"/srv/{ODD}"),
        ("~/store", "/home/lee/store"),
        ("file:///srv/50%25", "/srv/50%"),
        ("file://localhost/srv", "/srv"),
        ("FILE:///srv", "/srv"),
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/path/", "s3://bucket/path"),
        ("s3://my.bucket-1/a/b=c", "s3://my.bucket-1/a/b=c"),
    ],
)
def test_store_is_understood(text: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder becomes absolute, whichever way it is written, and a bucket's address has one spelling."""
    monkeypatch.setenv("HOME", "/home/lee")
    assert str(addresses.store(text, "CXR_DVC_REMOTE", Path("/home/lee/code/project"))) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gs://bucket/cxr", "kind gs:, which is not supported; Google's storage speaks S3"),
        ("azure://container/x", "kind azure:"),
        ("http://host/x", "kind http:"),
        ("hdfs://host/x", "kind hdfs:"),
        ("ssh://host/x", "kind ssh:"),
        ("s3:/bucket/x", "two slashes"),
        ("s3:bucket", "two slashes"),
        ("gcs:bucket/x", "kind gcs:"),
        ("host:/srv/x", "kind host:"),
        ("C:\\data", "names a drive"),
        ("s3://", "cannot name a bucket"),
        ("s3://Bucket/x", "cannot name a bucket"),
        ("s3://bucket/a?b", r"holds '\?'"),
        ("s3://bucket/a#b", "holds '#'"),
        ("s3://bucket/a%20b", "holds '%'"),
        ("s3://bucket/a b", "holds ' '"),
        ("file://host/srv", "no whole address"),
        ("file:srv", "no whole address"),
        ("file:///srv/a#b", "end the path"),
        ("~nobody-of-that-name/x", "this machine has no home folder"),
        ("/srv/a\nb", "line break"),
    ],
)
def test_what_nobody_understands_is_refused(text: str, why: str) -> None:
    """An address of another kind, or half of one, is refused before a folder is made of it, with what to write."""
    with pytest.raises(SettingsError, match=why) as caught:
        addresses.store(text, "CXR_DVC_REMOTE", Path("/home/lee/code/project"))
    assert caught.value.fix


def test_password_in_an_address_is_not_repeated() -> None:
    """A key in the address of a bucket or of a server is refused or used, and is in no message."""
    for read, text in (
        (lambda text: addresses.store(text, "CXR_DVC_REMOTE", Path("/")), "s3://key:canary@bucket/x"),
        (lambda text: addresses.server(text, "CXR_S3_ENDPOINT"), "ftp://key:canary@host"),
        (lambda text: addresses.tracking(text, "MLFLOW_TRACKING_URI", Path("/")), "redis://key:canary@host"),
    ):
        with pytest.raises(SettingsError) as caught:
            read(text)
        assert "canary" not in str(caught.value)


def test_folder_setting_takes_no_bucket() -> None:
    """A setting that must be a folder refuses an address."""
    for text in ("s3://bucket/x", "http://host", "C:\\data"):
        with pytest.raises(SettingsError, match="must be a folder"):
            addresses.folder(text, "CXR_HOME", Path("/"))


@pytest.mark.parametrize(
    "text", ["host:9000", "http://", "http://host:port", "ftp://host", "//host", "http://host:99999"]
)
def test_server_has_a_scheme_and_a_host(text: str) -> None:
    """What is no http or https address with a host and a usable port is refused."""
    with pytest.raises(SettingsError, match="no address of a server"):
        addresses.server(text, "CXR_S3_ENDPOINT")


def test_servers_address_is_kept() -> None:
    """The address of a server loses the slash at its end and the capitals of its scheme, and nothing else."""
    assert addresses.server("HTTPS://Host:9000/", "CXR_S3_ENDPOINT") == "https://Host:9000"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://host:5000/", "http://host:5000"),
        ("sqlite:////srv/m.db", "sqlite:////srv/m.db"),
        ("sqlite:///m.db", "sqlite:////home/lee/m.db"),
        ("postgresql+psycopg2://u:p@host/db?x=1", "postgresql+psycopg2://u:p@host/db?x=1"),
    ],
)
def test_mlflows_address_is_understood(text: str, found: str) -> None:
    """A server, a database server and an SQLite file; a relative file starts from the project and not from anywhere."""
    assert addresses.tracking(text, "MLFLOW_TRACKING_URI", Path("/home/lee")) == found


@pytest.mark.parametrize(
    "text", ["./mlruns", "file:///srv/mlruns", "sqlite://", "databricks", "s3://bucket", "sqlite:///a?b"]
)
def test_mlflow_elsewhere_is_refused(text: str) -> None:
    """What MLflow would refuse later, or keep in memory, is refused at once."""
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI"):
        addresses.tracking(text, "MLFLOW_TRACKING_URI", Path("/home/lee"))


@pytest.mark.parametrize("driver", [True, False])
@pytest.mark.parametrize("name", ["plain", ODD, "50%", "a&b;c", "é"])
def test_sqlite_address_leads_to_the_file(name: str, driver: bool) -> None:
    """SQLAlchemy reads the path out of the address that was written into it, and so do we."""
    path = Path("/srv") / name / "x.db"
    url = addresses.sqlite_url(path, driver=driver)
    assert make_url(url).database == str(path)
    assert addresses.sqlite_path(url) == path
