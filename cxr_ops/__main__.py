"""`python -m cxr_ops` is `cxr-ops`."""

from cxr_ops.cli import main

main()
