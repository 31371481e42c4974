"""The signature over a whole model directory, in OpenSSF's model signing format, and the claims beside it.

    model.sig      a sigstore bundle: a DSSE envelope of an in-toto statement with the SHA-256 of every file
    claims.jsonl   a DSSE envelope a line: in-toto statements about the same directory (plan, data, training, ...)
    all else       what is signed: MLmodel, the script that serves, the package, ...

The directory's digest is the SHA-256 over the digests of its files in the order of their names, which is the subject of
every statement, and what a decision on the ledger names. Nothing of a directory is read for use here: each file is
hashed, and a link, or a file that the statement does not name, is an error. `model_signing verify key` of the OpenSSF
checks the same signature.

Source: model-transparency, predicate https://model_signing/signature/v1.0; DSSE v1; in-toto Statement v1.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.errors import DataError, RefusedError
from cxr_ops.records.base import sha256_bytes, sha256_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNATURE: Final = "model.sig"
CLAIMS: Final = "claims.jsonl"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://model_signing/signature/v1.0"
BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")  # NIST's P-256, P-384 and P-521: those of model signing
_IGNORED: Final = (CLAIMS, SIGNATURE)
_DIGITS: Final = 64  # of a SHA-256
_HEX: Final = frozenset("0123456789abcdef")
_LIMIT_BYTES: Final = 2**20  # of a signature or the claims, which name digests


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A directory whose signature was checked.

    Attributes:
        directory: its digest.
        key: fingerprint of the key that signed it.
        claims: predicate type -> predicate, of the claims by the same key about this directory.
    """

    directory: str
    key: str
    claims: Mapping[str, Any]


