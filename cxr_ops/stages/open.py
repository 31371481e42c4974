"""open: pin all that a run depends on, and make the folder that it works in.

With a run's name, that is a clone of the code in `$CXR_HOME/runs/<run>/workspace`; without one, the checkout that the
person is in, for `dvc repro`. Both get the data set, the champion, the reference, the test period, what training
starts from, and `inputs.json`: what DVC cannot see. No look at the test set is recorded yet, and `look.json` says so.

A run whose recipe is the champion's own ends here with NO_CHANGE. It would make the champion again; or, where training
starts from the champion, it would train it once more on what it has seen. So does a run that would repeat a decision:
one of the same code, settings, data, plan and champion in the same test period, or one whose model was rolled back.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from cxr_ops import contract
from cxr_ops import plan as plans
from cxr_ops import recipe as recipes
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import allowance, judged_before, judged_on, open_period, reference_after, state_after
from cxr_ops.data import room
from cxr_ops.edges import deliveries, dvc, pipeline, supervisor
from cxr_ops.edges import plans as in_force
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches, repository, runs, snapshots
from cxr_ops.errors import DataError, RefusedError, SettingsError
from cxr_ops.labels import nearest
from cxr_ops.params import Params
from cxr_ops.records.acceptance import ACCEPTANCE, Acceptance
from cxr_ops.records.base import canonical_json, sha256_bytes, write_atomic
from cxr_ops.records.data import GENERATED, Batch, DataRevision
from cxr_ops.records.inputs import Champion, Code, Inputs, OtherPlan, RecordedLook
from cxr_ops.records.run import OPENED, Opened
from cxr_ops.records.training import Start
from cxr_ops.report import words

# What `open` itself writes has names of its own in a recipe.
_STATE: Final = (
    contract.DATASET,
    contract.INPUTS,
    contract.LOOK,
    contract.IMAGE,
    contract.PERIOD,
    contract.CHAMPION,
    contract.REFERENCE,
    contract.START,
)


_NOTHING_NEW: Final = "the champion's own: nothing would change"


@dataclass(frozen=True, kw_only=True)
class OpenResult:
    """What `open` pinned.

    `inputs` is the digest of `inputs.json`, None for a run that ends here; `champion` the package of the model in use,
    None before the first release. `repeats` says which earlier run this one would repeat, where it is not the
    champion's.
    """

    run: str | None
    code: str
    code_dirty: bool
    data: str
    recipe: str
    no_change: bool
    inputs: str | None
    champion: str | None
    repeats: str = ""

    def as_xcom(self) -> dict[str, Any]:
        """Identifiers and digests, for Airflow."""
        return {name: value for name, value in asdict(self).items() if name != "repeats"}

    def __str__(self) -> str:
        """What a person wants to know of it."""
        lines = [
            f"code      {self.code[:12]}" + (" (uncommitted changes)" if self.code_dirty else ""),
            f"data      {self.data[:12]}",
            f"champion  {self.champion[:12] if self.champion else 'none'}",
            f"recipe    {self.recipe[:12]}" + (f", {self.repeats or _NOTHING_NEW}" if self.no_change else ""),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a retraining would do now, and why: one sentence a reason. `repeats` is a decision that it would repeat."""

    data: DataRevision | None
    champion: Champion
    no_change: bool
    reasons: tuple[str, ...]
    repeats: str = ""


