"""Keys, and the signing of model directories with them, offline.

A person's own key stands outside the project (`CXR_SIGNING_KEY`; `cxr-ops keys make FILE`). Without one, a key of the
installation is made in `$CXR_HOME/keys`: what it signs can be told from what somebody else put into MLflow's artifacts,
and that is all, because whoever can write the installation can sign with it.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.audit import signature
from cxr_ops.audit.signature import CLAIMS, SIGNATURE, Signed
from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges.home import Home
from cxr_ops.errors import RefusedError, SettingsError, StorageError
from cxr_ops.records.base import canonical_json, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CLAIM: Final = "urn:cxr-ops:claim:{}:v1"
LITTLE: Final = (
    "the key of this installation: it proves that this installation wrote the model, and nothing about who did; for "
    "more, sign with a key of your own: cxr-ops keys make FILE"
)


def make_key(path: Path, project: Path | None = None) -> str:
    """Make a key pair: the private half in a file that its owner alone can read, the public half in `FILE.pub`.

    Args:
        path: of the private half; its folder must be there.
        project: a folder that no key may stand in, because its files are committed and copied.

    Returns:
        The fingerprint of the public half.

    Raises:
        RefusedError: a file of that name is there, or the path is in the project.
        StorageError: it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_name(f"{path.name}.pub")
    if project is not None and path.resolve().is_relative_to(project):
        raise RefusedError("a private key does not belong into the project", where=path, fix="name a file outside it")
    for one in (path, public):
        if one.exists():
            raise RefusedError("a file of this name is there, and is left as it is", where=one, fix="name another")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shown = _public_pem(key)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)  # whole or not there, and never over another key
        write_atomic(public, shown)
    except FileExistsError as error:
        raise RefusedError(
            "a file of this name is there, and is left as it is", where=path, fix="name another"
        ) from error
    except OSError as error:
        raise StorageError(
            f"the key cannot be written: {error.strerror}", where=path, fix="name a file in a folder of yours"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return signature.fingerprint(shown)


def own_key(home: Home) -> Path | None:
    """Where the person's own key stands, None where the installation's is used."""
    return home.settings.signing_key


def believed(home: Home) -> dict[str, bytes]:
    """The public keys whose signatures are believed here, by their fingerprints.

    They are those that `CXR_TRUSTED_KEYS` names. Without it they are the public half of the key that signs here, and of
    the installation's own, which signed before there was another.

    Raises:
        SettingsError: a file is missing, or holds no public key.
    """
    named = home.settings.trusted_keys
    if named:
        found: dict[str, bytes] = {}
        for path in named:
            try:
                pem = path.read_bytes()
            except OSError as error:
                raise SettingsError(
                    f"a trusted key cannot be read: {error.strerror}", where=path, fix="mend CXR_TRUSTED_KEYS"
                ) from error
            found |= believe(pem, path)
        return found
    keys = [path for path in (own_key(home), _installation_key(home)) if path is not None and path.is_file()]
    return {signature.fingerprint(pem): pem for pem in (_public_pem(_load(path)) for path in keys)}


def believe(pem: bytes, where: object) -> dict[str, bytes]:
    """A public key by its fingerprint, in the one form that fingerprints are of.

    Raises:
        DataError: it is no public key.
    """
    from cryptography.hazmat.primitives import serialization

    key = signature.public_key(pem, where)
    plain = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {signature.fingerprint(plain): plain}


def is_installations(home: Home, fingerprint: str) -> bool:
    """Whether a key is the installation's, which proves little (`LITTLE`)."""
    path = _installation_key(home)
    return path.is_file() and signature.fingerprint(_public_pem(_load(path))) == fingerprint


def sign(home: Home, folder: Path, claims: Mapping[str, Mapping[str, Any]]) -> str:
    """Sign a model directory, and say beside the signature what is claimed of it.

    Args:
        home: the installation, whose key signs.
        folder: the directory; `model.sig` and `claims.jsonl` are written into it.
        claims: the name of a claim (`plan`, `data`, ...) -> what is claimed.

    Returns:
        The directory's digest.

    Raises:
        SettingsError: the key is missing, is no key, or others can read it.
        DataError: the directory holds a link, or nothing.
    """
    key = _signing_key(home)
    files = signature.resources(folder)
    directory = signature.digest(files)
    hint = signature.fingerprint(_public_pem(key))
    bundle = {
        "mediaType": signature.BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": _envelope(key, signature.statement(MODEL_NAME, files), ""),
    }
    said = [
        _envelope(key, signature.claim(MODEL_NAME, directory, CLAIM.format(name), claims[name]), hint)
        for name in sorted(claims)
    ]
    write_atomic(folder / SIGNATURE, canonical_json(bundle))
    write_atomic(folder / CLAIMS, "".join(json.dumps(one, sort_keys=True) + "\n" for one in said).encode())
    return directory


def check(home: Home, folder: Path, directory: str | None = None) -> Signed:
    """Check the signature over a model directory with the keys that are believed here; see `signature.verify`."""
    return signature.verify(folder, believed(home), directory)


def _envelope(key: EllipticCurvePrivateKey, statement: Mapping[str, Any], keyid: str) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec

    payload = canonical_json(statement)
    raw = key.sign(signature.pae(payload), ec.ECDSA(signature.hash_of(key.public_key())))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": signature.PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(raw).decode(), "keyid": keyid}],
    }


def _signing_key(home: Home) -> EllipticCurvePrivateKey:
    own = own_key(home)
    if own is not None:
        return _load(own)
    path = _installation_key(home)
    if not path.is_file():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            make_key(path)
        except RefusedError:
            if not path.is_file():  # nobody was faster
                raise
    return _load(path)


def _installation_key(home: Home) -> Path:
    return home.root / "keys" / "installation.pem"


def _load(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    fix = "make one: cxr-ops keys make FILE; then set CXR_SIGNING_KEY to it"
    try:
        loose = stat.S_IMODE(path.stat().st_mode) & 0o077
        pem = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"the signing key cannot be read: {error.strerror}", where=path, fix=fix) from error
    if loose:
        raise SettingsError("others may read the signing key", where=path, fix=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, None)
    except (TypeError, ValueError) as error:  # TypeError: it has a passphrase
        raise SettingsError("it is no private key in PEM without a passphrase", where=path, fix=fix) from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in signature.CURVES:
        raise SettingsError("the key is not on one of the curves P-256, P-384 and P-521", where=path, fix=fix)
    return key


def _public_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
