"""Simulator: a seeded line of pumps. Pure: any frame is a function of (seed, faults, asset, seq)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.plant.faults import SIGNATURES, Fault
from schemas import AssetBirth, Channel, TelemetryFrame

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Signal:
    """How a healthy channel behaves: `nominal` +- `sigma` (both in the channel's unit).

    shared: share of its variance that it has in common with the channels of its group. load: share that follows the
    line's load, with its sign. drift: slow course of heat, in `unit` (temperatures only), far above their noise.
    """

    channel: Channel
    nominal: float
    sigma: float
    group: int
    shared: float
    load: float
    drift: float = 0.0


# A 45 kW centrifugal pump at its best point: velocity RMS in ISO 20816 zone A/B, sensors of 0.5-1 % noise.
_SIGNALS = (
    _Signal(Channel("vibration_de", "vibration velocity rms", "mm/s", low=0.0, high=50.0), 1.8, 0.12, 0, 0.3, 0.04),
    _Signal(Channel("vibration_nde", "vibration velocity rms", "mm/s", low=0.0, high=50.0), 1.4, 0.10, 0, 0.3, 0.04),
    _Signal(Channel("motor_current", "electric current", "A", low=0.0, high=200.0), 62.0, 0.9, 1, 0.2, 0.06),
    _Signal(Channel("suction_pressure", "pressure", "bar", low=-1.0, high=10.0), 1.6, 0.03, 2, 0.1, -0.03),
    _Signal(Channel("discharge_pressure", "pressure", "bar", low=-1.0, high=25.0), 7.4, 0.06, 1, 0.2, -0.05),
    _Signal(Channel("flow", "volume flow rate", "m3/h", low=-5.0, high=400.0), 180.0, 2.2, 1, 0.2, 0.06),
    _Signal(Channel("bearing_temp", "temperature", "Cel", low=-20.0, high=150.0), 58.0, 0.01, 3, 0.0, 0.0, drift=1.5),
    _Signal(Channel("motor_temp", "temperature", "Cel", low=-20.0, high=180.0), 71.0, 0.01, 3, 0.0, 0.0, drift=2.0),
)
CHANNELS = tuple(s.channel for s in _SIGNALS)
NAMES = tuple(c.name for c in CHANNELS)
_NOMINAL, _SIGMA, _DRIFT = (np.array([[getattr(s, k)] for s in _SIGNALS]) for k in ("nominal", "sigma", "drift"))
_GROUP = np.array([s.group for s in _SIGNALS])
_SHARED, _LOAD = (np.array([[getattr(s, k)] for s in _SIGNALS]) for k in ("shared", "load"))

#: AR(1) coefficient of the fast noise, from one sample to the next: coloured as RMS values are, far from drifting.
_PHI = 0.2
#: The recursion is cut after this many terms (0.2 ** 8 = 3e-6 of an innovation), which is what lets a frame be computed
#: from a bounded past instead of from the start of the plant.
_TAPS = 8
#: Samples generated together. Larger: fewer generator set-ups (30 us each); smaller: less held per asset (36 KiB).
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A line of `assets` pumps with 8 channels each, and the faults planted in it.

    rate_hz: samples per second and channel. start_ns: event time of sample 0 of frame 0, Unix ns.
    load_period_s: time scale of the load that all pumps of the line share.
    Raises InputError for a fault of an unknown asset or channel.
    """

    seed: int
    assets: int = 24
    rate_hz: float = 20.0
    samples_per_frame: int = 2
    start_ns: int = 0
    faults: Sequence[Fault] = ()
    load_period_s: float = 20.0
    site: str = "plant"
    line: str = "line1"

    def __post_init__(self) -> None:
        for fault in self.faults:
            _check(self.names, fault.asset, "asset")
            _check(NAMES, fault.first_channel, "channel")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.line}/pump-{i + 1:02d}" for i in range(self.assets))

    @cached_property
    def births(self) -> tuple[AssetBirth, ...]:
        return tuple(
            AssetBirth.make(
                asset=name, start_ns=self.start_ns, channels=CHANNELS, rate_hz=self.rate_hz,
                samples_per_frame=self.samples_per_frame, asset_class="pump", site=self.site,
            )
            for name in self.names
        )

    @property
    def frame_period_s(self) -> float:
        return self.samples_per_frame / self.rate_hz

    @cached_property
    def _noise(self) -> Callable[[int, int], F64]:
        # One block of one asset (and the one before it, for the taps) stays computed: a stream walks through it.
        return lru_cache(maxsize=2 * self.assets)(self._noise_block)

    def t0_ns(self, seq: int) -> int:
        """Return the event time of a frame's first sample, Unix ns."""
        return self.start_ns + round(seq * self.frame_period_s * 1e9)

    def values(self, asset: int, first: int, count: int) -> F64:
        """Compute samples `first` .. `first + count` of an asset: (channels, count), physical units."""
        white = self._white(asset, first - _TAPS + 1, count + _TAPS - 1)
        fast = np.zeros((len(white), count))
        for k in range(_TAPS):
            fast += _PHI**k * white[:, _TAPS - 1 - k:_TAPS - 1 - k + count]
        fast *= np.sqrt(1 - _PHI**2)
        own, common, flutter = fast[:len(_SIGNALS)], fast[len(_SIGNALS):-1][_GROUP], fast[-1]
        t = np.arange(first, first + count) / self.rate_hz
        z = np.sqrt(1 - _SHARED - np.abs(_LOAD)) * own + np.sqrt(_SHARED) * common
        z += np.sign(_LOAD) * np.sqrt(np.abs(_LOAD)) * self._load(t)
        nominal = self._nominal(asset)
        x: F64 = nominal + _SIGMA * z + _DRIFT * self._heat(asset, t)
        for fault in self.faults:
            if fault.asset == self.names[asset]:
                _apply(fault, x, nominal, t, flutter)
        return x

    def frames(self, asset: int, first_seq: int, count: int) -> list[TelemetryFrame]:
        """Compute `count` consecutive frames of an asset from `first_seq` on."""
        n, birth = self.samples_per_frame, self.births[asset]
        x = self.values(asset, first_seq * n, count * n).astype("<f4")
        raw = np.ascontiguousarray(x.reshape(len(_SIGNALS), count, n).transpose(1, 0, 2)).tobytes()
        size = birth.frame_bytes
        return [
            TelemetryFrame(birth.asset, birth.birth_id, seq, self.t0_ns(seq), raw[k * size:(k + 1) * size])
            for k, seq in enumerate(range(first_seq, first_seq + count))
        ]

    def rounds(self, first_seq: int = 0, count: int | None = None) -> Iterator[list[TelemetryFrame]]:
        """Yield, frame period by frame period, one frame of every asset; for ever if count is None."""
        block = max(1, _BLOCK // self.samples_per_frame)
        end = None if count is None else first_seq + count
        seq = first_seq
        while end is None or seq < end:
            step = block if end is None else min(block, end - seq)
            yield from map(list, zip(*(self.frames(a, seq, step) for a in range(len(self.births))), strict=True))
            seq += step

    def _random(self, asset: int, stream: int, block: int = 0) -> np.random.Generator:
        # Counter-based: block b of asset a is drawn without drawing those before it.
        return np.random.Generator(np.random.Philox(key=[self.seed, asset], counter=[0, 0, stream, block]))

    def _nominal(self, asset: int) -> F64:
        # No two pumps are alike: their operating points differ by 3 %.
        return _NOMINAL * (1 + 0.03 * self._random(asset, 1).standard_normal((len(_SIGNALS), 1)))

    def _load(self, t: F64) -> F64:
        """Return the line's load, zero mean, variance 1: three incommensurable swings with seeded phases."""
        phase, turns = self._phases(), 2 * np.pi * t / self.load_period_s
        swings: F64 = np.sin(turns + phase[0]) + np.sin(2.236 * turns + phase[1]) + np.sin(5.196 * turns + phase[2])
        swings *= np.sqrt(2 / 3)
        return swings

    def _heat(self, asset: int, t: F64) -> F64:
        """Return the slow course of heat, amplitude 1: the load's main swing, late, and slower ones."""
        phase = self._random(asset, 3).uniform(0, 2 * np.pi, 2)
        turns = 2 * np.pi * t / self.load_period_s
        course: F64 = 0.4 * np.sin(turns + self._phases()[0] - 2 * np.pi / 5)
        course += 0.4 * np.sin(turns / 10 + phase[0]) + 0.2 * np.sin(turns / 23 + phase[1])
        return course

    def _phases(self) -> F64:
        return self._random(0, 2).uniform(0, 2 * np.pi, 3)

    def _white(self, asset: int, first: int, count: int) -> F64:
        blocks = range(first // _BLOCK, (first + count - 1) // _BLOCK + 1)
        start = first - blocks[0] * _BLOCK
        return np.concatenate([self._noise(asset, b) for b in blocks], axis=1)[:, start:start + count]

    def _noise_block(self, asset: int, block: int) -> F64:
        """Draw white noise: (channels + groups + 1, _BLOCK); the last row is for faults that flutter."""
        rows = len(_SIGNALS) + int(_GROUP.max()) + 1 + 1
        return self._random(asset, 0, block + 1).standard_normal((rows, _BLOCK))  # block -1 exists: taps reach back


def _apply(fault: Fault, x: F64, nominal: F64, t: F64, flutter: F64) -> None:
    """Change x (channels, samples) in place as the fault does at times t (seconds after the plant's start)."""
    since = t - fault.onset_s
    if fault.kind == "sensor_stuck":
        # A dead sensor holds one value, `magnitude` away from its working point; there is nothing to grow.
        row = NAMES.index(fault.first_channel)
        x[row, since >= 0] = nominal[row, 0] + fault.magnitude * _SIGMA[row, 0]
        return
    grown = np.clip(since / max(fault.ramp_s, 1e-9), 0.0, 1.0)
    if not grown.any():
        return
    signature = SIGNATURES[fault.kind]
    # A channel of the script's own choice takes the leading part of the kind's signature.
    for name, gain in signature.shift.items():
        row = NAMES.index(fault.first_channel if name == signature.first else name)
        x[row] += gain * fault.magnitude * _SIGMA[row, 0] * grown
    for name, gain in signature.flutter.items():
        row = NAMES.index(fault.first_channel if name == signature.first else name)
        x[row] += gain * fault.magnitude * _SIGMA[row, 0] * grown * flutter


def _check(names: Sequence[str], name: str, what: str) -> None:
    if name not in names:
        raise InputError(f"fault script: the plant has no {what} {name!r}; it has {names[0]} .. {names[-1]}")
