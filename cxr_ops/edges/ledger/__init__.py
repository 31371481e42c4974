"""Where the ledger's entries are kept, and the chain that they form there; `open_ledger` is the one way in."""

from __future__ import annotations

from pathlib import Path

from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger.anchors import Anchors
from cxr_ops.edges.ledger.bucket import Bucket
from cxr_ops.edges.ledger.chain import Ledger, Storage
from cxr_ops.edges.ledger.folder import Folder
from cxr_ops.edges.ledger.memory import Memory
from cxr_ops.records.base import sha256_bytes

__all__ = ["Anchors", "Bucket", "Folder", "Ledger", "Memory", "open_anchors", "open_ledger", "open_storage"]


def open_ledger(home: Home) -> Ledger:
    """The ledger of an installation."""
    storage = open_storage(home, home.ledger_address)
    # Two ledgers of one installation, one after the other, are not taken for each other.
    memory = Memory(home.root / "checked" / sha256_bytes(home.ledger_address.encode())[:16])
    return Ledger(storage, memory, open_anchors(home))


def open_anchors(home: Home) -> Anchors | None:
    """The anchors of an installation's ledger, None where no place for them is named."""
    return Anchors(open_storage(home, home.anchor_address)) if home.anchor_address else None


def open_storage(home: Home, address: str) -> Storage:
    """What keeps entries at an address: a folder, or a place in a bucket."""
    if not address.startswith("s3://"):
        return Folder(Path(address))
    return Bucket(address, home.s3_endpoint, days=home.settings.ledger_lock_days)
