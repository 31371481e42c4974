"""Bundles that were changed, by accident or on purpose, on the bundle that `tests/golden/` keeps."""

from __future__ import annotations

import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cxr_ops.audit import archive, material, signature, verification
from cxr_ops.audit.entries import Anchor, Entry, seal
from cxr_ops.audit.verification import Outside, Verified
from cxr_ops.errors import DataError
from cxr_ops.records.base import canonical_json, sha256_bytes
from cxr_ops.records.bundle import CONTENTS, Bundle

GOLDEN = Path(__file__).parents[1] / "golden" / "next" / "bundle.tar.xz"
Check = Callable[..., Verified]


@pytest.fixture(scope="module")
def data() -> bytes:
    return lzma.decompress(GOLDEN.read_bytes())


@pytest.fixture(scope="module")
def files(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("golden") / "whole.tar"
    path.write_bytes(data)
    return archive.unpack(path)[1]


@pytest.fixture(scope="module")
def bundle(files: dict[str, bytes]) -> Bundle:
    return Bundle.model_validate_json(files[CONTENTS])


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def verify(found: bytes, outside: Outside | None = None) -> Verified:
        path = tmp_path / "bundle.tar"
        path.write_bytes(found)
        return verification.verify(path, outside)

    return verify


@pytest.fixture(scope="module")
def remembered() -> Iterator[None]:
    """Evidence is computed again once for the same scores, plan and settings: it takes half a second."""
    real, known = verification._computed_again, {}

    def computed(read):
        names = ("scores/test.csv", "scores/validation.csv", "run/pccp.demo.yaml", "run/params.yaml")
        key = tuple(sha256_bytes(read.files.get(name, b"")) for name in (*names, material.EVALUATION))
        return known[key] if key in known else known.setdefault(key, real(read))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "_computed_again", computed)
        yield


def sealed(bundle: Bundle, files: dict[str, bytes]) -> bytes:
    """A bundle of changed files whose digests and seal were made to fit, as somebody who knows the format can."""
    digests = {name: sha256_bytes(found) for name, found in files.items() if name != CONTENTS}
    contents = bundle.model_copy(update={"files": digests}).sealed()
    return archive.pack({**files, CONTENTS: contents.to_bytes()})


def flipped(found: bytes, place: int) -> bytes:
    return found[:place] + bytes([found[place] ^ 1]) + found[place + 1 :]


def failures(found: Verified) -> list[str]:
    return [line.what for line in found.lines if line.outcome == "fails"]


def told(check: Check, found: bytes) -> str:
    """What `verify` says against a bundle, in whichever way it says it."""
    try:
        return " ".join(failures(check(found)))
    except DataError as error:
        return str(error)


def test_the_bundle_of_this_version_holds(data: bytes, check: Check) -> None:
    """Nothing fails; what was not checked is said: the models, the names, the key's owner, anchors from elsewhere."""
    found = check(data)
    assert (found.whole, failures(found), found.verdict) == (True, [], "PROMOTE")
    unchecked = " ".join(line.what for line in found.lines if line.outcome == "not checked")
    for word in ("the models give these scores", "--key FILE", "--anchors FOLDER", "names of patients"):
        assert word in unchecked
    assert any("same to the last bit" in line.what or "of their size" in line.what for line in found.lines)


