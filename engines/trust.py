"""Who vouches for a bundle: a hash pinned in this package, an Ed25519 signature of a trusted key, or nobody."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key whose signatures are believed. key: 32 bytes of Ed25519. not_after: with its zone; none: for ever."""

    id: str
    key: bytes
    not_after: datetime | None = None


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
    """Why a bundle is believed: it is shipped and unchanged, or `key_id` signed it, or unsigned ones are allowed."""

    status: Literal["pinned", "signed", "unsigned"]
    key_id: str | None = None
    why: str = ""
