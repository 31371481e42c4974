"""Bring the file of a change-control plan to the newest format, comments and order kept, and say what changed.

A plan of an earlier format is read for ever and means what it meant; this is for who wants to go on editing it. Pure:
text in, text out.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from cxr_ops import plan as plans
from cxr_ops.errors import SettingsError

NEWEST: Final = 3


def migrate(text: str, where: object, *, recycled: bool = False) -> tuple[str, list[str]]:
    """Write a plan in the newest format.

    Args:
        text: the file of a plan.
        where: what messages call it.
        recycled: whether its looks are to be recycled: `alpha` goes, and what people who tune learn becomes whether a
            model was promoted.

    Returns:
        The new text, and what changed, a sentence each; none where it was of the newest format and is to stay so.

    Raises:
        SettingsError: the plan is wrong, its keys do not stand one a line, so that no text can replace them, or what
            is to stay would be another.
    """
    old = plans.parse(text.encode(), where)
    changes: list[str] = []
    new = text
    if old.format < NEWEST:
        new = _put(new, r"^format: \d+", f"format: {NEWEST}", where)
        changes.append(f"format {old.format} is {NEWEST}")
        if "epoch_alpha" in new:
            new = new.replace("epoch_alpha", "period_alpha")  # in comments too
            changes.append("epoch_alpha is called period_alpha: an epoch is a pass of training alone")
    said = "looks" in yaml.safe_load(text)["modification_protocol"]["performance_evaluation"]
    if recycled and old.performance.looks.method == "equal":
        if old.performance.period_alpha is None:
            raise SettingsError(
                "recycled looks spend period_alpha, and the plan has none", where=where, fix="set period_alpha first"
            )
        if said:
            new = _put(new, r"^    looks:.*\n(?:      .*\n)*", "", where)
        terms = f"looks:\n      method: recycled\n      success_weight: {plans.SUCCESS_WEIGHT:g}"
        new = _put(new, r"^    alpha:.*$", f"    {terms}", where)
        new = _put(new, r"^    disclosure: \w+", "    disclosure: promotion", where)
        changes += [
            f"looks are recycled: alpha {old.performance.alpha:g} goes, and a look's level follows from the ledger",
            f"disclosure {old.performance.disclosure} is promotion: people who tune learn promoted or not",
        ]
    elif not said and old.performance.looks.method == "equal":
        new = _put(new, r"^    alpha:", "    looks: {method: equal}\n    alpha:", where)
        changes.append("looks are said to be equal, as they were")
    _check_nothing_else_changed(old, plans.parse(new.encode(), where), where, recycled=recycled)
    return new, changes


def _check_nothing_else_changed(old: plans.ChangePlan, new: plans.ChangePlan, where: object, *, recycled: bool) -> None:
    """Compare the plans: the text was changed by its lines, and a line may have been part of a sentence."""
    wanted: dict[str, Any] = _renamed(old.model_dump(mode="json")) | {"format": NEWEST}
    if recycled and old.performance.looks.method == "equal":
        looks = {"method": "recycled", "success_weight": plans.SUCCESS_WEIGHT}
        rules = wanted["modification_protocol"]["performance_evaluation"]
        rules |= {"looks": looks, "alpha": None, "disclosure": "promotion"}
    if changed := _differing(wanted, _renamed(new.model_dump(mode="json"))):
        raise SettingsError(
            f"the text of the plan cannot be changed without another change of {', '.join(changed)}",
            where=where,
            fix="write its keys one a line, each once, as `cxr-ops plan template` does; sentences that hold lines like "
            "a key's, in other words",
        )


def _renamed(document: Any) -> Any:
    """A plan's values, with the new name of a test period in its sentences too."""
    if isinstance(document, dict):
        return {key: _renamed(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_renamed(value) for value in document]
    return document.replace("epoch_alpha", "period_alpha") if isinstance(document, str) else document


def _differing(one: Any, other: Any, place: str = "") -> list[str]:
    """The places in which two plans have other values."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        return [found for key in keys for found in _differing(one.get(key), other.get(key), f"{place}.{key}")]
    return [] if one == other else [place.removeprefix(".")]


def _put(text: str, pattern: str, instead: str, where: object) -> str:
    """Replace the one place that a pattern finds."""
    found, count = re.subn(pattern, lambda _: instead, text, flags=re.MULTILINE)
    if count != 1:
        raise SettingsError(
            f"{pattern!r} stands {count} times in the plan, so its text cannot be changed here",
            where=where,
            fix="write its keys one a line with four blanks before each, as `cxr-ops plan template` does",
        )
    return found
