"""A machine with a rolling bearing, healthy or with a defect: acceleration at any geometry, rate and speed.

Where it comes from: shaft harmonics and tones of other sources; noise that the structure's resonances colour and that
breathes with the shaft; and, with a defect, impacts that ring the resonances. Impacts come at the element's rate with
slip and jitter (no two bearings run at the kinematic rate), they are stronger in the load zone (inner race: once per
shaft turn, ball: once per cage turn) and vary from one to the next (McFadden and Smith 1984, Antoni and Randall 2003).
"""

from dataclasses import dataclass

import numpy as np

from engines.base import Array
from engines.orders import Geometry, Orders

FAULTS = ("normal", "inner", "ball", "outer", "cage")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. Frequencies in Hz, levels relative to the broadband noise of RMS 1.

    resonances: (frequency, damping ratio, gain) of the structure. floor: white noise beside the coloured. harmonics:
    amplitude of shaft orders 1, 2, ... tones: (frequency, amplitude) of other sources. breathing: depth to which noise
    follows the shaft. strength: RMS that the impacts add. jitter: deviation of a period, as a part of it. slip: part by
    which all element rates are off the kinematic ones. zone: depth of the load zone's modulation. spread: log deviation
    of impact sizes. strays: part of impacts that come at random.
    """

    orders: Orders
    rpm: float
    resonances: tuple[tuple[float, float, float], ...] = ((3000.0, 0.04, 1.0),)
    floor: float = 0.5
    harmonics: tuple[float, ...] = (0.5, 0.3)
    tones: tuple[tuple[float, float], ...] = ()
    breathing: float = 0.1
    strength: float = 1.0
    jitter: float = 0.01
    slip: float = 0.0
    zone: float = 0.8
    spread: float = 0.2
    strays: float = 0.0


def machine(rng: np.random.Generator, geometry: Geometry | None = None, rpm: float | None = None) -> Machine:
    """Draw a machine: a geometry of 6 to 20 elements, 700-3600 rpm, 1 to 4 resonances, any balance of its sources."""
    if geometry is None:
        geometry = Geometry(int(rng.integers(6, 21)), float(rng.uniform(0.12, 0.33)), float(rng.choice([0, 0, 15, 25])))
    speed = float(rng.uniform(700, 3600)) if rpm is None else rpm
    resonances = tuple(
        (float(rng.uniform(600, 5400)), float(10 ** rng.uniform(-2.2, -0.9)), float(rng.uniform(0.3, 1.0)))
        for _ in range(int(rng.integers(1, 5)))
    )
    order = np.arange(1, int(rng.integers(2, 20)))
    harmonics = 10 ** rng.uniform(-2.0, 0.6) * rng.lognormal(0, 1, len(order)) / order ** rng.uniform(0, 1.5)
    tones = tuple(
        (float(rng.uniform(40, 5500)), float(10 ** rng.uniform(-1.5, 0.8))) for _ in range(int(rng.integers(0, 6)))
    )
    return Machine(
        geometry.orders(), speed, resonances, float(10 ** rng.uniform(-1, 0.7)), tuple(harmonics.tolist()), tones,
        float(rng.uniform(0, 0.4)), float(10 ** rng.uniform(-0.45, 0.6)), float(10 ** rng.uniform(-2.7, -1.5)),
        float(rng.uniform(-0.006, 0.006)), float(rng.uniform(0.3, 1.0)), float(rng.uniform(0.05, 0.6)),
        float(rng.choice([0.0, 0.0, 0.2])),
    )  # fmt: skip


def vibration(rng: np.random.Generator, what: Machine, fault: str, rate_hz: float, seconds: float) -> Array:
    """Return acceleration, (samples,) float64 in arbitrary units. fault: one of FAULTS; ValueError for others."""
    if fault not in FAULTS:
        raise ValueError(f"fault {fault!r} is none of {', '.join(FAULTS)}")
    n = round(rate_hz * seconds)
    t = np.arange(n) / rate_hz
    shaft = 2 * np.pi * what.rpm / 60.0 * t + rng.uniform(0, 2 * np.pi)
    noise = _colour(rng.standard_normal(n), what.resonances, rate_hz)
    floor = rng.standard_normal(n)
    x = (noise + what.floor * floor) / np.hypot(1.0, what.floor)
    x *= 1.0 + what.breathing * np.cos(shaft)
    for order, amplitude in enumerate(what.harmonics, 1):
        x += amplitude * np.cos(order * shaft + rng.uniform(0, 2 * np.pi))
    for frequency, amplitude in what.tones:
        if frequency < 0.45 * rate_hz:
            x += amplitude * np.cos(2 * np.pi * frequency * t + rng.uniform(0, 2 * np.pi))
    if fault != "normal":
        x += what.strength * hits(rng, what, fault, rate_hz, n)
    return np.asarray(x)


def hits(rng: np.random.Generator, what: Machine, fault: str, rate_hz: float, n: int) -> Array:
    """Return what a defect alone adds: impacts that ring the machine's resonances, (n,) of RMS 1."""
    return _colour(_impacts(rng, what, fault, rate_hz, n), what.resonances, rate_hz)


