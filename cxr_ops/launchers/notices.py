"""Notices to people: a verdict, an approval that is waited for, a failed run, a refused batch, an alarm of the monitor.

They go by the connections of Airflow whose ids `CXR_NOTIFY` names, and by those of `CXR_NOTIFY_APPROVERS` to those who
approve. Runs that end NO_CHANGE, as most that the schedule starts, are told by those of `CXR_NOTIFY_NO_CHANGE` alone.
No provider package is needed:

    http          a POST of JSON (`text`, `event`, `run`, `url`); login and password, or a password alone as a token
    slackwebhook  a POST of `{"text": ...}`, as Slack and Mattermost take it; the password is the end of the address
    smtp          a mail, from `from_email` to `to` of the connection's extra; TLS unless the extra switches it off

A notice says what happened, to which run or batch, and where to look. It holds no reason, no number and nobody's id: a
channel may be read by people from whom the plan withholds them. Whether a run waits for approval is itself withheld
under `disclosure: promotion`, so that notice goes to approvers alone where the run's results are withheld; and so does
that of a run that failed after its verdict, since only one that may be promoted comes to `promote`.

A notice that cannot be sent is a warning in the task's log; the task goes on.
"""

from __future__ import annotations

import base64
import json
import os
import smtplib
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Literal

from airflow.sdk import BaseNotifier, Connection, Context, conf
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError

from cxr_ops import attempt, contract
from cxr_ops.errors import CxrError
from cxr_ops.launchers.protocol import run_id_of

EVERYBODY: Final = "CXR_NOTIFY"
APPROVERS: Final = "CXR_NOTIFY_APPROVERS"
UNCHANGED: Final = "CXR_NOTIFY_NO_CHANGE"
ANSWER_SECONDS: Final = 10.0
PAUSES: Final = (1.0, 3.0)  # seconds before a second and a third attempt

Event = Literal["verdict", "approval", "promotion", "refused", "failed", "no change", "alarm"]


