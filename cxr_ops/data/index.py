"""An index of the images of all batches, so that a new batch is compared with the data set and the whole is not read.

A SQLite file with a row an image, under the digest of the batch that holds it. A batch never changes, so its rows are
written once, by the first command that needs them. Nothing in the file is needed: it may be removed at any time, and is
made again from the batches. One that is damaged, or of another format, is made again too, whenever that shows, and the
log says so.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from cxr_ops.data import manifest
from cxr_ops.errors import StorageError
from cxr_ops.records.data import Batch

FORMAT: Final = 1
FILES: Final = ("batch.json", "manifest.csv", "pixels.csv")  # of a batch, that its rows are made from
_WAIT: Final = 60.0  # seconds for another process that writes
# What SQLite says of a file that is no index of ours: damage, no database, and a table or column that is not there. A
# text that is none has no code.
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)
_log = logging.getLogger(__name__)
_SCHEMA: Final = """
CREATE TABLE batch (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, name TEXT NOT NULL, images INTEGER NOT NULL);
CREATE TABLE image (
    batch INTEGER NOT NULL REFERENCES batch (id),
    image_id TEXT NOT NULL,
    folded TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    sex TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    pixels_sha256 TEXT NOT NULL
);
CREATE INDEX image_folded ON image (folded);
CREATE INDEX image_patient ON image (patient_id);
CREATE INDEX image_sha256 ON image (sha256);
CREATE INDEX image_pixels ON image (pixels_sha256);
CREATE INDEX image_batch ON image (batch, patient_id);
"""
_COUNTS: Final = """
SELECT COUNT(*), COUNT(DISTINCT patient_id) FROM image
WHERE batch IN (SELECT id FROM batch WHERE digest IN (SELECT value FROM json_each(?)))
AND image_id NOT IN (SELECT value FROM json_each(?))
"""
_ROWS: Final = """
SELECT digest, name, image_id, patient_id, sex, sha256, pixels_sha256 FROM image JOIN batch ON batch.id = image.batch
WHERE {column} IN (SELECT value FROM json_each(?))
"""
_QUESTIONS: Final = {
    column: _ROWS.format(column=column) for column in ("folded", "patient_id", "sha256", "pixels_sha256")
}


class Indexed(NamedTuple):
    """A row: the digest and name of the batch that holds an image, and what the batch says of it."""

    digest: str
    batch: str
    image_id: str
    patient_id: str
    sex: str
    sha256: str
    pixels_sha256: str


class Index:
    """The index in a file, which is made where there is none.

    Args:
        path: the file.
        fill: adds the rows that are needed. A file that turns out to be damaged is made again with it, and the question
            is asked again; without it the error asks for the command once more.

    Raises:
        StorageError: it cannot be made or opened.
    """

    def __init__(self, path: Path, fill: Callable[[Index], None] | None = None) -> None:
        self._path = path
        self._fill = fill
        self._mended = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._base = self._open()
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._remove(error)
                self._base = self._open()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"the index of the images cannot be opened: {error}", where=path, fix="remove the file, then retry"
            ) from error

    def _remove(self, error: sqlite3.Error) -> None:
        """Remove a damaged file, and say so. Its journal goes first: it would be played back into the new file."""
        what = "the index of the images is damaged (%s), and is made again from the batches: %s"
        _log.warning(what, error, self._path)
        for end in ("-journal", "-wal", "-shm", ""):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)
        try:
            base.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
            if base.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                base.execute("BEGIN IMMEDIATE")
                found = base.execute("PRAGMA user_version").fetchone()[0]
                if found != FORMAT:  # nobody was faster
                    if found:
                        _log.warning(
                            "the index of the images has the format %d, and is made again from the batches: %s",
                            *(found, self._path),
                        )
                    for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                        base.execute(f'DROP TABLE "{name}"')
                    for statement in filter(str.strip, _SCHEMA.split(";")):
                        base.execute(statement)
                    base.execute(f"PRAGMA user_version = {FORMAT}")
                base.execute("COMMIT")
        except BaseException:
            base.close()
            raise
        return base

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Those of some batches whose rows are not here."""
        return set(digests) - {digest for (digest,) in self._ask("SELECT digest FROM batch")}

    def add(self, digest: str, folder: Path) -> None:
        """Add the rows of a batch, unless they are here.

        Args:
            digest: SHA-256 of its `batch.json`.
            folder: with `FILES` of the batch, which were checked against their digests.

        Raises:
            DataError: a file is damaged.
            StorageError: the index cannot be written.
        """
        record = Batch.read(folder / "batch.json")
        frame = manifest.read_manifest(folder / "manifest.csv")
        table = manifest.read_table(folder / "pixels.csv", manifest.PIXEL_COLUMNS)
        pixels: dict[str, str] = dict(table.itertuples(index=False))
        columns = frame[["image_id", "patient_id", "sex", "sha256"]].itertuples(index=False)
        rows = [
            (image_id, image_id.lower(), patient_id, sex or "", sha256, pixels.get(image_id, ""))
            for image_id, patient_id, sex, sha256 in columns
        ]
        self._write(digest, record.name, rows)

    def _write(self, digest: str, name: str, rows: Sequence[tuple[str, ...]]) -> None:
        try:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                added = "INSERT OR IGNORE INTO batch (digest, name, images) VALUES (?, ?, ?)"
                cursor = self._base.execute(added, (digest, name, len(rows)))
                if cursor.rowcount:
                    known = cursor.lastrowid
                    more = "INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?)"
                    self._base.executemany(more, [(known, *row) for row in rows])
            except BaseException:
                if self._base.in_transaction:  # SQLite may have ended it
                    self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            self._mend(error)
            self._write(digest, name, rows)  # unless they came with the others

    def counts(self, digests: Collection[str], *, without: Collection[str] = ()) -> tuple[int, int]:
        """Images, and patients, of some batches together; a patient with images in several counts once.

        Args:
            digests: of the batches.
            without: ids of images that do not count.
        """
        ((images, patients),) = self._ask(_COUNTS, json.dumps(sorted(digests)), json.dumps(sorted(without)))
        return int(images), int(patients)

    def find(self, column: str, values: Iterable[str], digests: Collection[str]) -> list[Indexed]:
        """The rows with some values in a column, of some batches.

        Args:
            column: `patient_id`, `sha256`, `pixels_sha256`, or `folded`, which is the image id in small letters.
            values: what is looked for.
            digests: of the batches that count.

        Returns:
            The rows by batch and image id.
        """
        counted = set(digests)
        rows = self._ask(_QUESTIONS[column], json.dumps(sorted(set(values))))
        found = [row for row in map(Indexed._make, rows) if row.digest in counted]
        return sorted(found, key=lambda row: (row.batch, row.image_id))

    def _ask(self, question: str, *values: str) -> list[tuple[str, ...]]:
        try:
            return self._base.execute(question, values).fetchall()
        except sqlite3.Error as error:
            self._mend(error)
            return self._ask(question, *values)

    def _mend(self, error: sqlite3.Error) -> None:
        """Make a damaged index again.

        Raises:
            StorageError: the file is not damaged, or the new one is too; or nothing here can fill it.
        """
        if self._mended or not _is_damage(error):
            raise StorageError(
                f"the index of the images cannot be used: {error}",
                where=self._path,
                fix="look for room and rights there, then type the command again",
            ) from error
        self._mended = True
        self._base.close()
        try:
            self._remove(error)
            self._base = self._open()
        except (OSError, sqlite3.Error) as second:
            raise StorageError(
                f"the index of the images is damaged, and cannot be made again: {second}",
                where=self._path,
                fix="remove the file, then type the command again",
            ) from error
        if self._fill is None:
            raise StorageError(
                f"the index of the images was damaged, and was removed: {error}",
                where=self._path,
                fix="type the command again: it is made from the batches",
            ) from error
        self._fill(self)

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _DAMAGE
