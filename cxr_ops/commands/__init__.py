"""The command line `cxr-ops`: a file a noun. `app.py` puts them together."""
