"""Airflow: its REST API, and an embedded Airflow of this installation that is started when it is needed.

A server of your own is announced to instead, if `CXR_AIRFLOW_URL` and `CXR_AIRFLOW_TOKEN` name it.
"""
