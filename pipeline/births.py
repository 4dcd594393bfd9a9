"""Births: what is known of every asset's frames, from the compacted topic that every worker reads whole."""

import sys
from dataclasses import dataclass, field

from pipeline.errors import Rejected
from schemas import AssetBirth
from schemas.birth import Channel
from schemas.codec import DECODE_ERRORS, decode_birth, fault

#: 32 channels of the longest names take 8 KiB; what is larger would bloat every checkpoint that holds its asset.
MAX_BIRTH_BYTES = 16 << 10


@dataclass(slots=True)
class BirthBook:
    """Births by (asset, birth_id). Equal channel lists are shared: a fleet of 10,000 equal pumps holds one."""

    births: dict[tuple[str, str], AssetBirth] = field(default_factory=dict)
    #: obeyed by each partition once it is past what the log held when we took it over: a replay needs the birth
    retired: set[tuple[str, str]] = field(default_factory=set)
    _channels: dict[tuple[Channel, ...], tuple[Channel, ...]] = field(default_factory=dict)

    def get(self, asset: str, birth_id: str) -> AssetBirth | None:
        return self.births.get((asset, birth_id))

    def share(self, birth: AssetBirth) -> AssetBirth:
        """Return an equal birth that shares with those seen before what a fleet has in common."""
        shared = self._channels.setdefault(birth.channels, birth.channels)
        return AssetBirth(birth.asset, birth.birth_id, birth.start_ns, shared, birth.rate_hz, birth.samples_per_frame,
                          sys.intern(birth.asset_class), sys.intern(birth.site), birth.criticality, birth.components,
                          birth.nominal_rpm)

    def add(self, birth: AssetBirth) -> AssetBirth:
        birth = self.births[birth.asset, birth.birth_id] = self.share(birth)
        self.retired.discard((birth.asset, birth.birth_id))
        return birth

    def retire(self, asset: str, birth_id: str) -> None:
        self.retired.add((asset, birth_id))


def read_birth(key: bytes | None, value: bytes) -> AssetBirth:
    """Decode and check a record of the asset topic. Raises Rejected: the birth is not used, its frames will wait."""
    if len(value) > MAX_BIRTH_BYTES:
        raise Rejected("oversized", f"the birth has {len(value)} bytes, {MAX_BIRTH_BYTES} bytes are allowed. "
                       "Shorten names, or leave out components")
    try:
        birth = decode_birth(value)
    except DECODE_ERRORS as error:
        raise Rejected(fault(value), f"no birth: {error}. See schemas/json/kizashi.asset.v1.json") from error
    if birth.digest() != birth.birth_id:
        raise Rejected("wrong_type", f"birth_id is {birth.birth_id}, the hash of this content is {birth.digest()}. "
                       "Make births with AssetBirth.make, or hash the canonical JSON without birth_id")
    if key is not None and key != birth.key:
        raise Rejected("wrong_type", f"the record's key is {key!r}, this birth belongs under {birth.key!r}")
    return birth


def read_key(key: bytes) -> tuple[str, str]:
    """Split `asset|birth_id`, the key of births and tombstones."""
    asset, _, birth_id = key.decode("utf-8", "replace").rpartition("|")
    return asset, birth_id
