"""Reports for people who are logged in to Airflow: the web application behind the plugin's tab and page.

    /cxr/reports          all published reports, the latest first
    /cxr/reports/RUN      what was published of a run: the summary while its plan withholds what the test set shows
    /cxr/full/RUN         then the full report, for the approvers whom `CXR_APPROVERS` names and nobody else
    /cxr/runs/RUN_ID      the report of a run by Airflow's id of it: the tab
    /cxr/thumbnails/RUN   its first cases as one small picture, for the form of an approval; to approvers alone while
                          the test set is withheld

Every address asks Airflow's auth manager who asks, by its cookie or a token, and whether that user may read runs of
`cxr_retrain`; without a login there is nothing. The files are those of `publish`, which decides what each holds. An
Airflow that makes everybody an administrator knows no approver, and shows no full report that is withheld.

A page comes with a policy by which it loads nothing and runs apart from Airflow's own pages: a script in it, whoever
wrote it, can read no cookie and ask Airflow nothing in a reader's name.

Airflow reads plugins in all of its processes, so that FastAPI is imported when the first page is asked for.
"""

from __future__ import annotations

import base64
import html
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cxr_ops import contract

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PREFIX: Final = "/cxr"
CASES: Final = 4  # that an approval's form shows
_SIDE: Final = 180  # of such a picture, in pixels of a screen
_HEADERS: Final = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",  # what is withheld today may not stay in a cache, nor what a purge removed
}
_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .75rem .35rem 0;"
    "border-bottom:1px solid #8886}"
)


def base() -> str:
    """The path below which this Airflow stands, "" for the root of its host."""
    from airflow.sdk import conf

    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


class _Lazy:
    """The application, made when it is first asked."""

    def __init__(self) -> None:
        self._made: Any = None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if self._made is None:
            self._made = _make()
        await self._made(scope, receive, send)


application: Final = _Lazy()


def _make() -> Any:
    """Make the FastAPI application."""
    import fastapi
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.api_fastapi.core_api.security import get_user

    async def reader(user: Any = fastapi.Depends(get_user)) -> Any:  # noqa: B008 - it is how FastAPI is told
        allowed = get_auth_manager().is_authorized_dag(
            method="GET", access_entity=DagAccessEntity.RUN, details=DagDetails(id=contract.DAG_ID), user=user
        )
        if not allowed:
            raise fastapi.HTTPException(403, f"you may not read runs of {contract.DAG_ID}")
        return user

    app = fastapi.FastAPI(openapi_url=None)  # no page of documentation, which would load scripts from elsewhere

    @app.get("/reports")
    def every(user: Any = fastapi.Depends(reader)) -> Any:  # noqa: B008 - see above
        return _page(_listing(sees_full=is_approver(user.get_id())))

    @app.get("/reports/{run}")
    def published(run: str, user: Any = fastapi.Depends(reader)) -> Any:  # noqa: B008, ARG001 - see above
        return _shown(_file("reports", run), f"There is no report of {run}.")

    @app.get("/full/{run}")
    def full(run: str, user: Any = fastapi.Depends(reader)) -> Any:  # noqa: B008 - see above
        if not is_approver(user.get_id()):
            raise fastapi.HTTPException(403, "full reports are for approvers while a plan withholds the test set")
        found = _file("restricted", run)
        where = found if found is not None and found.is_file() else _file("reports", run)
        return _shown(where, f"There is no report of {run}.")

    @app.get("/thumbnails/{run}")
    def cases(run: str, user: Any = fastapi.Depends(reader)) -> Any:  # noqa: B008 - see above
        withheld = _file("restricted", run)
        if withheld is not None and withheld.is_file() and not is_approver(user.get_id()):
            raise fastapi.HTTPException(403, "pictures of the test set are for approvers while a plan withholds it")
        return fastapi.Response(_thumbnails(run), media_type="image/svg+xml", headers=_HEADERS)

    @app.get("/runs/{run_id:path}")
    def of_run(run_id: str, user: Any = fastapi.Depends(reader)) -> Any:  # noqa: B008, ARG001 - see above
        why = (
            "This run has no report: it has not come to its task publish, ended without a verdict, or trained nothing."
        )
        return _shown(_file("reports", contract.slug(run_id)), why)

    return app


