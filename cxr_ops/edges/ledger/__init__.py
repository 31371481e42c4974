"""Where the ledger's entries are kept, and the chain that they form there; `open_ledger` is the one way in."""

from __future__ import annotations

from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger.chain import Ledger
from cxr_ops.edges.ledger.folder import Folder

__all__ = ["Folder", "Ledger", "open_ledger"]


def open_ledger(home: Home) -> Ledger:
    """The ledger of an installation."""
    return Ledger(Folder(home.ledger))
