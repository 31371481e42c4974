"""What training depends on: which edits call for a new training, and which do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from projects import PROJECT

from cxr_ops import recipe
from cxr_ops.errors import SettingsError
from cxr_ops.params import Params
from cxr_ops.records.data import DataRevision
from cxr_ops.stages.open import explain_change, recipe_parts

DATA = DataRevision(revision="0" * 40, batches={})
MEANT = Params.load(PROJECT / "params.yaml")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What a recipe is taken of, in a folder of its own."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("cxr_ops", "defaults", "expectations"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=skip)
    (tmp_path / "requirements").mkdir()
    for name in ("dvc.yaml", "params.yaml", "requirements/image.lock"):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def parts(folder: Path, params: Params = MEANT) -> dict[str, Any]:
    return recipe_parts(folder, params, DATA, None)


def edit(path: Path) -> None:
    """A word more in the docstring of a module, or at the end of another file."""
    text = path.read_text()
    path.write_text(text.replace('"""', '"""Edited. ', 1) if path.suffix == ".py" else f"{text}\n")


def test_a_docstring_outside_trainings_own_files_leaves_the_recipe(copy: Path) -> None:
    """Edited in every file of the package but training's own, one after the other and all together, nothing moves."""
    before, package = parts(copy), copy / "cxr_ops"
    others = [
        path
        for path in sorted(package.rglob("*"))
        if path.suffix in (".py", ".j2", ".css") and path.relative_to(package).as_posix() not in recipe.OWN
    ]
    assert {"contract.py", "errors.py", "params.py", "base.py", "auc.py"} <= {path.name for path in others}

    for path in others:
        edit(path)
        assert parts(copy) == before, path


def test_an_edit_of_each_of_trainings_own_files_moves_the_recipe(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is in the recipe, and in the digest that checkpoints and the cells of an ablation carry."""
    monkeypatch.setattr(recipe, "__file__", str(copy / "cxr_ops" / "recipe.py"))
    before, digests = parts(copy), {recipe.code_digest()}
    for path in sorted(recipe.OWN):
        edit(copy / "cxr_ops" / path)
        after = parts(copy)
        moved = {name for name in after["code"] if after["code"][name] != before["code"][name]}
        assert moved == {f"cxr_ops/{path}"}
        assert explain_change(before, after) == [f"code that training depends on has changed: cxr_ops/{path}"]
        digests.add(recipe.code_digest())
        before = after
    assert len(digests) == 1 + len(recipe.OWN)


def test_every_inert_file_has_a_reason_and_none_is_trainings_own() -> None:
    """The two lists say something else of every file, and the inert ones why."""
    assert all(recipe.INERT.values())
    assert not [path for path in recipe.OWN if recipe.reason(path)]


def test_a_setting_counts_by_its_value(copy: Path) -> None:
    """The value that a setting was introduced with is the same said or unsaid; another one is in the recipe."""
    introduced = recipe.introduced(copy)
    said = Params.check({"train": {**introduced["train"], "epochs": 3}, "split": {}, "prepare": {}}, "the test")
    unsaid = Params.check({"train": {"epochs": 3}}, "the test")

    assert parts(copy, said) == parts(copy, unsaid)
    assert parts(copy, unsaid)["params"] == {**recipe.changed(introduced), "train": {"epochs": 3}}


def test_a_setting_that_is_new_moves_the_recipe_when_it_is_set(copy: Path) -> None:
    """A setting that params.py gains leaves every recipe as it was, until its value is another than its default."""
    path = copy / recipe.INTRODUCED
    now = recipe.introduced(copy)
    earlier = {**now, "train": {key: value for key, value in now["train"].items() if key != "dropout"}}

    assert recipe.with_new(earlier) == now
    path.write_text(json.dumps(recipe.with_new(earlier)))
    assert "dropout" not in parts(copy)["params"].get("train", {})
    with_dropout = MEANT.model_copy(update={"train": MEANT.train.model_copy(update={"dropout": 0.5})})
    assert parts(copy, with_dropout)["params"]["train"]["dropout"] == 0.5


def test_a_default_that_was_changed_stays_changed(copy: Path) -> None:
    """A default that is no longer as it was introduced is written down for DVC, and counts where it is used."""
    changed = recipe.changed(recipe.introduced(copy))
    before = {**recipe.introduced(copy), "split": {"salt": "cxr-ops-1", "validation": 0.2, "test": 0.25}}

    assert recipe.with_new(before) == before
    assert recipe.changed(before) == {**changed, "split": {"validation": 0.1}}
    (copy / recipe.INTRODUCED).write_text(json.dumps(before))
    with pytest.raises(SettingsError, match="has another default") as error:
        parts(copy)
    assert (error.value.where, error.value.fix) == (str(copy / recipe.CHANGED), "make deps")
    (copy / recipe.CHANGED).write_text(json.dumps(recipe.changed(before)))
    assert parts(copy)["params"]["split"] == {"validation": 0.1}


def test_a_recipe_of_the_first_form_is_told_apart(copy: Path) -> None:
    """Against a recipe that named all files and all settings, the definition is named, and what has really changed."""
    now = parts(copy)
    settings = MEANT.model_dump(mode="json", by_alias=True)
    old = {
        "code": {**now["code"], "cxr_ops/params.py": "0" * 64, "cxr_ops/model/loss.py": "0" * 64},
        "params": {section: settings[section] for section in recipe.STAGES},
        "batches": {},
        "image": None,
    }
    old["params"]["train"]["epochs"] = 9

    reasons = explain_change(old, now, recipe.introduced(copy))

    assert reasons == [
        "what training depends on is defined in another way than then, so it is trained once more",
        f"train.epochs was 9 and is now {MEANT.train.epochs}",
        "code that training depends on has changed: cxr_ops/model/loss.py",
    ]
