"""FEMTO (PRONOSTIA): ball bearings run to failure, a snapshot of 0.1 s of acceleration every 10 s.

A folder holds BearingX_Y.npz: acc_h_mg [burst, sample] in 1/1000 g, integers or floats, fs in Hz, and t_s, which is not
used: the clock of some recordings is faulty, so snapshots are 10 s apart. acc_v_mg, if there, is a second channel.
Source: Nectoux et al., PRONOSTIA, IEEE PHM 2012.
"""

import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from engines.base import Array
from pipeline.errors import InputError
from schemas import AssetBirth, TelemetryFrame

#: Of its assets' births; what a route asks for.
ASSET_CLASS = "vibration-snapshots"
#: Seconds from one snapshot to the next.
EVERY_S = 10.0
_CHANNELS = {"acc_h": "acc_h_mg", "acc_v": "acc_v_mg"}
#: The recordings tell no date; each begins here, so that what a bearing is told does not depend on its neighbours.
_START_NS = int(datetime(2012, 1, 1, tzinfo=UTC).timestamp()) * 10**9


def recordings(data: Path) -> tuple[Path, ...]:
    """List the recordings in `data` by name. Raises InputError if there are none."""
    found = sorted(data.glob("Bearing*.npz"))
    if not found:
        raise InputError(f"{data}: holds no BearingX_Y.npz")
    return tuple(found)


def read(path: Path) -> tuple[dict[str, Array], float]:
    """Return the channels (bursts, samples) in 1/1000 g by name, and the rate in Hz. Raises InputError.

    All of them are int32, or float32 if one is of floats.
    """
    try:
        with np.load(path) as file:
            found = {name: file[key] for name, key in _CHANNELS.items() if key in file}
            rate = float(file["fs"])
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: is no recording with acc_h_mg and fs: {error}") from error
    shapes = {x.shape for x in found.values()}
    if len(shapes) != 1 or len(min(shapes)) != 2 or any(x.dtype.kind not in "iuf" for x in found.values()):
        raise InputError(f"{path}: acc_h_mg must be numbers [burst, sample], and acc_v_mg like it")
    held = "<f4" if any(x.dtype.kind == "f" for x in found.values()) else "<i4"
    return {name: x.astype(held) for name, x in found.items()}, rate


def asset_of(path: Path) -> str:
    """Return the asset that a recording becomes."""
    return f"femto/{path.stem}"


def recording_messages(path: Path) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield the birth and the snapshots of one recording, a frame each. Raises InputError."""
    channels, rate = read(path)
    samples = next(iter(channels.values()))
    birth = AssetBirth.make(
        asset=asset_of(path), start_ns=_START_NS, rate_hz=rate, samples_per_frame=samples.shape[1],
        channels=[{"name": name, "quantity": "acceleration", "unit": "[g]", "dtype": samples.dtype.str[1:],
                   "scale": 0.001} for name in channels],
        asset_class=ASSET_CLASS, site="femto",
    )  # fmt: skip
    yield birth
    for i in range(len(samples)):
        snapshot = b"".join(x[i].tobytes() for x in channels.values())
        yield TelemetryFrame(birth.asset, birth.birth_id, i, _START_NS + round(i * EVERY_S * 1e9), snapshot)


def messages(data: Path) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield the birth and the snapshots of every recording in `data`. Raises InputError."""
    for path in recordings(data):
        yield from recording_messages(path)
