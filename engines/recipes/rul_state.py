"""What `rul-ewma` remembers of an asset: moving means of the raw channels, counts, the last sample. One step a sample.

A mean must be taken of *normalised* sensors, and what is normal depends on the operating point, which may change with
every sample. Normalising first would put the model's constants into the recursion, and a retrained model could not take
over anyone's state. So the raw sensors and a few powers of the settings (`lift`) are averaged side by side. A regime's
mean is linear in those powers, and a mean is linear too, so the graph can subtract afterwards:

    z = (E[x] - b . E[lift]) / (d . E[lift])        E: the same moving mean; b, d: constants of the model

This is the weighted mean of the normalised samples with their scales as weights. It needs no regime label, and the
state has no constant but the smoothings. In cross-validation it is as good as normalising each sample first.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.kindspec import LARGEST

F64 = NDArray[np.float64]

CYCLES = "cycles"
SETTINGS = ("altitude", "mach", "throttle")
#: The 14 of C-MAPSS's 21 sensors that move with wear; the other 7 are constant within a regime.
SENSORS = ("T24", "T30", "T50", "P30", "Nf", "Nc", "Ps30", "phi", "NRf", "NRc", "BPR", "htBleed", "W31", "W32")
#: What a row of an asset is made of, in this order.
CHANNELS = (CYCLES, *SETTINGS, *SENSORS)
#: Weight of the newest sample: memories of 100, 33, 10 and 3 cycles. Slowest first.
SMOOTHINGS = (0.01, 0.03, 0.1, 0.3)
#: Divisors of the settings, so that their powers are of one size: 42 thousand feet, Mach 0.84, throttle 100.
SETTING_SCALE = (42.0, 0.84, 100.0)
#: The settings whose squares are averaged too.
SQUARES = ("altitude", "mach")
#: Powers that `lift` returns: settings and squares. With the constant 1 they tell six regimes apart.
LIFTED = 5
COLUMNS = len(SENSORS) + LIFTED
_FIRST = 1 + len(SETTINGS)  # of the sensors in a row
_ANY = np.array([[-LARGEST], [LARGEST]])


@dataclass(frozen=True, slots=True)
class History:
    """All samples of one asset in order. rows: (samples, channels) float64 as CHANNELS, NaN where nothing was measured.

    group: data set, for tables. remaining: life left after the last row, None when unknown; never an input.
    """

    name: str
    rows: F64
    group: str = ""
    remaining: float | None = None

    def rul(self) -> F64:
        """Return the life left after each row. Raises ValueError when it is unknown."""
        if self.remaining is None:
            raise ValueError(f"{self.name}: the remaining life is not known, so it cannot be trained or scored on")
        cycles = self.rows[:, 0]
        return np.asarray(self.remaining + cycles[-1] - cycles)

    def joined(self, start: int) -> "History":
        """Return the history as seen by who begins to listen after `start` samples; the cycles go on counting."""
        return History(self.name, self.rows[start:], self.group, self.remaining)


def lift(settings: F64) -> F64:
    """Return the averaged powers of the settings, (..., 3) -> (..., LIFTED): products, so the same bits anywhere."""
    scaled = settings / np.asarray(SETTING_SCALE)
    altitude, mach = scaled[..., 0:1], scaled[..., 1:2]
    return np.concatenate([scaled, altitude * altitude, mach * mach], axis=-1)


@dataclass(slots=True)
class State:
    """Of n assets. ewma: (n, smoothings, COLUMNS). count: samples averaged. last: (n, channels), the newest sample.

    same: (n, sensors), how many samples in a row had the value of the newest. All float64.
    """

    ewma: F64
    count: F64
    last: F64
    same: F64

    @classmethod
    def new(cls, assets: int) -> "State":
        return cls(
            np.zeros((assets, len(SMOOTHINGS), COLUMNS)), np.zeros(assets), np.full((assets, len(CHANNELS)), np.nan),
            np.zeros((assets, len(SENSORS))),
        )  # fmt: skip

    def step(self, sample: F64, plausible: F64 = _ANY) -> None:
        """Take one sample of each asset, (n, channels). plausible: (2, channels), least and most of each channel.

        One with a NaN, or beyond what is plausible, is kept as `last` and changes nothing else.
        """
        whole = np.asarray(((sample >= plausible[0]) & (sample <= plausible[1])).all(axis=1, keepdims=True))
        used = np.where(whole, sample, 0.0)
        settings, sensors = used[:, 1:_FIRST], used[:, _FIRST:]
        self.count += whole[:, 0]
        # Until a memory is filled it is a plain mean: each of the first samples weighs the same.
        weight = np.maximum(np.asarray(SMOOTHINGS), 1.0 / np.maximum(self.count, 1.0)[:, None]) * whole
        value = np.concatenate([sensors, lift(settings)], axis=1)
        self.ewma += weight[:, :, None] * (value[:, None] - self.ewma)
        runs = np.where(sensors == self.last[:, _FIRST:], self.same + 1.0, 1.0)
        self.same = np.where(whole, runs, self.same)
        self.last = sample.copy()

    def inputs(self) -> dict[str, F64]:
        """Return the graph's inputs for these assets."""
        return {"ewma": self.ewma, "count": self.count, "last": self.last, "same": self.same}


