"""The runs of an installation: from folders, locks and ledger."""

from __future__ import annotations

import json
import subprocess
import sys

from evaluations import opened
from finished import RUN

from cxr_ops import locks
from cxr_ops.audit import public
from cxr_ops.contract import NO_CHANGE
from cxr_ops.edges import overview
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.records.data import DataRevision
from cxr_ops.records.inputs import Champion, Code
from cxr_ops.records.run import Result

FIRST, SECOND = RUN["first"], RUN["second"]

HOLDER = """
import sys
from pathlib import Path
from cxr_ops.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def runs(home: Home) -> dict[str, overview.Run]:
    return {one.run: one for one in overview.runs(home, public.shown(open_ledger(home).entries()))}


def test_lock_of_another_process_is_seen_and_left_alone(tmp_path) -> None:
    """A lock is held as long as its holder lives, and looking does not take it."""
    path = tmp_path / "a.lock"
    assert not locks.is_held(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert locks.is_held(path)
    finally:
        holder.kill()
        holder.communicate()
    assert not locks.is_held(path)
    with locks.Lock(path) as lock:
        assert lock.try_acquire()


def test_runs_stand_where_they_stand(champion: Home) -> None:
    """Decided runs say what became of them; the others whether a stage is at work, and what it said last."""
    for name in ("third", "unchanged"):
        known = {"code": Code(commit="c" * 40, dirty=False), "data": DataRevision(revision="d" * 40, batches={})}
        opened(name, **known, champion=Champion(), requested_by="dr_lee").write(champion.run(name) / "run.json")
    Result(run="unchanged", verdict=NO_CHANGE).write(champion.run("unchanged") / "result.json")
    line = {"stage": "train", "done": 3, "total": 12, "unit": "epochs", "text": ""}
    champion.progress("third").write_text(json.dumps(line) + "\n" + '{"stage": "tr')
    found = runs(champion)
    assert {name: (one.state, one.outcome) for name, one in found.items()} == {
        FIRST: ("decided", "champion"),
        SECOND: ("decided", "overtaken by another champion"),
        "third": ("open", None),
        "unchanged": ("no change", None),
    }
    assert (found["third"].stage, found["third"].progress, found["third"].requested_by) == (
        "train",
        "3 of 12 epochs",
        "dr_lee",
    )
    with locks.locked(champion.workspace_lock("third")):
        assert runs(champion)["third"].state == "running"
    assert runs(champion)["third"].state == "open"


def test_run_that_is_not_whole_is_listed_by_its_name(champion: Home) -> None:
    """A folder without `run.json`, or with a damaged one, is a run of which only the name is known."""
    champion.run("cut-off").mkdir()
    champion.run("damaged").mkdir()
    (champion.run("damaged") / "run.json").write_text("{")
    found = runs(champion)
    for name in ("cut-off", "damaged"):
        assert (found[name].state, found[name].opened_at, found[name].stage) == ("open", None, None)