def _impacts(rng: np.random.Generator, what: Machine, fault: str, rate_hz: float, n: int) -> Array:
    """Return the train of impacts, (n,): each is shared by the two samples beside its instant."""
    turn_hz = what.rpm / 60.0
    order = {"inner": what.orders.bpfi, "outer": what.orders.bpfo, "ball": 2 * what.orders.bsf, "cage": what.orders.ftf}
    rate = order[fault] * turn_hz * (1.0 + what.slip)
    count = int(n / rate_hz * rate * 1.1) + 4
    # The deviation of a period adds up: the train forgets its phase, as slipping rollers do.
    at = rng.uniform(0, 1 / rate) + np.cumsum(1.0 + what.jitter * rng.standard_normal(count)) / rate
    size = rng.lognormal(0.0, what.spread, count)
    cage_hz = what.orders.ftf * turn_hz * (1.0 + what.slip)
    zones = {"inner": (turn_hz, what.zone), "ball": (cage_hz, what.zone)}
    zone_hz, depth = zones.get(fault, (turn_hz, 0.2 * what.zone))
    size *= np.maximum(0.0, 1.0 + depth * np.cos(2 * np.pi * zone_hz * at + rng.uniform(0, 2 * np.pi)))
    if fault == "ball":
        size[1::2] *= rng.uniform(0.4, 1.0)  # the two races answer differently
    stray = rng.random(count) < what.strays
    at[stray] = rng.uniform(0, n / rate_hz, int(stray.sum()))
    place = at * rate_hz
    keep = (place >= 0) & (place < n - 1)
    left = place[keep].astype(np.int64)
    part = place[keep] - left
    train = np.zeros(n)
    np.add.at(train, left, size[keep] * (1 - part))
    np.add.at(train, left + 1, size[keep] * part)
    return train


def _colour(x: Array, resonances: tuple[tuple[float, float, float], ...], rate_hz: float) -> Array:
    """Return what the structure makes of `x`, RMS 1: a sum of damped oscillators' responses, by spectrum."""
    f = np.fft.rfftfreq(len(x), 1 / rate_hz)
    answer = np.zeros(len(f), np.complex128)
    for frequency, damping, gain in resonances:
        # An accelerometer sees (f/f0)^2 of the displacement's answer; divided by the peak so that `gain` is its height.
        u = f / frequency
        answer += gain * 2 * damping * u**2 / (1 - u**2 + 2j * damping * u)
    y = np.fft.irfft(np.fft.rfft(x) * answer, len(x))
    return np.asarray(y / max(float(np.sqrt((y**2).mean())), 1e-30))
