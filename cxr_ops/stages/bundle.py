"""Bundle a run: all that an outsider needs to check its decision, in one file.

Everything is read from the ledger, the store, DVC's objects and the registry, and not from the run's workspace. What
names a patient or an image stays: scores travel by numbers (`audit.score_table`). What a plan withholds while a test
period is open is in no bundle, unless it is asked for; then the ledger ends before its first entry of that kind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_ops import __version__
from cxr_ops import plan as plans
from cxr_ops.audit import archive, documents, material, public, score_table, signature
from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.audit.state import find_decision
from cxr_ops.contract import DATASET, IMAGE, INPUTS
from cxr_ops.data import manifest
from cxr_ops.edges import dvc, signing
from cxr_ops.edges.git import git_bytes
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_anchors, open_ledger
from cxr_ops.edges.mlflow import versions
from cxr_ops.edges.store import batches
from cxr_ops.edges.store.outs import Outs
from cxr_ops.errors import DataError, RefusedError, StorageError
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.bundle import CONTENTS, Bundle
from cxr_ops.records.evidence import Evaluation, Fallen, FindingEvidence
from cxr_ops.records.inputs import Inputs
from cxr_ops.stages.evaluate import attributes_of
from cxr_ops.stages.publish import withholds

_NEEDED: Final = (
    INPUTS,
    dvc.LOCK,
    dvc.PARAMS,
    dvc.PIPELINE,
    "evaluate/evaluation.json",
    "gate/verdict.json",
    "report/report.html",
    "train/train.json",
)
_KEPT: Final = (
    *(f"report/{name}" for name in ("report.json", "report.md", "summary.html", "summary.json", "summary.md")),
    "validate/validation.json",
    IMAGE,
    "requirements/image.lock",
)
_TABLES: Final = ("validate/manifest.csv", "split/split.csv")
_NEVER: Final = (
    "images, manifest and split: they name patients; batches are in it by their digests",
    "weights and code of the model: the registry has them, and the package's digest binds them",
)
_NO_SIGNATURE: Final = "the model's signature: the decision is of an earlier version, which signed no directory"
_LOST: Final = "the model's signature: the registry does not hand out the version that was decided on"


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A bundle: what is in it, and the bytes of its files by name."""

    bundle: Bundle
    files: Mapping[str, bytes]

    @property
    def data(self) -> bytes:
        """The bundle as one file."""
        return archive.pack(self.files)


def run(home: Home, run: str, *, withheld: bool = False) -> Bundled:
    """Bundle a run that was decided on.

    Args:
        home: the installation.
        run: the run's name.
        withheld: also what people who tune are not told, for auditors and approvers.

    Returns:
        The same bytes as long as the ledger is the same.

    Raises:
        RefusedError: the plan withholds the evidence while its test period is open, or the registry's files are not
            those on record.
        DataError: there is no decision on the run, or a file of it is lost.
        StorageError: ledger, store, remote or registry cannot be read.
    """
    entries = open_ledger(home).entries()
    entry = find_decision(entries, run)
    if entry is None:
        raise DataError(f"there is no decision on {run}", where=home.ledger_address, fix=f"cxr-ops publish --run {run}")
    decision = entry.decision
    outs = Outs(home, decision.run_commit)
    files = {f"run/{name}": data for name, data in _of_run(outs, run)}
    given = material.Material(run=run, files=files, entries=entries)  # a record is read when it is asked for
    inputs = given.inputs
    files[f"run/{inputs.plan.path}"] = outs.needed(inputs.plan.path, run)
    plan = given.plan
    told = entries if withheld else _told(home, entries, entry, plan)
    files |= {f"ledger/{one.seq:08d}.json": one.to_bytes() for one in told}
    kept = open_anchors(home)
    if kept is not None:
        files |= {f"anchors/{name}": data for name, data in kept.files(told).items()}
    files[material.COMMIT] = git_bytes(home, home.store, "cat-file", "commit", decision.run_commit)
    files[material.TREE] = git_bytes(home, home.store, "cat-file", "tree", f"{decision.run_commit}^{{tree}}")
    with tempfile.TemporaryDirectory(prefix="cxr-bundle-") as aside:
        files |= _scores(Path(aside), outs, run, plan, given.evaluation)
        model, left_out = _model(home, Path(aside), decision)
    files |= model
    records = _batches(home, run, inputs)
    files |= {f"data/{name}.json": data for name, data in records.items()}
    if missing := sorted(inputs.data.batches.keys() - records.keys()):
        left_out.append(f"the records of the batches {', '.join(missing)}: the store does not hand them out")
    files |= documents.make(material.Material(run=run, files=files, entries=told))
    bundle = Bundle(
        version=__version__,
        documents=documents.FORM,
        run=run,
        decision=entry.digest(),
        entries=len(told),
        head=told[-1].digest(),
        withheld=len(entries) - len(told),
        files={name: sha256_bytes(data) for name, data in sorted(files.items())},
        left_out=[*_NEVER, *left_out],
    ).sealed()
    return Bundled(bundle=bundle, files={**files, CONTENTS: bundle.to_bytes()})


