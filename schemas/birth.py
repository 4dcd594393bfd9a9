"""Asset birth: what an asset's frames contain, announced before the first of them. [Sparkplug NBIRTH in spirit]"""

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.frame import Int63

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$")]
ChannelName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
Dtype = Literal["f4", "f8", "i2", "i4", "u1", "u2"]

#: Reliability limits (a frame is one Kafka record of at most 1 MiB).
MAX_CHANNELS = 32
MAX_SAMPLES_PER_FRAME = 65_536


class Channel(Struct, frozen=True, omit_defaults=True):
    """One signal of an asset. Physical value = raw * scale + offset, in `unit` (a UCUM code)."""

    name: ChannelName
    quantity: Annotated[str, Meta(max_length=64)]
    unit: Annotated[str, Meta(max_length=32)]
    dtype: Dtype = "f4"
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None  # measuring range, in `unit`
    high: float | None = None


class Component(Struct, frozen=True, omit_defaults=True):
    """A part of the asset, with its characteristic orders (multiples of shaft speed) where known."""

    name: ChannelName
    kind: Annotated[str, Meta(max_length=64)]
    orders: dict[str, float] = {}


class AssetBirth(Struct, frozen=True, omit_defaults=True):
    """Contract of one asset from `start_ns` on; topic `kizashi.asset.v1`, compacted, key = `asset|birth_id`.

    A tombstone under the same key retires the asset: its slot is freed, its alerts are cleared.
    """

    asset: Name
    birth_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
    start_ns: Int63
    channels: Annotated[tuple[Channel, ...], Meta(min_length=1, max_length=MAX_CHANNELS)]
    rate_hz: Annotated[float, Meta(gt=0, le=1e7)]
    samples_per_frame: Annotated[int, Meta(ge=1, le=MAX_SAMPLES_PER_FRAME)]
    asset_class: Name
    site: Name
    criticality: Literal["A", "B", "C"] = "B"
    components: tuple[Component, ...] = ()
    v: Literal[1] = 1

    @classmethod
    def make(cls, **content: object) -> "AssetBirth":
        """Build a birth whose `birth_id` is the hash of its content and start."""
        draft = msgspec.convert({**content, "birth_id": "0" * 16}, cls)
        return msgspec.structs.replace(draft, birth_id=draft.digest())

    def digest(self) -> str:
        """Return the 16 hex digits that `birth_id` must be: sha256 of the canonical JSON without it."""
        content = msgspec.to_builtins(self)
        content.pop("birth_id", None)
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:16]

    @property
    def key(self) -> bytes:
        return f"{self.asset}|{self.birth_id}".encode()

    @property
    def frame_bytes(self) -> int:
        """Return the exact length of a frame's `data`, bytes."""
        return self.samples_per_frame * sum(int(c.dtype[1]) for c in self.channels)
