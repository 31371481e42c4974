"""An Airflow for the tests of the DAGs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airflow_runs import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("airflow"))
    yield runs
    runs.close()