def resources(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model directory that a signature covers, by its path, in order.

    Raises:
        DataError: the folder is missing or empty, or something in it is neither a plain file nor a folder.
    """
    if not folder.is_dir() or folder.is_symlink():
        raise DataError("there is no model directory here", where=folder, fix="name the folder that holds MLmodel")
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise DataError(f"{name} is no plain file, and a model directory holds no other", where=folder)
        if path.is_file() and name not in _IGNORED:
            found[name] = sha256_file(path)
    if not found:
        raise DataError("the model directory is empty", where=folder)
    return dict(sorted(found.items()))


def digest(files: Mapping[str, str]) -> str:
    """Digest of a model directory: SHA-256 over the digests of its files, in the order of their names."""
    return sha256_bytes(b"".join(bytes.fromhex(files[name]) for name in sorted(files)))


def statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """The in-toto statement that a model's signature is over.

    Args:
        name: of the model.
        files: what `resources` gave.
    """
    return claim(name, digest(files), PREDICATE) | {
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_IGNORED),
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in sorted(files)],
        }
    }


def claim(name: str, directory: str, kind: str, predicate: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An in-toto statement about a model directory; `kind` is the predicate's type, a URI."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": directory}}],
        "predicateType": kind,
        "predicate": dict(predicate or {}),
    }


def pae(payload: bytes) -> bytes:
    """What a DSSE signature is over: the payload with its type and both lengths.

    >>> pae(b"{}")
    b'DSSEv1 28 application/vnd.in-toto+json 2 {}'
    """
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def fingerprint(public_pem: bytes) -> str:
    """SHA-256 of a public key's PEM, as OpenSSF's bundles name keys."""
    return sha256_bytes(public_pem)


def verify(folder: Path, keys: Mapping[str, bytes], directory: str | None = None) -> Signed:
    """Check the signature over all of a model directory. Nothing of it is parsed before but signature and claims.

    Args:
        folder: the model directory.
        keys: the public keys that are believed, PEM, by their fingerprints.
        directory: the digest that it must have, where a record names one.

    Raises:
        RefusedError: it is not signed, or by none of the keys; a file was changed, added or removed since; or it is
            another directory than the record names; or a claim is about another directory, or its signature is wrong.
        DataError: what stands there is no model directory, or its signature is none.
    """
    files = resources(folder)
    found = digest(files)
    if directory is not None and found != directory:
        raise RefusedError(
            f"the model directory is not the one on record: its digest is {found[:12]}, expected {directory[:12]}",
            where=folder,
            fix="fetch it again: cxr-ops model fetch VERSION FOLDER; if that fails, restore MLflow's artifacts",
        )
    path = folder / SIGNATURE
    if not path.is_file():
        raise RefusedError(
            "the model directory is not signed",
            where=path,
            fix="use a version that cxr-ops registered: cxr-ops models",
        )
    hint, signed = _statement(_read(path), path, keys)
    wrong = [
        *(f"{name} was changed" for name in sorted(signed.keys() & files.keys()) if signed[name] != files[name]),
        *(f"{name} is missing" for name in sorted(signed.keys() - files.keys())),
        *(f"{name} was added" for name in sorted(files.keys() - signed.keys())),
    ]
    if wrong:
        raise RefusedError(
            f"the model directory is not what was signed: {', '.join(wrong)}",
            where=folder,
            fix="do not use it; restore MLflow's artifacts from a backup, or fetch another version",
        )
    return Signed(directory=found, key=hint, claims=_claims(_claims_of(folder), folder / CLAIMS, found, hint, keys))


def read_signed(signed: bytes, claims: bytes, keys: Mapping[str, bytes]) -> tuple[dict[str, str], Signed]:
    """Check a signature and claims without the directory that they are over.

    Args:
        signed: the bytes of `model.sig`.
        claims: those of `claims.jsonl`.
        keys: as in `verify`.

    Returns:
        The digest of each file that was signed, by its path, and what is said of the directory.

    Raises:
        RefusedError, DataError: see `verify`.
    """
    hint, files = _statement(signed, Path(SIGNATURE), keys)
    directory = digest(files)
    return files, Signed(directory=directory, key=hint, claims=_claims(claims, Path(CLAIMS), directory, hint, keys))


def _statement(data: bytes, path: Path, keys: Mapping[str, bytes]) -> tuple[str, dict[str, str]]:
    """The fingerprint of the key that signed a directory, and the digests of the files that it signed."""
    bundle = _json(path, data)
    try:
        hint = str(bundle["verificationMaterial"]["publicKey"]["hint"])
        envelope = bundle["dsseEnvelope"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{SIGNATURE} is no signature by a key", where=path) from error
    said = _opened(envelope, hint, keys, path)
    try:
        listed = [(str(one["name"]), str(one["digest"]), one["algorithm"]) for one in said["predicate"]["resources"]]
        subject = str(said["subject"][0]["digest"]["sha256"])
        kinds = (said["_type"], said["predicateType"])
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{SIGNATURE} holds no statement about a model", where=path) from error
    files = {name: value for name, value, _ in listed}
    known = all(len(value) == _DIGITS and set(value) <= _HEX for value in files.values())
    if kinds != (STATEMENT, PREDICATE) or len(files) != len(listed) or {kind for *_, kind in listed} != {"sha256"}:
        raise DataError(f"{SIGNATURE} holds no statement of a kind that is known", where=path)
    if not known or subject != digest(files):
        raise RefusedError(
            "the signature is about another directory than that of the files that it names",
            where=path,
            fix="do not use it; restore MLflow's artifacts from a backup, or fetch another version",
        )
    return hint, files


def _claims_of(folder: Path) -> bytes:
    path = folder / CLAIMS
    return _read(path) if path.is_file() else b""


def _claims(data: bytes, path: Path, directory: str, hint: str, keys: Mapping[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in data.splitlines():
        said = _opened(_json(path, line), hint, keys, path)
        try:
            about, kind, predicate = (
                said["subject"][0]["digest"]["sha256"],
                str(said["predicateType"]),
                said["predicate"],
            )
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{CLAIMS} holds what is no in-toto statement", where=path) from error
        if about != directory:
            raise RefusedError(
                f"a claim in {CLAIMS} is about another model directory, {str(about)[:12]}",
                where=path,
                fix="do not use it; restore MLflow's artifacts from a backup",
            )
        found[kind] = predicate
    return found


def _opened(envelope: Any, hint: str, keys: Mapping[str, bytes], path: Path) -> Any:
    """The statement of an envelope, whose signature was checked with the key of that fingerprint."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    if hint not in keys:
        raise RefusedError(
            f"it is signed with a key that is not believed here: {hint[:16]}",
            where=path,
            fix="if you trust that key, name its public half in CXR_TRUSTED_KEYS, or with --key FILE",
        )
    try:
        kind = envelope["payloadType"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        [signature] = envelope["signatures"]
        raw = base64.b64decode(signature["sig"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path.name} holds no envelope with one signature", where=path) from error
    key = public_key(keys[hint], path)
    try:
        key.verify(raw, pae(payload), ec.ECDSA(hash_of(key)))
    except InvalidSignature as error:
        raise RefusedError(
            f"the signature in {path.name} is wrong: it was altered, or is not by the key that it names",
            where=path,
            fix="do not use it; restore MLflow's artifacts from a backup",
        ) from error
    if kind != PAYLOAD_TYPE:
        raise DataError(f"{path.name} holds an envelope of another kind: {kind!r}", where=path)
    return _json(path, payload)


def public_key(pem: bytes, where: object) -> EllipticCurvePublicKey:
    """Read a public key: PEM, on one of NIST's curves P-256, P-384 and P-521.

    Raises:
        DataError: it is none.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise DataError(
            "it holds no public key in PEM", where=where, fix="make keys: cxr-ops keys make FILE"
        ) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise DataError(
            "its key is not on one of the curves P-256, P-384 and P-521",
            where=where,
            fix="make keys: cxr-ops keys make FILE",
        )
    return key


def hash_of(key: EllipticCurvePublicKey) -> Any:
    """The hash that goes with a key's curve, as sigstore has it."""
    from cryptography.hazmat.primitives import hashes

    kinds: dict[int, Any] = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}
    return kinds[key.curve.key_size]()


def _read(path: Path) -> bytes:
    if path.stat().st_size > _LIMIT_BYTES:
        raise DataError(f"{path.name} has more than {_LIMIT_BYTES} bytes", where=path)
    return path.read_bytes()


def _json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON", where=path) from error
