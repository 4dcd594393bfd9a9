"""Telemetry frame: a block of consecutive samples of one asset's channels. [ISO 13374 DA]"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

#: Wire version of every message in this package; a reader refuses any other (dead letter `unknown_schema`).
VERSION = 1

Int63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # fits a NumPy int64 column
Quality = Literal["good", "uncertain", "bad"]

# Bounded, because a dead letter repeats them beside at most 64 KiB of the original and must itself fit a record.
# What an asset may be called is checked once, in its birth; here only the length costs (0.02 us a frame).
AssetKey = Annotated[str, Meta(min_length=1, max_length=128)]
BirthKey = Annotated[str, Meta(min_length=1, max_length=16)]


# Bounds refuse NaN and infinity; no shaft that carries a rolling bearing turns faster (dental turbines: 500,000).
Rpm = Annotated[float, Meta(ge=0, le=1e6)]


class TelemetryFrame(Struct, frozen=True, gc=False, omit_defaults=True):
    """One block of samples; topic `kizashi.telemetry.v1`, key = asset, value = msgpack map.

    data: little-endian samples in C order (channel, sample), dtypes and scales as the birth says.
    seq: counts frames since the birth, starting anywhere, +1 a frame.
    t0_ns: Unix time of the first sample, nanoseconds, by the device's clock.
    historical: stored data sent after the fact; assessed, never a live alert.
    rpm: speed of the shaft while the samples were taken, turns per minute; 0 = it stood still, none = not measured.
    """

    asset: AssetKey
    birth_id: BirthKey
    seq: Int63
    t0_ns: Int63
    data: bytes
    historical: bool = False
    quality: Quality = "good"
    rpm: Rpm | None = None
    v: Literal[1] = 1
