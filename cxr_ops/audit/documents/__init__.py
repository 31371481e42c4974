"""Papers about a model, made from the records of its run: bill of materials, model card, list of software.

    sbom.cdx.json      CycloneDX 1.6: the model with its card, the data sets and the packages that it was made with
    model-card.md      for people
    model-card.json    the same under the names of the Applied Model Card of the Coalition for Health AI (schema v0.2)
    model-card.xml     the same as XML, which is the form of that schema
    software.csv       the software of unknown provenance, as IEC 62304 asks for it, a row each

What only a person can say is a blank that is marked (`BLANK`), and never a guess. The same records give the same bytes.
"""

from __future__ import annotations

from typing import Final

from cxr_ops.audit.documents import bill, card, software
from cxr_ops.audit.documents.said import BLANK, FORM
from cxr_ops.audit.material import Material
from cxr_ops.records.base import canonical_json

__all__ = ["BLANK", "FOLDER", "FORM", "make"]

FOLDER: Final = "documents/"


def make(material: Material) -> dict[str, bytes]:
    """All papers, by their names in a bundle.

    Raises:
        DataError: a record is missing or damaged.
        SettingsError: the plan is none.
    """
    material.read_all()
    told = card.applied(material)
    made = {
        "sbom.cdx.json": canonical_json(bill.of_materials(material)),
        "model-card.md": card.as_markdown(material, told).encode(),
        "model-card.json": canonical_json({"AppliedModelCard": told}),
        "model-card.xml": card.as_xml(told).encode(),
        "software.csv": software.table(material).encode(),
    }
    return {f"{FOLDER}{name}": data for name, data in made.items()}
