"""Tests of cxr_ops.audit.public: what is printed of the ledger while a test period is open."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cxr_ops.audit import public
from cxr_ops.audit.entries import Approval, Decision, Entry, Look, PeriodOpened, Promotion, make
from cxr_ops.records.inputs import Limits, Spending
from cxr_ops.report import ledger

RECYCLED = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)


def decided(
    verdict: str, disclosure: Any, *, approvals: int = 1, holds: tuple[str, ...] = (), more: str = ""
) -> list[Entry]:
    """A look and a decision on it; `more` adds an approval, a promotion and a new period by their first letters."""
    limits = Limits(max_looks=9, approvals=1, disclosure=disclosure, require_clean_code=False, spending=(RECYCLED,))
    entries = [make("look", Look(model="m", test_digest="t", run="r", limits=limits, claim="c" * 64), [])]
    digests = dict.fromkeys(("evaluation", "verdict_digest", "inputs", "report", "data_revision"), "d" * 64)
    decision = Decision(
        run="r", airflow_run_id=None, verdict=verdict, plan="p", plan_sha256="p" * 64, approvals=approvals,
        package="m", recipe=None, champion=None, test_digest="t", code_commit="c", code_dirty=False, image=None,
        run_commit="c", mlflow_run_id="m", model_version="1", holds=holds, **digests,
    )  # fmt: skip
    entries.append(make("decision", decision, entries))
    of = entries[1].digest()
    for step in more:
        body: Any = {
            "a": Approval(run="r", decision=of, by="dr_lee", at="2026-03-01T00:00:00+00:00"),
            "p": Promotion(
                run="r", decision=of, approvals=[], package="m", recipe=None, model_version="1", run_commit="c",
                replaces=None,
            ),
            "n": PeriodOpened(number=2, closed_batches=[], by="dr_lee", reason="new"),
        }[step]  # fmt: skip
        entries.append(make({"a": "approval", "p": "promotion", "n": "period"}[step], body, entries))
    return entries


def told(entries: list[Entry]) -> list[Any]:
    """What is printed of entries, without what differs between any two ledgers."""
    rows = [one.as_json() for one in public.shown(entries)]
    lines = [line.what for line in ledger.lines(public.shown(entries))]
    return [[{**row, "at": "", "digest": "", "prev": "", "seal": ""} for row in rows if row["kind"] != "look"], lines]


@pytest.mark.parametrize("more", ["", "n"])
def test_what_is_printed_of_a_look_without_promotion_is_the_same_for_all_verdicts(more: str) -> None:
    """Under `disclosure: promotion` nothing but digests differs, until the period ends; then all is told."""
    found = [
        told(decided("PROMOTE", "promotion", approvals=2, holds=("HARM_SIGNAL",), more=more)),
        told(decided("REJECT", "promotion", more=more)),
        told(decided("INSUFFICIENT EVIDENCE", "promotion", more=more)),
    ]
    assert (found[0] == found[1] == found[2]) == (not more)
    assert ("NOT PROMOTED: version 1, plan p" in found[0][1]) == (not more)
    assert ("PROMOTE: version 1, plan p, 2 must agree" in found[0][1]) == bool(more)


def test_digests_that_are_told_do_not_give_the_verdict_away() -> None:
    """Whoever tries all verdicts in what is printed of a decision finds none with the entry's digest."""
    entries = decided("REJECT", "promotion")
    row = public.shown(entries)[1].as_json()
    keys = ("at", "body", "format", "kind", "prev", "seq")
    for verdict in ("PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"):
        guess = {key: row[key] for key in keys} | {"body": {**row["body"], "verdict": verdict, "approvals": 1}}
        sealed = (json.dumps(guess, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
        assert hashlib.sha256(sealed).hexdigest() != entries[1].seal
    # The same guess with the digest that is left out is the entry: nothing else is unknown.
    whole = {key: row[key] for key in keys} | {"body": entries[1].body}
    sealed = (json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    assert hashlib.sha256(sealed).hexdigest() == entries[1].seal
    assert (row["seal"], row["body"]["verdict_digest"]) == (None, None)


def test_an_approval_is_told_with_the_promotion() -> None:
    """Only a PROMOTE is approved, so that an approval without a promotion would tell of one that waits."""
    waiting = public.shown(decided("PROMOTE", "promotion", more="a"))
    assert waiting[2].as_json() | {"at": ""} == {
        **waiting[2].entry.model_dump(mode="json"),
        "at": "", "kind": "withheld", "body": None, "seal": None, "withheld": ["*"],
        "digest": waiting[2].entry.digest(),
    }  # fmt: skip
    line = ledger.lines(waiting)[2]
    assert (line.kind, line.who, line.run) == ("withheld", "", "")
    done = public.shown(decided("PROMOTE", "promotion", more="ap"))
    assert [one.body["by"] for one in done if one.entry.kind == "approval"] == ["dr_lee"]
    assert (done[1].verdict, done[1].body["approvals"]) == ("PROMOTE", 1)


def test_under_verdict_the_word_is_told_and_holds_only_of_a_promote() -> None:
    """The three verdicts are counted there; a hold of a rejected run is not."""
    rejected, promoted = (
        public.shown(decided(word, "verdict", approvals=2, holds=("HARM_SIGNAL",)))[1].body
        for word in ("REJECT", "PROMOTE")
    )
    assert (rejected["verdict"], rejected["holds"], rejected["approvals"]) == ("REJECT", [], 0)
    assert (promoted["verdict"], promoted["holds"], promoted["approvals"]) == ("PROMOTE", ["HARM_SIGNAL"], 2)


def test_auditors_read_all_of_it() -> None:
    """With nothing withheld each row is the entry and its digest."""
    entries = decided("REJECT", "promotion", holds=("HARM_SIGNAL",), more="a")
    rows = [one.as_json() for one in public.whole(entries)]
    assert rows == [{**entry.model_dump(mode="json"), "digest": entry.digest()} for entry in entries]
    open_book = decided("REJECT", "all", holds=("HARM_SIGNAL",))
    assert [one.as_json() for one in public.shown(open_book)] == [one.as_json() for one in public.whole(open_book)]
