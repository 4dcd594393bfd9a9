"""Assessment: the scores behind the alerts, for audit, plots and tests. [ISO 13374 SD/HA]"""

from typing import Literal

from msgspec import Struct


class RowAnswers(Struct, frozen=True, omit_defaults=True):
    """What the model says of an Assessment's rows beside their scores; what it does not say is absent.

    unknown: why a row's answer counts for nothing, "" where it counts. mode, confidence: the likeliest failure and its
    probability; those of all `labels` are in probabilities. life: mean, p10, p50, p90 in life_unit; from life_cap on it
    means "at least". line: expected Hz, found Hz, order found, dB above chance. contributions: shares of `channels` in
    the score. component: the part that was judged. Floats are not rounded.
    """

    unknown: tuple[str, ...] | None = None
    mode: tuple[str, ...] | None = None
    confidence: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    probabilities: tuple[tuple[float, ...], ...] | None = None
    life: tuple[tuple[float, float, float, float], ...] | None = None
    life_unit: str | None = None
    line: tuple[tuple[float, float, float, float], ...] | None = None
    channels: tuple[str, ...] | None = None
    contributions: tuple[tuple[float, ...], ...] | None = None
    life_cap: float | None = None
    component: str | None = None


class Assessment(Struct, frozen=True, omit_defaults=True):
    """Rows of one asset settled together; topic `kizashi.assessment.v1`, key = asset, off by default.

    t_end: event time of each row's last sample, Unix ns. state: 0 normal, 1 over the limit, 2 alert active, 3 unknown:
    the row is not judged, `answers.unknown` says why. seq: that of the frame which completed the row. Arrays have one
    entry per row, in order.
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
    answers: RowAnswers | None = None
    v: Literal[1] = 1


class CalibrationNotes(Struct, frozen=True, omit_defaults=True):
    """What else there is to say of a baseline. reason: why it is suspect.

    drivers: channels that say how the asset is driven. slope: row-major (channels, drivers), physical units, what of a
    channel follows them: x - slope (driver - its center) is charted. low, high: range of each driver that was seen.
    """

    reason: str = ""
    drivers: tuple[str, ...] = ()
    slope: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


class Calibration(Struct, frozen=True, omit_defaults=True):
    """A finished per-asset baseline; topic `kizashi.calibration.v1`, compacted, key = asset. For other readers.

    channels: all channels; kept: 1 where the chart uses it, 0 where the stationarity test dropped it.
    center, scale: per channel, physical units. whitening: row-major (channels, channels). Of a model whose features are
    judged by a baseline, `channels` names those ("flow.level"), and whitening is empty. notes: none if there is
    nothing to say.
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
    notes: CalibrationNotes | None = None
