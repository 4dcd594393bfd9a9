"""`[baseline]` of a passport: how an asset's own normal is learnt from what its model says of the first rows."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

_Word = Annotated[str, Meta(min_length=1, max_length=64)]
_Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}(?!\n)$")]
_Positive = Annotated[float, Meta(gt=0.0, le=1e9)]

#: A smoothed feature must be seen over this many of its memories (1 / smoothing rows), or its limit is a guess.
_MIN_MEMORIES = 4


class FeatureSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One number of the graph's output `features`.

    side: which way a fault moves it; "up" takes what is below normal for normal. log: its logarithm is charted, for
    what grows by factors (values below 1e-30 count as that). least_scale: its spread is never taken for smaller, in its
    unit after the logarithm (0.05 are 5 %): what is smaller is nothing to act on, however quiet an asset is.
    smoothing: of this feature alone, in place of the baseline's.
    """

    name: _Name
    side: Literal["both", "up", "down"] = "both"
    log: bool = False
    least_scale: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    smoothing: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None


class BaselineSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How the features of a row become its score, by what is normal for the asset.

    features: in the order of the graph's output. per_channel: the output has them for each channel of the asset,
    (n, channels * features), channel by channel. rows: of a healthy asset that the baseline is learnt from. folds:
    blocks of them, each of which is judged by centre and scale of the others; the limit comes from that.
    smoothing: weight of the newest row in the moving mean of each standardised feature, 1 = none. clip: standardised
    features are cut at this. combine: the score is the "max" of them or their root mean square, "rms".
    exceedance: chance that a healthy row is over the limit, by the fitted tail.
    stationarity: least von Neumann ratio (2 = white noise, 0 = drift) of a feature's means over tenths of the baseline;
    features below it are left out, with `per_channel` all of their channel. 0 leaves nothing out.
    slow_quantities: with `per_channel`, channels whose quantity contains one of these words are left out.
    regime_quantities: with `per_channel`, channels with one of these words say how the asset is driven (speed, load):
    they have no score, the features of the others are regressed on their `regime_feature` over the baseline's rows, and
    a row outside the range seen there is unknown.
    most_move: a level that moves by more of its scales during the baseline makes it suspect. fleet_limit: so does a
    limit above this, in scales of a smoothed feature; choose it by what the fleet's limits are.
    """

    features: Annotated[tuple[FeatureSpec, ...], Meta(min_length=1, max_length=256)]
    rows: Annotated[int, Meta(ge=8, le=100_000)]
    per_channel: bool = False
    folds: Annotated[int, Meta(ge=2, le=32)] = 4
    smoothing: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    clip: _Positive = 30.0
    combine: Literal["max", "rms"] = "max"
    exceedance: Annotated[float, Meta(gt=0.0, lt=0.5)] = 1e-4
    stationarity: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.0
    slow_quantities: tuple[_Word, ...] = ()
    regime_quantities: tuple[_Word, ...] = ()
    regime_feature: _Name = "level"
    most_move: _Positive = 3.0
    fleet_limit: _Positive = 12.0

    def width(self, channels: int) -> int:
        """Return how many numbers the features of a row are."""
        return len(self.features) * (channels if self.per_channel else 1)

    def smoothings(self, channels: int) -> tuple[float, ...]:
        """Return the weight of the newest row for each number of a row's features."""
        own = tuple(self.smoothing if f.smoothing is None else f.smoothing for f in self.features)
        return own * (channels if self.per_channel else 1)

    def groups(self, channels: int) -> int:
        """Return how many shares a score is divided into: one per channel, or one per feature."""
        return channels if self.per_channel else len(self.features)

    def names(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Name the numbers of a row's features; channels: names of those that the model takes."""
        if not self.per_channel:
            return tuple(f.name for f in self.features)
        return tuple(f"{channel}.{f.name}" for channel in channels for f in self.features)

    def faults(self) -> Iterator[str]:
        """Say what of the table does not agree."""
        if self.slow_quantities and not self.per_channel:
            yield "baseline.slow_quantities: only features per channel have a quantity"
        if self.regime_quantities and not self.per_channel:
            yield "baseline.regime_quantities: only features per channel have a quantity"
        if self.regime_quantities and self.regime_feature not in {feature.name for feature in self.features}:
            yield f"baseline.regime_feature: no feature is named {self.regime_feature!r}"
        if len({feature.name for feature in self.features}) < len(self.features):
            yield "baseline.features: a name is there twice"
        longest = 1 / min(self.smoothings(1))
        if self.rows < _MIN_MEMORIES * longest:
            yield (f"baseline.rows = {self.rows} are fewer than {_MIN_MEMORIES} times the memory of 1 / smoothing = "
                   f"{longest:.0f} rows: learn longer or smooth less")
        if self.rows < 2 * self.folds:
            yield f"baseline.folds = {self.folds} of {self.rows} rows: a fold needs two rows"
