"""Still: how long each channel has had one value, and whether a living sensor would have it so long. Pure.

A chart of means cannot see a sensor that stopped at its mean: its score falls, and nothing else happens. What counts
is therefore the run of equal samples, against the longest run that the asset's calibration had: a coarse sensor repeats
itself, a fine one never does. Only charted channels are looked at; a speed or a set point may stand still for days.
A score over its limit counts all the same: a sensor at the end of its range may tell of a real overload.
"""

import numpy as np

from pipeline.columns import F64, I64, Array, Bool, Groups
from pipeline.state import Column, Table

# The longest run of a stationary channel grows with the logarithm of the samples, so three times that of a calibration
# is out of reach for most living ones: white noise read at a resolution of 1 or 2 of its standard deviations was never
# doubted in 3 million rows, at 3 in 9 of them, at 4 in 311. Of SKAB's 24 recordings, 700 samples each after the
# calibration, the coarsest sensor comes to 43 where the calibration had 31.
_FACTOR = 3
# A channel with hardly a run in its calibration may still repeat itself a little, as a flow at another level does: 27
# samples on SKAB where the calibration had 5.
_LEAST = 32
# A run is not counted further than this; at 51.2 kHz it takes six hours to come here.
_MOST = 1 << 30

#: What was learnt with the baseline; the rest is of the stream.
LEARNT = ("patience",)
STREAM = ("value", "still")


def columns(channels: int) -> tuple[Column, ...]:
    """Return what a slot needs. value: newest sample, physical unit. still: samples in a row that had it.

    patience: how many a living sensor may have, 0: the channel is not looked at.
    """
    per = (channels,)
    return Column("value", "f8", per), Column("still", "i4", per), Column("patience", "i4", per)


def learn(table: Table, slot: int, rows: F64, kept: Bool) -> None:
    """Take from a calibration, rows (N, C), how long each of the channels `kept` (C,) repeats itself."""
    at = np.arange(len(rows))[:, None]
    changed = np.ones(rows.shape, bool)
    changed[1:] = rows[1:] != rows[:-1]
    run = at - np.maximum.accumulate(np.where(changed, at, 0), axis=0) + 1
    table["value"][slot], table["still"][slot] = rows[-1], run[-1]
    table["patience"][slot] = np.where(kept, np.maximum(_FACTOR * run.max(axis=0), _LEAST), 0)


def count(table: Table, slot: I64, x: F64) -> I64:
    """Go on counting through frames x (n, C, samples), sorted by slot; return the run at the end of each, (n, C)."""
    n, _, samples = x.shape
    if not n:
        return np.zeros(x.shape[:2], np.int64)
    groups, at, end = Groups.of(slot), np.arange(n)[:, None], x[:, :, -1]
    differs = x[:, :, ::-1] != end[:, :, None]
    tail = np.where(differs.any(axis=2), differs.argmax(axis=2), samples)
    heads, before = slot[groups.first], np.empty_like(end)
    before[1:] = end[:-1]
    before[groups.first] = table["value"][heads]
    goes_on = (tail == samples) & (end == before)
    # A run began in the newest frame that does not go on; in the first one of a slot here it may come from before.
    run = tail.astype(np.int64)
    run[groups.first] += np.where(goes_on[groups.first], table["still"][heads], 0)
    begins = ~goes_on
    begins[groups.first] = True
    since = np.maximum.accumulate(np.where(begins, at, 0), axis=0)
    still: I64 = np.minimum(np.take_along_axis(run, since, axis=0) + samples * (at - since), _MOST)
    last = slot[groups.last]
    table["value"][last], table["still"][last] = end[groups.last], still[groups.last]
    return still


def stuck(table: Table, slot: I64, still: I64) -> Array:
    """Return for rows of runs `still` (n, C) the first channel that has stood still too long, -1 for none: (n,)."""
    patience = table["patience"][slot]
    over = (patience > 0) & (still > patience)
    first: Array = np.where(over.any(axis=1), over.argmax(axis=1), -1)
    return first
