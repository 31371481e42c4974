"""What MLflow holds of a run, and what is believed of what it hands back."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from finished import PARAMS, Case, make_home, png
from mlflow import MlflowClient

from cxr_ops.audit.package import digest as package_digest
from cxr_ops.contract import MODEL_NAME, PACKAGE_FILES
from cxr_ops.edges import signing
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import aliases, tracking, versions
from cxr_ops.errors import DataError, RefusedError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import package, scoring
from cxr_ops.records.inputs import Champion, Reference
from cxr_ops.stages import promote

FIRST = Case(name="first").run
SECOND = Case(name="second").run


@pytest.fixture
def client(installation: Home) -> MlflowClient:
    mlflow.set_tracking_uri(installation.mlflow_uri)  # the process may stand at that of another file's tests
    mlflow.set_registry_uri(installation.mlflow_uri)
    return MlflowClient()


def run_of(home: Home, client: MlflowClient, name: str) -> mlflow.entities.Run:
    return client.get_run(open_ledger(home).decision(name).decision.mlflow_run_id)


def artifacts(client: MlflowClient, version: str) -> Path:
    """Where the local artifact store keeps a version's package."""
    return Path(client.get_model_version_download_uri(MODEL_NAME, version)) / "artifacts" / "package"


def replace(path: Path, data: bytes) -> None:
    """Put another file in the place of one that may be a link to a shared one."""
    path.unlink()
    path.write_bytes(data)


