"""Whether an audit bundle is whole, and whether what it says follows from what it holds. Nothing is asked elsewhere.

The files of a bundle:

    bundle.json            what is in it, by digest (`records.bundle`)
    ledger/, anchors/      the ledger's entries up to the head, and where it was anchored
    git/commit, git/tree   the run commit as git keeps it, and what stands in it
    run/                   what the run was given and made: plan, settings, `dvc.lock`, evidence, verdict, report, ...
    data/                  the record of each batch, without its images
    scores/                of every image of the test and of the validation set, without names (`audit.score_table`)
    model/                 signature and claims, the public key, and what the package says of itself
    documents/             bill of materials, model card, list of software (`audit.documents`)

What a decision on the ledger names by its SHA-256 is compared with it. AUCs, intervals, checks and the verdict are
computed again from the scores. What could not be checked is said as clearly as what does not match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np
import yaml
from pydantic import ValidationError

from cxr_ops import plan as plans
from cxr_ops.audit import archive, documents, rules, score_table, signature
from cxr_ops.audit.differences import as_far_as, differences, some
from cxr_ops.audit.entries import Anchor, Entry, NoEntryError, follow
from cxr_ops.audit.fit import Made, changed_since, misfits
from cxr_ops.audit.judgement import contradictions, other_facts, straw_men
from cxr_ops.audit.material import (
    CLAIMS,
    COMMIT,
    EVALUATION,
    GIVEN,
    KEY,
    LOCK,
    PARAMS,
    REPORT,
    SIGNED,
    TERMS,
    TREE,
    VERDICT,
    Material,
)
from cxr_ops.audit.state import claim_of_decision, find_look, taken_looks
from cxr_ops.audit.stored import dvc_folder, dvc_name, dvc_recorded, git_listed, git_name
from cxr_ops.contract import INPUTS, PACKAGE_FILES, PROMOTE
from cxr_ops.errors import CxrError, DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records.base import canonical_json, sha256_bytes
from cxr_ops.records.bundle import CONTENTS, Bundle
from cxr_ops.records.evidence import Evaluation
from cxr_ops.stats import evidence, rule
from cxr_ops.stats.codes import Code

_OF_SCORES: Final = frozenset(
    (
        Code.INVALID_SCORES,
        Code.CONSTANT_SCORES,
        Code.PERMUTED_FINDINGS,
        Code.CHAMPION_INVALID,
        Code.REFERENCE_INVALID,
    )
)
_MODELS: Final = (
    "that the models give these scores, where their maps lie and what they rest on: that takes the pictures and an "
    "installation: cxr-ops replay RUN"
)
_NAMES: Final = (
    "that the scores are the file that dvc.lock names, and that the test set has its digest: names of patients and "
    "images are left out"
)
_OWN_ANCHORS: Final = (
    "the ledger against anchors from elsewhere: who made the bundle could have written the whole ledger anew; name a "
    "copy of the anchors that you got from somebody else: --anchors FOLDER"
)
_OWN_KEY: Final = (
    "whose key signed the model: the bundle brings its own; name the public key that you got from its owner: --key FILE"
)
_DAMAGE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What came of one thing that was looked at: it `holds`, `fails`, or was `not checked`."""

    outcome: Literal["holds", "fails", "not checked"]
    what: str


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What came of a bundle.

    Attributes:
        run: that it is about.
        verdict: as it stands in it; None where that could not be read.
        sha256: of the whole file.
        lines: one for each thing that was looked at.
    """

    run: str
    verdict: str | None
    sha256: str
    lines: tuple[Line, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing fails."""
        return all(line.outcome != "fails" for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What a reader brings along: the public keys that are believed, and anchors, each by name; None for none."""

    keys: Mapping[str, bytes] | None = None
    anchors: Mapping[str, bytes] | None = None


@dataclass(frozen=True, kw_only=True)
class _Read(Material):
    """A bundle whose files have the digests that it names, and what its reader brought along."""

    bundle: Bundle
    outside: Outside

    @cached_property
    def bound_plan(self) -> plans.ChangePlan:
        """The plan, which must be the one that `inputs.json` names."""
        name = f"run/{self.inputs.plan.path}"
        if name not in self.files:
            raise DataError(f"{name} is missing")
        if sha256_bytes(self.files[name]) != self.inputs.plan.sha256:
            raise DataError(f"{name} is not the plan that {INPUTS} names")
        return self.plan

    @cached_property
    def params(self) -> Params:
        """The settings of the run."""
        if PARAMS not in self.files:
            raise DataError(f"{PARAMS} is missing")
        try:
            return Params.check(yaml.safe_load(self.files[PARAMS]), PARAMS)
        except yaml.YAMLError as error:
            raise DataError(f"{PARAMS} is not YAML") from error

    @cached_property
    def again(self) -> tuple[Evaluation, list[tuple[str, str]]]:
        """The evidence computed again, and the faults of the scores."""
        return _computed_again(self)


def verify(path: Path, outside: Outside | None = None) -> Verified:
    """Check a bundle, offline.

    Args:
        path: the file.
        outside: what the reader got from elsewhere.

    Raises:
        StorageError: the file cannot be read.
        DataError: it is no bundle, of a later format, or holds what no bundle holds; nothing of it was used.
    """
    bundle, files = archive.unpack(path)
    told = outside or Outside()
    whole = sha256_bytes(archive.pack(files))
    lines = list(_contents(bundle, files))
    verdict: str | None = None
    if any(line.outcome == "fails" for line in lines):
        lines.append(_unchecked("all else, because files of the bundle are not what they were"))
        return Verified(run=bundle.run, verdict=None, sha256=whole, lines=tuple(lines))
    entries, damage = _entries(files)
    lines += damage
    read = _Read(run=bundle.run, files=files, entries=entries, bundle=bundle, outside=told)
    steps: tuple[Callable[[_Read], Iterator[Line]], ...] = (
        _ledger,
        _anchors,
        _of_the_decision,
        _commit,
        _lock,
        _evidence,
        _verdict,
        _record,
        _model,
        _documents,
    )
    for step in steps:
        try:
            lines += step(read)
        except CxrError as error:
            lines.append(_fails(error.what))
        except _DAMAGE as error:  # whoever writes a bundle by hand may write anything
            what = step.__name__.strip("_").replace("_", " ")
            lines.append(_fails(f"{what}: what is read for it cannot be understood ({type(error).__name__})"))
    if VERDICT in files:
        try:
            verdict = read.verdict.verdict
        except DataError:
            verdict = None  # `_of_the_decision` says so
    lines += [_unchecked(one) for one in (_MODELS, _NAMES, *bundle.left_out)]
    return Verified(run=bundle.run, verdict=verdict, sha256=whole, lines=tuple(lines))


def _holds(what: str) -> Line:
    return Line(outcome="holds", what=what)


def _fails(what: str) -> Line:
    return Line(outcome="fails", what=what)


def _unchecked(what: str) -> Line:
    return Line(outcome="not checked", what=what)


def _left_out(read: _Read, what: str) -> Iterator[Line]:
    """Say that something is not in the bundle, where the bundle itself does not."""
    if not any(one.startswith(what) for one in read.bundle.left_out):
        yield _unchecked(f"{what}: the bundle does not hold it, and does not say why")


# -------------------------------------------------------------------------------------------- the bundle as files


def _contents(bundle: Bundle, files: Mapping[str, bytes]) -> Iterator[Line]:
    """Every file has the digest that `bundle.json` names, none is missing and none was added."""
    wrong = archive.changes(bundle, files)
    if wrong:
        yield from (_fails(one) for one in wrong)
    else:
        yield _holds(f"{len(files):,} files, each with the digest that {CONTENTS} names")


# ------------------------------------------------------------------------------------------- the ledger and anchors


def _entries(files: Mapping[str, bytes]) -> tuple[list[Entry], list[Line]]:
    """The ledger as far as its chain is whole."""
    entries: list[Entry] = []
    names = sorted(name for name in files if name.startswith("ledger/"))
    for name in names:
        if name != f"ledger/{len(entries) + 1:08d}.json":
            return entries, [_fails(f"the ledger is damaged at {name}: entry {len(entries) + 1} is missing")]
        try:
            entries.append(follow(files[name], entries))
        except NoEntryError as error:
            return entries, [_fails(f"the ledger is damaged at {name}: {error}")]
    return entries, []


def _ledger(read: _Read) -> Iterator[Line]:
    bundle, entries = read.bundle, read.entries
    if not entries:
        raise DataError("the bundle holds no ledger")
    head = entries[-1].digest()
    if (len(entries), head) != (bundle.entries, bundle.head):
        yield _fails(f"the ledger ends with entry {len(entries)}, {head[:12]}, and {CONTENTS} names another end")
        return
    yield _holds(f"ledger: {len(entries):,} entries, chain whole, head {head}")
    if read.entry.digest() != bundle.decision:
        yield _fails(f"{CONTENTS} is about another decision on {bundle.run} than the ledger's")
    state = read.inputs.ledger
    if state is not None and state.entries:
        known = state.entries <= len(entries) and entries[state.entries - 1].digest() == state.head
        said = f"ledger: entry {state.entries} is the one that the run found when it was opened"
        yield _holds(said) if known else _fails(f"{said}, and here it is another one")
    if bundle.withheld:
        yield _unchecked(
            f"the {bundle.withheld} entries after entry {len(entries)}: a plan withholds them while its period is open"
        )


def _anchors(read: _Read) -> Iterator[Line]:
    own = {name: data for name, data in read.files.items() if name.startswith("anchors/")}
    if own:
        yield from _compared(read.entries, own, "in the bundle", withheld=0)
    elsewhere = read.outside.anchors
    if elsewhere is None:
        yield _unchecked(_OWN_ANCHORS)
        return
    ours = {name: data for name, data in elsewhere.items() if _is_ours(name, read.entries)}
    if not ours:
        yield _fails(f"none of the {len(elsewhere)} anchors that you named is of this ledger")
        return
    yield from _compared(read.entries, ours, "that you named", withheld=read.bundle.withheld)


def _is_ours(name: str, entries: Sequence[Entry]) -> bool:
    return bool(entries) and PurePosixPath(name).name.startswith(entries[0].digest()[:16])


def _compared(entries: Sequence[Entry], files: Mapping[str, bytes], where: str, *, withheld: int) -> Iterator[Line]:
    wrong: list[str] = []
    upto = 0
    for name, data in sorted(files.items()):
        try:
            anchor = Anchor.model_validate_json(data)
        except ValidationError as error:
            wrong.append(f"{name} is no anchor: {error.errors()[0]['msg']}")
            continue
        if len(entries) < anchor.entries <= len(entries) + withheld:
            continue  # of an entry that is withheld
        if anchor.entries > len(entries):
            wrong.append(f"{name}: the ledger held {anchor.entries} entries, and here it ends with {len(entries)}")
        elif (entries[anchor.entries - 1].digest(), entries[0].digest()) != (anchor.head, anchor.first):
            wrong.append(f"{name}: entry {anchor.entries} is another one than it was")
        else:
            upto = max(upto, anchor.entries)
    if wrong:
        yield from (_fails(f"anchors {where}: {one}") for one in wrong)
        return
    rest = len(entries) - upto
    after = f"; the {rest} after it rest on the chain alone" if rest else ""
    yield _holds(f"anchors {where}: {len(files)}, up to entry {upto} the ledger is the one that was anchored{after}")


# -------------------------------------------------------------------------------------------- what the decision names


def _made(read: _Read) -> Made:
    return Made(
        inputs=read.inputs,
        inputs_sha256=sha256_bytes(read.files[GIVEN]),
        evaluation=read.evaluation,
        evaluation_sha256=sha256_bytes(read.files[EVALUATION]),
        verdict=read.verdict,
        trained=read.trained.package,
        package=_package(read) or read.decision.package,
        validated=read.validated.data if read.validated else {},
    )


def _of_the_decision(read: _Read) -> Iterator[Line]:
    """What the ledger's decision names is what is here, and the files are of one run."""
    decision, inputs = read.decision, read.inputs
    if REPORT not in read.files:
        raise DataError(f"{REPORT} is missing")
    digests = {
        "verdict_sha256": sha256_bytes(read.files[VERDICT]),
        "report_sha256": sha256_bytes(read.files[REPORT]),
    }
    made = _made(read)
    wrong = [f"{name} is not what the decision is about" for name in changed_since(decision, made, **digests)]
    wrong += misfits(made)
    table: tuple[tuple[str, object, object], ...] = (
        ("the plan", decision.plan_sha256, sha256_bytes(read.files.get(f"run/{inputs.plan.path}", b""))),
        ("the code", decision.code_commit, inputs.code.commit),
        ("the data", decision.data_revision, inputs.data.revision),
        ("the image", decision.image, inputs.image),
        ("the test set", decision.test_digest, made.evaluation.test_digest),
        ("the champion", decision.champion, inputs.champion.entry),
        ("the reference", decision.reference, inputs.reference.package if inputs.reference else None),
        ("the test period", decision.period, inputs.period.number),
    )
    wrong += [
        f"the decision names {what} as {said}, and here it is {found}" for what, said, found in table if said != found
    ]
    batches = {
        name.split("/")[-1].removesuffix(".json"): data for name, data in read.files.items() if name.startswith("data/")
    }
    wrong += [
        f"the record of the batch {name} is not the one that the run was opened with"
        for name, data in sorted(batches.items())
        if inputs.data.batches.get(name) != sha256_bytes(data)
    ]
    if missing := sorted(inputs.data.batches.keys() - batches.keys()):
        yield from _left_out(read, f"the records of the batches {', '.join(missing)}")
    if wrong:
        yield from (_fails(one) for one in wrong)
    else:
        yield _holds(
            f"decision: entry {read.entry.seq} names this evidence, verdict, plan, report and inputs by digest"
        )


def _commit(read: _Read) -> Iterator[Line]:
    """The run commit has the name that the ledger gives it, and holds the files that are here."""
    if COMMIT not in read.files or TREE not in read.files:
        yield _unchecked("the run commit: the bundle does not hold it")
        return
    decision = read.decision
    commit, tree = read.files[COMMIT], read.files[TREE]
    if git_name("commit", commit) != decision.run_commit:
        yield _fails("git/commit is not the run commit that the ledger names")
        return
    if commit.split(b"\n", 1)[0] != b"tree " + git_name("tree", tree).encode():
        yield _fails("git/tree is not the tree of the run commit")
        return
    listed = dict(git_listed(tree))
    here = {name.removeprefix("run/"): data for name, data in read.files.items() if name.startswith("run/")}
    held = {name: data for name, data in here.items() if "/" not in name}
    wrong = [
        f"run/{name} is not the file of the run commit"
        for name, data in held.items()
        if listed.get(name) != git_name("blob", data)
    ]
    if wrong:
        yield from (_fails(one) for one in wrong)
    else:
        yield _holds(f"run commit {decision.run_commit[:12]}: it holds {', '.join(sorted(held))}")


def _lock(read: _Read) -> Iterator[Line]:
    """What is here of what stages were given and made has the digests that `dvc.lock` records."""
    try:
        recorded = dvc_recorded(read.files[LOCK])
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise DataError(f"{LOCK} is missing or damaged") from error
    found: list[str] = []
    wrong: list[str] = []
    for path, name in recorded.items():
        inside = {one: data for one, data in read.files.items() if one.startswith(f"run/{path}/")}
        if f"run/{path}" in read.files:
            same = dvc_name(read.files[f"run/{path}"]) == name
        elif inside and all(one.startswith("run/report/") or one == VERDICT for one in inside):
            same = dvc_folder({one.removeprefix(f"run/{path}/"): data for one, data in inside.items()}) == name
        else:
            continue
        (found if same else wrong).append(path)
    if wrong:
        yield from (_fails(f"{path} is not what dvc.lock records") for path in wrong)
    elif found:
        yield _holds(f"dvc.lock records {', '.join(found)} as they are")


# ------------------------------------------------------------------------------------- the evidence and the verdict


def _computed_again(read: _Read) -> tuple[Evaluation, list[tuple[str, str]]]:
    """The evidence with all that follows from scores computed again, and the faults of the scores themselves."""
    evaluation, plan = read.evaluation, read.bound_plan
    for name in (score_table.TEST, score_table.VALIDATION):
        if name not in read.files:
            raise DataError(f"{name} is missing")
    test, attributes = score_table.read(read.files[score_table.TEST], score_table.TEST)
    validation, _ = score_table.read(read.files[score_table.VALIDATION], score_table.VALIDATION)
    found = evidence.assess(
        FINDINGS,
        test,
        validation=validation,
        attributes=attributes,
        rules=plan.performance,
        level=read.params.evaluate.level,
    )
    again = evaluation.model_copy(
        update={
            **found.figures(),
            "test_images": len(test.patients),
            "test_patients": len(np.unique(test.patients)),
        }
    )
    untrained = {
        role: [FINDINGS[f] for f in range(len(FINDINGS)) if np.isnan(table[:, f]).all()]
        for role, table in test.scores.items()
    }
    return again, evidence.score_problems(FINDINGS, test.truth, test.scores, untrained)


def _evidence(read: _Read) -> Iterator[Line]:
    """AUCs, intervals, subgroups, operating points and calibration are those of the scores."""
    evaluation = read.evaluation
    if evaluation.scored != "test":
        yield _fails("the evidence is not of the test set")
    again, faults = read.again
    # An earlier version did not write figures that came later.
    said = evaluation.model_dump(mode="json", exclude_unset=True)
    found = as_far_as(said, again.model_dump(mode="json"))
    wrong, largest = differences(said, found)
    if wrong:
        yield _fails(f"evidence: by the scores {some(wrong)}")
    else:
        exact = "to the last bit" if not largest else f"to {largest:.0e} of their size"
        yield _holds(
            f"evidence: computed again from {again.test_images:,} images of {again.test_patients:,} patients, all "
            f"figures and intervals are the same {exact}"
        )
    told = [tuple(one) for one in evaluation.problems if one[0] in _OF_SCORES]
    if sorted(told) != sorted(faults):
        yield _fails(
            f"evidence: the scores have other faults than it says: {faults or 'none'}, and it says {told or 'none'}"
        )


def _verdict(read: _Read) -> Iterator[Line]:
    """The rule, executed on what follows from the scores, gives the verdict and every one of its checks."""
    verdict, inputs, plan = read.verdict, read.inputs, read.bound_plan
    again, _ = read.again
    judged = rule.decide(again, inputs, plan)
    wrong = contradictions(verdict, judged)
    numbers, _ = differences(
        [one.model_dump(mode="json") for one in verdict.checks], [one.model_dump(mode="json") for one in judged.checks]
    )
    wrong += [f"checks{one}" for one in numbers]
    wrong += other_facts(again, read.params)
    wrong += straw_men(inputs, read.entries, plan)
    if wrong:
        yield _fails(f"verdict: {some(wrong)}")
    else:
        yield _holds(
            f"verdict: {verdict.verdict}, by the plan {plan.name} executed again, with {len(verdict.checks)} checks as "
            "they stand; champion and reference are the ledger's"
        )


def _record(read: _Read) -> Iterator[Line]:
    """The look was recorded before the decision, and a promotion is one that the rules allow."""
    entry, decision = read.entry, read.decision
    looks = taken_looks(read.entries[: entry.seq], decision.period)
    place = find_look(looks, decision.package, decision.test_digest, claim_of_decision(decision))
    if place is None:
        yield _fails("record: no look at the test set stands on the ledger before the decision")
    else:
        yield _holds(f"record: look {place + 1} of test period {decision.period}, before the decision")
    promotions = [one for one in read.entries if one.kind == "promotion" and one.promotion.run == decision.run]
    for number, one in enumerate(promotions):
        if wrong := _disallowed(read, one, promotions[:number]):
            yield _fails(f"record: the promotion, entry {one.seq}, is {wrong}")
            return
    if not promotions:
        yield _holds("record: no promotion of this run")
        return
    signed = rules.signed(read.entries[: promotions[-1].seq - 1], entry)
    people = (
        f"agreed by {' and '.join(one.approval.by for one in signed)}"
        if signed
        else "which the plan lets nobody approve"
    )
    yield _holds(f"record: promoted by entry {promotions[-1].seq}, {people}")


def _disallowed(read: _Read, promotion: Entry, earlier: Sequence[Entry]) -> str | None:
    """What is wrong with a promotion of the run, by the ledger as it was then; `earlier` are those before it."""
    entry, decision, plan = read.entry, read.decision, read.bound_plan
    before = read.entries[: promotion.seq - 1]
    signed = rules.signed(before, entry)
    back = promotion.promotion.rollback
    if back is not None and back.to not in {one.digest() for one in earlier}:
        return "a rollback to what was not promoted before"
    try:
        if back is None:
            rules.decision_to_promote(before, decision.run)
            rules.check_record(before, entry, read.inputs, plan)
            rules.check_plan(before, decision, read.inputs, plan)
            rules.check_still_current(before, decision, plan)
            rules.check_approvals(decision, [{"by": one.approval.by, "at": one.approval.at} for one in signed])
            rules.check_agreed(before, entry, plan, signed)
    except CxrError as error:
        return f"none that the rules allow: {error.what}"
    if (promotion.promotion.package, decision.verdict) != (decision.package, PROMOTE):
        return "of another package or of no PROMOTE"
    return None


# ------------------------------------------------------------------------------------------------- the model


def _package(read: _Read) -> str | None:
    """The digest of the package, by the files that were signed; None where nothing says."""
    if SIGNED not in read.files:
        return None
    files, _ = signature.read_signed(read.files[SIGNED], b"", _keys(read))
    parts = {name.rpartition("/")[2]: value for name, value in files.items() if name.startswith("artifacts/package/")}
    return sha256_bytes(canonical_json(parts)) if sorted(parts) == sorted(PACKAGE_FILES) else None


def _keys(read: _Read) -> Mapping[str, bytes]:
    if read.outside.keys is not None:
        return read.outside.keys
    own = read.files.get(KEY, b"")
    return {signature.fingerprint(own): own}


def _model(read: _Read) -> Iterator[Line]:
    """The signature over the model's directory, whose digest is the ledger's, and the claims beside it."""
    decision = read.decision
    if SIGNED not in read.files:
        yield from _left_out(read, "the model's signature")
        return
    files, signed = signature.read_signed(read.files[SIGNED], read.files.get(CLAIMS, b""), _keys(read))
    if signed.directory != decision.directory:
        yield _fails("model: what was signed is another directory than the ledger names")
    if _package(read) != decision.package:
        yield _fails("model: what was signed holds another package than the ledger names")
    if TERMS in read.files and files.get("artifacts/package/model.json") != sha256_bytes(read.files[TERMS]):
        yield _fails(f"model: {TERMS} is not the file that was signed")
    claims = {kind.split(":")[3]: said for kind, said in signed.claims.items() if kind.count(":") == 4}
    table: tuple[tuple[str, str, object], ...] = (
        ("plan", "sha256", decision.plan_sha256),
        ("data", "revision", decision.data_revision),
        ("training", "package", decision.package),
        ("training", "code_commit", decision.code_commit),
        ("verdict", "sha256", decision.verdict_digest),
    )
    wrong = [
        f"model: the claim about {name} says {claims[name].get(key)} for {key}, and the ledger {value}"
        for name, key, value in table
        if name in claims and claims[name].get(key) != value
    ]
    yield from (_fails(one) for one in wrong)
    yield _holds(f"model: signature over {len(files)} files by the key {signed.key}, and {len(signed.claims)} claims")
    if read.outside.keys is None:
        yield _unchecked(_OWN_KEY)


def _documents(read: _Read) -> Iterator[Line]:
    """Bill of materials, model card and list of software are what this version makes of the records."""
    here = {name: data for name, data in read.files.items() if name.startswith(documents.FOLDER)}
    if not here:
        yield from _left_out(read, "the papers")
        return
    if read.bundle.documents != documents.FORM:
        yield _unchecked(f"that the documents follow from the records: cxr-ops {read.bundle.version} wrote other ones")
        return
    made = documents.make(read)
    wrong = sorted(name for name in here.keys() | made.keys() if here.get(name) != made.get(name))
    if wrong:
        yield _fails(f"documents: {some(wrong)} is not what follows from the records")
    else:
        yield _holds(
            f"documents: {', '.join(sorted(name.rpartition('/')[2] for name in here))} follow from the records"
        )
