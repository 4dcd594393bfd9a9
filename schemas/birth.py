"""Asset birth: what an asset's frames contain, announced before the first of them. [Sparkplug NBIRTH in spirit]"""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from schemas.frame import Int63, Rpm

# `(?!\n)` because Python's `$` also matches before a newline at the end, and "pump-07\n" is no name.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}(?!\n)$")]
ChannelName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}(?!\n)$")]
BirthId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}(?!\n)$")]
Dtype = Literal["f4", "f8", "i2", "i4", "u1", "u2"]

#: Reliability limits (a frame is one Kafka record of at most 1 MiB, Kafka's own default limit).
MAX_CHANNELS = 32
MAX_SAMPLES_PER_FRAME = 65_536
MAX_FRAME_BYTES = 1 << 20
MAX_COMPONENTS = 64
MAX_ORDERS = 64

# Bounds refuse NaN and infinity as well: a birth with either would turn every sample of its asset into a dead letter.
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]


class Channel(Struct, frozen=True, omit_defaults=True):
    """One signal of an asset. Physical value = raw * scale + offset, in `unit` (a UCUM code).

    low, high: measuring range, in `unit`.
    """

    name: ChannelName
    quantity: Annotated[str, Meta(max_length=64)]
    unit: Annotated[str, Meta(max_length=32)]
    dtype: Dtype = "f4"
    scale: Finite = 1.0
    offset: Finite = 0.0
    low: Finite | None = None
    high: Finite | None = None

    def __post_init__(self) -> None:
        if self.scale == 0.0:
            raise ValueError(f"channel {self.name}: scale is 0, every sample would be {self.offset:g} {self.unit}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"channel {self.name}: low is {self.low:g}, high is {self.high:g} {self.unit}; low < high")


class Component(Struct, frozen=True, omit_defaults=True):
    """A part of the asset, with its characteristic orders (multiples of shaft speed) where known.

    kind: what it is, and for a rolling bearing its designation where known: "bearing 6205-2RS". orders: of a bearing
    bpfo, bpfi, bsf (turns of a ball about itself), ftf. channel: the name of the channel that listens to it.
    """

    name: ChannelName
    kind: Annotated[str, Meta(max_length=64)]
    orders: Annotated[dict[str, Finite], Meta(max_length=MAX_ORDERS)] = {}
    channel: ChannelName | None = None


class AssetBirth(Struct, frozen=True, omit_defaults=True):
    """Contract of one asset from `start_ns` on; topic `kizashi.asset.v1`, compacted, key = `asset|birth_id`.

    nominal_rpm: speed of the shaft, turns per minute, where neither a channel nor the frames tell it.
    A tombstone under the same key retires the asset: its slot is freed, its alerts are cleared.
    """

    asset: Name
    birth_id: BirthId
    start_ns: Int63
    channels: Annotated[tuple[Channel, ...], Meta(min_length=1, max_length=MAX_CHANNELS)]
    rate_hz: Annotated[float, Meta(gt=0, le=1e7)]
    samples_per_frame: Annotated[int, Meta(ge=1, le=MAX_SAMPLES_PER_FRAME)]
    asset_class: Name
    site: Name
    criticality: Literal["A", "B", "C"] = "B"
    components: Annotated[tuple[Component, ...], Meta(max_length=MAX_COMPONENTS)] = ()
    nominal_rpm: Rpm | None = None
    v: Literal[1] = 1

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.channels]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"channel names must differ, given twice: {', '.join(twice)}")
        for part in self.components:
            if part.channel is not None and part.channel not in names:
                raise ValueError(f"component {part.name}: channel {part.channel} is none of {', '.join(names)}")
        if self.frame_bytes > MAX_FRAME_BYTES:
            raise ValueError(f"a frame is {self.frame_bytes} bytes, limit {MAX_FRAME_BYTES}: lower samples_per_frame")

    @classmethod
    def make(cls, **content: object) -> "AssetBirth":
        """Build a birth whose `birth_id` is the hash of its content and start. Raises msgspec.ValidationError."""
        plain = msgspec.to_builtins({**content, "birth_id": "0" * 16})  # else ready-made channels would go unchecked
        draft = msgspec.convert(plain, cls)
        return msgspec.structs.replace(draft, birth_id=draft.digest())

    def digest(self) -> str:
        """Return the 16 hex digits that `birth_id` must be: sha256 of the canonical JSON without it.

        Canonical: keys sorted, no spaces, floats in their shortest form with a point (`1.0`), fields that equal their
        default left out, so that a field added later changes no id.
        """
        content = _canonical(self)
        content.pop("birth_id", None)
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:16]

    @property
    def key(self) -> bytes:
        return f"{self.asset}|{self.birth_id}".encode()

    @property
    def frame_bytes(self) -> int:
        """Return the exact length of a frame's `data`, bytes."""
        return self.samples_per_frame * sum(int(c.dtype[1]) for c in self.channels)


def _canonical(value: Any) -> Any:
    # By equality; the encoder's own omit_defaults goes by identity, and a scale of 1.0 from the wire is another object
    # than the default: equal births would get different ids.
    if isinstance(value, Struct):
        given = {field.name: getattr(value, field.name) for field in fields(value) if not _is_default(value, field)}
        return {name: _canonical(item) for name, item in given.items()}
    return [_canonical(item) for item in value] if isinstance(value, tuple) else value


def _is_default(struct: Struct, field: FieldInfo) -> bool:
    default = field.default if field.default_factory is NODEFAULT else field.default_factory()
    return bool(getattr(struct, field.name) == default)