def test_a_flipped_byte_of_any_file_is_found(
    data: bytes, files: dict[str, bytes], bundle: Bundle, check: Check
) -> None:
    """One bit is enough, in every file, its header, and at 200 places of the whole; the file is named."""
    place, places = 0, {}
    for name in archive._in_order(files):
        size = len(files[name])
        places[name] = (place + 100, place + archive.BLOCK, place + archive.BLOCK + size // 2)
        place += archive.BLOCK + size + -size % archive.BLOCK
        for one in places[name]:
            assert name in told(check, flipped(data, one))
    for one in random.Random(0).sample(range(len(data)), 200):
        assert told(check, flipped(data, one))


def test_a_changed_file_is_found_though_all_digests_were_made_to_fit(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """Whoever writes `bundle.json` anew is found by ledger, commit, signature, records and figures, in every file."""
    unseen = []
    ledger = sorted(name for name in files if name.startswith(("ledger/", "anchors/")))
    for name in sorted(files.keys() - {CONTENTS, *ledger[1:-1]}):  # first and last: each takes a third of a second
        place = len(files[name]) // 2
        if name.startswith("scores/"):
            place = files[name].index(b"0.", place) + 2
        if not told(check, sealed(bundle, {**files, name: flipped(files[name], place)})):
            unseen.append(name)
    assert unseen == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("git/tree", b"100644 no end"),
        ("model/model.json", b"[" * 100_000),
        ("model/model.sig", b"{}"),
        ("run/dvc.lock", b"stages: {a: {outs: 3}}"),
        ("run/params.yaml", b"&a [*a]"),
        ("run/gate/verdict.json", b"null"),
        ("scores/test.csv", b"image,patient,case\n1,2\n"),
        ("scores/validation.csv", b"\xff"),
    ],
)
def test_files_that_mean_nothing_fail_with_a_word(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None, name: str, content: bytes
) -> None:
    """What is damaged on purpose, with digests to fit, is a failure like any other, and no traceback."""
    assert failures(check(sealed(bundle, {**files, name: content})))


def test_other_scores_or_figures_do_not_agree(files: dict[str, bytes], bundle: Bundle, check: Check) -> None:
    """The places in which the evidence differs from what follows from the scores are named."""
    head, first, *rest = files["scores/test.csv"].decode().splitlines()
    column = head.split(",").index("Mass_challenger")
    row = first.split(",")
    row[column] = "0.999"
    changed = "\n".join([head, ",".join(row), *rest]) + "\n"
    said = " ".join(failures(check(sealed(bundle, {**files, "scores/test.csv": changed.encode()}))))
    assert "evidence: by the scores findings[4].challenger" in said


def rewritten(
    bundle: Bundle,
    files: dict[str, bytes],
    change: Callable[[Entry], dict[str, object] | None] = lambda entry: dict(entry.body),
    more: tuple[tuple[str, dict[str, object]], ...] = (),
) -> bytes:
    """A bundle whose ledger was written anew, without anchors and papers: seals, chain and digests fit.

    Args:
        bundle: what `bundle.json` says.
        files: of the bundle, changed or not.
        change: the body that an entry gets; None leaves it out.
        more: kind and body of entries that follow; a rollback without `to` goes back to the entry before it.
    """
    kept = [Entry.model_validate_json(files[name]) for name in sorted(files) if name.startswith("ledger/")]
    bodies = [(entry, body) for entry in kept if (body := change(entry)) is not None]
    bodies += [(kept[-1].model_copy(update={"kind": kind}), body) for kind, body in more]
    made: list[Entry] = []
    last = None
    for entry, body in bodies:
        about: dict[str, object] = {"decision": last} if "decision" in body else {}
        if body.get("rollback"):
            about["rollback"] = {"to": made[-1].digest(), **body["rollback"]}
        before = made[-1].digest() if made else None
        one = entry.model_copy(update={"seq": len(made) + 1, "prev": before, "body": body | about})
        made.append(one.model_copy(update={"seal": seal(one)}))
        last = made[-1].digest() if entry.kind == "decision" else last
    [decision] = [one.digest() for one in made if one.kind == "decision" and one.body["run"] == bundle.run]
    rest = {name: data for name, data in files.items() if not name.startswith(("ledger/", "anchors/", "documents/"))}
    ledger = {f"ledger/{one.seq:08d}.json": one.to_bytes() for one in made}
    update = {"decision": decision, "entries": len(made), "head": made[-1].digest()}
    return sealed(bundle.model_copy(update=update), {**rest, **ledger})


def decided(bundle: Bundle, **changes: object) -> Callable[[Entry], dict[str, object]]:
    """Changes what the ledger's decision on the run says."""
    return lambda entry: (
        dict(entry.body) | (changes if entry.kind == "decision" and entry.body["run"] == bundle.run else {})
    )


