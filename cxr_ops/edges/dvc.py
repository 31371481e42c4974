"""DVC, by its command line, and `dvc.yaml` as data.

Where the cache and the remote are is a matter of the installation and not of the project: it is in a
configuration folder under `$CXR_HOME` that `DVC_GLOBAL_CONFIG_DIR` names, so that no workspace has settings of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cxr_ops.contract import DATASET
from cxr_ops.edges import git
from cxr_ops.edges.home import Home
from cxr_ops.errors import CxrError, DataError, SettingsError, StorageError
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file, write_atomic

PIPELINE = "dvc.yaml"
LOCK = "dvc.lock"
PARAMS = "params.yaml"
_PLOTS_TEMPLATE = Path(".dvc/plots/offline.html")
_PLOTS_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">{refresh_tag}
<title>cxr-ops: plots</title>
<script>SCRIPT</script>
<style>body{font-family:sans-serif}table{border-spacing:15px}</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""
_FREE = "free some room in CXR_HOME, then retry; nothing was lost"
_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")


# ------------------------------------------------------------------------------------------- the command line


def environment(home: Home) -> dict[str, str]:
    """The environment in which DVC uses this installation's cache and remote, and stages use this interpreter."""
    _write_config(home)
    env = git.environment(home) | {
        "DVC_GLOBAL_CONFIG_DIR": str(home.dvc_config),
        "DVC_SYSTEM_CONFIG_DIR": str(home.dvc_config / "none"),
        "DVC_SITE_CACHE_DIR": str(home.dvc_notes),
        "DVC_NO_ANALYTICS": "1",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
    }
    # `python -m cxr_ops.stages` must find the workspace's own code: the folder that it runs in comes first.
    for name in ("PYTHONSAFEPATH", "PYTHONHOME", "DVC_ROOT", "DVC_STAGE"):
        env.pop(name, None)
    return env


def command(*arguments: str) -> list[str]:
    """The command line of DVC, by the interpreter that runs this."""
    return [sys.executable, "-m", "dvc", *arguments]


def place(folder: Path, md5: str) -> Path:
    """Where a cache or a remote folder of DVC keeps an object, there or not; a folder's name ends in `.dir`."""
    return folder / "files" / "md5" / md5[:2] / md5[2:]


def dvc(home: Home, folder: Path, *arguments: str) -> str:
    """Run DVC in a folder and return what it prints.

    Before a pull the names of what would be written are checked, because DVC writes wherever they lead.

    Raises:
        DataError: an object is missing from the store, or is not what its digest says: a second attempt would fail too;
            or a name in a pointer or a listing leads out of its folder.
        StorageError: anything else that DVC could not do, in its own words.
    """
    if arguments[0] == "pull":
        _check_names(home, folder, [one for one in arguments[1:] if not one.startswith("-")])
    return _run(home, folder, *arguments)


def _run(home: Home, folder: Path, *arguments: str) -> str:
    env = environment(home)
    if folder.parent == home.root / "tmp":  # thrown away: what DVC notes of it goes along, and does not pile up
        env["DVC_SITE_CACHE_DIR"] = str(folder / ".dvc" / "site")
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise _explain(home, arguments[0], done.stderr)
    return done.stdout


def _check_names(home: Home, folder: Path, targets: Sequence[str]) -> None:
    """See that nothing that a pull would write has a name which leads elsewhere.

    Raises:
        DataError: something has; nothing was written.
        StorageError: the store does not give a listing.
    """
    outs = list(_outs(folder))
    listed = {str(out.get("md5", "")) for _, out in outs if str(out.get("md5", "")).endswith(".dir")}
    if home.remote_folder is None and any(_listing(home, md5) is None for md5 in listed):
        _run(home, folder, "fetch", *targets)  # into the cache, where names are digests
    for pointer, out in outs:
        path = str(out.get("path", ""))
        listing = _listing(home, str(out.get("md5", ""))) or []
        names = [str(entry.get("relpath", "")) for entry in listing]
        folded = Counter(name.casefold() for name in names)
        for name in (path, *names):
            if not _stays_inside(name) or folded[name.casefold()] > 1:
                why = "leads out of its folder" if not _stays_inside(name) else "differs from another only in case"
                raise DataError(
                    f"{pointer.name} or what it lists names {name!r}, which {why}: nothing was written",
                    where=pointer,
                    fix="see who changed the store, and put the object back from a copy of it",
                )