def run(
    home: Home,
    *,
    run: str | None = None,
    airflow_run_id: str | None = None,
    requested_by: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
) -> OpenResult:
    """Open a run, or make this checkout ready for `dvc repro`.

    Opening a run again, before it is published, starts it anew with the data, code and champion of now.

    Args:
        home: the installation.
        run: the run's name; None for the checkout.
        airflow_run_id: Airflow's id of the run.
        requested_by: who asked for it, where that is known.
        overrides: settings for this run only, by dotted key such as `train.epochs`.
        force: go on even when nothing that training depends on has changed, or an earlier decision would be repeated.

    Raises:
        BusyError: the run is being worked on.
        DataError: there is no data set, or what arrives of it is not what was ingested.
        RefusedError: the run is published, or its place holds another folder than a workspace of this run; the plan
            does not cover a setting or the source of a batch, which `force` does not change; or no plan is in force and
            the last decision's is lost.
        SettingsError: an override, `params.yaml` or the plan is wrong, or the plan's reference was never promoted.
        StorageError: a store does not answer, the ledger is damaged, or the package of champion or reference is lost.
    """
    data = batches.data_revision(home)
    if data is None or not data.batches:
        raise _no_data()
    if run is None:
        return _open_checkout(home, data, overrides or {})
    if open_ledger(home).decision(run) is not None:
        raise RefusedError(f"the run {run} is on record with a decision, and is not made again", fix="start a new run")
    params_of(home.project, overrides or {})  # a wrong setting is an error before anything is made
    with supervisor.hold_workspace(home, run):
        opened = home.run(run) / OPENED
        runs.check_workspace(home, run)
        opened.unlink(missing_ok=True)
        runs.clear_workspace(home, run)
        code = snapshots.snapshot(home)
        if code.dirty:
            sys.stderr.write("uncommitted changes were copied into the run; a production plan does not promote them\n")
        workspace = home.workspace(run)
        runs.make_workspace(home, workspace, run, code, data)
        params = _apply(workspace, overrides or {})
        parts = recipe_parts(workspace, params, data, home.image)
        recipe = repository.save_recipe(home, parts)
        write_atomic(workspace / repository.RECIPE, canonical_json(parts))
        champion = champion_on_record(home)
        own = champion.recipe == recipe
        repeats = "" if own or force else _repeats(home, workspace, params, recipe, None if overrides else code.commit)
        no_change = (own or bool(repeats)) and not force
        inputs = None
        (home.run(run) / "result.json").unlink(missing_ok=True)
        if not no_change:
            governing = plans.load(workspace / params.gate.plan)
            _check_bounds(governing, params)
            _pull(home, workspace, data)
            _check_sources(governing, {name: workspace / contract.DATASET / name for name in data.batches})
            inputs = _write_inputs(home, workspace, params, code, data, recorded=True)
            champion = inputs.champion
            limits = inputs.limits
            runs.guard(home, run, withheld=limits is not None and limits.disclosure != "all")
            if inputs.other_plan is not None:
                sys.stderr.write(words.other_plan(inputs.plan, inputs.other_plan) + "\n")
            dvc.write_plots_template(home, workspace)
            runs.commit_workspace(home, workspace, f"Open {run}")
        Opened(
            run=run,
            airflow_run_id=airflow_run_id,
            requested_by=requested_by,
            opened_at=datetime.now(UTC).isoformat(timespec="seconds"),
            overrides=dict(overrides or {}),
            force=force,
            no_change=no_change,
            repeats=repeats,
            code=code,
            data=data,
            champion=champion,
            recipe=recipe,
            recipe_parts=parts,
        ).write(opened)
        if no_change:
            pipeline.record_no_change(home, run)
    return OpenResult(
        run=run,
        code=code.commit,
        code_dirty=code.dirty,
        data=data.revision,
        recipe=recipe,
        no_change=no_change,
        inputs=inputs.digest() if inputs else None,
        champion=champion.package,
        repeats=repeats,
    )


def plan(home: Home, overrides: Mapping[str, Any] | None = None, *, force: bool = False) -> Forecast:
    """Say what a retraining would do now and why, without doing any of it; with `force`, also where nothing changed.

    Raises:
        RefusedError: the plan does not cover a setting, or where the data come from: a retraining would be refused.
        SettingsError: an override, `params.yaml` or the plan is wrong.
        StorageError: the ledger is damaged.
    """
    data = batches.data_revision(home)
    champion = champion_on_record(home)
    params = params_of(home.project, overrides or {})
    governing = plans.load(home.project / params.gate.plan)
    if data is None:
        _check_bounds(governing, params)
        if found := governing.description_of_modifications.bounds.foreign([GENERATED]):
            raise RefusedError(
                f"there is no data set, and the plan {governing.name} does not cover generated data: {' '.join(found)}",
                where=params.gate.plan,
                fix="ingest a batch: cxr-ops ingest auto FOLDER --batch NAME",
            )
        return Forecast(data=None, champion=champion, no_change=False, reasons=("no data set has been ingested yet",))
    parts = recipe_parts(home.project, params, data, home.image)
    if champion.package is None:
        reasons: tuple[str, ...] = ("there is no champion yet: this would be judged as a first release",)
    elif champion.recipe is None or (old := repository.read_recipe(home, champion.recipe)) is None:
        reasons = ("what the champion was trained from is not known here",)
    else:
        reasons = tuple(explain_change(old, parts, recipes.introduced(home.project)))
    repeats = ""
    if reasons and not force:
        code = None if overrides else snapshots.checked_out(home)
        repeats = _repeats(home, home.project, params, sha256_bytes(canonical_json(parts)), code)
    if (reasons and not repeats) or force:  # what ends NO_CHANGE trains nothing
        _check_bounds(governing, params)
        if governing.description_of_modifications.bounds.sources != "any":
            _check_sources(governing, batches.batch_files(home, (batches.BATCH,), data))
    return Forecast(
        data=data, champion=champion, no_change=not reasons or bool(repeats), reasons=reasons, repeats=repeats
    )


