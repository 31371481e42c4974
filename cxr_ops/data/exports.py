"""A data set in the formats of others, as bytes: the tables of the NIH's layout, and Croissant.

Croissant is MLCommons' description of a data set in JSON-LD (version 1.1 of its specification): what the files are,
with their SHA-256, and which column holds what. It keeps all that a manifest has. The NIH's table has no word for a
label that is missing or uncertain, nor for another view than PA and AP: images with such are not in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd

from cxr_ops.data import manifest
from cxr_ops.labels import BOX_NAMES, FINDINGS, SEXES, VIEWS, format_labels
from cxr_ops.records.base import canonical_json, sha256_bytes

Format = Literal["nih", "croissant"]

ENTRIES: Final = "Data_Entry_2017.csv"
BOXES: Final = "BBox_List_2017.csv"
METADATA: Final = "metadata.json"
IMAGES: Final = "images"
_THEIRS: Final = {ours: theirs for theirs, ours in BOX_NAMES.items()}
_HEADER: Final = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
)
_DESCRIPTIONS: Final = {
    "image_id": "Name of the image's file.",
    "patient_id": "Pseudonym of the patient whose image it is.",
    "sha256": "SHA-256 of the image's file.",
    "source": "Where the image comes from.",
    "batch": "The batch that brought the image.",
    "view": "PA or AP of a frontal image; LL, RL, LATERAL or OTHER; empty where it is not known.",
    "age": "Whole years; empty where it is not known.",
    "sex": "F or M; empty where it is not known.",
    "width": "Of the image, in pixels.",
    "height": "Of the image, in pixels.",
}
_TYPES: Final = {"age": "sc:Integer", "width": "sc:Integer", "height": "sc:Integer"}
_IMAGE_TYPES: Final = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg"}
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "examples": {"@id": "cr:examples", "@type": "@json"},
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export writes: `tables` by file name, the images that go along, and how many of each kind stay behind."""

    tables: Mapping[str, bytes]
    image_ids: Sequence[str]
    left_out: Mapping[str, int]


def nih(frame: pd.DataFrame, boxes: pd.DataFrame) -> Export:
    """The tables of the NIH's layout.

    An image whose labels are not all 1 or 0, or whose view or sex the NIH's table has no word for, is left out: missing
    is not 0, and `No Finding` would say so. Width and height are those of the file. The spacing of its pixels, which a
    manifest does not have, is empty. A patient's images are numbered in the order of the manifest.

    Args:
        frame: rows as `manifest.read_manifest` gives them.
        boxes: as `manifest.read_boxes` gives them.
    """
    labels = frame[list(FINDINGS)]
    reasons = {
        "without a 1 or 0 for each finding": ~labels.isin([0, 1]).all(axis=1),
        "of a lateral or unknown view": ~frame["view"].isin(VIEWS),
        "of unknown sex": ~frame["sex"].isin(SEXES),
    }
    out = pd.Series(data=False, index=frame.index)
    left_out: dict[str, int] = {}
    for reason, rows in reasons.items():
        left_out[reason] = int((rows & ~out).sum())
        out |= rows
    kept = frame[~out]
    follow_up = kept.groupby("patient_id").cumcount()
    entries = [
        [
            row["image_id"],
            format_labels([row[finding] for finding in FINDINGS]),
            number,
            row["patient_id"],
            "" if pd.isna(row["age"]) else row["age"],
            *(row[name] for name in ("sex", "view", "width", "height")),
            *("", ""),
        ]
        for row, number in zip(kept.to_dict("records"), follow_up, strict=True)
    ]
    inside = boxes[boxes["image_id"].isin(set(kept["image_id"]))]
    places = [
        [
            box["image_id"],
            _THEIRS.get(box["finding"], box["finding"]),
            *(f"{box[side]:g}" for side in ("x", "y", "w", "h")),
            *("", "", ""),
        ]
        for box in inside.to_dict("records")
    ]
    tables = {ENTRIES: _csv(_HEADER, entries)}
    if places:
        tables[BOXES] = _csv(("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""), places)
    return Export(
        tables=tables,
        image_ids=kept["image_id"].tolist(),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def croissant(
    frame: pd.DataFrame, boxes: pd.DataFrame, attributes: pd.DataFrame, *, name: str, revision: str
) -> Export:
    """Manifest, boxes and attributes as they stand, and `metadata.json`, which describes them.

    Args:
        frame: rows as `manifest.read_manifest` gives them.
        boxes: as `manifest.read_boxes` gives them.
        attributes: as `manifest.read_attributes` gives them.
        name: of the data set.
        revision: of the data, by which the export can be made again.
    """
    tables = {
        "manifest.csv": manifest.to_csv(frame, manifest.COLUMNS),
        "boxes.csv": manifest.to_csv(boxes, manifest.BOX_COLUMNS),
    }
    more = [column for column in attributes.columns if column != "image_id"]
    if more:
        tables[manifest.ATTRIBUTES] = manifest.to_csv(attributes, ("image_id", *more))
    files = [
        {
            "@type": "cr:FileObject",
            "@id": file,
            "name": file,
            "description": f"{file} of the data set.",
            "contentUrl": file,
            "encodingFormat": "text/csv",
            "sha256": sha256_bytes(data),
        }
        for file, data in tables.items()
    ]
    endings = sorted({str(image_id).rpartition(".")[2] for image_id in frame["image_id"]})
    files += [
        {
            "@type": "cr:FileSet",
            "@id": f"images-{ending}",
            "name": f"images-{ending}",
            "description": "The images' files, whose SHA-256 stand in manifest.csv.",
            "encodingFormat": _IMAGE_TYPES[ending],
            "includes": f"{IMAGES}/*.{ending}",
        }
        for ending in endings
    ]
    types = {**_TYPES, **dict.fromkeys(FINDINGS, "sc:Integer")}
    about = {
        **_DESCRIPTIONS,
        **{finding: f"{finding}: 1, 0, -1 (uncertain) or empty (missing, which is not 0)." for finding in FINDINGS},
    }
    sets = [_records("images", "manifest.csv", manifest.COLUMNS, about, types)]
    box_types = dict.fromkeys(("x", "y", "w", "h"), "sc:Float")
    box_about = {"x": "Left, in pixels.", "y": "Top, in pixels.", "w": "Width, in pixels.", "h": "Height, in pixels."}
    sets.append(_records("boxes", "boxes.csv", manifest.BOX_COLUMNS, box_about, box_types))
    if more:
        sets.append(_records("attributes", manifest.ATTRIBUTES, ("image_id", *more), {}, {}))
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": f"{len(frame):,} chest radiographs of {frame['patient_id'].nunique():,} patients with labels of "
        f"the 14 findings of ChestX-ray14. Source: {', '.join(sorted(frame['source'].unique()))}. Revision {revision}.",
        "version": f"0.0.0+{revision[:12]}",
        "distribution": files,
        "recordSet": sets,
    }
    tables[METADATA] = canonical_json(document)
    return Export(tables=tables, image_ids=frame["image_id"].tolist(), left_out={})


def _records(
    name: str, file: str, columns: Sequence[str], about: Mapping[str, str], types: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The rows of {file}.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "description": about.get(column, f"The column {column}."),
                "dataType": types.get(column, "sc:Text"),
                "source": {"fileObject": {"@id": file}, "extract": {"column": column}},
            }
            for column in columns
        ],
    }


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    # The release quotes no name that holds a comma, so that one such name is two of the header's fields.
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