def test_run_holds_what_is_needed_to_find_everything_again(published: Home, client: MlflowClient) -> None:
    """Params, metrics with bounds, curves, data sets, digests, artifacts and a note are in the MLflow run."""
    run = run_of(published, client, FIRST)
    decision = open_ledger(published).decision(FIRST)
    assert run.data.params["train.epochs"] == str(PARAMS.train.epochs)
    assert run.data.params["split.salt"] == "cxr-ops-1"
    assert [run.data.metrics[f"{name}/Mass"] for name in ("auc", "auc_low", "auc_high")] == [0.9, 0.896, 0.904]
    assert run.data.metrics["validation_auc/challenger"] == 0.71
    assert "auc/macro" in run.data.metrics
    assert "champion_auc/macro" not in run.data.metrics  # there is no champion
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train_loss")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "validation_auc")] == [(2, 0.75)]
    data = {entry.dataset.name: entry for entry in run.inputs.dataset_inputs}
    assert data.keys() == {"batch-1", "test"}
    assert json.loads(data["test"].dataset.source)["digest"] == decision.decision.test_digest
    assert data["test"].dataset.digest == decision.decision.test_digest[:36]
    tags = run.data.tags
    for key, value in {
        "cxr.run": FIRST,
        "cxr.airflow_run_id": "manual__2026-03-01T04:05:06+00:00",
        "cxr.run_commit": decision.decision.run_commit,
        "cxr.data_revision": "d" * 40,
        "mlflow.source.git.commit": decision.decision.code_commit,
        "cxr.decision": decision.digest(),
        "cxr.report": decision.decision.report,
    }.items():
        assert tags[key] == value
    assert "First release: the macro-AUC and 14 findings lie above the floors" in tags["mlflow.note.content"]
    names = {
        file.path
        for folder in ("", "report", "gate", "explain")
        for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert names >= {"inputs.json", "params.yaml", "gate/verdict.json", "report/report.html", "report/published.html"}
    assert "explain/case-1.png" in names
    assert run.info.status == "FINISHED"


def test_version_is_served_as_it_was_scored_without_a_pickle(champion: Home, client: MlflowClient, monkeypatch) -> None:
    """The champion loads by its alias with unpickling forbidden, holds no pickle, and says what its package says."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    stored = artifacts(client, "1").parents[1]
    names = {path.name for path in stored.rglob("*") if path.is_file()}
    assert names >= {"weights.safetensors", "serving.py", "input_example.json", "MLmodel"}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"))]

    model = mlflow.pyfunc.load_model(f"models:/{MODEL_NAME}@champion")
    assert model.metadata.signature.inputs.input_names() == ["image"]
    said = model.metadata.signature.outputs.inputs
    assert tuple(column.name for column in said) == (*FINDINGS, "flags", "receipt")
    assert {column.type.name for column in said[:14]} == {"double"}

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((64, 64), (40, 90), (32, 32))]
    served = model.predict(pd.DataFrame({"image": [png(picture) for picture in pictures]}))
    assert set(served["flags"][0]) == set(FINDINGS)  # the plan of the run has operating points
    np.testing.assert_allclose(
        served[list(FINDINGS)], scoring.score(package.load(artifacts(client, "1")), pictures), atol=1e-6
    )


def test_run_that_is_logged_again_is_the_same_run(published: Home, client: MlflowClient) -> None:
    """Logging the same run twice keeps its id and doubles no metric, data set or artifact."""
    content = tracking.RunContent(
        run="again",
        tags={"k": "v"},
        params={"p": "1"},
        metrics={"auc/Mass": 0.5},
        history=[(step, {"loss": 1 / step}) for step in range(1, 150)],
        datasets=[tracking.Dataset(name="d", digest="e" * 64, source="s", context="test", profile={})],
        artifacts=[("gate", published.workspace(FIRST) / "gate" / "verdict.json")],
    )
    first = tracking.log_run(published, content)
    assert tracking.log_run(published, content) == first
    run = client.get_run(first)
    assert len(client.get_metric_history(first, "loss")) == 149
    assert len(client.get_metric_history(first, "auc/Mass")) == 1
    assert len(run.inputs.dataset_inputs) == 1
    assert [file.path for file in client.list_artifacts(first, "gate")] == ["gate/verdict.json"]


def live_content(run: str, losses: dict[int, float]) -> tracking.RunContent:
    return tracking.RunContent(
        run=run, tags={}, params={}, metrics={}, history=[(step, {"loss": loss}) for step, loss in losses.items()]
    )


def test_run_that_its_training_began_is_completed(published: Home, client: MlflowClient) -> None:
    """Points that were sent while training ran stay as they are, to six digits, and only the others are added."""
    begun = tracking.live_run(published, "live", "a" * 64)
    assert tracking.live_run(published, "live", "a" * 64) == begun
    assert client.get_run(begun).info.status == "RUNNING"
    tracking.log_points(published, begun, [tracking.Point(key="loss", value=1 / 3, at=5, step=1)])
    assert tracking.log_run(published, live_content("live", {1: 0.333333, 2: 0.25})) == begun
    points = client.get_metric_history(begun, "loss")
    assert sorted((point.step, point.value) for point in points) == [(1, 1 / 3), (2, 0.25)]
    assert client.get_run(begun).info.status == "FINISHED"


@pytest.mark.parametrize("losses", [{1: 0.33, 2: 0.25}, {2: 0.25}])
def test_run_with_the_curves_of_another_training_is_set_aside(
    published: Home, client: MlflowClient, losses: dict[int, float]
) -> None:
    """A live run that tells other epochs than history.csv is no longer the run of that name; a fresh one is."""
    begun = tracking.live_run(published, "live", "a" * 64)
    tracking.log_points(published, begun, [tracking.Point(key="loss", value=1 / 3, at=5, step=1)])
    fresh = tracking.log_run(published, live_content("live", losses))
    assert fresh != begun
    assert {point.step: point.value for point in client.get_metric_history(fresh, "loss")} == losses
    old = client.get_run(begun)
    assert (old.data.tags.get("cxr.run"), old.data.tags["cxr.superseded"]) == (None, "live")
    assert old.info.status == "KILLED"


def test_training_does_not_go_on_in_another_ones_run(published: Home, client: MlflowClient) -> None:
    """Other inputs under the same name begin another MLflow run; a run that has been published is left alone."""
    begun = tracking.live_run(published, "live", "a" * 64)
    other = tracking.live_run(published, "live", "b" * 64)
    assert other != begun
    assert client.get_run(begun).data.tags["cxr.superseded"] == "live"
    assert tracking.live_run(published, "live", "b" * 64) == other
    assert tracking.live_run(published, FIRST, "a" * 64) is None


def test_database_whose_making_is_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends while it makes MLflow's database leaves none; half of one would be refused for ever."""
    home = make_home(tmp_path)
    with monkeypatch.context() as patch:

        def cut(_engine: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("mlflow.store.db.utils._upgrade_db", cut)
        with pytest.raises(KeyboardInterrupt):
            tracking.live_run(home, "live", "a" * 64)
    assert list((home.root / "mlflow").iterdir()) == []
    assert tracking.live_run(home, "live", "a" * 64)


def test_package_is_registered_once(published: Home, client: MlflowClient, packages: dict[str, Path]) -> None:
    """The same bytes are the same version, whichever run brings them; without their bytes a version does not count."""
    run_id = run_of(published, client, SECOND).info.run_id
    assert versions.register(published, packages["a"], run_id, {}, {}).version == "1"
    assert versions.register(published, packages["b"], run_id, {}, {}).version == "2"
    (artifacts(client, "1") / "weights.safetensors").unlink()
    assert versions.register(published, packages["a"], run_id, {}, {}).version == "3"
    assert versions.register(published, packages["a"], run_id, {}, {}).version == "3"


def test_no_promotion_means_no_champion(published: Home, tmp_path: Path) -> None:
    """Before the first release there is a champion.json that names nobody, and no package."""
    assert versions.fetch_champion(published, tmp_path / "champion") == Champion()
    assert Champion.read(tmp_path / "champion" / "champion.json") == Champion()
    assert [path.name for path in (tmp_path / "champion").iterdir()] == ["champion.json"]


def test_installation_without_anything_has_no_champion_and_no_database(tmp_path: Path) -> None:
    """Asking a fresh installation for its champion answers without making an MLflow store."""
    home = make_home(tmp_path)
    assert versions.fetch_champion(home, tmp_path / "champion") == Champion()
    assert aliases.reconcile(home) is False
    assert not (home.root / "mlflow").exists()


def test_champion_is_fetched_with_the_bytes_that_were_judged(champion: Home, tmp_path: Path) -> None:
    """The package comes back with the digest on the ledger, over whatever stood in the folder."""
    (tmp_path / "champion" / "package").mkdir(parents=True)
    (tmp_path / "champion" / "package" / "old").touch()
    found = versions.fetch_champion(champion, tmp_path / "champion")
    entry = open_ledger(champion).champion()
    assert (found.version, found.entry, found.package) == ("1", entry.digest(), entry.promotion.package)
    assert package.load(tmp_path / "champion" / "package", found.package).digest == found.package
    assert Champion.read(tmp_path / "champion" / "champion.json") == found


@pytest.mark.parametrize("name", PACKAGE_FILES)
def test_altered_champion_is_not_handed_out(champion: Home, client: MlflowClient, tmp_path: Path, name: str) -> None:
    """One changed byte in any file of the registered package is a StorageError, and nothing is left to use."""
    path = artifacts(client, "1") / name
    data = path.read_bytes()
    replace(path, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StorageError, match="digest is not the one on record"):
        versions.fetch_champion(champion, tmp_path / "champion")
    assert not (tmp_path / "champion" / "package").exists()


POISON = "open({marker!r}, 'w')\n"


@pytest.mark.parametrize("attack", ["script", "MLmodel", "code", "signed anew"])
def test_poisoned_model_directory_is_refused_and_never_runs(
    champion: Home, client: MlflowClient, tmp_path: Path, attack: str
) -> None:
    """Who may write MLflow's artifacts changes what serves, beside an untouched package: nothing of it is used."""
    stored, marker = artifacts(client, "1").parents[1], tmp_path / "marker"
    if attack == "MLmodel":
        text = (stored / "MLmodel").read_text().replace("loader_module: mlflow.pyfunc.model", "loader_module: evil")
        replace(stored / "MLmodel", text.encode())
    if attack in ("MLmodel", "code"):
        (stored / "code").mkdir()
        (stored / "code" / "evil.py").write_text(POISON.format(marker=str(marker)))
    else:
        text = POISON.format(marker=str(marker)) + (stored / "serving.py").read_text()
        replace(stored / "serving.py", text.encode())
    if attack == "signed anew":
        signing.sign(make_home(tmp_path / "attacker"), stored, {})
    for ask in (
        lambda: versions.fetch_champion(champion, tmp_path / "champion"),
        lambda: versions.fetch_model(champion, "1", tmp_path / "model"),
    ):
        with pytest.raises(RefusedError, match="not the one on record"):
            ask()
    assert not (tmp_path / "champion" / "package").exists()
    assert not (tmp_path / "model").exists()
    with pytest.raises(RefusedError, match=r"was changed|was added|not believed here"):
        signing.check(champion, stored)
    assert not marker.exists()


def test_poisoned_version_is_not_promoted(published: Home, client: MlflowClient) -> None:
    """A script that was altered between the decision and the promotion stops the promotion."""
    stored = artifacts(client, "1").parents[1]
    replace(stored / "serving.py", (stored / "serving.py").read_bytes() + b"# altered\n")
    with pytest.raises(RefusedError, match="not the one on record"):
        promote.run(published, FIRST)
    assert open_ledger(published).champion() is None


def test_whole_model_is_fetched_with_its_claims_and_serves(champion: Home, tmp_path: Path) -> None:
    """What is fetched is the directory that the decision names, with plan, data and training on the same digest."""
    decision = open_ledger(champion).decision(FIRST).decision
    found = versions.fetch_model(champion, "1", tmp_path / "model")
    assert found.directory == decision.directory
    claims = {kind.split(":")[-2]: said for kind, said in found.claims.items()}
    assert claims["plan"]["sha256"] == decision.plan_sha256
    assert claims["data"]["revision"] == decision.data_revision
    assert (claims["training"]["package"], claims["training"]["run"]) == (decision.package, FIRST)
    assert claims["verdict"] == {"verdict": "PROMOTE", "sha256": decision.verdict_digest}
    served = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(
        pd.DataFrame({"image": [png(np.zeros((32, 32), np.uint8))]})
    )
    assert tuple(served.columns) == (*FINDINGS, "flags", "receipt")
    with pytest.raises(StorageError, match="left as it is"):
        versions.fetch_model(champion, "1", tmp_path / "model")
    with pytest.raises(DataError, match="names no signed directory"):
        versions.fetch_model(champion, "9", tmp_path / "other")


def test_lost_champion_is_not_the_same_as_none(champion: Home, client: MlflowClient, tmp_path: Path) -> None:
    """A version whose files or whose entry are gone is a StorageError that says so, never 'no champion'."""
    shutil.rmtree(artifacts(client, "1"))
    with pytest.raises(StorageError, match=f"{MODEL_NAME}/1 is not in the registry, or its files"):
        versions.fetch_champion(champion, tmp_path / "champion")
    client.delete_model_version(MODEL_NAME, "1")
    with pytest.raises(StorageError, match=f"{MODEL_NAME}/1 is not in the registry"):
        versions.fetch_champion(champion, tmp_path / "champion")
    with pytest.raises(StorageError, match="is the champion, and is not in the registry"):
        aliases.reconcile(champion)


def test_lost_ledger_is_not_the_same_as_a_new_one(champion: Home, tmp_path: Path) -> None:
    """With the ledger gone, a registry that knows of a promotion stops the run instead of starting a first release."""
    shutil.rmtree(champion.ledger)
    for ask in (lambda: versions.fetch_champion(champion, tmp_path / "champion"), lambda: aliases.reconcile(champion)):
        with pytest.raises(StorageError, match="was promoted, and the ledger does not know"):
            ask()


@pytest.mark.parametrize("alias", ["champion", "reference"])
@pytest.mark.parametrize("damage", ["deleted", "moved"])
def test_alias_follows_the_ledger(champion: Home, client: MlflowClient, damage: str, alias: str) -> None:
    """An alias `champion` or `reference` that was deleted or moved by hand is put back, once."""
    if damage == "deleted":
        client.delete_registered_model_alias(MODEL_NAME, alias)
    else:
        client.set_registered_model_alias(MODEL_NAME, alias, "2")
    assert aliases.reconcile(champion) is True
    assert int(client.get_model_version_by_alias(MODEL_NAME, alias).version) == 1
    assert aliases.reconcile(champion) is False


def test_reference_is_fetched_where_it_is_another_than_the_champion(champion: Home, tmp_path: Path) -> None:
    """The reference comes back with its digest; the champion's package is not fetched twice, and no old one is kept."""
    promotion = open_ledger(champion).champion().promotion
    reference = Reference(package=promotion.package, version="1")
    folder = tmp_path / "reference"
    versions.fetch_reference(champion, reference, Champion(package="f" * 64), folder)
    assert package.load(folder / "package", promotion.package).digest == promotion.package
    assert Reference.read(folder / "reference.json") == reference
    versions.fetch_reference(champion, reference, Champion(package=promotion.package), folder)
    assert [path.name for path in folder.iterdir()] == ["reference.json"]
    versions.fetch_reference(champion, None, Champion(), folder)
    assert json.loads((folder / "reference.json").read_text()) == {"package": None, "version": None}
    with pytest.raises(StorageError, match="digest is not the one on record"):
        versions.fetch_reference(champion, Reference(package="e" * 64, version="1"), Champion(), folder)


def test_alias_without_a_promotion_is_taken_away(published: Home, client: MlflowClient) -> None:
    """A `champion` or `reference` made by hand in MLflow is none; the challenger is the last decided on."""
    for alias in ("champion", "reference"):
        client.set_registered_model_alias(MODEL_NAME, alias, "2")
    assert aliases.reconcile(published) is True
    named = {alias: str(version) for alias, version in client.get_registered_model(MODEL_NAME).aliases.items()}
    assert named == {"challenger": "2"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_server_that_is_down_is_said_so_soon(tmp_path: Path) -> None:
    """An MLflow server that does not answer is a StorageError within 30 seconds, without the password in it."""
    home = make_home(tmp_path, mlflow_uri=f"http://somebody:secret-word@127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(StorageError, match="MLflow or its artifact store failed") as caught:
        tracking.log_run(home, tracking.RunContent(run="r", tags={}, params={}, metrics={}))
    assert time.monotonic() - started < 30
    assert "start the server" in str(caught.value)
    assert "secret-word" not in str(caught.value)


def through(home: Home, packages: dict[str, Path], tmp_path: Path) -> Path:
    """Log, register and fetch with an installation's stores; returns the folder with the package that came back."""
    note = tmp_path / "note.txt"
    note.write_text("kept")
    run_id = tracking.log_run(
        home, tracking.RunContent(run="r", tags={}, params={}, metrics={}, artifacts=[("", note)])
    )
    version = versions.register(home, packages["a"], run_id, {}, {}).version
    assert versions.register(home, packages["a"], run_id, {}, {}).version == version
    kept = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="note.txt", dst_path=str(tmp_path / "kept"))
    assert Path(kept).read_text() == "kept"
    versions.fetch_package(home, version, package_digest(packages["a"]), tmp_path / "back")
    assert package_digest(tmp_path / "back") == package_digest(packages["a"])
    return tmp_path / "back"


def test_artifacts_stand_on_s3(s3_server, packages: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    """With artifacts on a real S3 server the package goes there and comes back; altered or lost there, it does not."""
    for key, value in s3_server.environ.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://not-ours")  # put back after the test
    s3 = s3_server.client()
    bucket = s3_server.make_bucket()
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")  # put back after the test, as what follows
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # the server is on this machine: nobody asks it for that
    home = make_home(tmp_path, mlflow_artifacts=f"s3://{bucket}/artifacts", s3_endpoint=s3_server.endpoint)
    through(home, packages, tmp_path)
    objects = s3.list_objects_v2(Bucket=bucket)["Contents"]
    [weights] = [item["Key"] for item in objects if item["Key"].endswith("weights.safetensors")]
    assert not (home.root / "mlflow" / "artifacts").exists()
    body = s3.get_object(Bucket=bucket, Key=weights)["Body"].read()
    s3.put_object(Bucket=bucket, Key=weights, Body=body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(StorageError, match="digest is not the one on record"):
        versions.fetch_package(home, "1", package_digest(packages["a"]), tmp_path / "altered")
    s3.delete_object(Bucket=bucket, Key=weights)
    with pytest.raises(StorageError, match="its files are not in the artifact store"):
        versions.fetch_package(home, "1", package_digest(packages["a"]), tmp_path / "altered")


def test_server_keeps_what_a_local_database_would(mlflow_server, packages: dict[str, Path], tmp_path: Path) -> None:
    """With MLFLOW_TRACKING_URI at a real server, runs, versions and packages go through it."""
    through(make_home(tmp_path, mlflow_uri=mlflow_server.url), packages, tmp_path)
    assert list((tmp_path / "served").rglob("weights.safetensors"))
