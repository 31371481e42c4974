"""The sources that there are: the one place where a new one is entered. A source is a module of this package."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from cxr_ops.data.sources.source import Source
from cxr_ops.errors import SettingsError
from cxr_ops.labels import nearest

# Each with what it takes, for the command's help. A source is imported when it is used: help must answer at once.
SOURCES: Final = {
    "nih": "a folder in the layout of the NIH's ChestX-ray14 (images/, Data_Entry_2017.csv)",
    "dicom": "DICOM files of CR or DX, with a table of labels by SOP Instance UID",
}


def find(kind: str) -> Source:
    """The source of a kind of folder.

    Raises:
        SettingsError: there is none of this name.

    >>> find("nih").kind
    'nih'
    """
    if kind not in SOURCES:
        known = ", ".join(SOURCES)
        raise SettingsError(
            f"{kind!r} is no source: {known} {'is' if len(SOURCES) == 1 else 'are'} known",
            where="ingest",
            fix=f"cxr-ops ingest {nearest(kind, SOURCES) or min(SOURCES)} FOLDER --batch NAME",
        )
    source: Source = import_module(f"cxr_ops.data.sources.{kind}").SOURCE
    return source