OTHER = "e" * 64
FACTS: dict[str, tuple[object, tuple[str, ...]]] = {
    "plan_sha256": (OTHER, ("the decision names the plan as", "the claim about plan says")),
    "code_commit": (OTHER, ("the decision names the code as", "the claim about training says")),
    "data_revision": (OTHER, ("the decision names the data as", "the claim about data says")),
    "image": ("another", ("the decision names the image as",)),
    "test_digest": (OTHER, ("the decision names the test set as", "no look at the test set stands on the ledger")),
    "champion": (OTHER, ("the decision names the champion as",)),
    "reference": (OTHER, ("the decision names the reference as",)),
    "period": (2, ("the decision names the test period as",)),
    "package": (OTHER, ("train/package is not what", "holds another package than the ledger", "claim about training")),
    "evaluation": (OTHER, ("evaluate/evaluation.json is not what the decision is about",)),
    "inputs": (OTHER, ("inputs.json is not what the decision is about",)),
    "report": (OTHER, ("report/report.html is not what the decision is about",)),
    "verdict_digest": (OTHER, ("gate/verdict.json is not what the decision is about", "the claim about verdict says")),
    "verdict": ("REJECT", ("the verdict is not what the decision is about",)),
    "directory": (OTHER, ("what was signed is another directory than the ledger names",)),
    "run_commit": (OTHER, ("git/commit is not the run commit that the ledger names",)),
}


@pytest.mark.parametrize("name", FACTS)
def test_each_thing_that_the_decision_names_is_compared(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None, name: str
) -> None:
    """Whoever writes a whole ledger anew, with one other word in the decision, is told which word that is."""
    value, sentences = FACTS[name]
    said = " ".join(failures(check(rewritten(bundle, files, decided(bundle, **{name: value})))))
    for sentence in sentences:
        assert sentence in said


def edited(files: dict[str, bytes], name: str, **changes: object) -> bytes:
    return canonical_json(json.loads(files[name]) | changes)


