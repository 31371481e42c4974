"""portray: draw the picture of a batch, `$CXR_HOME/pictures/<batch>/batch.html`. `ingest` asks for it.

Beside the page is the list of whose radiographs it shows, for its owner alone: the page names nobody, and a purge must
know which pages to remove.

Thumbnails of good pictures are decoded here: a process has decoded the same files before and lived. Those of refused
ones are decoded in processes whose death is survivable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import pandas as pd

from cxr_ops.data import manifest, validation
from cxr_ops.data.checking import decode, isolate, pictures, quarantine
from cxr_ops.data.checking.batch import Checked
from cxr_ops.data.checking.decode import Pixels
from cxr_ops.data.sources.source import Listing, Problem
from cxr_ops.data.validation import Validation
from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.acceptance import PROBLEMS
from cxr_ops.records.base import sha256_bytes, write_atomic, write_private
from cxr_ops.records.data import data_notice
from cxr_ops.report import batch as page
from cxr_ops.report.batch import Mosaic, Outcome, Pair, Portrait, Shown
from cxr_ops.stages.match import Matched, told

PAGE: Final = "batch.html"
NEXT: Final = "entered.html"  # the page of a batch that is about to enter; it becomes PAGE when that has entered
LIST: Final = "shown.csv"  # beside the page
SHOWN: Final = 8  # pictures of a finding
FAILED: Final = 12  # pictures of a rule
PAIRS: Final = 20  # pairs of near copies
_SIDE: Final = 112  # pixels of a thumbnail
_QUALITY: Final = 80  # of its JPEG


def run(
    checked: Checked, matched: Matched, listing: Listing, *, folder: Path, batch: str, held: Mapping[str, pd.DataFrame]
) -> Portrait:
    """Gather what the page shows.

    Args:
        checked: the batch before pictures were compared.
        matched: what came of the comparison.
        listing: what `checked` was made of.
        folder: that the batch came from; no picture is shown from elsewhere.
        batch: its name.
        held: the manifest of each batch of the data set.

    Raises:
        DataError: a picture has changed since it was checked.
    """
    good = matched.checked
    frames = [frame for name, frame in sorted(held.items()) if name != batch]
    before = manifest.concatenate(frames) if frames else None
    mosaics, drawn = _mosaics(good)
    failed, refused = _failed(good.problems, listing, folder)
    paired = {name for copy, *_ in matched.shown for name in (copy.image_id, copy.other_id)}
    return Portrait(
        batch=batch,
        source=listing.source,
        notice=data_notice([listing.source]),
        total=checked.total,
        images=len(good.frame),
        patients=int(good.frame["patient_id"].nunique()),
        held=0 if before is None else len(before),
        findings=page.findings(good.frame, before, good.findings),
        people=page.people(good.frame, before),
        mosaics=mosaics,
        failed=failed,
        pairs=[
            Pair(
                one=_jpeg(one),
                other=_jpeg(other),
                says=f"{told(copy)}; {'the other is in the data set' if copy.other_batch else 'both come now'}",
                same_patient=copy.same_patient,
            )
            for copy, one, other in matched.shown[:PAIRS]
        ],
        more_pairs=max(0, matched.pairs - PAIRS),
        shown=sorted({*refused, *_listed(checked, drawn | paired), *_listed_before(before, paired)}),
    )


def write(portrait: Portrait, outcome: Outcome, home: Home) -> Path:
    """Write the page, and the list of what it shows, beside the list of near copies.

    Args:
        portrait: what it shows.
        outcome: what became of the batch.
        home: the installation.

    Returns:
        Its path. The folder is for its owner alone: it holds radiographs.

    Raises:
        OSError: it cannot be written.
    """
    path = home.pictures / portrait.batch / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)  # an earlier page is never beside the list of this one
    listed = pd.DataFrame(portrait.shown, columns=list(Shown._fields), dtype=str)
    write_private(path.with_name(LIST), manifest.to_csv(listed, Shown._fields))
    write_atomic(path, page.render(portrait, outcome).encode())
    return path


def prepare(portrait: Portrait, outcome: Outcome, home: Home) -> None:
    """Put the page of a batch that is about to enter beside the present one, whose list is its own; see `turn`."""
    write_atomic(home.pictures / portrait.batch / NEXT, page.render(portrait, outcome).encode())


def turn(home: Home, batch: str, *, entered: bool) -> None:
    """Put the page that was prepared into its place, or remove it; nothing, where there is none."""
    path = home.pictures / batch / NEXT
    if entered and path.is_file():
        path.replace(path.with_name(PAGE))
    path.unlink(missing_ok=True)


def _listed(checked: Checked, names: Iterable[str]) -> list[Shown]:
    """Those of some images that decoded, before pictures were compared."""
    rows = checked.frame[checked.frame["image_id"].isin(list(names))]
    pixels = dict(checked.pixels.itertuples(index=False, name=None))
    columns = (rows[name] for name in ("image_id", "patient_id", "sha256"))
    return [Shown(patient, sha256, pixels[image_id]) for image_id, patient, sha256 in zip(*columns, strict=True)]


def _listed_before(before: pd.DataFrame | None, names: Iterable[str]) -> list[Shown]:
    """Those of some images that the data set holds."""
    if before is None:
        return []
    rows = before[before["image_id"].isin(list(names))]
    return [Shown(patient, sha256, "") for patient, sha256 in zip(rows["patient_id"], rows["sha256"], strict=True)]


def _mosaics(checked: Checked) -> tuple[list[Mosaic], set[str]]:
    """The pictures by finding, and the images that they are of."""
    made: dict[str, bytes] = {}

    def thumbnail(image_id: str) -> bytes:
        if image_id not in made:
            made[image_id] = _thumbnail(checked.paths[image_id])
        return made[image_id]

    mosaics = []
    for finding in FINDINGS:
        rows = checked.frame[checked.frame[finding] == 1]
        if len(rows):
            names = _drawn(rows)
            mosaics.append(Mosaic(name=finding, count=len(rows), thumbnails=[thumbnail(name) for name in names]))
    rest = checked.frame[~checked.frame[list(FINDINGS)].isin([1]).any(axis=1)]
    if len(rest):
        thumbnails = [thumbnail(name) for name in _drawn(rest)]
        mosaics.append(Mosaic(name="None of the findings", count=len(rest), thumbnails=thumbnails))
    return mosaics, set(made)


def _drawn(rows: pd.DataFrame) -> list[str]:
    """Images for a mosaic: one a patient, in the order of the files' digests, which has to do with nothing else."""
    one_each = rows.sort_values("sha256").drop_duplicates("patient_id")
    return [str(image_id) for image_id in one_each["image_id"][:SHOWN]]


