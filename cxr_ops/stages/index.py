"""index: bring the index of the images up to the versions that a command asks about."""

from __future__ import annotations

from collections.abc import Iterable

from cxr_ops.data import index
from cxr_ops.data.index import Index
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.records.data import DataRevision


def run(home: Home, versions: Iterable[DataRevision]) -> Index:
    """Open the index, with the rows of every batch of some versions in it.

    Only batches that the index does not hold are read. An index that turns out to be damaged, now or by a later
    question, is made again from the batches of these versions.

    Args:
        home: the installation.
        versions: states of the data set.

    Returns:
        The index, which the caller closes.

    Raises:
        DataError: a batch is missing from the store or was altered.
        StorageError: the remote does not answer, or the index cannot be written.
    """
    asked = list(versions)

    def fill(known: Index) -> None:
        for version in asked:
            missing = known.missing(version.batches.values())
            wanted = {name: digest for name, digest in version.batches.items() if digest in missing}
            if wanted:
                only = version.model_copy(update={"batches": wanted})
                for name, folder in batches.batch_files(home, index.FILES, only).items():
                    known.add(wanted[name], folder)

    opened = Index(home.index, fill)
    try:
        fill(opened)
    except BaseException:
        opened.close()
        raise
    return opened