class NotSentError(CxrError):
    """A notice could not be sent; `passing` says that it may work later. The message holds no address and no secret."""

    def __init__(self, what: str, *, fix: str | None = None, passing: bool = False) -> None:
        super().__init__(what, fix=fix)
        self.passing = passing


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What is told.

    Attributes:
        event: what happened.
        text: in a sentence or two, without reasons.
        run: Airflow's id of the run.
        url: of that run in Airflow; None where Airflow does not know its own address.
    """

    event: Event
    text: str
    run: str
    url: str | None

    def whole(self) -> str:
        """The text, and where to look."""
        return self.text + (f"\n{self.url}" if self.url else "")

    def body(self) -> dict[str, str]:
        """For programs."""
        values = {"text": self.whole(), "event": self.event, "run": self.run, "url": self.url}
        return {key: value for key, value in values.items() if value}


class Notify(BaseNotifier):
    """Tells people of an event, as a callback of a task or a notifier of a question.

    Args:
        event: which one.
    """

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event

    def notify(self, context: Context) -> None:
        """Make the notice and send it by every connection that is named; what fails is logged."""
        notice, audience = _MAKERS[self.event](context)
        if notice is None:
            return
        named = channels(audience, os.environ)
        if not named and audience == APPROVERS and os.environ.get(EVERYBODY):
            self.log.warning("nobody was told of it: the run's results are withheld; next: set %s", APPROVERS)
        for name in named:
            try:
                send(name, notice)
            except NotSentError as error:
                self.log.warning("the notice was not sent by the connection %s: %s", name, error)
            else:
                self.log.info("told by the connection %s: %s", name, notice.text)


def channels(audience: str, environ: Mapping[str, str]) -> list[str]:
    """Ids of the connections that a variable names.

    >>> channels("CXR_NOTIFY", {"CXR_NOTIFY": "chat, mail"})
    ['chat', 'mail']
    """
    return [name.strip() for name in environ.get(audience, "").split(",") if name.strip()]


# --------------------------------------------------------------------------------------------------- what is told


def _verdict(context: Context) -> tuple[Notice | None, str]:
    """After `publish`: the verdict as it is told."""
    published = context["ti"].xcom_pull(task_ids="publish")
    return _notice(context, "verdict", f"cxr-ops: {published['verdict']} (run {published['run']})"), EVERYBODY


def _approval(context: Context) -> tuple[Notice | None, str]:
    """While `approve` waits: who may answer, and where."""
    published = context["ti"].xcom_pull(task_ids="publish")
    people = published["approvals"]
    text = (
        f"cxr-ops: run {published['run']} waits for {'an approval' if people == 1 else f'{people} approvals'}; "
        "no answer within a week is a rejection"
    )
    return _notice(context, "approval", text), APPROVERS if published["withheld"] or _has_approvers() else EVERYBODY


def _promotion(context: Context) -> tuple[Notice | None, str]:
    """After `promote`: the model in use has changed."""
    promoted = context["ti"].xcom_pull(task_ids="promote")
    if promoted["already"]:
        return None, EVERYBODY
    text = f"cxr-ops: {contract.MODEL_NAME}/{promoted['model_version']} was promoted (run {_run(context)})"
    return _notice(context, "promotion", text), EVERYBODY


def _refused(context: Context) -> tuple[Notice | None, str]:
    """After `ingest` failed for good: that a batch did not enter, not why."""
    batch = context["params"]["batch"]
    data = _exit_code(context) == contract.EXIT_DATA
    happened = "was refused" if data else "could not be ingested"
    return _notice(context, "refused", f"cxr-ops: batch {batch} {happened}; the task's log says why"), EVERYBODY


def _failed(context: Context) -> tuple[Notice | None, str]:
    """After a task failed for good: which one, not why; to few, where that would tell a verdict that is withheld."""
    task = context["ti"].task_id
    published = context["ti"].xcom_pull(task_ids="publish") if task in _AFTER_VERDICT else None
    text = f"cxr-ops: run {_run(context)} of {context['ti'].dag_id} failed at {task}; the task's log says why"
    return _notice(context, "failed", text), APPROVERS if published and published["withheld"] else EVERYBODY


def _no_change(context: Context) -> tuple[Notice | None, str]:
    """After a stage that may end a run NO_CHANGE: that it did."""
    if not context["ti"].xcom_pull(task_ids=context["ti"].task_id)["no_change"]:
        return None, UNCHANGED
    text = f"cxr-ops: {contract.NO_CHANGE}: the champion stays (run {_run(context)})"
    return _notice(context, "no change", text), UNCHANGED


def _alarm(context: Context) -> tuple[Notice | None, str]:
    """After `monitor`: that the model in use is in alarm, not why."""
    if not context["ti"].xcom_pull(task_ids=context["ti"].task_id)["alarm"]:
        return None, EVERYBODY
    text = "cxr-ops: the model in use is in alarm; the log of the task monitor says since when and why"
    return _notice(context, "alarm", text), EVERYBODY


_AFTER_VERDICT: Final = ("route", "approve", "promote", "keep")
_MAKERS: Final[dict[Event, Callable[[Context], tuple[Notice | None, str]]]] = {
    "verdict": _verdict,
    "approval": _approval,
    "promotion": _promotion,
    "refused": _refused,
    "failed": _failed,
    "no change": _no_change,
    "alarm": _alarm,
}


def _notice(context: Context, event: Event, text: str) -> Notice:
    run_id, base = run_id_of(context), conf.get("api", "base_url", fallback=None)
    url = f"{base.rstrip('/')}/dags/{context['ti'].dag_id}/runs/{run_id}" if base else None
    return Notice(event=event, text=text, run=run_id, url=url)


def _run(context: Context) -> str:
    return contract.slug(run_id_of(context))


def _has_approvers() -> bool:
    return bool(channels(APPROVERS, os.environ))


def _exit_code(context: Context) -> int | None:
    """How the last attempt of the task ended; None where it left nothing."""
    ti, home = context["ti"], Path(os.environ.get("CXR_HOME", ""))
    folder = attempt.last_folder(home, _run(context), ti.task_id, ti.try_number)
    try:
        return attempt.read(folder, ti.task_id).exit_code if folder else None
    except CxrError:
        return None


# ------------------------------------------------------------------------------------------------- how it is sent


def send(name: str, notice: Notice) -> None:
    """Send a notice by a connection of Airflow; what may pass is tried again.

    Args:
        name: the connection's id.
        notice: what to tell.

    Raises:
        NotSentError: there is no such connection, it is of a kind that is not known, or nobody took the notice.
    """
    try:
        connection = Connection.get(name)
    except AirflowNotFoundException as error:
        raise NotSentError("there is no such connection", fix=f"airflow connections add {name}") from error
    except AirflowRuntimeError as error:
        raise NotSentError(f"Airflow does not give it ({error.error.error.value})") from error
    way = _WAYS.get(connection.conn_type or "")
    if way is None:
        kinds = ", ".join(_WAYS)
        raise NotSentError(f"its type is {connection.conn_type!r}", fix=f"make it one of {kinds}")
    for pause in PAUSES:
        try:
            way(connection, notice)
        except NotSentError as error:
            if not error.passing:
                raise
            time.sleep(pause)
        else:
            return
    way(connection, notice)


def _http(connection: Connection, notice: Notice) -> None:
    headers = {str(key): str(value) for key, value in connection.extra_dejson.items()}
    if connection.login:
        pair = f"{connection.login}:{connection.password or ''}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    elif connection.password:
        headers["Authorization"] = f"Bearer {connection.password}"
    _post(_address(connection), notice.body(), headers)


def _slack(connection: Connection, notice: Notice) -> None:
    host = (connection.host or "https://hooks.slack.com/services").rstrip("/")
    end = (connection.password or "").strip("/")
    address = end if "://" in end else f"{host}/{end}" if "://" in host else f"https://{host}/{end}"
    _post(address.rstrip("/"), {"text": notice.whole()}, {})


def _smtp(connection: Connection, notice: Notice) -> None:
    extra = connection.extra_dejson
    people = extra.get("to") or []
    message = EmailMessage()
    message["Subject"] = notice.text.splitlines()[0]
    message["From"] = extra.get("from_email") or connection.login or ""
    message["To"] = people if isinstance(people, str) else ", ".join(people)
    if not message["From"] or not message["To"]:
        raise NotSentError("it names no sender or no reader", fix='set its extra to {"from_email": "...", "to": "..."}')
    message.set_content(notice.whole())
    plain = _on(extra.get("disable_ssl"))
    kind = smtplib.SMTP if plain else smtplib.SMTP_SSL
    try:
        port = connection.port or (587 if plain else 465)
        with kind(connection.host or "localhost", port, timeout=ANSWER_SECONDS) as server:
            if plain and not _on(extra.get("disable_tls")):
                server.starttls()
            if connection.login:
                server.login(connection.login, connection.password or "")
            server.send_message(message)
    except smtplib.SMTPResponseException as error:
        raise NotSentError(
            f"the mail server answers {error.smtp_code}", passing=400 <= error.smtp_code < 500
        ) from error
    except smtplib.SMTPException as error:
        raise NotSentError(f"the mail server did not take it ({type(error).__name__})") from error
    except OSError as error:
        raise NotSentError(f"the mail server does not answer ({type(error).__name__})", passing=True) from error


_WAYS: Final[dict[str, Callable[[Connection, Notice], None]]] = {
    "http": _http,
    "https": _http,
    "slackwebhook": _slack,
    "smtp": _smtp,
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent elsewhere would become a GET that tells nobody anything."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(address: str, body: Mapping[str, str], headers: Mapping[str, str]) -> None:
    if not address.startswith(("https://", "http://")):
        raise NotSentError("its address does not begin with https:// or http://")
    try:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked
            address,
            method="POST",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=ANSWER_SECONDS) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        passing = error.code >= 500 or error.code == 429
        raise NotSentError(f"the server answers {error.code} {error.reason}", passing=passing) from error
    except (HTTPException, ValueError) as error:
        raise NotSentError(f"its address or its headers are of no use ({type(error).__name__})") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise NotSentError(f"the server does not answer ({type(reason).__name__})", passing=True) from error


def _address(connection: Connection) -> str:
    """The address of an http connection: the host whole, or put together as Airflow's own hook does it."""
    host = connection.host or ""
    if "://" in host:
        return host
    # In an address such as https://host/path Airflow calls the path the schema.
    scheme, path = connection.schema or "", ""
    if scheme not in ("http", "https"):
        scheme, path = ("https" if connection.conn_type == "https" else "http"), scheme
    port = f":{connection.port}" if connection.port else ""
    return f"{scheme}://{host}{port}/{path.lstrip('/')}"


def _on(value: Any) -> bool:
    return str(value).lower() in ("true", "1")
