"""The sources that there are: the one place where a new one is entered. A source is a module of this package."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from cxr_ops.contract import AUTO
from cxr_ops.data.sources.source import Options, Source
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import OTHER_VIEWS, VIEWS, nearest

# Each with what it takes, for the command's help. A source is imported when it is used: help must answer at once.
SOURCES: Final = {
    "nih": "a folder in the layout of the NIH's ChestX-ray14 (images/, Data_Entry_2017.csv)",
    "padchest": "PadChest (PNG of 16 bits, its table of labels)",
    "vindr": "VinDr-CXR (DICOM, train.csv or annotations/, boxes of three readers)",
    "rsna": "the RSNA pneumonia challenge (DICOM, stage_2_train_labels.csv)",
    "dicom": "DICOM files of CR or DX, with a table of labels by SOP Instance UID",
    "folder": "folders of pictures by class (train/NORMAL and train/PNEUMONIA), as Kermany's or Roboflow's exports",
    "chexpert": "CheXpert, CheXpert-small or CheXpert Plus (train.csv, train/patient00001/)",
    "mimic": "MIMIC-CXR-JPG (mimic-cxr-2.0.0-metadata.csv, files/p10/)",
    "csv": "any folder of images with a table, and a mapping file that says which columns are what",
}
# The options that each takes, which its module says as well: help shows them without importing it.
TAKES: Final = {
    "nih": ("own_split",),
    "padchest": (),
    "vindr": ("deidentified", "uncertain", "view"),
    "rsna": ("deidentified", "uncertain", "view"),
    "dicom": ("deidentified", "uncertain", "view"),
    "folder": ("own_split", "view"),
    "chexpert": ("uncertain",),
    "mimic": ("own_split", "uncertain"),
    "csv": ("mapping", "uncertain", "view"),
}
# Names of options in commands.
OPTIONS: Final = {
    "uncertain": "--uncertain",
    "mapping": "--mapping",
    "view": "--view",
    "own_split": "--own-split",
    "deidentified": "--deidentified",
}


def find(kind: str) -> Source:
    """The source of a kind of folder.

    Raises:
        SettingsError: there is none of this name.

    >>> find("nih").kind
    'nih'
    """
    if kind not in SOURCES:
        raise SettingsError(
            f"{kind!r} is no source: {', '.join(SOURCES)} are known",
            where="ingest",
            fix=f"cxr-ops ingest {nearest(kind, SOURCES) or AUTO} FOLDER --batch NAME",
        )
    source: Source = import_module(f"cxr_ops.data.sources.{kind}").SOURCE
    return source


def check_options(source: Source, options: Options) -> None:
    """See that a source understands all that was said.

    Raises:
        SettingsError: it does not (the kinds that do are named), or there is no such view.
    """
    if options.view not in ("", *VIEWS, *OTHER_VIEWS):
        raise SettingsError(
            f"{options.view!r} is no view: {', '.join((*VIEWS, *OTHER_VIEWS))} are known",
            where="--view",
            fix=f"--view {VIEWS[0]}",
        )
    for name in sorted(options.given - set(source.takes)):
        others = [kind for kind in SOURCES if name in TAKES[kind]]
        told = f": {' and '.join(others)} {'does' if len(others) == 1 else 'do'}" if others else ""
        raise SettingsError(
            f"the source {source.kind} does not take {OPTIONS[name]}{told}",
            where="ingest",
            fix=f"leave {OPTIONS[name]} out",
        )


def recognise(folder: Path) -> tuple[str, str]:
    """The kind of a folder, and why it is taken to be one.

    Raises:
        DataError: there is no such folder, it is of no known kind, or of more than one.
    """
    if not folder.exists():
        raise DataError("there is no such folder", where=folder, fix="name a folder that is there")
    found = {kind: why for kind in SOURCES if (why := find(kind).recognise(folder))}
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        raise DataError(
            "the folder may be of more than one kind: " + "; ".join(f"{kind}: {why}" for kind, why in found.items()),
            where=folder,
            fix=f"say which: cxr-ops ingest {min(found)} FOLDER --batch NAME",
        )
    looked = [f"{kind}: {find(kind).looks_for}" for kind in SOURCES if find(kind).looks_for]
    raise DataError(
        "the folder is of no kind that is known\n  looked for\n  " + "\n  ".join(looked),
        where=folder,
        fix="name the folder that holds one of these; for a table of your own: cxr-ops ingest csv FOLDER --batch NAME "
        "--mapping FILE",
    )
