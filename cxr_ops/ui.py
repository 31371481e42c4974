"""What `cxr-ops ui` does: Airflow and MLflow on the stores of this installation, for people to look at."""

from __future__ import annotations

import os
import time
import webbrowser
from typing import Final

from cxr_ops import voice
from cxr_ops.edges.airflow import processes
from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow.server import serving
from cxr_ops.edges.signals import stoppable
from cxr_ops.errors import StoppedError

_POLL: Final = 1.0


def ui(home: Home) -> int:
    """Run Airflow and MLflow on the stores of this installation until Ctrl-C.

    Returns:
        The exit code.

    Raises:
        CxrError: one of them cannot be started, or has ended by itself.
    """
    say = voice.Speaker(voice.console()).say
    try:
        with stoppable(), processes.running(home, say=say) as session, serving(home, say) as mlflow_url:
            session.ready()
            say(f"Airflow  {session.url}")
            say(f"MLflow   {mlflow_url}")
            say("Ctrl-C stops both")
            if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
                for url in (session.url, mlflow_url):
                    webbrowser.open(url)
            while True:
                time.sleep(_POLL)
                session.check()
    except StoppedError:
        return 0