def unlabelled(home: Home, overrides: Mapping[str, Any] | None = None) -> tuple[str, tuple[str, ...]]:
    """The name of the plan, and the findings that it requires and no batch labels: with any, no run can be promoted.

    Raises:
        DataError: the record of a batch is missing from the store or was altered.
        SettingsError: an override, `params.yaml` or the plan is wrong.
        StorageError: the remote does not answer.
    """
    governing = plans.load(home.project / params_of(home.project, overrides or {}).gate.plan)
    records = [Batch.read(path / batches.BATCH) for path in batches.batch_files(home, (batches.BATCH,)).values()]
    labelled = {finding for record in records for finding in record.findings}
    required = governing.modification_protocol.performance_evaluation.required
    return governing.name, tuple(finding for finding in required if records and finding not in labelled)


def _repeats(home: Home, folder: Path, params: Params, recipe: str, code_commit: str | None) -> str:
    """The decision that a run of this recipe would only repeat, as a clause; "" if it would decide something new.

    It does not say how that was decided: a plan may withhold it. A run with settings of its own has no `code_commit`
    here: they may change how it is judged.
    """
    entries, plan = open_ledger(home).entries(), plans.identify(folder, params.gate.plan)
    found = judged_before(entries, recipe, code_commit=code_commit, plan_sha256=plan.sha256)
    if found is None:
        return ""
    decided, rollback = found
    if rollback is not None and rollback.promotion.rollback is not None:
        return (
            f"version {decided.decision.model_version} was made from the same (run {decided.decision.run}), and "
            f"{rollback.promotion.rollback.by} took it out of use by a rollback"
        )
    return (
        f"the run {decided.decision.run} was decided on the same code, settings, data, plan and champion in this test "
        "period"
    )


def champion_on_record(home: Home) -> Champion:
    """The champion as the ledger names it; its files are not fetched."""
    entry = open_ledger(home).champion()
    if entry is None:
        return Champion()
    promotion = entry.promotion
    return Champion(
        package=promotion.package, version=promotion.model_version, entry=entry.digest(), recipe=promotion.recipe
    )


def params_of(folder: Path, overrides: Mapping[str, Any]) -> Params:
    """Read `params.yaml` and put overrides in their places.

    Raises:
        SettingsError: a key does not exist (the nearest one is named), or a value does not fit.
    """
    document = dvc.read_params(folder)
    where = folder / dvc.PARAMS
    Params.check(document, where)
    missing = [section for section in contract.DETERMINISTIC if not isinstance(document.get(section), dict)]
    if missing:
        raise SettingsError(
            f"params.yaml has no section {missing[0]}", where=where, fix=f"add the section {missing[0]}"
        )
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if section not in document or not name or "." in name:
            guess = nearest(section, document)
            hint = f"; did you mean {guess!r}?" if guess and guess != section else ""
            raise SettingsError(f"{key} is not a setting{hint}", where="--set", fix="for example --set train.epochs=3")
        document[section] = {**document[section], name: value}
    return Params.check(document, "--set" if overrides else where)


def recipe_parts(folder: Path, params: Params, data: DataRevision, image: str | None) -> dict[str, Any]:
    """All that the challenger is made from: code, settings, data and image, but not who is champion nor the plan.

    Code is what `dvc.yaml` lists, which `cxr_ops.recipe` decides. Of the settings those are named whose values are not
    the defaults that they were introduced with.

    Raises:
        SettingsError: `dvc.yaml` or `params.yaml` cannot be read, or a default was changed without `make deps`.
        DataError: a file that `dvc.yaml` lists is missing.
    """
    recipes.check_defaults(folder)
    stages = dvc.read_pipeline(folder)
    making = [stages[name] for name in dvc.upstream(stages, "train")]
    sources = {dep for stage in making for dep in stage.deps if dvc.maker_of(stages, dep) is None}
    sources -= {*_STATE, recipes.CHANGED}  # the values themselves are named
    settings = params.model_dump(mode="json", by_alias=True)
    sections = {section: settings[section] for stage in making for section in stage.params}
    return {
        "format": recipes.FORMAT,
        "code": {source: dvc.source_digest(folder, source) for source in sorted(sources)},
        "params": recipes.differing(sections, recipes.introduced(folder)),
        "batches": data.batches,
        **({"events": data.events} if data.events else {}),  # none is in a recipe of an earlier version
        "image": image,
    }