def _outs(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What the pointers and the lock file of a folder say of DVC's outputs; what cannot be read DVC itself refuses."""
    for path in [*sorted(folder.glob("*.dvc")), *sorted((folder / DATASET).glob("*.dvc")), folder / LOCK]:
        try:
            document = yaml.safe_load(path.read_bytes()) if path.is_file() else {}
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        document = document if isinstance(document, dict) else {}
        stages = document.get("stages") or {}
        for one in (document, *(stages.values() if isinstance(stages, dict) else ())):
            for out in (one.get("outs") or ()) if isinstance(one, dict) else ():
                if isinstance(out, dict):
                    yield path, out


def _listing(home: Home, md5: str) -> list[dict[str, Any]] | None:
    """The listing of a folder in the cache or in the remote's folder, None where neither has it whole."""
    if not md5.endswith(".dir"):
        return None
    for root in home.object_folders:
        path = place(root, md5)
        if path.is_file():
            data = path.read_bytes()
            if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir"):
                found: list[dict[str, Any]] = json.loads(data)
                return found
    return None


def _stays_inside(name: str) -> bool:
    """Whether a path of DVC's leads to a place below the folder that it starts from, on any system."""
    return not re.search(r"[\\\0]|^[A-Za-z]:", name) and not {"", ".", ".."} & set(name.split("/"))


def _explain(home: Home, verb: str, stderr: str) -> CxrError:
    """Turn what DVC says on standard error into one of our errors."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("ERROR:")), None)
    said = " ".join(lines[first:] if first is not None else lines[-5:]).removeprefix("ERROR:")
    said = said.partition("Having any troubles?")[0].strip()  # who to ask is for us to say
    said = said.removeprefix("unexpected error - ")
    where = f"the DVC remote {home.dvc_remote}"
    lost = any(words in said for words in ("Checkout failed", "No such file", "NoSuchKey", "Not Found"))
    if verb == "pull" and lost and (home.remote_folder is None or home.remote_folder.is_dir()):
        return DataError(
            f"an object of the data is missing from the store, or is not what its digest says ({said})",
            where=where,
            fix="put the object back from a copy of the store; nothing that arrived altered was kept",
        )
    fix = _fix(said) or _if_full(home) or "cxr-ops doctor, which asks the remote for an answer"
    return StorageError(f"dvc {verb} failed: {said or 'it gave no reason'}", where=where, fix=fix)


def _if_full(home: Home) -> str | None:
    """What is to be done where DVC gave no reason, and the disk is full: SQLite does not always tell it."""
    return _FREE if shutil.disk_usage(home.root).free < 2**20 else None


def _fix(said: str) -> str | None:
    words = said.lower()
    if "nosuchbucket" in words:
        return "make the bucket, or set CXR_DVC_REMOTE to one that is there, then retry"
    if "credentials" in words or "invalidaccesskey" in words or "forbidden" in words or "access denied" in words:
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys that may use the bucket, then retry"
    # "disk I/O error" is what SQLite, where DVC remembers digests, says of a disk that is full to the last page.
    if any(told in words for told in ("no space left", "disk is full", "disk i/o error")):
        return _FREE
    if "connect" in words or "endpoint" in words or "timed out" in words:
        return "check CXR_S3_ENDPOINT and that the server runs, then retry"
    return None


def _write_config(home: Home) -> None:
    """Write the installation's DVC settings, if they are not what they should be."""
    # Hard links first: with reflinks first, DVC leaves a second copy of a batch on a disk that has no reflinks.
    lines = [
        "[core]",
        "analytics = false",
        "check_update = false",
        "remote = store",
        "[cache]",
        f"dir = {_quoted(str(home.dvc_cache))}",
        'type = "hardlink,copy"',
        "['remote \"store\"']",
        f"url = {_quoted(home.dvc_remote)}",
        # Without it DVC takes an altered object for a good one.
        "verify = true",
    ]
    if home.remote_folder is None and home.s3_endpoint:
        lines.append(f"endpointurl = {_quoted(home.s3_endpoint)}")
    text = "\n".join(lines) + "\n"
    path = home.dvc_config / "config"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        home.dvc_config.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())


