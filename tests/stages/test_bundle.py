"""Bundles of runs: what is in them, what is not, and that equal ledgers give equal bytes."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from finished import RUN
from scored_runs import rows_of
from typer.testing import CliRunner

from cxr_ops.audit import verification
from cxr_ops.audit.entries import Look, PeriodOpened
from cxr_ops.commands.app import app
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.records.inputs import Limits, Spending
from cxr_ops.stages import bundle

WITHHOLDING = Limits(
    max_looks=9,
    approvals=0,
    disclosure="promotion",
    require_clean_code=False,
    spending=(Spending(method="equal", alpha=0.025, max_looks=9),),
)


@pytest.fixture(scope="module")
def made(scored_home: Home) -> dict[str, bundle.Bundled]:
    return {name: bundle.run(scored_home, RUN[name]) for name in ("first", "second")}


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_bundle_verifies(made: dict[str, bundle.Bundled], tmp_path: Path, name: str) -> None:
    """All holds: digests, ledger, anchors, commit, evidence to the last bit, verdict, record, signature, documents."""
    path = tmp_path / "x.tar"
    path.write_bytes(made[name].data)
    found = verification.verify(path)
    assert found.whole
    held = " ".join(line.what for line in found.lines if line.outcome == "holds")
    for word in ("chain whole", "anchored", "run commit", "dvc.lock", "to the last bit", "executed again", "signature"):
        assert word in held
    # To make anew the bundle that tests/golden keeps: GOLDEN_BUNDLE=tests/golden/next/bundle.tar.xz
    if name == "second" and "GOLDEN_BUNDLE" in os.environ:
        Path(os.environ["GOLDEN_BUNDLE"]).write_bytes(lzma.compress(made[name].data, preset=9))


def test_two_bundles_of_a_run_are_the_same_bytes(scored_home: Home, made: dict[str, bundle.Bundled]) -> None:
    """Nothing of a bundle comes from a clock, the order of a folder or the machine."""
    assert bundle.run(scored_home, RUN["second"]).data == made["second"].data


def test_nobody_and_no_place_is_named(scored_home: Home, made: dict[str, bundle.Bundled]) -> None:
    """No patient, image, folder of the machine, address or key is in a bundle, nor an age."""
    rows = rows_of("test")
    data = made["second"].data.decode(errors="replace")
    assert not re.search(r"-person-\d|-img-\d", data)
    for secret in (str(scored_home.root), str(scored_home.project), "PRIVATE KEY", "sqlite:", "/home/", "/tmp/"):
        assert secret not in data
    table = made["second"].files["scores/test.csv"].decode().splitlines()
    head = table[0].split(",")
    column = [line.split(",")[head.index("age")] for line in table[1:]] if "age" in head else []
    assert set(column) <= {"", "0", "40", "65"}
    assert len(table) == len(rows) + 1
    assert len({line.split(",")[1] for line in table[1:]}) == rows["patient_id"].nunique()


def test_what_a_plan_withholds_is_in_a_bundle_for_auditors_alone(scored_home: Home, tmp_path: Path) -> None:
    """While a test period is open whose plan discloses the verdict alone, only who may see it gets a bundle."""
    shutil.copytree(scored_home.root / "ledger", tmp_path / "ledger")
    home = replace(scored_home, ledger_at=str(tmp_path / "ledger"), anchor_address=None)
    look = Look(model="m" * 64, test_digest="t" * 64, run="third", claim="c", limits=WITHHOLDING)
    open_ledger(home).record_look(look)
    with pytest.raises(RefusedError, match="withholds that while test period 1 is open") as raised:
        bundle.run(home, RUN["second"])
    assert "--withheld" in str(raised.value.fix)
    whole = bundle.run(home, RUN["second"], withheld=True)
    assert whole.bundle.entries == len(open_ledger(home).entries())


def test_the_ledger_ends_before_what_a_later_period_withholds(scored_home: Home, tmp_path: Path) -> None:
    """A run of an earlier period is bundled while a later one is open, and `verify` says how many entries follow."""
    shutil.copytree(scored_home.root / "ledger", tmp_path / "ledger")
    home = replace(scored_home, ledger_at=str(tmp_path / "ledger"), anchor_address=None)
    ledger = open_ledger(home)
    decision = ledger.decision(RUN["second"]).decision
    ledger.append("period", PeriodOpened(number=2, closed_batches=[], by="dr_lee", reason="new people"))
    look = Look(model="m" * 64, test_digest="t" * 64, run="third", claim="c", period=2, limits=WITHHOLDING)
    ledger.record_look(look)
    ledger.append("decision", decision.model_copy(update={"run": "third", "period": 2, "verdict": "REJECT"}))
    made = bundle.run(home, RUN["second"])
    count = len(ledger.entries())
    assert (made.bundle.entries, made.bundle.withheld) == (count - 1, 1)
    assert "REJECT" not in "".join(data.decode() for name, data in made.files.items() if name.startswith("ledger/"))
    path = tmp_path / "bundle.tar"
    path.write_bytes(made.data)
    found = verification.verify(path)
    assert found.whole
    assert any(line.what.startswith(f"the 1 entries after entry {count - 1}") for line in found.lines)
    assert bundle.run(home, RUN["second"], withheld=True).bundle.entries == count


def test_a_run_without_a_decision_has_no_bundle(scored_home: Home) -> None:
    """The error says what to type."""
    with pytest.raises(DataError, match="there is no decision on fourth") as raised:
        bundle.run(scored_home, "fourth")
    assert raised.value.fix == "cxr-ops publish --run fourth"


def test_commands_bundle_verify_and_write_the_documents(scored_home: Home, tmp_path: Path) -> None:
    """What `bundle` writes `verify` accepts; a byte more and it ends with 15 or 10; `documents` takes run or bundle."""
    environ = {
        "CXR_HOME": str(scored_home.root),
        "CXR_PROJECT": str(scored_home.project),
        "CXR_ANCHOR": scored_home.anchor_address,
        "CXR_CODE_SOURCE": scored_home.settings.code_source,
    }
    (scored_home.project / "dvc.yaml").touch()
    (scored_home.project / "params.yaml").touch()
    file, folder = tmp_path / "run.tar", tmp_path / "papers"

    def cxr(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, words, env=environ)
        return getattr(done.exception, "exit_code", done.exit_code), done.output

    code, said = cxr("bundle", RUN["second"], "--out", str(file))
    assert (code, f"cxr-ops verify {file}" in said) == (0, True)
    code, said = cxr("verify", str(file), "--anchors", scored_home.anchor_address, "--json")
    assert code == 0
    assert json.loads(said)["whole"] is True
    assert cxr("documents", str(file), str(folder))[0] == 0
    papers = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"sbom.cdx.json", "model-card.md", "model-card.json", "model-card.xml", "software.csv"} == set(papers)
    assert cxr("documents", RUN["second"], str(folder))[0] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == papers
    data = file.read_bytes()
    place = data.index(b"Mass_truth")
    file.write_bytes(data[:place] + b"N" + data[place + 1 :])
    assert cxr("verify", str(file))[0] == 15
    file.write_bytes(data + b"\0")
    assert cxr("verify", str(file))[0] == 10
