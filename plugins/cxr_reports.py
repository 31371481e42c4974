"""Reports in Airflow: a tab on each run, and a page of all.

Airflow finds this file where its plugins folder is this one, as the embedded Airflow has it; another installation sets
`AIRFLOW__CORE__PLUGINS_FOLDER`, or copies the file. Who sees what stands in `cxr_ops.launchers.reports`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from cxr_ops.launchers.reports import PREFIX, application, base


class CxrReports(AirflowPlugin):
    """What Airflow is given."""

    name = "cxr_reports"
    fastapi_apps: ClassVar[list[Any]] = [{"app": application, "url_prefix": PREFIX, "name": "Reports of cxr-ops"}]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Report",
            "href": f"{base()}{PREFIX}/runs/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "cxr-report",
        },
        {
            "name": "Reports",
            "href": f"{base()}{PREFIX}/reports",
            "destination": "nav",
            "category": "browse",
            "url_route": "cxr-reports",
        },
    ]
