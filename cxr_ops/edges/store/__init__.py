"""The store: a bare git repository for what is small, and the DVC remote for what is large.

    refs/heads/data              the data set: dataset/<batch>.dvc, one commit an ingestion
    refs/heads/runs/<run>        a run's latest commit: code, params, pointers, inputs.json, dvc.lock, small results
    refs/cxr/runs/<commit>       every run commit that was ever published
    refs/cxr/code/<commit>       commits of the project that a run used
    refs/cxr/snapshots/<commit>  uncommitted code that a run used
    refs/cxr/recipes/<digest>    what a recipe's digest was taken of (a blob)

The project's own repository is only ever read.
"""
