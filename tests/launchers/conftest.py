"""A process that may import Airflow, for the tests of the launchers; it needs no database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airflow_runs import Apart


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    apart = Apart({"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))})
    yield apart
    apart.close()
