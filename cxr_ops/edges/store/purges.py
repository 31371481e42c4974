"""What purges have replaced: the data branch and run commits stay, and are read with this in mind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import yaml

from cxr_ops.audit.package import patient_key
from cxr_ops.edges.git import git_bytes
from cxr_ops.edges.home import Home
from cxr_ops.edges.store.repository import move_ref, resolve_ref, write_blob
from cxr_ops.records.purge import Purged, Replacement

REF: Final = "refs/cxr/purged"
_SALT: Final = "cxr_ops.purged"  # not that of the split, which may be changed


def read(home: Home) -> Purged:
    """What purges have replaced and removed so far; nothing, where there was none.

    Raises:
        StorageError: the store cannot be read.
    """
    blob = resolve_ref(home, REF)
    return (
        Purged() if blob is None else Purged.model_validate_json(git_bytes(home, home.store, "cat-file", "blob", blob))
    )


def name_of(patient: str) -> str:
    """What the record calls a patient: a hash with a public key, which hides nobody whose id can be guessed."""
    return patient_key(_SALT, patient)


def add(
    home: Home,
    replaced: Mapping[str, Replacement | None],
    objects: Iterable[str] = (),
    patients: Iterable[str] = (),
) -> None:
    """Record what was replaced and removed; from then on no version of the data set shows it.

    Args:
        home: the installation.
        replaced: what stands in the place of a batch or event.
        objects: of DVC, which are to be deleted.
        patients: who do not come in again, as `name_of` calls them.

    Raises:
        StorageError: the store cannot be written.
    """
    while True:
        before = resolve_ref(home, REF)
        known = read(home)
        now = Purged(
            format=Purged.newest,
            replaced={**known.replaced, **replaced},
            objects=sorted({*known.objects, *objects}),
            patients=sorted({*known.patients, *patients}),
        )
        if move_ref(home, REF, write_blob(home, now.to_bytes()), before):
            return


def pointer(known: Purged, found: bytes) -> bytes | None:
    """The pointer that stands in the place of one, which may be itself; None where nothing is left of it."""
    if not known.replaced:
        return found
    digest = str((yaml.safe_load(found) or {}).get("meta", {}).get("sha256"))
    while digest in known.replaced:  # a batch may be purged of one patient after another
        instead = known.replaced[digest]
        if instead is None:
            return None
        digest, found = instead.record, instead.pointer.encode()
    return found
