"""log: the versions of the data set, what each holds and changed, and which runs used it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches, versions
from cxr_ops.edges.store.versions import Version
from cxr_ops.errors import SettingsError
from cxr_ops.records.data import Event
from cxr_ops.stages import index


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A version with what it holds after its events.

    Attributes:
        version: as the history has it.
        images: how many it holds.
        patients: how many have an image in it.
        events: those that came with it; none came with a purge, which writes earlier ones anew.
        runs: those that used it, opened last first.
    """

    version: Version
    images: int
    patients: int
    events: tuple[Event, ...]
    runs: tuple[str, ...]

    @property
    def by(self) -> str:
        """Who made the version, where that is on record."""
        return self.version.by or ", ".join(dict.fromkeys(event.by for event in self.events))

    @property
    def reason(self) -> str:
        """Why, where that is on record."""
        return self.version.reason or "; ".join(dict.fromkeys(event.reason for event in self.events))


def run(home: Home, *, last: int | None = None) -> list[Logged]:
    """List the versions of the data set, the newest first.

    Args:
        home: the installation.
        last: only so many of the newest; None: all.

    Raises:
        SettingsError: `last` is not positive.
        DataError: a batch is missing from the store or was altered.
        StorageError: the remote does not answer, or the ledger is damaged.
    """
    if last is not None and last < 1:
        raise SettingsError(f"{last} versions cannot be shown", where="--last", fix="--last 10")
    every = versions.versions(home)
    before = {later.number: one.data.events for one, later in pairwise(every)}
    made = every[::-1][:last]
    used = versions.runs_by_revision(home)
    found: list[Logged] = []
    with index.run(home, (version.data for version in made)) as known:
        for version in made:
            happened = batches.read_events(home, version.data)
            gone = {image_id for event in happened for image_id in event.images}
            images, patients = known.counts(version.data.batches.values(), without=gone)
            found.append(
                Logged(
                    version=version,
                    images=images,
                    patients=patients,
                    events=tuple(
                        event
                        for event in happened
                        if event.name in version.events and event.name not in before.get(version.number, {})
                    ),
                    runs=tuple(used.get(version.revision, ())),
                )
            )
    return found
