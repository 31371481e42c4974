"""Images in tar files."""

from __future__ import annotations

import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxr_ops.data.shards import ShardReader, write_shards
from cxr_ops.errors import DataError
from cxr_ops.records.base import sha256_bytes, tree_digest

IMAGES = {f"{n:08d}_000.png": bytes([n]) * (100 + 37 * n) for n in range(25)}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A data set of one batch in three shards."""
    folder = tmp_path / "dataset" / "first"
    folder.mkdir(parents=True)
    write_shards(folder, IMAGES.items(), per_shard=10)
    return tmp_path / "dataset"


def test_every_image_comes_back_as_it_was(dataset: Path) -> None:
    """The reader gives each image's bytes, whatever shard it is in."""
    with ShardReader(dataset) as reader:
        assert reader.ids == IMAGES.keys()
        assert {name: reader.read(name) for name in IMAGES} == IMAGES


def test_threads_read_at_the_same_time(dataset: Path) -> None:
    """Eight threads that read all images 50 times each get the right bytes."""
    with ShardReader(dataset) as reader, ThreadPoolExecutor(8) as pool:
        names = list(IMAGES) * 50
        assert all(data == IMAGES[name] for name, data in zip(names, pool.map(reader.read, names), strict=True))


def test_shards_depend_on_names_and_contents_only(dataset: Path, tmp_path: Path) -> None:
    """Written again elsewhere, the shards have the same bytes: no time, owner or path is in them."""
    again = tmp_path / "again"
    again.mkdir()
    paths = write_shards(again, IMAGES.items(), per_shard=10)
    assert [path.name for path in paths] == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
    assert tree_digest(again) == tree_digest(dataset / "first")
    with tarfile.open(paths[0]) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_tar_reads_a_shard(dataset: Path, tmp_path: Path) -> None:
    """The system's own tar unpacks a shard to the same files."""
    subprocess.run(["tar", "-xf", dataset / "first" / "shard-00002.tar", "-C", tmp_path], check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.png")} == dict(list(IMAGES.items())[20:])


def test_other_bytes_are_noticed(dataset: Path) -> None:
    """With digests, an image whose bytes were changed in the shard is refused when it is read."""
    shard = dataset / "first" / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    data[512] ^= 1  # the first byte of the first image
    shard.write_bytes(data)
    with ShardReader(dataset, {name: sha256_bytes(data) for name, data in IMAGES.items()}) as reader:
        with pytest.raises(DataError, match="not those on record"):
            reader.read("00000000_000.png")
        assert reader.read("00000001_000.png") == IMAGES["00000001_000.png"]


@pytest.mark.parametrize("keep", [700, 5000], ids=["in the first image", "in a later one"])
def test_a_cut_shard_is_refused(dataset: Path, keep: int) -> None:
    """A shard that ends early is refused when it is opened."""
    shard = dataset / "first" / "shard-00001.tar"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut short|damaged"):
        ShardReader(dataset)


def test_an_image_in_two_shards_is_refused(dataset: Path) -> None:
    """Two batches that hold the same image make no data set."""
    (dataset / "second").mkdir()
    write_shards(dataset / "second", [("00000003_000.png", b"other")])
    with pytest.raises(DataError, match="twice"):
        ShardReader(dataset)


def test_a_shard_holds_plain_files_only(dataset: Path) -> None:
    """A link in a shard is refused."""
    with tarfile.open(dataset / "first" / "shard-00003.tar", "w") as tar:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataError, match="not a plain file"):
        ShardReader(dataset)


@pytest.mark.parametrize("name", ["../up.png", "/tmp/up.png", "a\\b.png", "sub/a.png", ".hidden.png", "run.sh"])
def test_a_shard_holds_names_of_images_only(dataset: Path, name: str) -> None:
    """A name in a shard that leads elsewhere, or is no image's, is refused before anything is read by it."""
    with tarfile.open(dataset / "first" / "shard-00003.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="is not the name of an image"):
        ShardReader(dataset)


def test_no_shards_and_no_image_are_errors(dataset: Path, tmp_path: Path) -> None:
    """A folder without shards, and an image that no shard holds, are errors that name them."""
    with pytest.raises(DataError, match="no image shards"):
        ShardReader(tmp_path / "none")
    with ShardReader(dataset) as reader, pytest.raises(DataError, match=r"nobody\.png"):
        reader.read("nobody.png")