@dataclass(slots=True)
class Rows:
    """States after each sample of several histories, one after the other. owner: (n,) index of the history."""

    ewma: F64
    count: F64
    last: F64
    same: F64
    owner: NDArray[np.int64]

    def inputs(self) -> dict[str, F64]:
        """Return the graph's inputs."""
        return {"ewma": self.ewma, "count": self.count, "last": self.last, "same": self.same}


def run(histories: Sequence[History], plausible: F64 = _ANY) -> Rows:
    """Stream each history through the recursion; the state after every sample. plausible: see `State.step`."""
    lengths = np.array([len(h.rows) for h in histories])
    longest = int(lengths.max())
    sample = np.full((longest, len(histories), len(CHANNELS)), np.nan)
    for i, history in enumerate(histories):
        sample[: len(history.rows), i] = history.rows
    state = State.new(len(histories))
    kept: dict[str, list[F64]] = {"ewma": [], "count": [], "last": [], "same": []}
    at = []
    for t in range(longest):
        state.step(sample[t], plausible)
        alive = np.flatnonzero(lengths > t)
        for name, array in state.inputs().items():
            kept[name].append(array[alive])
        at.append(alive)
    owner = np.concatenate(at)
    order = np.argsort(owner, kind="stable")
    return Rows(**{name: np.concatenate(parts)[order] for name, parts in kept.items()}, owner=owner[order])


class SplitLeaks(ValueError):
    """The same asset is on both sides of a split; `names` are those of the held-out side."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"the split leaks: {', '.join(names)} on both sides; an asset belongs to one side")
        self.names = tuple(names)


def check_split(fitted: Sequence[History], held_out: Sequence[History]) -> None:
    """Raise SplitLeaks when an asset is on both sides, by its name or by any of its rows under another name."""
    names, rows = {h.name for h in fitted}, {row.tobytes() for h in fitted for row in h.rows}
    leaks = [h.name for h in held_out if h.name in names or any(row.tobytes() in rows for row in h.rows)]
    if leaks:
        raise SplitLeaks(leaks)


def fingerprint(history: History, rows: int = 10) -> str:
    """Return the head of the SHA-256 of an asset's first samples, 8 digits: the same asset, also when it is cut later.

    rows: 10 samples of 14 noisy sensors never agree by chance.
    """
    return hashlib.sha256(np.ascontiguousarray(history.rows[:rows], "<f8").tobytes()).hexdigest()[:8]


def digest(histories: Sequence[History]) -> str:
    """Return the SHA-256 of all rows, names and labels, in hex: what a model was trained on."""
    sha = hashlib.sha256()
    for h in histories:
        sha.update(f"{h.name}\n{h.rows.shape}\n{h.remaining}\n".encode())
        sha.update(np.ascontiguousarray(h.rows, "<f8").tobytes())
    return sha.hexdigest()
