"""A process plant, simulated: a heated tank with three set points, start-ups and faults. Seeded and pure.

Water is fed at a rate that somebody sets, heated, and drawn off by a level controller. Every loop is an ordinary PI
loop; disturbances (feed temperature, supply pressure, ambient) wander. It shows what `pca-t2q` is for: channels that
are bound to each other and to set points by physics, so that a fault shows where they part, and no change of an
operating point is one. One sample every 5 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas import AssetBirth, Channel

F64 = NDArray[np.float64]
Kind = Literal["bias", "fouling", "leak", "valve_wear", "pump_wear"]

PERIOD_S = 5.0
SET_POINTS = ("feed_set", "level_set", "temp_set")
CHANNELS = (
    Channel("feed_set", "set point volume flow rate", "m3/h"), Channel("level_set", "set point level", "m"),
    Channel("temp_set", "set point temperature", "Cel"), Channel("feed_flow", "volume flow rate", "m3/h"),
    Channel("feed_valve", "valve position", "%"), Channel("feed_temp", "temperature", "Cel"),
    Channel("level", "level", "m"), Channel("tank_temp", "temperature", "Cel"),
    Channel("heater_power", "power", "kW"), Channel("outlet_flow", "volume flow rate", "m3/h"),
    Channel("outlet_valve", "valve position", "%"), Channel("outlet_temp", "temperature", "Cel"),
    Channel("pump_current", "electric current", "A"),
)
NAMES = tuple(c.name for c in CHANNELS)
#: Standard deviations of the sensors: about half a percent of their level, as industrial transmitters have.
_NOISE = np.array([0, 0, 0, 0.06, 0.3, 0.15, 0.008, 0.15, 1.5, 0.06, 0.3, 0.15, 0.15])
# Tank of 1 m2; heat capacity of water 1.163 kWh/(m3 K); losses of 0.3 kW/K.
_AREA, _HEAT, _LOSS = 1.0, 1.163, 0.3
#: Feed rates, levels and temperatures that somebody may set, in m3/h, m and Cel.
RANGES = ((8.0, 14.0), (1.4, 2.2), (45.0, 60.0))


@dataclass(frozen=True, slots=True)
class ProcessFault:
    """kind, and the channel of a bias. size: of a bias in the sensor's standard deviations; else a share, 0 to 1.

    From sample `onset` on, grown over `ramp` samples.
    """

    kind: Kind
    onset: int
    size: float
    channel: str = ""
    ramp: int = 0


def birth(asset: str = "unit1", start_ns: int = 0) -> AssetBirth:
    """Return the birth of a plant whose frames have one sample."""
    return AssetBirth.make(asset=asset, start_ns=start_ns, channels=CHANNELS, rate_hz=1 / PERIOD_S, samples_per_frame=1,
                           asset_class="process", site="plant")


def run(seed: int, samples: int, faults: Sequence[ProcessFault] = (), *, cold: bool = True, stops: int = 0,
        hold: int = 400) -> F64:  # fmt: skip
    """Simulate (samples, 13) in the order of CHANNELS.

    cold: it begins empty and at rest and is started. stops: how often it is drained and started again later. hold:
    samples that a set point stands on average. Same arguments, same bits on one machine.
    """
    rng = np.random.default_rng([seed, samples])
    sets = _set_points(rng, samples, hold)
    run_from = np.full(samples, 1.0)
    for at in (int(samples * (k + 1) / (stops + 1.0)) for k in range(stops)):
        run_from[at:at + 120] = 0.0
    if cold:
        run_from[:20] = 0.0
    wander = _wander(rng, samples)
    noise = rng.standard_normal((samples, len(CHANNELS))) * _NOISE
    out = np.empty((samples, len(CHANNELS)))
    plant = _Plant.cold() if cold else _Plant.steady(*sets[0])
    for k in range(samples):
        grown = {f: min(1.0, (k - f.onset) / f.ramp if f.ramp else 1.0) for f in faults if k >= f.onset}
        harm: dict[Kind, float] = {f.kind: f.size * g for f, g in grown.items() if f.kind != "bias"}
        row = plant.step(sets[k], wander[k], bool(run_from[k]), harm)
        for f, g in grown.items():
            if f.kind == "bias":
                i = NAMES.index(f.channel)
                row[i] += f.size * g * _NOISE[i]
        out[k] = row
    out += noise
    return out


def _set_points(rng: np.random.Generator, samples: int, hold: int) -> F64:
    sets = np.empty((samples, 3))
    for j, (low, high) in enumerate(RANGES):
        at = 0
        while at < samples:
            stop = at + int(rng.integers(hold // 2, 2 * hold))
            sets[at:stop, j] = rng.uniform(low, high)
            at = stop
    return sets


def _wander(rng: np.random.Generator, samples: int) -> F64:
    """Return feed temperature, supply pressure (relative) and ambient: first-order autoregressions of 100 samples."""
    white, state, out = rng.standard_normal((samples, 3)), np.zeros(3), np.empty((samples, 3))
    for k in range(samples):
        state = 0.99 * state + sqrt(1 - 0.99**2) * white[k]
        out[k] = state
    out *= np.array([1.0, 0.02, 1.5])
    out += np.array([15.0, 1.0, 20.0])
    return out


@dataclass(slots=True)
class _Plant:
    """Physical state, and the integrals of the three controllers."""

    flow: float
    level: float
    temp: float
    outlet_temp: float
    i_feed: float
    i_level: float
    i_temp: float

    @classmethod
    def cold(cls) -> "_Plant":
        return cls(0.0, 0.3, 15.0, 15.0, 0.0, 0.0, 0.0)

    @classmethod
    def steady(cls, feed: float, level: float, temp: float) -> "_Plant":
        return cls(feed, level, temp, temp, feed / 20, feed / (12 * sqrt(level)), 0.8)

    def step(self, sets: F64, wander: F64, on: bool, harm: dict[Kind, float]) -> F64:
        """Advance by one period; return the true values of all channels."""
        feed_set, level_set, temp_set = sets
        feed_temp, pressure, ambient = wander
        dt = PERIOD_S / 3600
        wet = on and self.level > 0.5  # a heater that runs dry burns
        valve, self.i_feed = _loop(self.i_feed, feed_set - self.flow, 0.01, 0.01, on)
        heat, self.i_temp = _loop(self.i_temp, temp_set - self.temp, 0.15, 0.004, wet)
        outlet, self.i_level = _loop(self.i_level, self.level - level_set, 2.0, 0.03, on)
        outlet = outlet if on else 1.0  # stopped: it is drained
        self.flow += (20 * valve * pressure - self.flow) * 0.4
        drawn = 12 * outlet * sqrt(max(self.level, 0.0)) * (1 - harm.get("valve_wear", 0.0))
        lost = harm.get("leak", 0.0) * 10
        self.level = max(self.level + (self.flow - drawn - lost) / _AREA * dt, 0.02)
        power = 1000 * heat
        useful = power * (1 - harm.get("fouling", 0.0))
        volume = _AREA * self.level
        gain = _HEAT * self.flow * (feed_temp - self.temp) + useful - _LOSS * (self.temp - ambient)
        self.temp = min(self.temp + gain / (_HEAT * volume) * dt, 99.0)
        self.outlet_temp += (self.temp - 0.01 * (self.temp - ambient) - self.outlet_temp) * 0.3
        current = (4.0 + 1.2 * drawn) * (1 + harm.get("pump_wear", 0.0))
        feed_set = feed_set if on else 0.0
        return np.array([feed_set, level_set, temp_set, self.flow, 100 * valve, feed_temp, self.level, self.temp, power,
                         drawn, 100 * outlet, self.outlet_temp, current])


def _loop(integral: float, error: float, gain: float, rate: float, on: bool) -> tuple[float, float]:
    """Return a PI controller's output, 0 to 1, and its integral, which stands still while the output is at an end."""
    if not on:
        return 0.0, 0.0
    wanted = integral + rate * error
    out = wanted + gain * error
    if not 0.0 <= out <= 1.0:
        return min(max(out, 0.0), 1.0), integral
    return out, wanted
