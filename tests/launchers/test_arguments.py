from __future__ import annotations

import pytest
import yaml
from airflow_runs import Apart

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize("value", [3, 1e-05, 2.5e22, -1e-7, True, None, "none", "1e5", "a: b", [1, 2]], ids=repr)
def test_settings_survive_the_command_line(airflow: Apart, value: object) -> None:
    """PyYAML reads a written setting back as the same value of the same type."""
    read = yaml.safe_load(airflow.call("cxr_ops.launchers.arguments.yaml_scalar", value))
    assert (type(read), read) == (type(value), value)
