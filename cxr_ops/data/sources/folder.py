"""Folders of pictures by class, as Kermany's pneumonia pictures come, and Roboflow's exports for classification.

    PATH/
      train/NORMAL/IM-0115-0001.jpeg ...
      train/PNEUMONIA/person1_bacteria_1.jpeg ...
      valid/ or val/, test/           the same class folders; or the class folders alone

Classes are names of findings, or NORMAL; case, blanks and underscores do not matter. NORMAL says that the findings
which have a folder are absent; a finding's folder says that it is present. All else is missing, not 0: with NORMAL and
PNEUMONIA, Pneumonia is 1 or 0 and the other 13 findings are not known.

Patients are known from names alone:

* `personN_bacteria_M`, `personN_virus_M`: the patient is person N, whatever the cause;
* `IM-NNNN-MMMM`, `NORMAL2-IM-NNNN-MMMM`: taken to be patient IM-NNNN. That is a guess, on the safe side: pictures that
  share a number are never divided;
* any other name: the picture is a patient of its own, and a note counts them. `NORMAL/1.png` and `PNEUMONIA/1.png` are
  two pictures of two patients.

Roboflow writes `NAME_jpg.rf.HASH.jpg`, and augmented copies of a picture differ in HASH alone: one of them enters, from
test or valid rather than train (where Roboflow augments), and the others are counted. Kermany's pictures are
anterior-posterior views of children of 1 to 5 years (Kermany et al., Cell 2018); other names say no view, and such
pictures are not trained on unless `--view` says one. The export's own split is used with `--own-split` alone, and never
where it leaks: Kermany's has 16 pictures to validate on.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.data.manifest import IMAGE_ID
from cxr_ops.data.sources.source import Listing, Options, Problem, Row, Source, flat_name, keep_split
from cxr_ops.errors import DataError, StorageError, printable
from cxr_ops.labels import FINDINGS, NO_FINDING, nearest

_SPLITS: Final = {
    "train": "train",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
_NORMAL: Final = "normal"
# Other words for findings and for none, in the spelling of `_key`.
_CLASSES: Final = {
    **{re.sub("[^a-z]", "", name.lower()): name for name in FINDINGS},
    "pleuraleffusion": "Effusion",
    _NORMAL: NO_FINDING,
    "nofinding": NO_FINDING,
    "healthy": NO_FINDING,
}
_ENDINGS: Final = (".png", ".jpg", ".jpeg")
_COPY: Final = re.compile(r"(?P<stem>.+)_(?P<kind>jpe?g|png)\.rf\.[0-9A-Za-z]+")
_PERSON: Final = re.compile(r"(?P<patient>person[0-9]+)[_-](?P<cause>bacteria|virus)(?:[_-].*)?", re.IGNORECASE)
_SERIES: Final = re.compile(r"(?:NORMAL2-)?(?P<patient>IM-[0-9]+)(?:-.*)?", re.IGNORECASE)
_PREFERRED: Final = ("test", "validation", "", "train")  # of copies; Roboflow augments what it trains on
KERMANY_VIEW: Final = "AP"
_LONGEST: Final = 64  # characters of a patient's id


@dataclass(frozen=True)
class _Picture:
    """A picture's file: its class, the side that the export gives it, and of one of Roboflow's copies what all share.

    `original` is the name that copies share, or the file's own without its ending.
    """

    path: Path
    place: str
    finding: str
    side: str
    original: str
    is_copy: bool


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """List the pictures of class folders.

    Raises:
        DataError: the folder is missing, holds no class folders or pictures, or classes that stand for no finding; or
            its own split is asked for, and leaks or is not there.
        StorageError: a folder cannot be listed.
    """
    options = options or Options()
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, fix="name the folder that holds train/ and test/")
    result = Listing(source="folder", table="the class folders")
    pictures = list(_pictures(folder, result))
    if not pictures and not result.problems:
        raise DataError(
            "the batch is empty: the class folders hold no picture", where=folder, fix="take the export again"
        )
    result.findings = tuple(name for name in FINDINGS if any(one.finding == name for one in pictures))
    if pictures and not result.findings:
        raise DataError(
            "all pictures are normal: without a folder of a finding, nothing is labelled",
            where=folder,
            fix="add the folder of the finding, such as PNEUMONIA",
        )
    groups = _grouped(pictures)
    result.total = len(groups) + len(result.problems)
    _add_rows(result, groups, options)
    _note_copies(result, groups)
    side_of = {row.image_id: side for row, side in zip(result.rows, _sides(result, groups), strict=True) if side}
    if options.own_split and not side_of:
        raise DataError("the export has no split of its own", where=folder, fix="leave --own-split out")
    _keep_split(result, groups, side_of, options, folder)
    return result


def recognise(folder: Path) -> str | None:
    """Whether a folder holds class folders with a known class; see `Source.recognise`."""
    if not folder.is_dir():
        return None
    for place, side in _places(folder):
        known = sorted(path.name for path in place.iterdir() if path.is_dir() and _key(path.name) in _CLASSES)
        if known:
            return f"{side + '/' if side else ''}{known[0]}/ is a folder of a class"
    return None


SOURCE: Final = Source(
    kind="folder",
    read=read_folder,
    looks_for="train/NORMAL, train/PNEUMONIA or other class folders, beside valid/ (or val/) and test/",
    recognise=recognise,
    takes=("own_split", "view"),
)


def _key(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _places(folder: Path) -> list[tuple[Path, str]]:
    """The folders that hold class folders, with their names; a folder without splits is one of them itself."""
    found = [(path, path.name) for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in _SPLITS]
    return found or [(folder, "")]


def _pictures(folder: Path, result: Listing) -> Iterator[_Picture]:
    """Every picture of the class folders; what cannot be used goes to the problems."""
    unknown: list[str] = []
    for place, name in _places(folder):
        _refuse_link(place, folder)
        for inner in sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))):
            _refuse_link(inner, folder)
            finding = _CLASSES.get(_key(inner.name))
            if finding is None:
                unknown.append(inner.relative_to(folder).as_posix())
                continue
            side = _SPLITS.get(name.lower(), "")
            for entry in _listed(inner):
                where = printable(Path(entry.path).relative_to(folder).as_posix())
                if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in _ENDINGS:
                    continue
                if entry.is_symlink():
                    what = "a link, which may lead anywhere: put the file itself there (cp -L follows links)"
                    result.problems.append(Problem(what, where, None, entry.name))
                elif not entry.is_file(follow_symlinks=False):
                    result.problems.append(Problem("not a file", where, None, entry.name))
                else:
                    original, is_copy = _original(entry.name)
                    yield _Picture(Path(entry.path), where, finding, side, original, is_copy)
    if unknown:
        guess = nearest(Path(unknown[0]).name, (*FINDINGS, "NORMAL"))
        stand = "stands" if len(unknown) == 1 else "stand"
        raise DataError(
            f"{', '.join(unknown)} {stand} for none of the 14 findings, nor for NORMAL",
            where=folder,
            fix=(f"call {unknown[0]} {guess}, if that is it; or " if guess else "") + "take the folder out",
        )


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise StorageError(f"the folder cannot be listed: {error.strerror}", where=folder) from error


def _refuse_link(path: Path, folder: Path) -> None:
    if path != folder and path.is_symlink():
        raise DataError("the folder is a link, which may lead anywhere", where=path, fix="put the folder itself here")


def _original(name: str) -> tuple[str, bool]:
    """The name of the picture that a file shows, without its ending, and whether it is one of Roboflow's copies."""
    stem = Path(name).stem
    copy = _COPY.fullmatch(stem)
    return (copy["stem"], True) if copy else (stem, False)


