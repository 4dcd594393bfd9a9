"""Assessment: the scores behind the alerts, for audit, plots and tests. [ISO 13374 SD/HA]"""

from typing import Literal

from msgspec import Struct


class Assessment(Struct, frozen=True, omit_defaults=True):
    """Rows of one asset settled together; topic `kizashi.assessment.v1`, key = asset, off by default.

    t_end: event time of each row's last sample, Unix ns. state: 0 normal, 1 over the limit, 2 alert active.
    seq: that of the frame which completed the row. Arrays have one entry per row, in order.
    """

    asset: str
    birth_id: str
    model: str
    seq: tuple[int, ...]
    t_end: tuple[int, ...]
    score: tuple[float, ...]
    limit: tuple[float, ...]
    state: tuple[int, ...]
    historical: bool = False
    v: Literal[1] = 1


class Calibration(Struct, frozen=True, omit_defaults=True):
    """A finished per-asset baseline; topic `kizashi.calibration.v1`, compacted, key = asset. For other readers.

    channels: all channels; kept: 1 where the chart uses it, 0 where the stationarity test dropped it.
    center, scale: per channel, physical units. whitening: row-major (channels, channels).
    """

    asset: str
    birth_id: str
    model: str
    seq: int
    t_end: int
    rows: int
    channels: tuple[str, ...]
    kept: tuple[int, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    whitening: tuple[float, ...]
    limit: float
    status: Literal["good", "suspect"] = "good"
    v: Literal[1] = 1
