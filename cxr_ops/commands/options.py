"""Options and arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from cxr_ops.data.sources.source import Uncertain
from cxr_ops.errors import CxrError, SettingsError
from cxr_ops.labels import FINDINGS, nearest


def complete_runs(incomplete: str) -> list[str]:
    """The runs of this installation whose names begin so, for the shell; none where there is no installation."""
    from cxr_ops.edges.home import Home

    try:
        return sorted(folder.name for folder in (Home.find().root / "runs").glob(f"{incomplete}*"))
    except (CxrError, OSError):
        return []


Run = Annotated[
    str, typer.Option("--run", help="Name of the run, or Airflow's id of it.", autocompletion=complete_runs)
]
PlanFile = Annotated[
    Path | None, typer.Argument(metavar="PLAN", help="A plan; if left out, the one that params.yaml names.")
]
TruthFile = Annotated[
    Path | None, typer.Option("--truth", help="Labels: the NIH's Data_Entry_2017.csv, a manifest, or a CSV file.")
]
SplitTest = Annotated[
    bool, typer.Option("--split-test", help="Use only labels of patients on the test side of the plan's split.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of params.yaml for this run only.")
]


class OnBad(StrEnum):
    """What ingestion does with a batch in which some rows are bad."""

    REFUSE = "refuse"
    QUARANTINE = "quarantine"


def parse_uncertain(items: list[str] | None) -> dict[str, Uncertain]:
    """Read `Edema=ones`, or a policy for all findings, `zeros`.

    Raises:
        SettingsError: there is no such finding or policy.

    >>> parse_uncertain(["zeros", "Edema=ones"])
    {'': 'zeros', 'Edema': 'ones'}
    """
    policies: dict[str, Uncertain] = {}
    for item in items or []:
        finding, equals, policy = item.rpartition("=")
        if equals and finding not in FINDINGS:
            guess = nearest(finding, FINDINGS)
            raise SettingsError(
                f"{finding!r} is not one of the 14 findings",
                where="--uncertain",
                fix=f"--uncertain {guess or FINDINGS[0]}={policy}",
            )
        if policy not in get_args(Uncertain):
            raise SettingsError(
                f"{policy!r} is not what an uncertain label can become: {', '.join(get_args(Uncertain))}",
                where="--uncertain",
                fix=f"--uncertain {finding}{equals}ignore",
            )
        policies[finding] = cast("Uncertain", policy)
    return policies


def parse_overrides(items: list[str] | None) -> dict[str, Any]:
    """Read `train.epochs=3` as a key and a YAML value.

    Raises:
        SettingsError: an item without `=`, or a value that is not YAML.

    >>> parse_overrides(["train.epochs=3", "train.weights=none"])
    {'train.epochs': 3, 'train.weights': 'none'}
    """
    import yaml

    values: dict[str, Any] = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or "." not in key:
            raise SettingsError(f"--set needs SECTION.KEY=VALUE, not {item!r}", fix="for example --set train.epochs=3")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"the value of {key} is not YAML: {value!r}", where="--set") from error
    return values
