"""What a passport says of its rows: windows of samples, or the state of a recursion, and how that is set up."""

from typing import Annotated

from msgspec import Meta, Struct

from engines.fields import ChannelName, Positive, Text

# A chart's calibration must span its memory (1 / smoothing samples) this often, or its limit is a guess.
_MIN_MEMORIES = 20


class WindowSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Rows are windows of `size` samples, one every `hop` samples (kind "window")."""

    size: Annotated[int, Meta(ge=1, le=1 << 20)]
    hop: Annotated[int, Meta(ge=1, le=1 << 20)]

    def faults(self) -> list[str]:
        """Say what of it does not agree."""
        if self.hop <= self.size:
            return []
        return [f"window.hop = {self.hop} is above window.size = {self.size}: samples get lost"]


class MewmaSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Rows are the state of a recursion per sample (kind "mewma"); the rest is the recipe of its calibration.

    smoothing: weight of the newest sample. hop: samples between two rows, 0 = one row a frame.
    calibration_rows: samples of a healthy asset that the chart is set up from. folds: blocks of them, each of which is
    judged by a chart fitted on the others. stationarity, slow_stationarity: least von Neumann ratio (2 = white noise,
    0 = drift) of a channel's samples, and of its means over tenths of the calibration: slow drift under fast noise.
    exceedance: chance that a healthy row is over the limit, by the fitted tail. slow_quantities: channels whose
    quantity contains one of these words are left out: what moves for hours looks steady in a short calibration.
    regime_quantities: channels with one of these words say how the asset is driven (speed, load): they are not charted,
    the others are regressed on them. wander_bound: largest cumulated deviation of a steady channel, in units of a
    Brownian bridge. limit_bound: largest limit of a steady asset, as a multiple of that of independent channels. Beyond
    them a baseline is suspect; None: not looked at.
    """

    smoothing: Annotated[float, Meta(gt=0.0, le=1.0)]
    hop: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    calibration_rows: Annotated[int, Meta(ge=64, le=100_000)] = 400
    folds: Annotated[int, Meta(ge=2, le=32)] = 8
    stationarity: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.5
    slow_stationarity: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.35
    exceedance: Annotated[float, Meta(gt=0.0, lt=0.5)] = 2e-5
    slow_quantities: tuple[Text, ...] = ()
    regime_quantities: tuple[Text, ...] = ()
    wander_bound: Positive | None = None
    limit_bound: Positive | None = None

    def faults(self) -> list[str]:
        """Say what of it does not agree."""
        if self.calibration_rows * self.smoothing >= _MIN_MEMORIES:
            return []
        return [f"mewma.calibration_rows = {self.calibration_rows} are fewer than {_MIN_MEMORIES} times the memory "
                f"of 1 / smoothing = {1 / self.smoothing:.0f} samples: calibrate longer or smooth less"]


class OrderSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Rows are windows of one channel's raw samples, and the lines of the bearing that it hears (kind "order").

    rate_hz: samples per second of the model's window; an asset's own rate is brought down to it. size: samples of a
    window, hop: between the ends of two, at that rate. speed_change: largest change of the shaft's speed within a
    window, as a part of it.
    """

    rate_hz: Positive
    size: Annotated[int, Meta(ge=16, le=1 << 20)]
    hop: Annotated[int, Meta(ge=1, le=1 << 20)]
    speed_change: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.02

    def rows(self) -> dict[str, tuple[int, ...]]:
        """Return the inputs that a row has, and their shapes."""
        return {"samples": (self.size,), "lines_hz": (5,)}

    def misfits(self, samples_per_frame: int) -> list[str]:
        """Say why frames of so many samples cannot be used."""
        if samples_per_frame <= self.size:
            return []
        return [f"{samples_per_frame} samples per frame are more than a window's {self.size}: an alert could not say "
                "which of a frame's windows raised it"]

    def faults(self, least_hz: float | None, most_hz: float | None) -> list[str]:
        """Say what of it does not agree. least_hz, most_hz: rates of [match]."""
        found = []
        if self.hop > self.size:
            found.append(f"order.hop = {self.hop} is above order.size = {self.size}: samples get lost")
        if least_hz is None or most_hz is None or least_hz < self.rate_hz:
            found.append(f"order needs match.min_rate_hz of at least order.rate_hz = {self.rate_hz:g} (what was never "
                         "measured cannot be made) and match.max_rate_hz, which sizes the state")
        return found


#: A sample with a channel beyond this size is not averaged: its square, in a setting's units, would not be finite.
LARGEST = 1e100


class EwmaState(Struct, frozen=True, forbid_unknown_fields=True):
    """What of `EwmaSpec` shapes the state."""

    smoothings: Annotated[tuple[Annotated[float, Meta(gt=0.0, le=1.0)], ...], Meta(min_length=1, max_length=16)]
    age: ChannelName | None = None
    settings: dict[ChannelName, Positive] = {}
    squares: tuple[ChannelName, ...] = ()
    hop: Annotated[int, Meta(ge=1, le=1 << 20)] = 1


class EwmaSpec(EwmaState, frozen=True, forbid_unknown_fields=True):
    """Rows are moving means of the raw channels (kind "ewma"), each asset's since its first sample.

    smoothings: weights of the newest sample, one mean each. age: channel that counts operating time; it is not
    averaged. settings: channels that say the operating point, and what they are divided by; they, and the squares of
    those in `squares`, are averaged beside the sensors, which are all other channels. hop: samples between two rows.
    Channels are those of [match], in its order. plausible: least and most that a channel can say, where its birth
    does not tell its measuring range; a sample beyond is never averaged.
    """

    plausible: dict[ChannelName, tuple[float, float]] = {}

    @property
    def state(self) -> EwmaState:
        """Return what shapes the state: with another plausible range it means the same."""
        return EwmaState(self.smoothings, self.age, self.settings, self.squares, self.hop)

    def sensors(self, channels: tuple[str, ...]) -> tuple[str, ...]:
        """Return the channels that are neither age nor setting."""
        return tuple(c for c in channels if c != self.age and c not in self.settings)

    def rows(self, channels: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """Return the inputs that a row has, and their shapes."""
        sensors = len(self.sensors(channels))
        width = sensors + len(self.settings) + len(self.squares)
        return {"ewma": (len(self.smoothings), width), "count": (), "last": (len(channels),), "same": (sensors,)}

    def faults(self, channels: tuple[str, ...]) -> list[str]:
        """Say what of it does not agree."""
        found = [f"ewma: channel {name!r} is none of match.channels"
                 for name in (*((self.age,) if self.age else ()), *self.settings) if name not in channels]
        found += [f"ewma.squares: {name!r} is none of ewma.settings" for name in self.squares
                  if name not in self.settings]
        found += [f"ewma.plausible: {name!r} is none of match.channels" for name in self.plausible
                  if name not in channels]
        found += [f"ewma.plausible: {name} is at least {low:g} and at most {high:g}; want least < most"
                  for name, (low, high) in self.plausible.items() if not low < high]
        return found if self.sensors(channels) or found else ["ewma: match.channels has no sensor"]