def _page(text: str, status: int = 200) -> Any:
    from fastapi.responses import HTMLResponse

    return HTMLResponse(text, status_code=status, headers=_HEADERS)


def _shown(path: Path | None, why: str) -> Any:
    """A report, or why there is none."""
    try:
        return _page(_sheet("Report", why), 404) if path is None else _page(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _page(_sheet("Report", why), 404)
    except OSError:
        return _page(_sheet("Report", "Airflow's web server may not read this report's file."), 404)


def is_approver(user: str | None) -> bool:
    """Whether `CXR_APPROVERS` names a user's id, in an Airflow that tells its users apart."""
    from airflow.sdk import conf

    from cxr_ops.launchers.arguments import people

    if conf.getboolean("core", "simple_auth_manager_all_admins", fallback=False):
        return False
    return user in {one["id"] for one in people(os.environ.get("CXR_APPROVERS", ""))}


def _home() -> Path | None:
    folder = os.environ.get("CXR_HOME")
    return Path(folder) if folder else None


def _file(folder: str, run: str) -> Path | None:
    """The page of a run in a folder of the installation; None for what is no run's name."""
    home, name = _home(), run.removesuffix(".html")
    return home / folder / f"{name}.html" if home is not None and contract.is_run_name(name) else None


def _listing(*, sees_full: bool) -> str:
    """The page of all reports: run, verdict as it is told, when it was published."""
    home = _home()
    if home is None:
        return _sheet("Reports", "CXR_HOME is not set for Airflow's web server, so it does not know where reports are.")
    rows = []
    for path in (home / "reports").glob("*.html"):
        run = path.stem
        if not contract.is_run_name(run) or not (home / "runs" / run).is_dir():
            continue  # a page of all, of a comparison, or what a person put there
        result = _result(home / "runs" / run / "result.json")
        at = path.stat().st_mtime
        known = [run, str(result.get("verdict") or "not known"), str(result.get("airflow_run_id") or "")]
        withheld = sees_full and (home / "restricted" / path.name).is_file()
        rows.append((at, known, withheld))
    lines = []
    for at, (run, verdict, run_id), withheld in sorted(rows, reverse=True):
        full = f' (<a href="full/{run}">full</a>)' if withheld else ""
        when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
        lines.append(
            f'<tr><th scope="row"><a href="reports/{run}">{run}</a>{full}</th><td>{html.escape(verdict)}</td>'
            f"<td>{when}</td><td>{html.escape(run_id)}</td></tr>"
        )
    if not lines:
        return _sheet("Reports", "No report was published yet.")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Run", "Verdict", "Published (UTC)", "Airflow run"))
    return _sheet("Reports", table=f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>")


def _thumbnails(run: str) -> str:
    """The first cases of a run, each picture once, side by side; a sentence where there is none to show."""
    home = _home()
    drawn: list[str] = []
    if home is not None and contract.is_run_name(run):
        folder = home / "runs" / run / "workspace" / "explain"
        named: dict[str, str] = {}
        for case in _result(folder / "explain.json").get("cases", []):
            named.setdefault(str(case["picture"]), f"{case['finding']}, {case['kind']}".replace("_", " "))
        for picture, label in named.items():
            if len(drawn) == CASES:
                break
            try:
                data = (folder / Path(picture).name).read_bytes()
            except OSError:  # a workspace that is gone, or that the web server may not read
                continue
            x = len(drawn) * (_SIDE + 8)
            drawn.append(
                f'<image x="{x}" width="{_SIDE}" height="{_SIDE}" href="data:image/png;base64,'
                f'{base64.b64encode(data).decode()}"/><text x="{x}" y="{_SIDE + 16}">{html.escape(label)}</text>'
            )
    text = "".join(drawn) or '<text y="16">There is no picture to show.</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{CASES * (_SIDE + 8)}" height="{_SIDE + 24 if drawn else 24}" '
        f'font-family="sans-serif" font-size="12" fill="#808080">{text}</svg>\n'
    )


def _result(path: Path) -> dict[str, Any]:
    """How a run ended, as it is told; nothing where the file is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sheet(title: str, sentence: str = "", table: str = "") -> str:
    said = f"<p>{html.escape(sentence)}</p>" if sentence else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{title}</h1>{said}{table}</body></html>\n"
    )
