"""Signatures by a key that is believed, over what is no model: made here by the words of the standards."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cxr_ops.audit import signature
from cxr_ops.errors import CxrError, DataError, RefusedError

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
NAME = sha256(PEM).hexdigest()
DSSE = "application/vnd.in-toto+json"
FILES = {"MLmodel": "a" * 64, "artifacts/package/weights.safetensors": "b" * 64}
DIRECTORY = sha256(bytes.fromhex("".join(FILES[name] for name in sorted(FILES)))).hexdigest()


def envelope(
    statement: Any, kind: str = DSSE, key: ec.EllipticCurvePrivateKey = KEY, how: hashes.HashAlgorithm | None = None
) -> dict[str, Any]:
    """A DSSE envelope, as the specification has it; the type that is signed is always in-toto's."""
    payload = json.dumps(statement).encode()
    raw = key.sign(
        b"DSSEv1 %d %s %d %s" % (len(DSSE), DSSE.encode(), len(payload), payload), ec.ECDSA(how or hashes.SHA256())
    )
    signed = {"sig": base64.b64encode(raw).decode(), "keyid": ""}
    return {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [signed]}


def statement(**changes: Any) -> dict[str, Any]:
    said = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": DIRECTORY}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"resources": [{"name": n, "algorithm": "sha256", "digest": d} for n, d in FILES.items()]},
    }
    return said | changes


def bundle(said: dict[str, Any], hint: str = NAME) -> bytes:
    return json.dumps({"verificationMaterial": {"publicKey": {"hint": hint}}, "dsseEnvelope": said}).encode()


def read(signed: bytes, claims: bytes = b"", keys: dict[str, bytes] | None = None) -> Any:
    return signature.read_signed(signed, claims, {NAME: PEM} if keys is None else keys)


def of(*resources: dict[str, str], subject: str = DIRECTORY) -> dict[str, Any]:
    return statement(predicate={"resources": list(resources)}, subject=[{"digest": {"sha256": subject}}])


def resource(name: str = "MLmodel", digest: str = "a" * 64, algorithm: str = "sha256") -> dict[str, str]:
    return {"name": name, "digest": digest, "algorithm": algorithm}


ALONE = sha256(bytes.fromhex("a" * 64)).hexdigest()
STRANGE: dict[str, tuple[Callable[[], bytes], type[CxrError], str]] = {
    "another kind of statement": (
        lambda: bundle(envelope(statement(_type="https://in-toto.io/Statement/v0.1"))),
        DataError,
        "of a kind that is known",
    ),
    "another predicate": (
        lambda: bundle(envelope(statement(predicateType="https://slsa.dev/provenance/v1"))),
        DataError,
        "of a kind that is known",
    ),
    "a file twice": (lambda: bundle(envelope(of(resource(), resource(), subject=ALONE))), DataError, "kind that is"),
    "another digest": (
        lambda: bundle(envelope(of(resource(algorithm="sha512"), subject=ALONE))),
        DataError,
        "of a kind that is known",
    ),
    "digest of blanks": (
        lambda: bundle(envelope(of(resource(digest="aa " * 32), subject=ALONE))),
        RefusedError,
        "about another directory",
    ),
    "another directory": (lambda: bundle(envelope(of(resource()))), RefusedError, "about another directory"),
    "another type of payload": (lambda: bundle(envelope(statement(), "text/plain")), DataError, "of another kind"),
    "two signatures": (
        lambda: bundle(envelope(statement()) | {"signatures": envelope(statement())["signatures"] * 2}),
        DataError,
        "no envelope with one signature",
    ),
    "another key's": (
        lambda: bundle(envelope(statement(), key=ec.generate_private_key(ec.SECP256R1()))),
        RefusedError,
        "was altered, or is not by the key",
    ),
    "another key's name": (lambda: bundle(envelope(statement()), "f" * 64), RefusedError, "not believed here"),
    "another hash": (lambda: bundle(envelope(statement(), how=hashes.SHA512())), RefusedError, "is wrong"),
}


def test_a_statement_about_a_model_is_read() -> None:
    """What the standards say, signed by the key, gives the files, the directory and the claims about it."""
    claim = statement(predicateType="urn:cxr-ops:claim:plan:v1", predicate={"name": "nih"})
    files, found = read(bundle(envelope(statement())), json.dumps(envelope(claim)).encode())
    assert (files, found.directory, found.key) == (FILES, DIRECTORY, NAME)
    assert found.claims == {"urn:cxr-ops:claim:plan:v1": {"name": "nih"}}


@pytest.mark.parametrize("what", STRANGE)
def test_a_believed_key_makes_no_model_of_anything_else(what: str) -> None:
    """Another kind, a file twice, another digest, directory, payload, key or hash is refused for what it is."""
    made, error, said = STRANGE[what]
    with pytest.raises(error, match=said):
        read(made())


def test_without_keys_nobody_is_believed() -> None:
    """An empty set of keys believes none, and a key is known by its fingerprint alone."""
    signed = bundle(envelope(statement()))
    for keys in ({}, {"f" * 64: PEM}):
        with pytest.raises(RefusedError, match="not believed here"):
            read(signed, keys=keys)


@pytest.mark.parametrize(("curve", "how"), [(ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512())])
def test_each_curve_has_its_hash(curve: ec.EllipticCurve, how: hashes.HashAlgorithm) -> None:
    """P-384 goes with SHA-384 and P-521 with SHA-512, as sigstore has it, and with no other."""
    key = ec.generate_private_key(curve)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    name = sha256(pem).hexdigest()
    assert read(bundle(envelope(statement(), key=key, how=how), name), keys={name: pem})[1].directory == DIRECTORY
    with pytest.raises(RefusedError, match="is wrong"):
        read(bundle(envelope(statement(), key=key), name), keys={name: pem})


def test_a_key_on_another_curve_is_no_key() -> None:
    """A curve that sigstore has not, though its size is the same, signs nothing that is believed."""
    key = ec.generate_private_key(ec.SECP256K1())
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    name = sha256(pem).hexdigest()
    with pytest.raises(DataError, match="not on one of the curves"):
        read(bundle(envelope(statement(), key=key), name), keys={name: pem})


def test_a_folder_that_is_a_link_or_a_signature_without_end_is_refused(tmp_path: Any) -> None:
    """A link to a model directory is none, and a signature of more than a mebibyte is not read."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_bytes(b"x")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(DataError, match="no model directory here"):
        signature.resources(tmp_path / "link")
    (folder / "model.sig").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(DataError, match=r"model\.sig has more than 1048576 bytes"):
        signature.verify(folder, {NAME: PEM})
