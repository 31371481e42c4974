"""Operators of Airflow that start stages: as processes of this machine, or in containers.

A DAG asks `stage.stage_operator` for a stage's operator and takes its arguments from `arguments`. Both are imported
when a DAG file is read, so they import `airflow.sdk` and the standard library; what a launcher needs besides is
imported for that launcher alone. Of this package they know `contract`, `errors`, `attempt` and `locks`, which are
standard library: where Airflow runs, nothing that stages need has to be installed.
"""
