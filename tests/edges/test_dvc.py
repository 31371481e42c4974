"""Tests of cxr_ops.edges.dvc."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from projects import PROJECT, make_home, make_project

from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError, SettingsError, StorageError


@pytest.fixture
def checkout(home: Home) -> Path:
    """The small project with all sources of its first stage."""
    (home.project / "dataset").mkdir()
    (home.project / "dataset" / "one.dvc").write_text("outs: []\n")
    (home.project / "image.json").write_text('{"image": null}\n')
    (home.project / "inputs.json").write_text("{}\n")
    return home.project


def digest(folder: Path, stage: str) -> str:
    return dvc.stage_digest(folder, dvc.read_pipeline(folder), stage)


def test_settings_of_the_installation_reach_dvc(tmp_path: Path) -> None:
    """DVC takes cache, remote and verification from $CXR_HOME, and nothing of the kind stands in the project."""
    home = make_home(
        tmp_path / "home # 1",
        make_project(tmp_path / "project"),
        CXR_DVC_REMOTE="s3://bucket/data",
        CXR_S3_ENDPOINT="http://127.0.0.1:1",
    )

    def setting(name: str) -> str:
        return dvc.dvc(home, home.project, "config", name).strip()

    assert setting("cache.dir") == str(home.dvc_cache)
    assert setting("remote.store.url") == "s3://bucket/data"
    assert setting("remote.store.endpointurl") == "http://127.0.0.1:1"
    assert setting("remote.store.verify") == "true"
    assert setting("core.remote") == "store"
    assert "remote" not in (home.project / ".dvc" / "config").read_text()


def listed(home: Home, name: str) -> str:
    """A listing of one folder with a file of this name beside a good one, in the remote; its name there."""
    content = hashlib.md5(b"x").hexdigest()
    data = json.dumps([{"md5": content, "relpath": "a.txt"}, {"md5": content, "relpath": name}]).encode()
    digest = f"{hashlib.md5(data).hexdigest()}.dir"
    for md5, held in ((content, b"x"), (digest, data)):
        path = dvc.place(home.remote_folder, md5)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held)
    return digest


@pytest.mark.parametrize("name", ["../../up.txt", "/tmp/cxr-up.txt", "sub/../../../up.txt", "a\\\\b.txt", "A.TXT"])
def test_names_are_checked_before_anything_is_pulled(home: Home, name: str) -> None:
    """A listing or a pointer whose names lead elsewhere, or collide by case, is refused, and nothing is written."""
    (home.project / "dataset").mkdir()
    pointer = home.project / "dataset" / "one.dvc"
    pointer.write_text(f"outs:\n- md5: {listed(home, name)}\n  size: 2\n  nfiles: 2\n  hash: md5\n  path: one\n")
    before = sorted(home.root.parent.rglob("*.txt"))
    with pytest.raises(DataError, match="nothing was written") as caught:
        dvc.dvc(home, home.project, "pull", "dataset/one.dvc")
    assert repr(name).casefold() in str(caught.value).casefold()
    assert sorted(home.root.parent.rglob("*.txt")) == before
    assert not (home.project / "dataset" / "one").exists()


def test_a_listing_of_good_names_is_pulled(home: Home) -> None:
    """Names in folders are no fault; a pointer that leads elsewhere is one, whatever it lists."""
    (home.project / "dataset").mkdir()
    pointer = home.project / "dataset" / "one.dvc"
    text = f"outs:\n- md5: {listed(home, 'sub/b.txt')}\n  size: 2\n  nfiles: 2\n  hash: md5\n  path: one\n"
    pointer.write_text(text)
    dvc.dvc(home, home.project, "pull", "dataset/one.dvc")
    assert (home.project / "dataset" / "one" / "sub" / "b.txt").read_bytes() == b"x"
    pointer.write_text(text.replace("path: one", "path: ../../one"))
    with pytest.raises(DataError, match="leads out of its folder"):
        dvc.dvc(home, home.project, "pull", "dataset/one.dvc")


def test_what_dvc_says_is_told_with_a_next_step(tmp_path: Path) -> None:
    """A server that does not answer is a storage error with DVC's own words and what to check."""
    home = make_home(
        tmp_path / "home",
        make_project(tmp_path / "project"),
        CXR_DVC_REMOTE="s3://bucket/data",
        CXR_S3_ENDPOINT="http://127.0.0.1:1",
    )
    (home.project / "data.txt").write_text("x")
    dvc.dvc(home, home.project, "add", "data.txt")

    with pytest.raises(StorageError, match="dvc push failed") as error:
        dvc.dvc(home, home.project, "push")

    assert "CXR_S3_ENDPOINT" in str(error.value.fix) or "AWS_ACCESS_KEY_ID" in str(error.value.fix)


