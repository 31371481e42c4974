"""The signature over a whole model directory: what changes it, who is believed, and where keys may stand."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from finished import make_home

from cxr_ops.audit import signature
from cxr_ops.audit.signature import CLAIMS, SIGNATURE
from cxr_ops.edges import signing
from cxr_ops.edges.home import Home
from cxr_ops.errors import CxrError, DataError, RefusedError, SettingsError
from cxr_ops.records.base import sha256_bytes


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model directory, of the shape that MLflow's have."""
    made = tmp_path / "model"
    (made / "artifacts" / "package").mkdir(parents=True)
    (made / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.pyfunc.model}}\n")
    (made / "serving.py").write_text("print('served')\n")
    (made / "artifacts" / "package" / "weights.safetensors").write_bytes(b"weights")
    return made


def with_key(home: Home, path: Path, trusted: tuple[Path, ...] = ()) -> Home:
    return replace(home, settings=replace(home.settings, signing_key=path, trusted_keys=trusted))


def test_what_was_signed_is_believed_with_its_claims(home: Home, folder: Path) -> None:
    """A directory that nobody touched verifies, has the digest that signing gave, and carries its claims."""
    directory = signing.sign(home, folder, {"plan": {"name": "nih", "sha256": "a" * 64}, "data": {"revision": "r"}})
    found = signing.check(home, folder, directory)
    assert found.directory == directory
    assert found.claims == {
        "urn:cxr-ops:claim:data:v1": {"revision": "r"},
        "urn:cxr-ops:claim:plan:v1": {"name": "nih", "sha256": "a" * 64},
    }
    # By the definition, computed here once more: SHA-256 over the files' digests in the order of their names.
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    digests = [sha256_bytes((folder / name).read_bytes()) for name in names if name not in (SIGNATURE, CLAIMS)]
    assert directory == sha256_bytes(bytes.fromhex("".join(digests)))


