"""Series: births and frames as arrays, for training and for choices that look at a whole history at once."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from schemas import AssetBirth, TelemetryFrame

F64 = NDArray[np.float64]


def series(messages: Iterable[AssetBirth | TelemetryFrame]) -> dict[str, tuple[AssetBirth, F64]]:
    """Return by asset its first birth and its samples (N, channels), physical units, in the order of the frames.

    As the worker would have them: through the frames' own number format.
    """
    births, parts = dict[str, AssetBirth](), dict[str, list[F64]]()
    for message in messages:
        if isinstance(message, AssetBirth):
            births.setdefault(message.asset, message)
            parts.setdefault(message.asset, [])
        else:
            parts[message.asset].append(samples(births[message.asset], message.data))
    return {name: (births[name], np.concatenate(found) if found else np.empty((0, len(births[name].channels))))
            for name, found in parts.items()}


def samples(birth: AssetBirth, data: bytes) -> F64:
    """Return (samples, channels) of a frame, which holds channel after channel."""
    at, columns = 0, []
    for channel in birth.channels:
        raw = np.frombuffer(data, f"<{channel.dtype}", birth.samples_per_frame, at)
        at += raw.nbytes
        columns.append(raw.astype(np.float64) * channel.scale + channel.offset)
    return np.column_stack(columns)
