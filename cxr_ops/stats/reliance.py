"""What do a model's scores rest on? AUC on whole pictures beside the AUC with a region blurred, by patient. Pure.

A model can rank patients well by a mark that came with the ill ones: a marker of the ward, a text, a border. Its heat
maps of a few cells do not show it, and neither do deletion curves. Its scores of the same pictures without the mark do:
the AUC falls. Blurred are the corners, all that is outside the thorax, and the thorax itself
(`cxr_ops.data.regions`); of the last, the AUC that is left is what tells.

The loss is a paired, patient-clustered difference of two AUCs of one model on the same images, as between two models
(`cxr_ops.stats.auc.mean_difference`). A clean model loses a little too, since shoulders and abdomen tell something of a
patient. So where there is a champion, the challenger's loss is compared with the champion's own: `excess` is a
difference of two differences, with a standard error from the jackknife over patients.

What this cannot find: a mark inside the lung, such as a drain, which is where the finding is. Attributes of images
(a side table's `drain`) and subgroups are for that.

Sources:
    Zech et al., PLOS Medicine 15 (2018) e1002683: networks that tell the hospital, and through it pneumonia.
    DeGrave, Janizek, Lee, Nature Machine Intelligence 3 (2021) 610-619: COVID-19 told by markers and shoulders.
    Obuchowski, Biometrics 53 (1997) 567-578: the clustered covariance of AUCs.
docs/reliance.md shows how often planted marks are found, and clean models accused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy.typing as npt

from cxr_ops.records.evidence import Blurred, Figure, Reliance, Undefined
from cxr_ops.stats import auc
from cxr_ops.stats.auc import Ranking, Tables

_WHOLE, _BLURRED = "challenger", "champion"  # as `auc` calls the two that it subtracts


def measure(
    findings: Sequence[str],
    truth: npt.ArrayLike,
    patients: npt.ArrayLike,
    whole: Mapping[str, npt.ArrayLike],
    blurred: Mapping[str, Mapping[str, npt.ArrayLike]],
    level: float,
) -> list[Reliance]:
    """Measure what each model loses with each region blurred.

    Args:
        findings: F names.
        truth: (N, F) 1, 0 or NaN.
        patients: (N,) any identifiers; equal ones are one patient.
        whole: role -> (N, F) scores of the whole pictures, the challenger's among them.
        blurred: region -> role -> (N, F) scores of the same pictures with that region blurred, of the same roles.
        level: of the two-sided intervals, in (0, 1).

    Returns:
        A record a finding. A figure that cannot be computed says why.

    >>> whole, less = [[0.9], [0.8], [0.3], [0.2]], [[0.9], [0.1], [0.3], [0.2]]
    >>> found = measure(["Mass"], [[1], [1], [0], [0]], [1, 2, 3, 4], {"challenger": whole},
    ...                 {"corners": {"challenger": less}}, 0.95)[0].regions["corners"]
    >>> found.auc["challenger"].value, found.loss["challenger"].value, found.excess
    (0.5, 0.5, None)
    """
    found: list[dict[str, Blurred]] = [{} for _ in findings]
    for region, scores in blurred.items():
        pairs = {
            role: Tables.of(findings, truth, patients, {_WHOLE: whole[role], _BLURRED: scores[role]}).ranks()
            for role in whole
        }
        for f, regions in enumerate(found):
            figures = {role: auc.together([ranks[f]], level) for role, ranks in pairs.items()}
            regions[region] = Blurred(
                auc={role: figure.champion or _MISSING for role, figure in figures.items()},
                loss={role: figure.difference or _MISSING for role, figure in figures.items()},
                excess=_excess(pairs["challenger"][f].of, pairs["champion"][f].of, level)
                if "champion" in pairs
                else None,
            )
    return [Reliance(finding=finding, regions=regions) for finding, regions in zip(findings, found, strict=True)]


_MISSING = Undefined(reason="not computed")


def _excess(ours: Mapping[str, Ranking | Undefined], theirs: Mapping[str, Ranking | Undefined], level: float) -> Figure:
    """One model's loss minus the other's."""
    rankings: list[Ranking] = []
    for one in (ours[_WHOLE], ours[_BLURRED], theirs[_WHOLE], theirs[_BLURRED]):
        if isinstance(one, Undefined):
            return one
        rankings.append(one)
    whole, without, other_whole, other_without = rankings
    gap = whole.minus(without).minus(other_whole.minus(other_without))
    se = math.sqrt(auc.jackknife([gap]))
    df = max(auc.effective_patients([whole]) - 1.0, 1.0)
    if se <= auc.ROUNDING and abs(gap.value) > auc.ROUNDING:
        return Undefined(reason="the losses differ alike for every patient", needed="more patients")
    return auc.estimate(gap.value, se, df, "wald", level)
