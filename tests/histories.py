"""A history of champions, as `cxr-ops history` and its page tell it."""

from __future__ import annotations

from evaluations import estimate

from cxr_ops.audit.history import History, Judged, Reign
from cxr_ops.records.evidence import Change, Parts, Undefined
from cxr_ops.records.run import Identifiers


def judged(name: str, day: int, verdict: str = "PROMOTE", *, told: bool = True) -> Judged:
    return Judged(
        entry=name * 64,
        at=f"2026-03-{day:02d}T12:00:00.000+00:00",
        verdict=verdict,
        plan="nih",
        requested_by="dr_ruiz",
        identifiers=Identifiers(run=f"run-{name}", model_version=name, package=name * 64),
        evaluation="f" * 64,
        figures_told=told,
        promoted=verdict == "PROMOTE",
    )


def reign(about: Judged, since: int, until: int | None, **changes: object) -> Reign:
    facts: dict[str, object] = {
        "seq": since,
        "entry": "e" * 64,
        "since": f"2026-03-{since:02d}T12:00:00.000+00:00",
        "until": f"2026-03-{until:02d}T12:00:00.000+00:00" if until else None,
        "judged": about,
        "package": about.identifiers.package,
        "version": about.identifiers.model_version,
        "run": about.identifiers.run,
        "approved_by": ("dr_lee",),
    }
    return Reign(**(facts | changes))  # type: ignore[arg-type]


def history() -> History:
    """Two releases, a rejection, and the way back to the first."""
    a, b, c = judged("1", 1), judged("2", 10), judged("3", 15, "REJECT")
    return History(
        reigns=(
            reign(a, 1, 10),
            reign(b, 10, 20, ended_by_rollback=True),
            reign(a, 20, None, rolled_back_by="dr_ito", reason="wrong <laterality>"),
        ),
        judged=(a, b, c),
        periods=((2, "2026-03-12T00:00:00.000+00:00"),),
    )


def aucs() -> dict[str, object]:
    return {"1" * 64: estimate(0.81, 0.004), "2" * 64: estimate(0.83, 0.004)}


def change() -> Change:
    """A champion that does better on new patients, by no merit of the challenger's."""
    parts = Parts(
        champion_earlier=estimate(0.80, 0.01),
        champion_now=estimate(0.85, 0.01),
        challenger_earlier=estimate(0.80, 0.01),
        challenger_now=estimate(0.851, 0.01),
        learning=estimate(0.001, 0.002),
        potential=estimate(0.05, 0.004),
        retention=Undefined(reason="gone"),
    )
    return Change(images=9, patients=3, mean=parts)
