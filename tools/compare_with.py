"""Runs the same run by an earlier version and by this commit, and says what they write differently.

    python tools/compare_with.py 6965aa7 [--runs 2] [--folder FOLDER]

The earlier version draws a small data set. Then each version, in a clone and an installation of its own, ingests it,
and opens, trains, evaluates, judges, publishes and promotes: once without a champion, and with `--runs 2` once more
with another seed against the first. The same libraries run both, and one thread computes. The files that stages write,
those that `open` leaves and the ledger's entries are compared: byte for byte, and where JSON differs, key by key.

Exit 1 where something differs that `EXPECTED` does not name, with its reason. `docs/compatibility.md` is the list for
people. Files of this folder are read and written: FOLDER is kept, and a second call goes on where the first was ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLAN = "pccp.nih-sample-demo.yaml"
RUNS = ("one", "two")  # the second is judged against the first
STAGES = ("validate", "split", "prepare", "train", "evaluate", "explain", "gate", "report")
# What a run of seconds wants otherwise: pictures of 64 pixels, one epoch, a few patients.
SETTINGS = {
    "validate.min_images": 20,
    "validate.min_patients": 10,
    "prepare.image_size": 64,
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.threads": 1,
    "train.device": "cpu",
    "train.precision": "fp32",
    "gate.plan": PLAN,
}
# Floors and margins under which an untrained model is promoted, so that the second run has a champion.
WIDE = (
    (r"min_test_patients: \d+.*", "min_test_patients: 10"),
    (r"min_(positive|negative)_patients: \d+.*", r"min_\1_patients: 3"),
    (r"floor: 0\.50.*", "floor: 0.01"),
    (r"(margin|gain): 0\.\d+.*", r"\1: 0.9"),
)
# Of an installation: files of a run's workspace, and the ledger's entries.
OPENED = ("inputs.json", "look.json", "epoch.json", "test-period.json", "champion", "reference", "start", "params.yaml")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A difference that is meant: `file` and `key` are regular expressions, `why` is a sentence."""

    file: str
    key: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What two versions write differently: a key of a JSON file, or the whole of another file (no key)."""

    file: str
    key: str
    old: str
    new: str


# Keys and files that have another name since, by their old ones. A file is compared under its new name.
RENAMED_FILES = {"epoch.json": "test-period.json"}
RENAMED_KEYS = {"epoch": "period"}
EXPECTED: tuple[Expected, ...] = (
    Expected(
        file=r"ledger/.*|.*/inputs\.json|.*/verdict\.json",
        key=r"at|seal|prev|seq|(body\.)?(code_commit|code\.commit|data_revision|data\.revision|run_commit|mlflow_run_id)",
        why="times, commits and MLflow's ids, which are a run's own, and the hashes and numbers of entries",
    ),
    Expected(
        file=r".*\.json",
        key=r"(body\.)?(plan|plan\.sha256|plan_sha256|inputs|evaluation|verdict_digest|decision|report|recipe)",
        why="digests of what names another commit or has new keys, of the plan under its new keys, and of the recipe",
    ),
    Expected(
        file=r".*/(inputs|verdict|champion|decision-\d|promotion-\d)\.json",
        key=r"(champion\.)?(entry|recipe)|ledger\.(entries|head)|body\.(champion|replaces)",
        why="digests and number of the ledger's entries, and the champion's recipe",
    ),
    Expected(file=r".*\.json", key=r"format", why="records and entries say their format"),
    Expected(
        file=r"ledger/plan-1\.json|.*/look\.json", key="", why="new: the plan in force, and the look on record (0017)"
    ),
    Expected(
        file=r"ledger/.*|.*/inputs\.json|.*/verdict\.json",
        key=r"(body\.)?(limits\..*|other_plan)",
        why="new keys: what the plan asks for, and whether it is the one in force (0017)",
    ),
    Expected(
        file=r".*/evaluation\.json",
        key=r"scored|(.*\.)?(interval(\[\d\])?|interval\..*|unscored)",
        why="new keys: which set was scored (0017), the interval of a difference (0016), the models that have no score",
    ),
    Expected(
        file=r"ledger/.*|.*/inputs\.json|.*/verdict\.json",
        key=r"body\.(claim|raises)|allowance\..*|spending",
        why="new keys: what a look may spend, what it claims, and whether a promotion raises the reference (0019)",
    ),
    Expected(
        file=r".*/evaluation\.json",
        key=r"composites|(.*\.)?(reference_)?falls(\..*)?",
        why="new keys: patients of a rare finding whose rank fell, and composites",
    ),
    Expected(
        file=r".*/evaluation\.json",
        key=r"localization|heat_maps|(.*\.)?flips(\..*)?",
        why="new keys: images that champion and challenger call differently, and heat maps against boxes",
    ),
    Expected(
        file=r".*/explain/.*",
        key=r".*",
        why="format 2: cases at the operating points; maps are numbers, and pictures the radiographs alone",
    ),
    Expected(
        file=r".*/validation\.json",
        key=r"suites\..*|checks.*",
        why="expectations: a suite for each level; an id may end in .jpg; no view or sex is a warning",
    ),
    Expected(file=r".*/validate/(attributes|sides)\.csv", key="", why="new: side tables and a kept split"),
    Expected(file=r".*/validate/failures\.csv", key="", why="new: every row that failed a check and was let pass"),
    Expected(file=r".*/inputs\.json", key=r"data\.batches\..*", why="a batch's record has keys for its side tables"),
    Expected(file=r".*\.html", key="", why="pages for people"),
)


# ---------------------------------------------------------------------------------------------------- comparison


def differences(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[Difference]:
    """What differs between the files of two installations, by their names.

    Args:
        old: of the earlier version, under the names that it gives them.
        new: of this version.
    """
    renamed = {_renamed(name, RENAMED_FILES): data for name, data in old.items()}
    for name in sorted(renamed.keys() | new.keys()):
        before, after = renamed.get(name), new.get(name)
        if before is None or after is None:
            yield Difference(file=name, key="", old=_presence(before), new=_presence(after))
        elif before != after:
            if name.endswith(".json"):
                yield from _keys(name, json.loads(before), json.loads(after))
            else:
                yield Difference(file=name, key="", old=f"{len(before)} bytes", new=f"{len(after)} bytes")


def _keys(name: str, before: Any, after: Any) -> Iterator[Difference]:
    old = {_renamed(key, RENAMED_KEYS): value for key, value in _leaves(before)}
    new = dict(_leaves(after))
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key, "absent") != new.get(key, "absent")]
    for key in differing:
        yield Difference(file=name, key=key, old=str(old.get(key, "absent")), new=str(new.get(key, "absent")))
    if not differing:
        yield Difference(file=name, key="(layout)", old="keys by other names", new="or in another order")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that holds no other, with its path: keys with dots between, and places in lists."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}[{place}]")
    else:
        yield path, json.dumps(value)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        name = re.sub(rf"(^|[./\]]){re.escape(old)}(?=$|[.\[])", rf"\1{new}", name)
    return name


def _presence(data: bytes | None) -> str:
    return "absent" if data is None else f"{len(data)} bytes"


def explained(found: Iterable[Difference]) -> tuple[dict[Expected, list[Difference]], list[Difference]]:
    """Differences by what explains them, and those that nothing explains."""
    by_reason: dict[Expected, list[Difference]] = {}
    rest = []
    for one in found:
        reason = next((e for e in EXPECTED if re.fullmatch(e.file, one.file) and re.fullmatch(e.key, one.key)), None)
        if reason is None:
            rest.append(one)
        else:
            by_reason.setdefault(reason, []).append(one)
    return by_reason, rest


# ------------------------------------------------------------------------------------------------------- the runs


class Version:
    """A version of the code in a clone of its own, with an installation of its own."""

    def __init__(self, revision: str, folder: Path) -> None:
        self.project, self.home = folder / "project", folder / "home"
        self._done = folder / "done"
        self._revision = revision

    def clone(self) -> None:
        """Bring the code, and widen the plan's margins."""
        if self._once("clone"):
            return
        git = ["git", "-C", str(self.project)]
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.project)], check=True)
        subprocess.run([*git, "checkout", "--quiet", "--detach", self._revision], check=True)
        plan = self.project / PLAN
        text = plan.read_text(encoding="utf-8")
        for pattern, wide in WIDE:
            text = re.sub(pattern, wide, text)
        plan.write_text(text, encoding="utf-8")
        person = ["-c", "user.name=compare", "-c", "user.email=compare@invalid"]
        subprocess.run([*git, *person, "commit", "--quiet", "--all", "--message=A plan of wide margins"], check=True)
        self._mark("clone")

    def command(self, *arguments: str) -> None:
        """Run a command of this version, unless it has run already."""
        if self._once(" ".join(arguments)):
            return
        print(f"{self.project.parent.name}: cxr-ops {' '.join(arguments)}", file=sys.stderr)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CXR_", "AIRFLOW"))}
        environment |= {
            "CXR_HOME": str(self.home),
            "CXR_PROJECT": str(self.project),
            "PYTHONPATH": str(self.project),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        done = subprocess.run(
            [sys.executable, "-m", "cxr_ops", *arguments],
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}\nerror: cxr-ops {arguments[0]} ended with {done.returncode}")
        self._mark(" ".join(arguments))

    def files(self, runs: Iterable[str]) -> dict[str, bytes]:
        """What it wrote: files of stages and what `open` left, by run, and the ledger's entries by number."""
        found = {}
        for run in runs:
            workspace = self.home / "runs" / run / "workspace"
            for name in (*OPENED, *STAGES):
                top = workspace / name
                for path in [top] if top.is_file() else sorted(top.rglob("*")):
                    if path.is_file():
                        found[f"{run}/{path.relative_to(workspace).as_posix()}"] = path.read_bytes()
        kinds: Counter[str] = Counter()
        for path in sorted((self.home / "ledger").rglob("*.json")):
            kind = json.loads(path.read_bytes())["kind"]
            kinds[kind] += 1
            found[f"ledger/{kind}-{kinds[kind]}.json"] = path.read_bytes()  # their numbers move where a kind is new
        return found

    def _once(self, what: str) -> bool:
        return self._done.is_file() and what in self._done.read_text(encoding="utf-8").splitlines()

    def _mark(self, what: str) -> None:
        with self._done.open("a", encoding="utf-8") as file:
            file.write(f"{what}\n")


def play(version: Version, data: Path, runs: Iterable[str]) -> None:
    """Ingest the data, and do whole runs."""
    version.command("ingest", "nih", str(data), "--batch", "first")
    for number, run in enumerate(runs):
        settings = [f"--set={key}={value}" for key, value in {**SETTINGS, "train.seed": number}.items()]
        version.command("stage", "open", "--run", run, *settings)
        for stage in (*STAGES, "publish", "promote"):
            version.command("stage", stage, "--run", run)


def main(arguments: list[str]) -> int:
    """Run both versions, compare, and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="the earlier version, as git names it")
    parser.add_argument(
        "--runs", type=int, default=1, choices=range(1, len(RUNS) + 1), help="1; 2: one against a champion"
    )
    parser.add_argument("--folder", type=Path, help="kept, and gone on from; without it, a temporary one")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cxr-compare-") as aside:
        folder, runs = (given.folder or Path(aside)).resolve(), RUNS[: given.runs]
        old, new = Version(given.revision, folder / "old"), Version("HEAD", folder / "new")
        for version in (old, new):
            version.home.mkdir(parents=True, exist_ok=True)
            version.clone()
        data = folder / "data"
        old.command("data", "synth", "--out", str(data), "--images", "240", "--size", "64", "--seed", "0")
        # This version refuses generated pictures under ids that patients have, as the earlier one gave them.
        (data / "synth.json").unlink(missing_ok=True)
        for version in (old, new):
            play(version, data, runs)
        before, after = old.files(runs), new.files(runs)
        return tell(before, after)


def tell(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> int:
    """Print what is the same, what differs and why, and what nothing explains; 1 if there is such."""
    by_reason, rest = explained(differences(before, after))
    differing = {one.file for ones in by_reason.values() for one in ones} | {one.file for one in rest}
    same = sorted(after.keys() - differing)
    print(f"byte for byte the same: {len(same)} files")
    for name in same:
        print(f"  {name}")
    for reason, ones in by_reason.items():
        print(f"{reason.why}: {len(ones)}")
        _list(ones)
    if rest:
        print(f"UNEXPECTED: {len(rest)}")
        _list(rest)
    return 1 if rest else 0


def _list(ones: Iterable[Difference]) -> None:
    """Print each difference once, whatever its places in lists."""
    alike: dict[tuple[str, str], list[Difference]] = {}
    for one in ones:
        alike.setdefault((one.file, re.sub(r"\[\d+\]", "[]", one.key)), []).append(one)
    for (file, key), (first, *more) in alike.items():
        others = f", and {len(more)} like it" if more else ""
        print(f"  {file}: {key}: {first.old[:70]} -> {first.new[:70]}{others}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