def _edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "MLmodel names other code": (
        lambda f: (f / "MLmodel").write_text("flavors: {python_function: {loader_module: os}}\n"),
        "MLmodel was changed",
    ),
    "a byte of the script": (lambda f: _edit(f / "serving.py", lambda d: d + b"#"), "serving.py was changed"),
    "a byte of the weights": (
        lambda f: _edit(f / "artifacts/package/weights.safetensors", lambda d: b"W" + d[1:]),
        "weights.safetensors was changed",
    ),
    "code/ beside it": (
        lambda f: ((f / "code").mkdir(), (f / "code" / "evil.py").write_text("1/0")),
        "code/evil.py was added",
    ),
    "a pickle": (lambda f: (f / "python_model.pkl").write_bytes(b"cos\nsystem\n."), "python_model.pkl was added"),
    "a file removed": (lambda f: (f / "serving.py").unlink(), "serving.py is missing"),
    "two files exchanged": (
        lambda f: (
            (f / "x").write_bytes((f / "MLmodel").read_bytes()),
            (f / "MLmodel").unlink(),
            (f / "x").rename(f / "y"),
        ),
        "MLmodel is missing, y was added",
    ),
    "a link": (lambda f: (f / "link").symlink_to("/etc/passwd"), "link is no plain file"),
    "no signature": (lambda f: (f / SIGNATURE).unlink(), "is not signed"),
    "an empty signature": (lambda f: (f / SIGNATURE).write_bytes(b""), "model.sig is not JSON"),
    "a signature of nothing": (lambda f: (f / SIGNATURE).write_bytes(b"{}"), "no signature by a key"),
    "an altered claim": (
        lambda f: _edit(f / CLAIMS, lambda d: d.replace(b'"payload": "ew', b'"payload": "ex')),
        r"signature in claims\.jsonl is wrong",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_directory_that_somebody_touched_is_refused(home: Home, folder: Path, attack: str) -> None:
    """Whatever is changed, added or removed is named, with the installation's key as with any other."""
    signing.sign(home, folder, {"plan": {"name": "nih"}})
    touch, said = ATTACKS[attack]
    touch(folder)
    with pytest.raises((RefusedError, DataError), match=said):
        signing.check(home, folder)


def test_any_flipped_byte_is_found(home: Home, folder: Path) -> None:
    """Every single byte of every file of the directory, signature and claims included, is covered."""
    signing.sign(home, folder, {})
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path, data in whole.items():
        for place in range(0, len(data), 1 if len(data) < 200 else 97):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            if path.name == SIGNATURE and _says_the_same(path.read_bytes(), data):
                continue
            with pytest.raises(CxrError):
                signing.check(home, folder)
        path.write_bytes(data)
    signing.check(home, folder)


def _says_the_same(one: bytes, other: bytes) -> bool:
    """Whether two bundles hold the same envelope and key: white space, and words that nobody reads, may differ."""
    try:
        found = [json.loads(data) for data in (one, other)]
        return (
            len(
                {
                    json.dumps(
                        [
                            f["dsseEnvelope"]["payload"],
                            f["dsseEnvelope"]["payloadType"],
                            f["dsseEnvelope"]["signatures"][0]["sig"],
                            f["verificationMaterial"]["publicKey"]["hint"],
                        ]
                    )
                    for f in found
                }
            )
            == 1
        )
    except (ValueError, KeyError):
        return False


def test_signature_of_another_directory_is_refused(home: Home, folder: Path, tmp_path: Path) -> None:
    """A valid signature beside other files, or valid claims of another model, are of no use."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "serving.py").write_text("print('another')\n")
    digest = signing.sign(home, folder, {"plan": {"name": "strict"}})
    signing.sign(home, other, {"plan": {"name": "loose"}})
    shutil.copyfile(folder / CLAIMS, other / CLAIMS)
    with pytest.raises(RefusedError, match="is about another model directory"):
        signing.check(home, other)
    shutil.copyfile(folder / SIGNATURE, other / SIGNATURE)
    with pytest.raises(RefusedError, match=r"serving\.py was changed"):
        signing.check(home, other)
    with pytest.raises(RefusedError, match="not the one on record"):
        signing.check(home, folder, "0" * 64)
    assert signing.check(home, folder, digest).directory == digest


def test_key_of_a_stranger_is_not_believed(home: Home, folder: Path, tmp_path: Path) -> None:
    """Who signs a poisoned directory anew needs a key that is believed here."""
    mine, theirs = tmp_path / "mine.pem", tmp_path / "theirs.pem"
    for path in (mine, theirs):
        signing.make_key(path)
    signing.sign(with_key(home, theirs), folder, {})
    with pytest.raises(RefusedError, match="not believed here") as raised:
        signing.check(with_key(home, mine), folder)
    assert "CXR_TRUSTED_KEYS" in str(raised.value)
    signing.check(with_key(home, mine, trusted=(tmp_path / "theirs.pem.pub",)), folder)
    signing.sign(with_key(home, mine), folder, {})
    with pytest.raises(RefusedError, match="not believed here"):
        signing.check(with_key(home, mine, trusted=(tmp_path / "theirs.pem.pub",)), folder)


def test_keys_are_the_owners_alone(home: Home, folder: Path, tmp_path: Path) -> None:
    """A private half is made with mode 0600, never over a file or in the project, and refused where others read it."""
    path = tmp_path / "key.pem"
    name = signing.make_key(path, home.project)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert name == sha256_bytes((tmp_path / "key.pem.pub").read_bytes())
    assert b"PRIVATE" not in (tmp_path / "key.pem.pub").read_bytes()
    before = path.read_bytes()
    with pytest.raises(RefusedError, match="left as it is"):
        signing.make_key(path)
    assert path.read_bytes() == before
    with pytest.raises(RefusedError, match="into the project"):
        signing.make_key(home.project / "key.pem", home.project)
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="others may read") as raised:
        signing.sign(with_key(home, path), folder, {})
    assert raised.value.fix == f"chmod 600 {path}"
    with pytest.raises(SettingsError, match="cannot be read"):
        signing.sign(with_key(home, tmp_path / "none.pem"), folder, {})
    assert not (folder / SIGNATURE).exists()


def test_key_of_another_kind_is_refused(home: Home, folder: Path, tmp_path: Path) -> None:
    """RSA, a curve that sigstore has not, and a key with a passphrase are named as what they are."""
    plain, secret = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"word")
    kinds = [
        (rsa.generate_private_key(65537, 2048), plain, "not on one of the curves"),
        (ec.generate_private_key(ec.SECP256K1()), plain, "not on one of the curves"),
        (ec.generate_private_key(ec.SECP256R1()), secret, "without a passphrase"),
    ]
    for number, (key, how, said) in enumerate(kinds):
        path = tmp_path / f"{number}.pem"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
        with pytest.raises(SettingsError, match=said):
            signing.sign(with_key(home, path), folder, {})


def test_installation_makes_its_key_once(home: Home, folder: Path) -> None:
    """Without a key of a person's own, the installation's is made, found again, and said to prove little."""
    assert signing.believed(home) == {}
    first = signing.check(home, folder) if signing.sign(home, folder, {}) else None
    assert first is not None
    assert signing.is_installations(home, first.key)
    assert "nothing about who" in signing.LITTLE
    signing.sign(home, folder, {})
    assert signing.check(home, folder).key == first.key
    assert stat.S_IMODE((home.root / "keys").stat().st_mode) == 0o700


def test_openssf_checks_the_same_signature(home: Home, folder: Path, tmp_path: Path) -> None:
    """`model_signing verify key` of the OpenSSF accepts what is signed here, and what it signs is accepted here."""
    tool = str(Path(sys.executable).with_name("model_signing"))
    key = tmp_path / "key.pem"
    signing.make_key(key)
    mine = with_key(home, key)
    signing.sign(mine, folder, {"plan": {"name": "nih"}})
    of = [str(folder), "--signature", str(folder / SIGNATURE)]
    check = [tool, "verify", "key", *of, "--public_key", f"{key}.pub", "--ignore-paths", str(folder / CLAIMS)]
    assert subprocess.run(check, capture_output=True).returncode == 0
    (folder / "serving.py").write_text("1/0")
    assert subprocess.run(check, capture_output=True).returncode != 0
    (folder / CLAIMS).unlink()
    subprocess.run([tool, "sign", "key", *of, "--private_key", str(key)], check=True, capture_output=True)
    assert signing.check(mine, folder).directory == signature.digest(signature.resources(folder))
