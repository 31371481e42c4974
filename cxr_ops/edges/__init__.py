"""The edges: all that talks to git, DVC, MLflow, S3, Airflow and the file system's locks."""
