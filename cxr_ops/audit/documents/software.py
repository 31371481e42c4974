"""The software of unknown provenance that a model was made with, as IEC 62304 asks for it."""

from __future__ import annotations

import csv
import io
from typing import Final

from cxr_ops.audit.documents.said import BLANK
from cxr_ops.audit.material import Material

# The columns that 5.3.3, 5.3.4, 7.1.3 and 8.1.2 of IEC 62304 ask for of each item of unknown provenance.
_COLUMNS: Final = (
    "title",
    "version",
    "manufacturer",
    "purpose",
    "functional and performance requirements",
    "hardware and software it needs",
    "known anomalies evaluated",
    "safety class",
)


def table(material: Material) -> str:
    """A row each, as CSV: this program, then each package of the lock file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    blanks = [BLANK] * (len(_COLUMNS) - 2)
    writer.writerow(["cxr-ops", material.decision.code_commit, *blanks])
    for name, version in material.packages:
        writer.writerow([name, version, *blanks])
    return out.getvalue()
