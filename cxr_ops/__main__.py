"""`python -m cxr_ops` is `cxr-ops`."""

from cxr_ops.commands.app import main

main()
