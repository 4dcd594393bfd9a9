"""Baseline drive: what of an asset's features its speed and load explain, learnt along with its baseline. Pure. [SD]

The drivers are channels, by their quantity; a channel's level is the feature that the passport names. Drivers have no
score of their own. Where one leaves the range that the baseline saw, nothing is known of the asset, which is no alarm.
"""

import numpy as np

from engines.baselinespec import BaselineSpec
from pipeline import regime
from pipeline.columns import F64, I64, Array, Bool
from pipeline.regime import MAX_DRIVERS, Regime
from pipeline.state import Column, Pool, Table

#: What a finished baseline sets besides, where the passport has drivers.
DRIVE = ("base_driver", "base_slope", "base_low", "base_high")
#: Why a row without a score has none.
OUTSIDE = "speed or load outside the range that the baseline saw"

# MAD to standard deviation for a normal distribution.
_MAD = 1.4826
# The range seen is widened by this share of itself, and by three standard deviations of the noise from row to row.
_WIDER, _SIGMAS = 0.1, 3.0
# Operating points closer than this share of the level are one: a grid's frequency or a governor moves by about 1 %.
_SAME = 0.02


def columns(spec: BaselineSpec, channels: int) -> tuple[Column, ...]:
    """Return what a slot needs: driver, the feature that is each driver's level, -1 for none; slope of every feature on
    them; low and high, the range of each that counts as seen.
    """
    if not spec.regime_quantities:
        return ()
    per = (MAX_DRIVERS,)
    return (Column("base_driver", "i2", per, fill=-1), Column("base_slope", "f8", (spec.width(channels), MAX_DRIVERS)),
            Column("base_low", "f8", per), Column("base_high", "f8", per))


def drivers(spec: BaselineSpec, pool: Pool, slot: int) -> I64:
    """Return which channels drive the asset."""
    who = pool.slots[slot]
    if who is None or not spec.regime_quantities:
        return np.zeros(0, np.int64)
    return regime.drivers([c.quantity for c in pool.channels_of(who.birth)], spec.regime_quantities)


def learn(spec: BaselineSpec, rows: F64, center: F64, which: I64) -> Regime | None:
    """Regress the features on the drivers' levels. rows: (N, F), center: (F,), which: driving channels."""
    if not len(which):
        return None
    names = [feature.name for feature in spec.features]
    index = which * len(names) + names.index(spec.regime_feature)
    u = rows[:, index]
    low, high, same = u.min(axis=0), u.max(axis=0), _SAME * np.abs(center[index])
    noise = _MAD * np.median(np.abs(np.diff(u, axis=0)), axis=0) / np.sqrt(2.0)  # steps between two speeds are rare
    margin = np.maximum.reduce([_WIDER * (high - low), _SIGMAS * noise, same])
    return regime.follow(rows, index, high - low > same, low - margin, high + margin)


def keep(table: Table, slot: int, found: Regime | None) -> None:
    """Store what was learnt of one asset."""
    if "base_driver" not in table:
        return
    table.reset(slot, DRIVE)
    if found is not None:
        k = len(found.index)
        table["base_driver"][slot, :k], table["base_slope"][slot, :, :k] = found.index, found.slope
        table["base_low"][slot, :k], table["base_high"][slot, :k] = found.low, found.high


def explain(table: Table, slot: I64, x: Array) -> tuple[F64, Bool]:
    """Take from features x (n, F) of slots (n,) what the drivers explain; say which rows lie outside what was seen."""
    outside = np.zeros(len(slot), bool)
    if "base_driver" not in table:
        return x, outside
    driver, rest = table["base_driver"][slot], np.array(x)
    for k in range(MAX_DRIVERS):
        driven = np.flatnonzero(driver[:, k] >= 0)
        if not len(driven):
            break  # an asset's second driver comes after its first
        at, i = slot[driven], driver[driven, k]
        value = x[driven, i]
        outside[driven] |= (value < table["base_low"][at, k]) | (value > table["base_high"][at, k])
        rest[driven] -= table["base_slope"][at, :, k] * (value - table["base_center"][at, i])[:, None]
    return rest, outside