def _grouped(pictures: list[_Picture]) -> dict[str, list[_Picture]]:
    """The pictures by what is one picture: copies of Roboflow's by the name that they share, any other by its place.

    NORMAL/1.png and PNEUMONIA/1.png are two pictures. A file that is called as copies are is what they were made from.
    """
    copied = {one.original for one in pictures if one.is_copy}
    groups: defaultdict[str, list[_Picture]] = defaultdict(list)
    for one in pictures:
        groups[one.original if one.original in copied else one.place].append(one)
    return groups


def patient_of(original: str) -> tuple[str, str]:
    """The patient that a picture's name speaks of, and how that is known: `person`, `series` or `` for not at all.

    >>> patient_of("person1000_virus_1681"), patient_of("NORMAL2-IM-0027-0001"), patient_of("scan 4")
    (('person1000', 'person'), ('IM-0027', 'series'), ('scan-4', ''))
    """
    if person := _PERSON.fullmatch(original):
        return person["patient"].lower(), "person"
    if series := _SERIES.fullmatch(original):
        return series["patient"].upper(), "series"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", original).strip("._-")
    if len(name) > _LONGEST:  # the end of a long name tells pictures apart as well as its beginning
        name = f"{name[: _LONGEST - 9]}-{hashlib.sha256(original.encode()).hexdigest()[:8]}"
    return name or "unnamed", ""


