"""What every task of the DAGs has, unless its DAG says otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

# Three tries: the second after 15 seconds, the third a minute after that.
TASKS: Final[dict[str, Any]] = {
    "owner": "cxr-ops",
    "retries": 2,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": 4,
}