def _quoted(value: str) -> str:
    quote = "'" if '"' in value else '"'
    if quote in value or "\n" in value:
        raise SettingsError(
            "a path holds both kinds of quotes, or a line break, which DVC cannot take",
            where=value,
            fix="rename the folder, or choose another in CXR_HOME or CXR_DVC_REMOTE",
        )
    return f"{quote}{value}{quote}"


def write_local_config(home: Home, project: Path) -> bool:
    """Let a person's own `dvc` commands in the project find this installation's cache and remote.

    Returns:
        False where `.dvc/config.local` was written by somebody else: it is left as it is.
    """
    head = "# Written by cxr-ops open; delete this line to keep changes of your own.\n"
    path = project / ".dvc" / "config.local"
    if path.is_file() and not path.read_text(encoding="utf-8").startswith(head):
        return False
    _write_config(home)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, head.encode() + (home.dvc_config / "config").read_bytes())
    return True


def write_plots_template(home: Home, folder: Path) -> None:
    """Write the page that `dvc plots` fills, with the drawing script inside, so that it needs no network.

    DVC's own page loads the script from a public server. Ours is built, once an installation, from the copy that
    vl-convert carries.
    """
    built = home.dvc_config / f"plots-{version('vl-convert-python')}.html"
    if not built.is_file():
        import vl_convert

        script = vl_convert.javascript_bundle("window.vega=vega;window.vegaLite=vegaLite;window.vegaEmbed=vegaEmbed;")
        # "</script" inside a string of the script would end it.
        page = _PLOTS_PAGE.replace("SCRIPT", script.replace("</script", "<\\/script"))
        built.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(built, page.encode())
    target = folder / _PLOTS_TEMPLATE
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(built, target)


# --------------------------------------------------------------------------------------------- dvc.yaml as data


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of `dvc.yaml`, with `${...}` filled in from `params.yaml`.

    `tracked` are those of the outs that git keeps and DVC does not (`cache: false`).
    """

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    tracked: tuple[str, ...] = field(default=())


def read_pipeline(folder: Path) -> dict[str, Stage]:
    """Read the stages of a checkout's `dvc.yaml`, in their order.

    Raises:
        SettingsError: the file is missing or is not a pipeline.
    """
    params = read_params(folder)
    try:
        stages = _yaml(folder / PIPELINE)["stages"]
        return {name: _stage(name, body, params) for name, body in stages.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{PIPELINE} is not a pipeline: {error!r}", where=folder / PIPELINE) from error


def read_params(folder: Path) -> dict[str, Any]:
    """Read `params.yaml` as it stands, unchecked.

    Raises:
        SettingsError: the file is missing or does not hold a section a stage.
    """
    params = _yaml(folder / PARAMS)
    if not isinstance(params, dict):
        raise SettingsError("params.yaml must hold one section a stage", where=folder / PARAMS)
    return params


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path.name} is missing", where=path.parent) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} is not YAML: {error}", where=path) from error


def _stage(name: str, body: Mapping[str, Any], params: Mapping[str, Any]) -> Stage:
    outs: list[str] = []
    tracked: list[str] = []
    for entry in (*body.get("outs", ()), *body.get("metrics", ()), *body.get("plots", ())):
        path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        outs.append(path)
        if options.get("cache") is False:
            tracked.append(path)
    return Stage(
        name=name,
        cmd=body["cmd"],
        deps=tuple(_fill(dep, params) for dep in body.get("deps", ())),
        params=tuple(body.get("params", ())),
        outs=tuple(outs),
        tracked=tuple(tracked),
    )


def _fill(text: str, params: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        found: Any = params
        for key in match[1].split("."):
            if not isinstance(found, dict) or key not in found:
                raise SettingsError(f"params.yaml has no {match[1]}, which {PIPELINE} names", where=PARAMS)
            found = found[key]
        return str(found)

    return _INTERPOLATION.sub(value, text)


def upstream(stages: Mapping[str, Stage], name: str) -> list[str]:
    """Stages whose outs a stage needs, directly or through others, and itself, in the pipeline's order."""
    needed: set[str] = set()
    waiting = [name]
    while waiting:
        stage = stages[waiting.pop()]
        needed.add(stage.name)
        makers = (maker_of(stages, dep) for dep in stage.deps)
        waiting += [maker.name for maker in makers if maker is not None and maker.name not in needed]
    return [stage for stage in stages if stage in needed]