def _add_rows(result: Listing, groups: dict[str, list[_Picture]], options: Options) -> None:
    known: Counter[str] = Counter()
    entering = {key: _entering(group) for key, group in groups.items()}
    names = Counter(flat_name(one.path.name).lower() for one in entering.values())
    places = Counter(flat_name(one.place).lower() for one in entering.values())
    order = sorted(groups, key=lambda key: (entering[key].original, key))
    for key in order:
        group, one = groups[key], entering[key]
        name = flat_name(one.path.name)
        is_alone = names[name.lower()] == 1
        image_id = name if is_alone and IMAGE_ID.fullmatch(name) else flat_name(one.place)
        patient, how = patient_of(one.original)
        if not (how or is_alone):  # else two pictures of one name would be one patient's
            patient, _ = patient_of(Path(image_id).stem)
        findings = sorted({other.finding for other in group})
        if len(findings) > 1:
            where = " and ".join(sorted(other.place for other in group if other.finding in findings)[:2])
            what = f"copies of one picture stand in different classes: {where}"
            result.problems.append(Problem(what, one.place, None, image_id, patient_id=patient))
            continue
        if not IMAGE_ID.fullmatch(image_id):
            what = "the name cannot be an image id: up to 100 letters, digits, dots, hyphens and underscores"
            result.problems.append(Problem(what, one.place, None, image_id[:120], patient_id=patient))
            continue
        if not is_alone and places[image_id.lower()] > 1:
            others = (other.place for other in entering.values() if flat_name(other.place).lower() == image_id.lower())
            twin = min(place for place in others if place != one.place)
            what = f"the name gives the image id {image_id}, and so does {twin}: rename one of them"
            result.problems.append(Problem(what, one.place, None, image_id, patient_id=patient))
            continue
        known[how] += 1
        labels: tuple[int | None, ...] = tuple(
            1 if finding == one.finding else 0 if one.finding == NO_FINDING and finding in result.findings else None
            for finding in FINDINGS
        )
        view = KERMANY_VIEW if how else options.view
        result.rows.append(Row(0, image_id, patient, labels, None, "", view, one.path, table=one.place))
        if cause := _PERSON.fullmatch(one.original):
            result.attributes[image_id] = {"cause": cause["cause"].lower()}
    if known["series"]:
        told = voice.part(known["series"], len(result.rows), "image", "is", "are")
        result.notes.append(f"{told} named IM-NNNN-...: that NNNN is a patient is a guess, on the safe side")
    if known[""]:
        told = voice.part(known[""], len(result.rows), "name", "says", "say")
        result.notes.append(
            f"{told} nothing of a patient: each picture counts as a patient "
            "of its own. If some are of one person, the split can leak: name them personN_..., or use the source csv"
        )
        if not options.view:
            result.notes.append(
                f"{voice.count(known[''], 'name says', 'names say')} nothing of a view: --view PA or --view AP says it"
            )


def _entering(group: list[_Picture]) -> _Picture:
    """Of the copies of one picture the one that enters."""
    return min(group, key=lambda one: (_PREFERRED.index(one.side), one.path.name))


def _note_copies(result: Listing, groups: dict[str, list[_Picture]]) -> None:
    several = [group for group in groups.values() if len(group) > 1]
    if several:
        copies = sum(len(group) - 1 for group in several)
        told = voice.count(copies, "file is a further copy", "files are further copies")
        result.notes.append(
            f"{told} (Roboflow's ..._jpg.rf.HASH) of "
            f"{voice.count(len(several), 'picture, which enters once', 'pictures, of which one each enters')}"
        )


def _sides(result: Listing, groups: dict[str, list[_Picture]]) -> list[str]:
    """The side that the export gives to each row."""
    entering = {one.place: one.side for one in map(_entering, groups.values())}
    return [entering[row.table] for row in result.rows]


def _keep_split(
    result: Listing, groups: dict[str, list[_Picture]], side_of: dict[str, str], options: Options, folder: Path
) -> None:
    """The export's own split, which leaks already where copies of one picture stand on two sides."""
    torn = sorted(name for name, group in groups.items() if len({one.side for one in group}) > 1)
    if torn:
        leak = (
            f"its own split leaks: copies of {voice.count(len(torn), 'picture')} stand on two sides, such as "
            f"{' and '.join(sorted(one.place for one in groups[torn[0]])[:2])}"
        )
        if options.own_split:
            raise DataError(
                leak, where=folder, fix="leave --own-split out: patients are then divided anew, each onto one side"
            )
        result.notes.append(leak)
    keep_split(result, side_of, options, where=folder)
