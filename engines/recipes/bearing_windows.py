"""Windows to train and test `bearing-order` on: where they come from, how they are split, what is made of them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from engines.base import Array
from engines.orders import Orders
from engines.recipes.bearing_front import WINDOW
from engines.recipes.bearing_head import CLASSES

# A window to train on is longer than the model's by this much: played faster it still fills it.
SPAN = 14_400
# Between training and test windows of one recording of a healthy bearing.
GAP = 1_200


class LeakError(ValueError):
    """Training and test share a bearing or part of a recording; the message names it."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Rows. samples (n, WINDOW or SPAN), lines_hz (n, 5), label (n) in 0..3, bearing, recording (n) names, start (n).

    bearing: the physical one; windows of one belong on one side of a split, except of healthy ones (see `folds`).
    """

    samples: Array
    lines_hz: Array
    label: Array
    bearing: Array
    recording: Array
    start: Array

    def __len__(self) -> int:
        return len(self.label)

    def take(self, which: Array) -> "Windows":
        """Return the rows of a mask or an index."""
        return Windows(*(getattr(self, f.name)[which] for f in fields(self)))

    def plain(self) -> "Windows":
        """Return the same rows as the model sees them: WINDOW samples from their start."""
        return Windows(self.samples[:, :WINDOW], *(getattr(self, f.name) for f in fields(self)[1:]))


def join(parts: list[Windows]) -> Windows:
    """Return all rows of `parts`."""
    return Windows(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Windows)))


def check(train: Windows, test: Windows) -> None:
    """Raise LeakError when a defective bearing is on both sides, or windows of one recording are closer than GAP."""
    faulty = set(train.bearing[train.label > 0].tolist()) & set(test.bearing[test.label > 0].tolist())
    if faulty:
        raise LeakError(f"on both sides of the split: bearing {', '.join(sorted(faulty))}")
    for name in sorted(set(train.recording.tolist()) & set(test.recording.tolist())):
        a, b = train.take(train.recording == name), test.take(test.recording == name)
        ends = a.start + a.samples.shape[1], b.start + b.samples.shape[1]
        near = (a.start[:, None] < ends[1] + GAP) & (b.start < ends[0][:, None] + GAP)
        if near.any():
            i, j = np.argwhere(near)[0]
            where = f"samples {a.start[i]}-{ends[0][i]} (training) and {b.start[j]}-{ends[1][j]} (test)"
            raise LeakError(f"on both sides of the split: recording {name}, {where}")


def folds(every: Windows, group: Array, lengths: dict[str, int]) -> Iterator[tuple[str, Array, Array]]:
    """Yield (name, training, test) masks, one fold per value of `group` among the defective rows.

    All rows of a group's defective bearings are tested by a model that saw none of them. There is one healthy bearing,
    so its recordings (lengths: name -> samples) are cut in time: fold k tests part k, training keeps GAP away.
    """
    names = sorted(set(group[every.label > 0].tolist()))
    healthy = every.label == 0
    length = np.array([lengths[r] for r in every.recording.tolist()])
    end = every.start + every.samples.shape[1]
    for k, name in enumerate(names):
        low, high = k * length // len(names), (k + 1) * length // len(names)
        test = np.where(healthy, (every.start >= low) & (every.start + WINDOW <= high), group == name)
        train = np.where(healthy, (end + GAP <= low) | (every.start >= high + GAP), group != name)
        yield name, train, test


def shifted(rng: np.random.Generator, rows: Windows, depth_db: float = 6.0) -> Windows:
    """Return the rows as another machine might send them: another path to the sensor, other resonances.

    A random response (8 points over 6 kHz, `depth_db` each) bends the spectrum, playing 0.75 to 1.2 times as fast moves
    it; the lines move with the speed, so their orders stay. What a fault is must survive both.
    """
    out, lines = np.empty((len(rows), WINDOW), np.float32), rows.lines_hz.copy()
    f = np.linspace(0.0, 1.0, WINDOW // 2 + 1)
    knots = np.linspace(0.0, 1.0, 8)
    for i in range(len(rows)):
        n = int(WINDOW * np.exp(rng.uniform(np.log(0.75), np.log(rows.samples.shape[1] / WINDOW))))
        spectrum = np.fft.rfft(rows.samples[i, :n].astype(np.float64))
        spectrum = np.pad(spectrum, (0, max(0, len(f) - len(spectrum))))[: len(f)]
        gain = 10 ** (np.interp(f, knots, depth_db * rng.standard_normal(8)) / 20)
        y = np.fft.irfft(spectrum * gain, WINDOW)
        # A sensor's own noise, 60 dB down: no real spectrum is empty above some frequency.
        y += 1e-3 * np.sqrt((y**2).mean()) * rng.standard_normal(WINDOW)
        out[i] = y
        lines[i] *= n / WINDOW
    return Windows(out, lines, rows.label, rows.bearing, rows.recording, rows.start)


def near_integers(rng: np.random.Generator) -> Orders:
    """Return orders of a bearing whose outer and inner lines fall almost on the shaft's, as the 6203's do."""
    ftf = 0.0
    while not 0.34 < ftf < 0.45:  # not every number of elements has an integer in its range
        count = int(rng.integers(6, 16))
        whole = round(count * float(rng.uniform(0.36, 0.43)))
        ftf = (whole + float(rng.choice([-1, 1])) * float(rng.uniform(0.02, 0.09))) / count
    g = 1 - 2 * ftf
    return Orders(count * ftf, count * (1 - ftf), (1 - g * g) / (2 * g), ftf)


def misplaced(rng: np.random.Generator, healthy: Windows, copies: int) -> Windows:
    """Return healthy rows under the lines of other bearings: whatever bearing it is said to be, it is healthy."""
    rows = healthy.take(np.repeat(np.arange(len(healthy)), copies))
    lines = rows.lines_hz.copy()
    for i in range(len(rows)):
        orders = near_integers(rng)
        if rng.random() < 0.5:
            ftf, ratio = float(rng.uniform(0.35, 0.45)), float(rng.uniform(0.12, 0.33))
            count = int(rng.integers(6, 21))
            orders = Orders(count * ftf, count * (1 - ftf), (1 - ratio**2) / (2 * ratio), ftf)
        lines[i] = orders.lines_hz(60.0 * float(rows.lines_hz[i, 0]))
    return Windows(rows.samples, lines, rows.label, rows.bearing, rows.recording, rows.start)


def named(label: str) -> int:
    """Return the number of a class."""
    return CLASSES.index(label)