class Small(NamedTuple):
    """The thumbnail of a refused picture, as a JPEG file, and the SHA-256 of the picture's file and pixels."""

    jpeg: bytes
    sha256: str
    pixels_sha256: str


def _failed(problems: Sequence[Problem], listing: Listing, folder: Path) -> tuple[list[Mosaic], list[Shown]]:
    """The refused rows by rule, those with the most first, with pictures as far as they decode; and whose those are."""
    known = {row.image_id: row for row in listing.rows}
    rules: dict[str, list[tuple[int, Problem]]] = {}
    for line, problem in enumerate(problems, start=2):  # of problems.csv, which has a header
        rules.setdefault(page.rule(problem.what), []).append((line, problem))
    shown = {name: found[:FAILED] for name, found in rules.items()}
    rows = {
        line: row
        for found in shown.values()
        for line, one in found
        if one.keep
        and (row := known.get(one.image_id) or one.row) is not None
        and quarantine.is_own_file(row.path, folder)
    }
    wanted = sorted({row.path for row in rows.values()})
    smalls = {path: small for path, small in zip(wanted, _survivable(wanted), strict=True) if small}
    made = {line: (row, smalls[row.path]) for line, row in rows.items() if row.path in smalls}
    mosaics = [
        Mosaic(
            name=name,
            count=len(found),
            thumbnails=[made[line][1].jpeg if line in made else None for line, _ in shown[name]],
            places=[f"{PROBLEMS}:{line}" for line, _ in shown[name]],
        )
        for name, found in sorted(rules.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return mosaics, [Shown(row.patient_id, small.sha256, small.pixels_sha256) for row, small in made.values()]


def with_failures(portrait: Portrait, found: Validation, frame: pd.DataFrame, checked: Checked) -> Portrait:
    """A portrait that shows expectations which failed as well, in their words, with pictures of the first rows.

    Args:
        portrait: of a batch.
        found: what the suites found.
        frame: the rows that they were of; those of other batches have no picture here.
        checked: the batch.
    """
    names = frame["image_id"].tolist()
    mosaics, drawn, line = [], set(), 2  # of failures.csv, which has a header
    for check in found.checks:
        if check.passed:
            continue
        if check.severity == "critical":
            rows = [(line + at, names[row]) for at, row in enumerate(check.rows[:FAILED])]
            here = {name for _, name in rows if name in checked.paths}
            mosaics.append(
                Mosaic(
                    name=check.says,
                    count=len(check.rows),
                    thumbnails=[_thumbnail(checked.paths[name]) if name in here else None for _, name in rows],
                    places=[f"{validation.FAILURES}:{at}" for at, _ in rows],
                )
            )
            drawn |= here
        line += len(check.rows)
    shown = sorted({*portrait.shown, *_listed(checked, drawn)})
    return replace(portrait, failed=[*mosaics, *portrait.failed], shown=shown)


def _survivable(paths: Sequence[Path]) -> Iterable[Small | None]:
    for made in isolate.each(thumbnail_or_none, paths) if paths else ():
        yield None if isinstance(made, isolate.DiedError) else made


def thumbnail_or_none(path: Path) -> Small | None:
    """The thumbnail of a picture that may be none, with its digests; None where it cannot be decoded."""
    try:
        data = decode.read_file(path)
        pixels = pictures.decode_any(data)
        return Small(_jpeg(pixels), sha256_bytes(data), decode.described(data, pixels).pixels_sha256)
    except (DataError, OSError, MemoryError):
        return None


def _thumbnail(path: Path) -> bytes:
    return _jpeg(pictures.decode_any(decode.read_file(path)))


def _jpeg(pixels: Pixels) -> bytes:
    small = decode.to_square(pixels, _SIDE)
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise DataError("a thumbnail cannot be made")
    return data.tobytes()
