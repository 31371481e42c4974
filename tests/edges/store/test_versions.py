"""The versions of the data set as the store's history gives them, and how a person names one."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import Installation, make_batch, run_git

from cxr_ops.edges.store import batches, versions
from cxr_ops.errors import SettingsError


def test_history_is_that_of_the_data_branch(installed: Installation, tmp_path: Path) -> None:
    """Each commit of the branch is a version, with its batches, what it changed, by whom and why."""
    home = installed.home
    batches.add_batch(home, make_batch(tmp_path / "more", "two"))
    before = batches.data_revision(home)
    batches.remove_batch(home, "one", before, by="Ann", reason="wrong\nfolder")
    batches.add_batch(home, installed.batch)

    made = versions.versions(home)

    commits = run_git(home.store, "rev-list", "--reverse", "data").split("\n")
    assert [version.revision for version in made] == commits
    assert [version.data for version in made] == [batches.revision_at(home, commit) for commit in commits]
    assert [(one.number, one.added, one.removed) for one in made] == [
        (1, ("one",), ()), (2, ("two",), ()), (3, (), ("one",)), (4, ("one",), ())
    ]  # fmt: skip
    assert (made[2].by, made[2].reason, made[2].what) == ("Ann", "wrong folder", "Remove batch one")
    assert made[1].what.startswith("Add batch two")


def test_before_the_first_ingestion_there_is_none(installed: Installation) -> None:
    """Without a data branch there is no version, and asking for one says what to do."""
    run_git(installed.home.store, "update-ref", "-d", "refs/heads/data")
    assert versions.versions(installed.home) == []
    with pytest.raises(SettingsError, match="no version 'latest'") as caught:
        versions.find(installed.home, [], "latest")
    assert "cxr-ops ingest" in str(caught.value)


def test_a_version_has_several_names(installed: Installation, tmp_path: Path) -> None:
    """It is found by number, by `latest~N`, by the beginning of its revision, and by a run that was opened on it."""
    home = installed.home
    batches.add_batch(home, make_batch(tmp_path / "more", "two"))
    made = versions.versions(home)
    run = home.run("first-run")
    run.mkdir(parents=True)
    (run / "run.json").write_text(f'{{"data": {{"revision": "{made[0].revision}"}}}}')

    for text in ("1", "latest~1", made[0].revision, made[0].revision[:9], "first-run"):
        if not text.isdigit() or text == "1":
            assert versions.find(home, made, text) == made[0]
    assert versions.find(home, made, "latest") == made[1]
    assert versions.runs_by_revision(home) == {made[0].revision: ["first-run"]}


@pytest.mark.parametrize("text", ["0", "3", "latest~2", "abcdef0123", "nobody", "", "latest~", "-1"])
def test_what_names_no_version_is_refused(installed: Installation, tmp_path: Path, text: str) -> None:
    """A number out of range, another revision and an unknown run are errors that say what there is."""
    made = versions.versions(installed.home)
    with pytest.raises(SettingsError, match="its versions are 1 to 1"):
        versions.find(installed.home, made, text)
