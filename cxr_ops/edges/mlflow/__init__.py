"""MLflow: the run with all that belongs to it, the registered versions, and the aliases.

Everything here can be done again: a run is found by its tag `cxr.run`, a version by its tag `cxr.package`, and what is
already there is left or written over with the same. MLflow decides nothing. The ledger says which model is the champion
alone; the aliases follow it, and a version counts only while the bytes behind it have the digest on record.
"""