def maker_of(stages: Mapping[str, Stage], path: str) -> Stage | None:
    """The stage that makes a path or a folder that holds it, None for a source."""
    for stage in stages.values():
        if any(path == out or path.startswith(f"{out}/") for out in stage.outs):
            return stage
    return None


def read_lock(folder: Path) -> dict[str, Any]:
    """What `dvc.lock` records of each stage that has run; empty before the first."""
    path = folder / LOCK
    return dict(_yaml(path)["stages"]) if path.is_file() else {}


def changed_since_lock(folder: Path) -> list[str]:
    """The paths whose bytes are not those that `dvc.lock` records, of every stage's dependencies and outputs.

    The digests are taken anew: DVC's own memory of them goes by times and sizes, which whoever edits a file can set.
    `dataset/` is left out; its batches are compared when the run is opened, and each image when it is scored.
    """
    recorded: dict[str, str] = {}
    changed: list[str] = []
    for stage in read_lock(folder).values():
        for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
            path, md5 = str(entry["path"]), str(entry["md5"])
            if path != DATASET and recorded.setdefault(path, md5) != md5:
                changed.append(path)  # one stage was given other bytes than another one
    changed += [path for path, md5 in recorded.items() if path not in changed and _md5(folder / path) != md5]
    return sorted(set(changed))


def _md5(path: Path) -> str | None:
    """A file's or folder's digest as DVC names it; None where there is nothing."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    if not path.is_dir():
        return None
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listed = [{"md5": _md5(file), "relpath": name} for name, file in files if "__pycache__" not in file.parts]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def stage_digest(folder: Path, stages: Mapping[str, Stage], name: str) -> str:
    """SHA-256 over all that a stage's outputs depend on: its command, settings, sources and the outs of other stages.

    Sources are read. For the outs of another stage, and for the batches of the data set, the digest that DVC recorded
    is in: it was taken from the bytes, which can be many gigabytes.

    Raises:
        DataError: a source is missing, or a stage that must come before has not run.
    """
    stage = stages[name]
    lock = read_lock(folder)
    params = read_params(folder)
    deps: dict[str, Any] = {}
    for dep in stage.deps:
        maker = maker_of(stages, dep)
        if maker is None:
            deps[dep] = source_digest(folder, dep)
        elif maker.name in lock:
            deps[dep] = [(out["path"], out["md5"]) for out in lock[maker.name].get("outs", [])]
        else:
            raise DataError(
                f"{name} needs {dep}, which {maker.name} makes", where=folder, fix=f"run {maker.name} first"
            )
    settings = {section: params.get(section) for section in stage.params}
    return sha256_bytes(canonical_json({"cmd": stage.cmd, "deps": deps, "params": settings, "outs": list(stage.outs)}))


def source_digest(folder: Path, dep: str) -> Any:
    """Digest of a source: of a file's bytes, or of each file in a folder; of a batch's pointer instead of its files.

    Raises:
        DataError: it is missing.
    """
    path = folder / dep
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise DataError(f"{dep} is missing", where=folder, fix="cxr-ops open")
    pointers = {pointer.with_suffix("") for pointer in path.glob("*.dvc")}
    return {
        file.relative_to(path).as_posix(): sha256_file(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and pointers.isdisjoint(file.parents)
    }
