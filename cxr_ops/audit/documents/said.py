"""What more than one paper says of a model, in the same words."""

from __future__ import annotations

from typing import Final

from cxr_ops.audit.material import Material

FORM: Final = (
    1  # rises with every change of what `make` writes: a bundle's papers are made again by the same form alone
)
BLANK: Final = "[TO BE FILLED IN BY A PERSON]"


def intended_use(material: Material) -> str:
    """As the package says it."""
    return str(material.terms.get("intended_use", BLANK))


def architecture(material: Material) -> str:
    """Of the network."""
    facts = material.evaluation.facts
    return facts.architecture if facts else BLANK


def picture(material: Material) -> str:
    """What the model reads."""
    terms = material.terms.get("input")
    side = terms.get("image_size") if isinstance(terms, dict) else None
    return "grey chest radiograph, frontal" + (f", brought to {side} x {side} pixels" if side else "")


def limitations(material: Material) -> list[str]:
    """What was not judged and what is wrong with the evidence, a sentence each; the last one is a person's."""
    evaluation = material.evaluation
    judged = set(evaluation.macro_over)
    unjudged = [row.finding for row in evaluation.findings if row.finding not in judged]
    found = [material.plan.notice]
    if unjudged:
        found.append(f"Not judged, for want of patients or scores: {', '.join(unjudged)}.")
    found += list(evaluation.missing_groups)
    found += [sentence for _, sentence in evaluation.problems]
    return [*found, BLANK]
