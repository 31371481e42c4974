"""What the labels of each source are worth as a reference standard, in a sentence with its origin.

A model is judged by these labels: where they are wrong, it is judged wrongly.
"""

from __future__ import annotations

from typing import Final

from cxr_ops.records.data import GENERATED

_MINED: Final = "Labels were mined from radiology reports by a program; nobody read the images for them"
_STANDARDS: Final = {
    GENERATED: "The program that drew the pictures labelled them. The labels are exact, and say nothing of patients.",
    "nih": f"{_MINED} (Wang et al., CVPR 2017). Radiologists who read samples found many of them wrong (Oakden-Rayner, "
    "Academic Radiology 2020). Boxes of 880 images were drawn by a radiologist.",
    "chexpert": f"{_MINED} but for the validation and test sets, which radiologists read (Irvin et al., AAAI 2019).",
    "mimic": f"{_MINED} (Johnson et al., Scientific Data 2019).",
    "padchest": "Physicians labelled about a quarter of the reports, and a network trained on those the others "
    "(Bustos et al., Medical Image Analysis 2020).",
    "rsna": "Radiologists marked lung opacities suspicious for pneumonia on the images (Shih et al., Radiology: "
    "Artificial Intelligence 2019).",
    "vindr": "Radiologists read the images: three each image of the training set, five in consensus of the test set "
    "(Nguyen et al., Scientific Data 2022).",
}
UNKNOWN: Final = "How its labels were made is not on record here: a person must state it."


def standard_of(source: str) -> str:
    """Say how the labels of a source were made.

    >>> standard_of("north-wing")
    'How its labels were made is not on record here: a person must state it.'
    """
    return _STANDARDS.get(source, UNKNOWN)
