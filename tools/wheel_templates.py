"""Put the plans of the project's folder into the wheel, where `cxr-ops plan template` reads them.

Hatchling calls this. An editable install gets none: it reads the project's folder itself, and a copy would grow stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLANS = "pccp*.yaml"


class WheelTemplates(BuildHookInterface):
    """The hook that `pyproject.toml` names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the plans to a wheel that is to be installed as it is."""
        if version == "standard":
            for path in sorted(Path(self.root).glob(PLANS)):
                build_data["force_include"][str(path)] = f"cxr_ops/templates/{path.name}"
