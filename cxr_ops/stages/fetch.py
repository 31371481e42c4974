"""fetch: bring the NIH's ChestX-ray14 from its publisher, into the layout that `ingest nih` takes.

Twelve archives, 42 GB, each checked against the MD5 sum that the NIH publishes, unpacked to `images_001/images/` ...
and then deleted. Whatever breaks off goes on where it stood when the command is typed again. The tables (labels, boxes,
lists of the split) have no address that a program can use: a person takes them from the page that the end of the
command names.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.data import room
from cxr_ops.data.manifest import IMAGE_ID
from cxr_ops.edges import download
from cxr_ops.errors import DataError, StorageError

PAGE: Final = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
TABLES: Final = ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt")
_FREE: Final = 10 * 2**30  # bytes: the largest archive and its pictures at once, 8 GiB, and some room
_STATIC: Final = "https://nihcc.box.com/shared/static"


@dataclass(frozen=True)
class Archive:
    """An archive: its name without ending, its address, and its MD5 sum as the publisher gives it."""

    name: str
    url: str
    md5: str


# The addresses and sums that the release's own script and list give.
ARCHIVES: Final = tuple(
    Archive(f"images_{number:03d}", f"{_STATIC}/{key}.gz", md5)
    for number, (key, md5) in enumerate(
        (
            ("vfk49d74nhbxq3nqjg0900w5nvkorp5c", "fe8ed0a6961412fddcbb3603c11b3698"),
            ("i28rlmbvmfjbl8p2n3ril0pptcmcu9d1", "ab07a2d7cbe6f65ddd97b4ed7bde10bf"),
            ("f1t00wrtdk94satdfb9olcolqx20z2jp", "2301d03bde4c246388bad3876965d574"),
            ("0aowwzs5lhjrceb3qp67ahp0rd1l1etg", "9f1b7f5aae01b13f4bc8e2c44a4b8ef6"),
            ("v5e3goj22zr6h8tzualxfsqlqaygfbsn", "1861f3cd0ef7734df8104f2b0309023b"),
            ("asi7ikud9jwnkrnkj99jnpfkjdes7l6l", "456b53a8b351afd92a35bc41444c58c8"),
            ("jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", "1075121ea20a137b87f290d6a4a5965e"),
            ("tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j", "b61f34cec3aa69f295fbb593cbd9d443"),
            ("upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", "442a3caa61ae9b64e61c561294d1e183"),
            ("l6nilvfa9cg3s28tqv1qc1olm3gnz54p", "09ec81c4c31e32858ad8cf965c494b74"),
            ("hhq8fkdgvcari67vfhs7ppg2w6ni4jze", "499aefc67207a5a97692424cf5dbeed5"),
            ("ioqwiy20ihqwyr8pf4c24eazhh281pbu", "dc9fda1757c2de0032b63347a7d2895c"),
        ),
        start=1,
    )
)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is in the folder now: archives that were brought, images, and tables that a person must still bring."""

    folder: Path
    archives: int
    images: int
    missing: tuple[str, ...]

    def __str__(self) -> str:
        brought = voice.count(self.archives, "archive was", "archives were")
        lines = [f"{voice.count(self.images, 'image')} in {self.folder}; {brought} downloaded"]
        if self.missing:
            lines.append(f"  take {', '.join(self.missing)} from {PAGE} and put them into {self.folder}")
        lines.append(f"  next: cxr-ops ingest nih {self.folder} --batch nih --on-bad quarantine")
        return "\n".join(lines)


def run(
    out: Path,
    *,
    parts: Sequence[int] = (),
    archives: Sequence[Archive] = ARCHIVES,
    progress: Callable[[str, int, int], None] | None = None,
    free_bytes: Callable[[Path], int] = room.free,
    attempts: int = download.ATTEMPTS,
    pause: Callable[[float], None] | None = None,
) -> Fetched:
    """Bring the archives that are not here yet.

    Args:
        out: the folder; what is in it stays.
        parts: numbers of archives, from 1; all, if none is named.
        archives: what there is.
        progress: called with an archive's name, the bytes of it that are here, and all of its bytes.
        free_bytes: gives the free room of the disk that holds a path.
        attempts: see `download.download`.
        pause: see `download.download`.

    Raises:
        DataError: there is no such part, or an archive is not what the publisher's sum says, or holds something else
            than pictures.
        StorageError: a server does not answer, or the disk is full or cannot be written.
    """
    if wrong := [part for part in parts if not 1 <= part <= len(archives)]:
        raise DataError(f"there is no part {wrong[0]}: there are 1 to {len(archives)}", where="--part")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder cannot be made: {error.strerror}", where=out) from error
    brought = 0
    for archive in [archives[part - 1] for part in sorted(set(parts))] or archives:
        if (out / archive.name).is_dir():
            continue
        fix = "free some; what is here stays, and the same command goes on"
        room.check({out: _FREE}, "an archive with its pictures", fix=fix, free_bytes=free_bytes)
        packed = out / f"{archive.name}.tar.gz"
        told = None if progress is None else lambda done, total, name=archive.name: progress(name, done, total)
        waits = {} if pause is None else {"pause": pause}
        download.download(archive.url, packed, md5=archive.md5, progress=told, attempts=attempts, **waits)
        unpack(packed, out / archive.name)
        packed.unlink()
        brought += 1
    return Fetched(
        folder=out,
        archives=brought,
        images=sum(1 for _ in out.glob("images_*/images/*.png")),
        missing=tuple(name for name in TABLES if not (out / name).is_file()),
    )


def unpack(packed: Path, folder: Path) -> int:
    """Unpack an archive of pictures to `folder/images`, whole or not at all.

    Only plain files with names of pictures are taken, whatever folder the archive gives them: nothing leads out.

    Returns:
        How many pictures there are.

    Raises:
        DataError: the archive is damaged, or holds something else, or a name twice.
        StorageError: the disk cannot be written.
    """
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    count = 0
    try:
        (aside / "images").mkdir(parents=True)
        with tarfile.open(packed, "r|gz") as tar:
            for member in tar:
                if member.isdir():
                    continue
                name = member.name.rpartition("/")[2]
                source = tar.extractfile(member) if member.isreg() and IMAGE_ID.fullmatch(name) else None
                if source is None:
                    raise DataError(f"the archive holds {member.name[:120]!r}, which is no picture", where=packed)
                with source, (aside / "images" / name).open("xb") as file:
                    shutil.copyfileobj(source, file, 2**20)
                count += 1
        aside.replace(folder)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"the archive is damaged: {error}", where=packed, fix="delete it, and type the command again"
        ) from error
    except FileExistsError as error:
        raise DataError("the archive holds a name twice", where=error.filename or packed) from error
    except OSError as error:
        raise StorageError(f"the archive cannot be unpacked: {error.strerror or error}", where=folder) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count
