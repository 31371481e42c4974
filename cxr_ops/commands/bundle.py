"""`cxr-ops bundle`, `verify`, `replay` and `documents`: a run in one file, and what an outsider makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ops.commands.extras import require
from cxr_ops.commands.help import verbs
from cxr_ops.commands.options import complete_runs
from cxr_ops.commands.output import AsJson, Withheld, find_home, say, say_json
from cxr_ops.errors import DataError, RefusedError, StorageError

if TYPE_CHECKING:
    from cxr_ops.audit.verification import Outside

app = verbs()

RunName = Annotated[
    str,
    typer.Argument(
        help="A run, or another identifier of it that `cxr-ops lineage` takes.", autocompletion=complete_runs
    ),
]


@app.command()
def bundle(
    run: RunName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to; if left out, RUN.bundle.tar here.")
    ] = None,
    withheld: Withheld = False,
) -> None:
    """Put all that an outsider needs to check a run's decision into one file: cxr-ops verify FILE.

    Two bundles of one run are the same bytes as long as the ledger is. No patient is named in it.
    """
    require("stages")
    from cxr_ops.commands import places
    from cxr_ops.edges.lineage import trace
    from cxr_ops.records.base import sha256_bytes, write_private
    from cxr_ops.stages import bundle as stage

    home = find_home()
    name = trace(home, run).run
    target = out or Path(f"{name}.bundle.tar")
    places.check({"--out": target}, {})
    made = stage.run(home, name, withheld=withheld)
    data = made.data
    if withheld and places.descriptor(target) is None and not target.exists():
        write_private(target, data)
    else:
        places.write(target, data)
    if places.descriptor(target) is None:
        say(f"{target}: {len(made.files)} files, {len(data):,} bytes, sha256 {sha256_bytes(data)}")
        say(f"check it anywhere: cxr-ops verify {target}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A file that `cxr-ops bundle` made.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Believe this public key alone, and not the bundle's own."),
    ] = None,
    anchors: Annotated[
        Path | None,
        typer.Option("--anchors", metavar="FOLDER", help="A copy of the ledger's anchors that you got elsewhere."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle offline, and compute its figures and the verdict again from the scores.

    It needs no installation and no project. Ends with 15 where something does not match, and says what; what could not
    be checked is said as well. To check a ledger alone: cxr-ops ledger verify.
    """
    from dataclasses import asdict

    from cxr_ops.audit import verification

    found = verification.verify(file, _outside(key, anchors))
    if as_json:
        say_json({**asdict(found), "whole": found.whole})
    else:
        say(f"bundle of {found.run}, sha256 {found.sha256}")
        for outcome in ("holds", "fails", "not checked"):
            for line in found.lines:
                if line.outcome == outcome:
                    say(f"{outcome:<12}{line.what}")
    if not found.whole:
        wrong = sum(line.outcome == "fails" for line in found.lines)
        raise RefusedError(
            f"the bundle does not hold what it says: {wrong} thing{'s do' if wrong > 1 else ' does'} not match",
            where=file,
            fix="do not rely on it; ask who made it, and verify another copy",
        )


def _outside(key: Path | None, anchors: Path | None) -> Outside:
    from cxr_ops.audit.verification import Outside
    from cxr_ops.edges import signing

    keys = kept = None
    if key is not None:
        try:
            pem = key.read_bytes()
        except OSError as error:
            raise StorageError(f"the key cannot be read: {error.strerror}", where=key, fix="name a PEM file") from error
        keys = signing.believe(pem, key)
    if anchors is not None:
        paths = sorted(anchors.glob("*.json")) if anchors.is_dir() else []
        if not paths:
            raise StorageError("there are no anchors here", where=anchors, fix="name the folder that holds them")
        kept = {path.name: path.read_bytes() for path in paths}
    return Outside(keys=keys, anchors=kept)


@app.command()
def replay(
    run: RunName,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="FOLDER", help="A new folder in which what is made stays; else it is removed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Repeat a run from its commit and its data, with an empty cache, and compare every file with the one on record.

    It takes as long as the run did, and writes nothing to ledger, registry or run. On the CPU all must be identical; on
    a GPU figures may differ as far as is said. Ends with 15 where something differs, and says where.
    """
    require("stages")
    from dataclasses import asdict

    from cxr_ops.edges.lineage import trace
    from cxr_ops.stages import replay as stage

    home = find_home()
    found = trace(home, run)
    if found.run_commit is None:
        raise DataError(f"the run {found.run} made nothing: it ended {found.verdict}", where=home.run(found.run))
    done = stage.run(home, found.run, found.run_commit, keep=keep)
    if as_json:
        say_json({**asdict(done), "same": done.same})
    else:
        for note in done.notes:
            say(f"note: {note}")
        same = sum(one.outcome == "identical" for one in done.files)
        say(f"identical: {same} of {len(done.files)} files that the stages made")
        for one in done.files:
            if one.outcome != "identical":
                say(f"{one.outcome}: {one.path}{f' ({one.where})' if one.where else ''}")
        if done.ended:
            say(f"ended early: {done.ended}")
    if not done.same:
        raise RefusedError(
            f"the replay of {found.run} did not give what is on record",
            where=f"run commit {found.run_commit}",
            fix="compare machine, packages and threads; look at the files with --keep FOLDER",
        )


@app.command("documents")
def write_documents(
    source: Annotated[str, typer.Argument(metavar="RUN|BUNDLE", help="A run, or a file that `cxr-ops bundle` made.")],
    folder: Annotated[Path, typer.Argument(help="Where to; it is made if it is not there.")],
    withheld: Withheld = False,
) -> None:
    """Write a run's bill of materials, model card and list of software, made from the records.

    What only a person can say is a marked blank.
    """
    from cxr_ops.audit import archive, documents
    from cxr_ops.records.base import write_atomic

    if Path(source).is_file():
        contents, files = archive.unpack(Path(source))
        if wrong := archive.changes(contents, files):
            raise DataError(f"the bundle is damaged: {wrong[0]}", where=source, fix=f"cxr-ops verify {source}")
    else:
        require("stages")
        from cxr_ops.edges.lineage import trace
        from cxr_ops.stages import bundle as stage

        home = find_home()
        files = dict(stage.run(home, trace(home, source).run, withheld=withheld).files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in sorted(files.items()):
            if name.startswith(documents.FOLDER):
                write_atomic(folder / name.removeprefix(documents.FOLDER), data)
                say(str(folder / name.removeprefix(documents.FOLDER)))
    except OSError as error:
        raise StorageError(f"the papers cannot be written: {error.strerror}", where=folder) from error