def test_pipeline_of_the_project_reads_as_dvc_reads_it() -> None:
    """Commands, deps, params and outs are those that DVC itself resolves from dvc.yaml."""
    from dvc.repo import Repo

    ours = dvc.read_pipeline(PROJECT)
    with Repo(str(PROJECT)) as repo:
        theirs = {stage.name: stage for stage in repo.stage.collect() if stage.path_in_repo == "dvc.yaml"}
        assert list(ours) == [name for name in ours if name in theirs]
        assert ours.keys() == theirs.keys()
        for name, stage in theirs.items():
            params = {section for dep in stage.params for section in dep.params}
            deps = {dep.def_path for dep in stage.deps} - {"params.yaml"}
            assert (ours[name].cmd, set(ours[name].params)) == (stage.cmd, params)
            assert set(ours[name].deps) == deps
            assert {(path, path in ours[name].tracked) for path in ours[name].outs} == {
                (out.def_path, not out.use_cache) for out in stage.outs
            }


def test_upstream_follows_outs(checkout: Path) -> None:
    """Upstream of a stage are the makers of its deps, and theirs, in the pipeline's order."""
    stages = dvc.read_pipeline(checkout)

    assert dvc.upstream(stages, "train") == ["validate", "train"]
    assert dvc.upstream(stages, "gate") == ["validate", "train", "gate"]
    assert dvc.maker_of(stages, "train/anything").name == "train"
    assert dvc.maker_of(stages, "trains") is None


@pytest.mark.parametrize("change", ["dataset/one.dvc", "image.json", "cxr_ops/stages/validate.py", "params.yaml"])
def test_stage_digest_follows_each_input(checkout: Path, change: str) -> None:
    """A change of the data, the image, the code or the stage's settings changes the digest."""
    before = digest(checkout, "validate")
    path = checkout / change
    path.write_text(path.read_text().replace("min_images: 100", "min_images: 7") + "# x\n")

    assert digest(checkout, "validate") != before


def test_stage_digest_leaves_out_what_the_stage_does_not_read(checkout: Path) -> None:
    """Other stages' settings and code, and a comment in params.yaml, change nothing."""
    before = digest(checkout, "validate")
    params = checkout / "params.yaml"
    params.write_text(re.sub(r"epochs: \d+", "epochs: 3", params.read_text()) + "# a comment\n")
    (checkout / "cxr_ops" / "stages" / "train.py").write_text("pass\n")
    (checkout / "inputs.json").write_text('{"other": 1}\n')

    assert digest(checkout, "validate") == before


def test_stage_digest_follows_the_outs_of_stages_before(checkout: Path) -> None:
    """What DVC recorded of an upstream stage's outs counts as its content; a stage that has not run is named."""
    with pytest.raises(DataError, match=r"train needs validate/names\.txt, which validate makes") as error:
        digest(checkout, "train")
    assert error.value.fix == "run validate first"

    def lock(md5: str) -> str:
        body = {"stages": {"validate": {"cmd": "x", "outs": [{"path": "validate", "md5": md5}]}}}
        (checkout / "dvc.lock").write_text(json.dumps(body))
        return digest(checkout, "train")

    assert lock("a") == lock("a")
    assert lock("a") != lock("b")


def test_missing_source_names_itself(checkout: Path) -> None:
    """A stage whose source is missing says which, and how to get it."""
    (checkout / "image.json").unlink()

    with pytest.raises(DataError, match=r"image\.json is missing") as error:
        digest(checkout, "validate")

    assert error.value.fix == "cxr-ops open"


def test_pipeline_naming_an_unknown_setting_is_refused(checkout: Path) -> None:
    """A ${...} of dvc.yaml that params.yaml does not have is a settings error."""
    text = (checkout / "dvc.yaml").read_text().replace("${gate.plan}", "${gate.plans}")
    (checkout / "dvc.yaml").write_text(text)

    with pytest.raises(SettingsError, match=r"params\.yaml has no gate\.plans"):
        dvc.read_pipeline(checkout)


def test_local_config_of_a_person_is_left_alone(home: Home) -> None:
    """A .dvc/config.local that somebody else wrote is not overwritten; ours is brought up to date."""
    path = home.project / ".dvc" / "config.local"
    assert dvc.write_local_config(home, home.project)
    assert subprocess.run(
        dvc.command("config", "--local", "cache.dir"), cwd=home.project, capture_output=True, text=True
    ).stdout.strip() == str(home.dvc_cache)
    assert dvc.write_local_config(home, home.project)

    path.write_text("[core]\n    remote = mine\n")

    assert not dvc.write_local_config(home, home.project)
    assert path.read_text() == "[core]\n    remote = mine\n"
