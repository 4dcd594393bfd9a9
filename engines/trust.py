"""Who vouches for a bundle: a hash pinned in this package, an Ed25519 signature of a trusted key, or nobody.

A signature covers the manifest, and the manifest covers every file. `cryptography` is loaded only to check or make one.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Literal

from engines.manifest import Manifest, Signature, decode_signature

#: Written by the recipes of the shipped bundles: name -> SHA-256 of its manifest.
PINS = Path(__file__).parent / "bundles" / "pins.toml"
_NOBODY = "nobody signed it"
UNSIGNED = 'sign it (`kizashi models sign`) with a key of models.trusted_keys, or set models.allow_unsigned = true'


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key whose signatures are believed. key: 32 bytes of Ed25519. not_after: the end of that; none: never.

    A `not_after` without a zone is UTC.
    """

    id: str
    key: bytes
    not_after: datetime | None = None

    def expired(self, now: datetime) -> bool:
        if self.not_after is None:
            return False
        return now >= (self.not_after if self.not_after.tzinfo else self.not_after.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """What is believed. now: for tests; without it the clock is read when a signature is checked.

    min_version: bundle -> lowest version that may serve.
    """

    keys: tuple[PublicKey, ...] = ()
    allow_unsigned: bool = False
    min_version: Mapping[str, str] = field(default_factory=dict)
    now: datetime | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """Why a bundle is believed: it is shipped and unchanged, or `key_id` signed it, or unsigned ones are allowed.

    why: what speaks against an unsigned one.
    """

    status: Literal["pinned", "signed", "unsigned"]
    key_id: str | None = None
    why: str = ""


def judge(manifest: Manifest, raw: bytes, signature: bytes | None, policy: TrustPolicy) -> tuple[Trust, list[str]]:
    """Say who vouches for the manifest whose bytes are `raw`, and what forbids to serve it.

    A wrong signature of a trusted key is refused whatever the policy: somebody changed the bundle. A key that is not
    known, or no longer, is the same as no signature.
    """
    trust, faults = _voucher(manifest, raw, signature, policy)
    if trust.status == "unsigned" and not faults and not policy.allow_unsigned:
        faults.append(f"is not trusted: {trust.why}; {UNSIGNED}")
    least = policy.min_version.get(manifest.name)
    if least is not None and version_key(manifest.version) < version_key(least):
        faults.append(f"version {manifest.version} is below models.min_version = {least} of {manifest.name}")
    return trust, faults


def version_key(version: str) -> tuple[int, ...]:
    """Return what versions are ordered by: 1.10.0 is above 1.9.0."""
    return tuple(int(part) for part in version.split("."))


def _voucher(
    manifest: Manifest, raw: bytes, signature: bytes | None, policy: TrustPolicy
) -> tuple[Trust, list[str]]:
    if _pins().get(manifest.name) == hashlib.sha256(raw).hexdigest():
        return Trust("pinned"), []
    if signature is None:
        edited = manifest.name in _pins()
        return Trust("unsigned", why="it is not the shipped one, and nobody signed it" if edited else _NOBODY), []
    try:
        signed = decode_signature(signature)
    except ValueError as error:
        return Trust("unsigned"), [f"manifest.sig: {error}"]
    key = next((k for k in policy.keys if k.id == signed.key), None)
    if key is None:
        return Trust("unsigned", signed.key, f"key {signed.key!r} is not in models.trusted_keys"), []
    if not _verifies(key, signed, raw):
        return Trust("unsigned", key.id), [f"manifest.sig: the signature of key {key.id!r} is wrong: the bundle was "
                                           "changed after it was signed, or by another key of this id"]
    if key.expired(policy.now or datetime.now(UTC)):
        return Trust("unsigned", key.id, f"key {key.id!r} expired at {key.not_after}"), []
    return Trust("signed", key.id), []


@cache
def _pins() -> Mapping[str, str]:
    pins: dict[str, str] = tomllib.loads(PINS.read_text("utf-8"))
    return pins


# --- Ed25519 (RFC 8032)


def _verifies(key: PublicKey, signed: Signature, raw: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(bytes.fromhex(signed.signature), raw)
    except (InvalidSignature, ValueError):
        return False
    return True


def make_key() -> tuple[bytes, bytes]:
    """Make a pair: the private key as PEM (PKCS #8, not encrypted), and the public key, 32 bytes."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return pem, key.public_key().public_bytes_raw()


def sign(raw: bytes, pem: bytes, key_id: str) -> Signature:
    """Sign the bytes of a manifest with a private key in PEM. Raises ValueError when the key is no Ed25519 key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise ValueError(f"no private key in PEM, or an encrypted one: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("the key is not an Ed25519 key; `kizashi models keygen` makes one")
    return Signature(key_id, key.sign(raw).hex())