EDITS: dict[str, tuple[str, Callable[[dict[str, bytes], str], bytes], str]] = {
    "tree": ("git/tree", lambda f, n: flipped(f[n], len(f[n]) - 1), "git/tree is not the tree of the run commit"),
    "settings": (
        "run/params.yaml",
        lambda f, n: f[n] + b"#\n",
        "run/params.yaml is not the file of the run commit",
    ),
    "plan": ("run/pccp.demo.yaml", lambda f, n: f[n] + b"#\n", "is not the plan that inputs.json names"),
    "page": ("run/report/summary.md", lambda f, n: f[n] + b" ", "report/summary.md is not what dvc.lock records"),
    "evidence": (
        "run/evaluate/evaluation.json",
        lambda f, n: f[n] + b" ",
        "evaluate/evaluation.json is not what dvc.lock records",
    ),
    "set": (
        "run/evaluate/evaluation.json",
        lambda f, n: edited(f, n, scored="validation"),
        "the evidence is not of the test set",
    ),
    "faults": (
        "run/evaluate/evaluation.json",
        lambda f, n: edited(f, n, problems=[["CONSTANT_SCORES", "All scores are the same."]]),
        "the scores have other faults than it says: none, and it says",
    ),
    "settings of the model": (
        "run/params.yaml",
        lambda f, n: f[n].replace(b"learning_rate: 0.001", b"learning_rate: 0.5"),
        "the model says train.learning_rate 0.001, and params.yaml 0.5",
    ),
    "batch": (
        "data/batch-1.json",
        lambda f, n: f[n] + b" ",
        "the record of the batch batch-1 is not the one that the run was opened with",
    ),
    "training": (
        "run/train/train.json",
        lambda f, n: edited(f, n, package=OTHER),
        "evaluate/evaluation.json is about another package than train/train.json",
    ),
    "terms": ("model/model.json", lambda f, n: f[n] + b" ", "model/model.json is not the file that was signed"),
    "papers": (
        "documents/software.csv",
        lambda f, n: f[n] + b"\n",
        "documents/software.csv is not what follows from the records",
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_was_edited_is_named_by_what_contradicts_it(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None, what: str
) -> None:
    """Commit, `dvc.lock`, scores, settings, data, signature and records each contradict the file that they bind."""
    name, edit, sentence = EDITS[what]
    assert sentence in " ".join(failures(check(sealed(bundle, {**files, name: edit(files, name)}))))


def test_a_verdict_that_the_rule_does_not_give_is_found(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """A producer who writes another verdict, and ledger and digests to fit, is contradicted by plan and scores."""
    verdict = edited(files, material.VERDICT, verdict="REJECT", evidence_says="REJECT")
    change = decided(bundle, verdict="REJECT", verdict_digest=sha256_bytes(verdict))
    said = failures(check(rewritten(bundle, {**files, material.VERDICT: verdict}, change)))
    assert any(
        "the verdict is REJECT in the verdict, and the rule makes PROMOTE of the evidence" in one for one in said
    )


def test_a_number_of_a_check_that_the_rule_does_not_give_is_found(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """The verdict stays, and one estimate in its checks is nicer than the scores': the place is named."""
    checks = json.loads(files[material.VERDICT])["checks"]
    place, name = next((n, key) for n, one in enumerate(checks) for key in one if isinstance(one[key], float))
    checks[place][name] += 0.01
    verdict = edited(files, material.VERDICT, checks=checks)
    change = decided(bundle, verdict_digest=sha256_bytes(verdict))
    said = " ".join(failures(check(rewritten(bundle, {**files, material.VERDICT: verdict}, change))))
    assert f"verdict: checks[{place}].{name} is" in said


def test_a_ledger_that_the_run_did_not_find_is_told(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """The entries from before the run are those whose last digest its inputs name, and its look is among the others."""
    other = check(rewritten(bundle, files, lambda one: dict(one.body) | ({"claim": OTHER} if one.seq == 1 else {})))
    assert failures(other) == [
        "ledger: entry 3 is the one that the run found when it was opened, and here it is another one",
        "verdict: the champion that the run was judged against is not the one that the ledger named",
    ]
    blind = check(rewritten(bundle, files, lambda one: None if one.seq == 4 else dict(one.body)))
    assert failures(blind) == ["record: no look at the test set stands on the ledger before the decision"]
    for update in ({"head": OTHER}, {"entries": bundle.entries + 1}):
        [said] = failures(check(sealed(bundle.model_copy(update=update), files)))
        assert said.startswith("the ledger ends with entry 5, ")
    contents = bundle.model_copy(update={"decision": OTHER})
    assert failures(check(sealed(contents, files))) == [
        f"bundle.json is about another decision on {bundle.run} than the ledger's"
    ]


def promoted(files: dict[str, bytes], **changes: object) -> tuple[str, dict[str, object]]:
    """A promotion of the run of the golden bundle, as `promote` would record it."""
    decision, earlier = (json.loads(files[f"ledger/0000000{seq}.json"])["body"] for seq in (5, 3))
    same = ("run", "package", "recipe", "model_version", "run_commit")
    body = {**earlier, **{name: decision[name] for name in same}, "replaces": decision["champion"]}
    return "promotion", {**body, **changes}


def approved(by: str) -> tuple[str, dict[str, object]]:
    """An approval of the last decision."""
    return "approval", {"run": "second", "decision": "", "by": by, "at": "2026-03-03T04:05:06+00:00", "reason": None}


PROMOTIONS: dict[str, tuple[dict[str, object], str]] = {
    "none": ({"test_digest": OTHER}, "none that the rules allow: no look of"),
    "rejected": ({"verdict": "REJECT"}, "none that the rules allow: the gate did not decide PROMOTE"),
    "backfill": ({"airflow_run_id": "backfill__2026-03-02"}, "a backfill never moves the champion"),
    "nobody": ({"approvals": 1}, "none that the rules allow: 1 person must agree under the plan demonstration"),
}


@pytest.mark.parametrize("what", PROMOTIONS)
def test_a_promotion_of_a_decision_that_does_not_allow_it_is_told(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None, what: str
) -> None:
    """The rules of promotion are executed again on the ledger as it was."""
    changes, said = PROMOTIONS[what]
    found = failures(check(rewritten(bundle, files, decided(bundle, **changes), more=(promoted(files),))))
    assert any(one.startswith("record: the promotion, entry 6, ") and said in one for one in found)


def test_a_promotion_is_held_against_champion_package_and_people(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """What the rules allow holds; another package, another champion by then, or the requester's approval do not."""
    earlier = "promotion", json.loads(files["ledger/00000003.json"])["body"]
    whole = check(rewritten(bundle, files, more=(approved("dr_lee"), promoted(files))))
    assert failures(whole) == []
    assert "record: promoted by entry 7, agreed by dr_lee" in [line.what for line in whole.lines]
    for more, said in (
        ((promoted(files, package=OTHER),), "is of another package or of no PROMOTE"),
        ((earlier, promoted(files)), "none that the rules allow: cxr-densenet121/1 is the champion"),
        ((approved("dr_ruiz"), promoted(files)), "none that the rules allow: dr_ruiz requested"),
    ):
        [found] = failures(check(rewritten(bundle, files, more=more)))
        assert said in found


def test_one_person_is_counted_once_however_the_name_is_spelt(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """Two approvals on a ledger that somebody else wrote are one person's, where only case and blanks differ."""
    more = (approved("dr_lee"), approved(" Dr_Lee"), promoted(files))
    [said] = failures(check(rewritten(bundle, files, decided(bundle, approvals=2), more=more)))
    assert "2 persons must agree under the plan demonstration; so far dr_lee did, 1 more is needed" in said


def test_a_rollback_does_not_hide_what_it_goes_back_to(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """A rollback to a promotion that the rules allow holds; to one that they do not, or to none, it fails."""
    back = {"by": "dr_lee", "reason": "the new one missed nodules"}
    twice = (promoted(files), promoted(files, rollback=back))
    whole = check(rewritten(bundle, files, more=twice))
    assert failures(whole) == []
    assert "record: promoted by entry 7, which the plan lets nobody approve" in [line.what for line in whole.lines]
    alone = check(rewritten(bundle, files, more=(promoted(files, rollback={**back, "to": OTHER}),)))
    assert failures(alone) == ["record: the promotion, entry 6, is a rollback to what was not promoted before"]
    [said] = failures(check(rewritten(bundle, files, decided(bundle, approvals=1), more=twice)))
    assert said.startswith("record: the promotion, entry 6, is none that the rules allow: 1 person must agree")


def test_what_a_bundle_lacks_without_a_word_is_said(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """Signature, papers and records of batches that are missing were not checked, whatever `bundle.json` says."""
    less = {name: data for name, data in files.items() if not name.startswith(("model/", "documents/", "data/"))}
    told = [line.what for line in check(sealed(bundle, less)).lines if line.outcome == "not checked"]
    for what in ("the model's signature", "the papers", "the records of the batches batch-1"):
        assert f"{what}: the bundle does not hold it, and does not say why" in told
    why = bundle.model_copy(update={"left_out": ["the model's signature: an earlier version signed none"]})
    told = [line.what for line in check(sealed(why, less)).lines if line.outcome == "not checked"]
    assert [one for one in told if one.startswith("the model's signature")] == why.left_out


def test_a_cut_ledger_is_contradicted_by_anchors_from_elsewhere(
    files: dict[str, bytes], bundle: Bundle, check: Check, remembered: None
) -> None:
    """The end of a ledger that was cut off, with its anchors, is missed by who brings a copy of the anchors alone."""
    names = sorted(name for name in files if name.startswith("ledger/"))
    anchors = {Path(name).name: data for name, data in files.items() if name.startswith("anchors/")}
    last = max(Anchor.model_validate_json(data).entries for data in anchors.values())
    assert last == len(names)
    cut = {name: data for name, data in files.items() if name != names[-1] and f"{last:08d}.json" not in name}
    contents = bundle.model_copy(
        update={"entries": last - 1, "head": Entry.model_validate_json(files[names[-2]]).digest()}
    )
    alone = " ".join(failures(check(sealed(contents, cut))))
    assert "anchors" not in alone
    said = failures(check(sealed(contents, cut), Outside(anchors=anchors)))
    assert any(f"the ledger held {last} entries, and here it ends with {last - 1}" in one for one in said)


def test_keys_and_anchors_that_the_reader_brings_are_compared(
    data: bytes, files: dict[str, bytes], check: Check, remembered: None
) -> None:
    """With the owner's key and anchors nothing of either is left unchecked; with other ones the bundle fails."""
    own = files[material.KEY]
    anchors = {Path(name).name: one for name, one in files.items() if name.startswith("anchors/")}
    found = check(data, Outside(keys={signature.fingerprint(own): own}, anchors=anchors))
    assert found.whole
    assert not any("--key" in line.what or "--anchors" in line.what for line in found.lines)
    assert any("anchors that you named: " in line.what for line in found.lines)
    name, anchor = max(anchors.items())
    for changes in ({"head": OTHER}, {"first": OTHER}):
        said = failures(check(data, Outside(anchors={name: canonical_json(json.loads(anchor) | changes)})))
        assert said == [f"anchors that you named: {name}: entry 5 is another one than it was"]
    other = {f"{'0' * 16}-00000001.json": canonical_json({"format": 1, "entries": 1, "head": "a", "first": "b"})}
    assert "none of the 1 anchors that you named is of this ledger" in failures(check(data, Outside(anchors=other)))
    assert any("not believed here" in one for one in failures(check(data, Outside(keys={}))))


def _tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **other: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    for key, value in other.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (_member("../../etc/passwd"), "a name that leads elsewhere"),
        (_member("/etc/passwd"), "a name that leads elsewhere"),
        (_member("run/../../x"), "a name that leads elsewhere"),
        (_member("run/x", tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
        (_member("run/x", tarfile.LNKTYPE, CONTENTS), "a hard link"),
        (_member("run", tarfile.DIRTYPE), "a folder"),
        (_member("run/x", tarfile.CHRTYPE), "a device"),
        (_member("run/x", tarfile.FIFOTYPE), "a pipe"),
        (_member("run/x", mode=0o4755), "not as cxr-ops writes it"),
        (_member("run/x", uid=1000), "not as cxr-ops writes it"),
        (_member("run/x", mtime=1), "not as cxr-ops writes it"),
        (_member(CONTENTS), "twice"),
    ],
)
def test_a_hostile_member_is_refused(files: dict[str, bytes], check: Check, member: tarfile.TarInfo, said: str) -> None:
    """Names that lead out, links, devices, rights, owners, times and a second file of a name are refused by name."""
    with pytest.raises(DataError, match=said):
        check(_tar((_member(CONTENTS), files[CONTENTS]), (member, b"")))


def test_what_is_no_bundle_is_refused(data: bytes, files: dict[str, bytes], check: Check) -> None:
    """Sizes that the file does not have, extended headers, cut and lengthened bundles, other files, deep JSON."""
    first = archive._header(CONTENTS, len(files[CONTENTS]))
    huge = archive._header("run/x", 8**11 - 1)
    start = first + files[CONTENTS] + bytes(-len(files[CONTENTS]) % archive.BLOCK)
    cases = {
        "claims to be longer than the bundle is": start + huge,
        "an extended header": start + _tar((_member("run/ä"), b""), form=tarfile.PAX_FORMAT),
        "cut off": data[:-1024],
        "cut off or added": data + b"\0",
        "does not begin with bundle.json": b"PK\x03\x04" + data,
        "is no bundle": b"",
        "does not stand in its place": archive.pack(files)[: -2 * archive.BLOCK]
        + archive._header("anchors/a.json", 0)
        + bytes(2 * archive.BLOCK),
        "is damaged": archive.pack({CONTENTS: b"[" * 100_000}),
    }
    for said, found in cases.items():
        with pytest.raises(DataError, match=said):
            check(found)


def test_a_later_format_is_refused_with_the_version_that_is_needed(files: dict[str, bytes], check: Check) -> None:
    """Whatever else such a bundle holds, the error names the version of cxr-ops that wrote it."""
    said = {**json.loads(files[CONTENTS]), "format": 99, "version": "7.1.0", "more": {}}
    with pytest.raises(DataError, match="format 99, and this version of cxr-ops reads formats up to 1") as raised:
        check(archive.pack({CONTENTS: canonical_json(said)}) + b"packed in another way")
    assert "7.1.0" in str(raised.value.fix)


def test_equal_files_give_equal_bytes(data: bytes, files: dict[str, bytes]) -> None:
    """A bundle that is written again has the same bytes, and any tar reads it."""
    assert archive.pack(dict(reversed(files.items()))) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {one.name: tar.extractfile(one).read() for one in tar.getmembers()} == files