def explain_change(
    old: Mapping[str, Any], new: Mapping[str, Any], introduced: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Say, a sentence each, what differs between two recipes.

    Args:
        old: as `recipe_parts` gave it, in this version or an earlier one.
        new: as `recipe_parts` gives it.
        introduced: the value of each setting that a recipe does not name, by section.

    >>> explain_change({"params": {"train": {"epochs": 9}}}, {"params": {}}, {"train": {"epochs": 6}})
    ['train.epochs was 9 and is now 6']
    """
    reasons: list[str] = []
    redefined = old.get("format", 1) != new.get("format", 1)
    if redefined:
        reasons.append("what training depends on is defined in another way than then, so it is trained once more")
    before, after = old.get("batches", {}), new.get("batches", {})
    reasons += [f"batch {name} is new" for name in sorted(after.keys() - before)]
    reasons += [f"batch {name} is gone" for name in sorted(before.keys() - after)]
    reasons += [f"batch {name} has changed" for name in sorted(after) if before.get(name, after[name]) != after[name]]
    events = (old.get("events", {}), new.get("events", {}))
    reasons += [
        f"{name} withdraws images or corrects labels" for name, _ in sorted(events[1].items() - events[0].items())
    ]
    unnamed = _flat(introduced or {})
    was, now = unnamed | _flat(old.get("params", {})), unnamed | _flat(new.get("params", {}))
    reasons += [
        f"{key} was {was.get(key, 'not set')} and is now {now.get(key, 'not set')}"
        for key in sorted(was.keys() | now)
        if was.get(key) != now.get(key)
    ]
    code, recent = old.get("code", {}), new.get("code", {})
    # Under another definition, a file that only one of the two names need not have changed.
    both = code.keys() & recent if redefined else code.keys() | recent
    files = [path for path in sorted(both) if code.get(path) != recent.get(path)]
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        reasons.append(f"code that training depends on has changed: {', '.join(files[:3])}{more}")
    if old.get("image") != new.get("image"):
        reasons.append(f"the image was {old.get('image') or 'none'} and is now {new.get('image') or 'none'}")
    return reasons


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def _open_checkout(home: Home, data: DataRevision, overrides: Mapping[str, Any]) -> OpenResult:
    if overrides:
        raise SettingsError(
            "--set is for a run of its own; this checkout's settings are yours", fix=f"edit {home.project / dvc.PARAMS}"
        )
    params = params_of(home.project, {})
    code = snapshots.snapshot(home)
    runs.write_pointers(home, home.project, data)
    _pull(home, home.project, data)
    for sentence in _outside(plans.load(home.project / params.gate.plan), params):
        sys.stderr.write(f"outside the plan {params.gate.plan}: {sentence} A run with it is refused.\n")
    parts = recipe_parts(home.project, params, data, home.image)
    recipe = repository.save_recipe(home, parts)
    write_atomic(home.project / repository.RECIPE, canonical_json(parts))
    inputs = _write_inputs(home, home.project, params, code, data, recorded=False)
    dvc.write_plots_template(home, home.project)
    if not dvc.write_local_config(home, home.project):
        sys.stderr.write(".dvc/config.local is yours and was left as it is; dvc may use another cache than cxr-ops\n")
    return OpenResult(
        run=None,
        code=code.commit,
        code_dirty=code.dirty,
        data=data.revision,
        recipe=recipe,
        no_change=inputs.champion.recipe == recipe,
        inputs=inputs.digest(),
        champion=inputs.champion.package,
    )


def _pull(home: Home, folder: Path, data: DataRevision) -> None:
    """Bring the batches in, where there is room for those that DVC's cache does not hold."""
    missing = batches.missing_bytes(home, data)
    room.check({home.dvc_cache: missing}, "the data", fix="free some: cxr-ops data gc")
    runs.pull(home, folder, data)


def _write_inputs(
    home: Home, folder: Path, params: Params, code: Code, data: DataRevision, *, recorded: bool
) -> Inputs:
    """Fetch champion and reference and write what DVC cannot see."""
    from cxr_ops.edges.mlflow.versions import fetch_champion, fetch_reference

    governing = plans.load(folder / params.gate.plan)
    champion = fetch_champion(home, folder / contract.CHAMPION)
    # One reading for all that follows; if a promotion came after the line above, `promote` finds the champion changed.
    entries = open_ledger(home).entries()
    reference = reference_after(entries, governing.performance.reference.package)
    fetch_reference(home, reference, champion, folder / contract.REFERENCE)
    _write_start(folder, params, champion)
    plan = plans.identify(folder, params.gate.plan)
    limits = in_force.limits_now(home, entries, governing, plan.sha256)
    inputs = Inputs(
        code=code,
        data=data,
        champion=champion,
        reference=reference,
        period=open_period(entries),
        ledger=state_after(entries) if recorded else None,
        plan=plan,
        limits=limits,
        allowance=allowance(entries, limits, open_period(entries).number) if recorded else None,
        other_plan=_other_plan(home, entries, governing, plan.sha256),
        earlier=judged_on(entries, champion),
        refused=_refused(home),
        image=home.image,
    )
    write_atomic(folder / contract.IMAGE, canonical_json({"image": home.image}))
    inputs.period.write(folder / contract.PERIOD)
    inputs.write(folder / contract.INPUTS)
    RecordedLook().write(folder / contract.LOOK)
    return inputs


def _refused(home: Home) -> dict[str, int]:
    """Batches that were refused at ingestion, and how many rows each had: they are in no data set that DVC knows."""
    records = {name: home.quarantine / name / ACCEPTANCE for name in deliveries.refused(home)}
    return {name: Acceptance.read(path).rows if path.is_file() else 0 for name, path in records.items()}


def _other_plan(home: Home, entries: list[Entry], own: plans.ChangePlan, sha256: str) -> OtherPlan | None:
    """The plan that one would expect where the run's own is another, and in what the run's own asks for less."""
    from cxr_ops.report.plans import diff

    found = in_force.expected(home, entries, sha256)
    if found is None:
        return None
    other, text = found
    if text is None:
        return other
    changes = [str(change) for change in diff(text, own) if change.direction == "looser"]
    return other.model_copy(update={"looser": [change.removesuffix(" (looser)") for change in changes]})


def _outside(governing: plans.ChangePlan, params: Params) -> list[str]:
    from cxr_ops.report.plans import settings

    return governing.description_of_modifications.bounds.outside(settings(params))


def _check_bounds(governing: plans.ChangePlan, params: Params) -> None:
    """Refuse settings that the plan does not cover, before a training and a look are spent on them."""
    if found := _outside(governing, params):
        raise RefusedError(
            f"outside the plan {governing.name}: {' '.join(found)}",
            where=f"params.yaml or --set, and {params.gate.plan}",
            fix=f"bring the settings back inside, or amend {params.gate.plan} and have it reviewed; "
            "--force does not help",
        )


def _check_sources(governing: plans.ChangePlan, folders: Mapping[str, Path]) -> None:
    """The same of where the batches come from; `folders` are theirs."""
    sources = {name: Batch.read(folder / batches.BATCH).source for name, folder in folders.items()}
    if found := governing.description_of_modifications.bounds.foreign(sources.values()):
        raise RefusedError(
            f"outside the plan {governing.name}: {' '.join(found)}",
            where=f"batches {', '.join(f'{name} ({source})' for name, source in sorted(sources.items()))}",
            fix="name the plan of these data in params.yaml, gate.plan, or amend the plan and have it reviewed",
        )


def _write_start(folder: Path, params: Params, champion: Champion) -> None:
    """Give training the champion where it asks for it, and otherwise nothing that a promotion changes."""
    start = folder / contract.START
    shutil.rmtree(start, ignore_errors=True)
    asked = params.train.weights == "champion"
    if asked and champion.package is not None:
        shutil.copytree(folder / contract.CHAMPION / contract.PACKAGE, start / contract.PACKAGE)
    Start(asked=asked, package=champion.package if asked else None).write(start / f"{contract.START}.json")


def _apply(workspace: Path, overrides: Mapping[str, Any]) -> Params:
    """Write overrides into the workspace's `params.yaml`, so that the run commit shows what was run."""
    params = params_of(workspace, overrides)
    if overrides:
        checked = params.model_dump(mode="json", by_alias=True)
        document = dvc.read_params(workspace)
        for key in overrides:
            section, _, name = key.partition(".")
            document.setdefault(section, {})[name] = checked[section][name]
        head = f"# With settings of this run: {', '.join(sorted(overrides))}.\n"
        write_atomic(workspace / dvc.PARAMS, (head + yaml.safe_dump(document, sort_keys=False)).encode())
    return params


def _no_data() -> DataError:
    return DataError(
        "no data set has been ingested",
        fix="cxr-ops ingest nih FOLDER --batch NAME "
        "(or make one: cxr-ops data synth --out FOLDER --images 2000, then ingest it)",
    )