def _told(home: Home, entries: list[Entry], entry: Entry, plan: plans.ChangePlan) -> list[Entry]:
    """The ledger up to the first entry that a plan withholds.

    Raises:
        RefusedError: it withholds this run's own.
    """
    shown = public.shown(entries)
    first = next((place for place, one in enumerate(shown) if one.withheld), len(entries))
    if withholds(plan, entry.decision.period, entries) or first < entry.seq:
        run = entry.decision.run
        raise RefusedError(
            f"a bundle tells all that the evidence shows, and a plan withholds that while test period "
            f"{entry.decision.period} is open",
            where=f"entry {entry.seq} of the ledger, {home.ledger_address}",
            fix=f"as an auditor or approver: cxr-ops bundle {run} --withheld",
        )
    return entries[:first]


def _of_run(outs: Outs, run: str) -> Iterator[tuple[str, bytes]]:
    for name in _NEEDED:
        yield name, outs.needed(name, run)
    for name in _KEPT:
        data = outs.read(name)
        if data is not None:
            yield name, data


def _scores(aside: Path, outs: Outs, run: str, plan: plans.ChangePlan, evaluation: Evaluation) -> dict[str, bytes]:
    """The scores of both sets, without names."""
    for name in (*_TABLES, "validate/attributes.csv"):
        data = outs.read(name) if name not in _TABLES else outs.needed(name, run)
        if data is not None:
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes(data)
    frame = manifest.read_split(aside)
    rows = frame[frame["split"] == "test"].reset_index(drop=True)
    table = outs.needed("evaluate/scores.csv", run)
    images = [line.split(",", 1)[0] for line in table.decode().splitlines()[1:]]
    if images != rows["image_id"].tolist():
        raise DataError("evaluate/scores.csv is not of the test set that split/split.csv names", where=run)
    asked = score_table.asked(plan)
    attributes = {name: values for name, values in attributes_of(aside, rows).items() if name in asked}
    groups = plan.performance.subgroups
    return {
        score_table.TEST: score_table.without_names(
            table,
            attributes={name: attributes[name] for name in asked if name in attributes},
            cases=[sha256[:12] for sha256 in rows["sha256"]],
            named={one.case for row in evaluation.findings for one in _fallen(row)},
            bands=groups.age_bands if groups else (),
        ),
        score_table.VALIDATION: score_table.without_names(outs.needed("evaluate/validation_scores.csv", run)),
    }


def _fallen(row: FindingEvidence) -> list[Fallen]:
    return [one for falls in (row.falls, row.reference_falls) if falls is not None for one in falls.patients]


def _model(home: Home, aside: Path, decision: Decision) -> tuple[dict[str, bytes], list[str]]:
    """Signature, claims, public key and contract of the model that was decided on, and what of it is left out."""
    if decision.directory is None:
        return {}, [_NO_SIGNATURE]
    folder = aside / "model"
    try:
        signed = versions.fetch_model(home, decision.model_version, folder)
    except StorageError:
        return {}, [_LOST]
    if signed.directory != decision.directory:
        return {}, [_LOST]
    names = {material.SIGNED: signature.SIGNATURE, material.CLAIMS: signature.CLAIMS}
    found = {name: (folder / file).read_bytes() for name, file in names.items()}
    found[material.KEY] = signing.believed(home)[signed.key]
    found[material.TERMS] = (folder / "artifacts" / "package" / "model.json").read_bytes()
    shutil.rmtree(folder)
    return found, []


def _batches(home: Home, run: str, inputs: Inputs) -> dict[str, bytes]:
    """The record of each batch, where it can be had."""
    try:
        folders = batches.batch_files(home, (batches.BATCH,), inputs.data)
        return {name: (folder / batches.BATCH).read_bytes() for name, folder in folders.items()}
    except (DataError, StorageError):  # one of them is lost, or was purged since
        places = {name: home.workspace(run) / DATASET / name / batches.BATCH for name in inputs.data.batches}
    found = {name: path.read_bytes() for name, path in places.items() if path.is_file()}
    return {name: data for name, data in found.items() if sha256_bytes(data) == inputs.data.batches[name]}
