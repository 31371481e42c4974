"""The record of an audit bundle: what is in it, by digest, and what is not."""

from __future__ import annotations

from typing import ClassVar, Final

from cxr_ops.records.base import Kept, canonical_json, sha256_bytes

CONTENTS: Final = "bundle.json"


class Bundle(Kept):
    """An audit bundle: `bundle.json`, its first file.

    `version` is that of the cxr-ops that made it, `documents` the form of the papers in it, `run` the run that it is
    about, `decision` the digest of the ledger's entry. `entries` and `head` say how long the ledger is in it and with
    which entry it ends; `withheld` counts the entries after that, which a plan withholds from who made it. `files` has
    the SHA-256 of every other file. `left_out` says in sentences what a reader might look for and does not find. `seal`
    is the SHA-256 of all of this but the seal.
    """

    newest: ClassVar[int] = 1

    format: int = newest
    version: str
    documents: int
    run: str
    decision: str
    entries: int
    head: str
    withheld: int = 0
    files: dict[str, str]
    left_out: list[str] = []
    seal: str = ""

    def sealed(self) -> Bundle:
        """The same with its seal."""
        return self.model_copy(update={"seal": self.own_seal()})

    def own_seal(self) -> str:
        """SHA-256 of all but the seal."""
        return sha256_bytes(canonical_json(self.model_dump(mode="json", exclude={"seal"})))
