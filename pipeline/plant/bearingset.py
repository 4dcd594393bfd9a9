"""From recordings and the simulator to the bearing model; `kizashi train bearing-order` writes a bundle with it.

Cross-validation leaves one fault diameter out: its three bearings, at every load, are unseen. What is written by
`make` is trained on everything, with choices made by the same folds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Array
from engines.orders import KNOWN, Orders
from engines.recipes import bearing_front, bearing_train
from engines.recipes.bearing_front import WINDOW, Session
from engines.recipes.bearing_head import CLASSES, Head
from engines.recipes.bearing_train import Extract, Material, Options
from engines.recipes.bearing_windows import SPAN, LeakError, Windows, folds, named, near_integers
from pipeline.errors import InputError
from pipeline.plant import bearingsim, cwru
from pipeline.plant.cwru import Recording

# Short against the window where there is one bearing only: its windows are few.
_HOP, _HOP_HEALTHY = 3000, 250
SIMULATED = 3000


def extractor() -> Extract:
    """Return the front end: (samples, lines_hz) -> features."""
    session = Session(bearing_front.features_model())
    return lambda samples, lines_hz: session(samples, lines_hz)["features"]


def windows(recordings: Sequence[Recording], orders: Orders) -> Windows:
    """Return windows of SPAN samples of all labelled recordings."""
    samples, lines, label, bearing, name, start = [], [], [], [], [], []
    for r in recordings:
        if r.label is None or r.bearing is None:
            continue
        starts, rows = cwru.cut(r.samples, SPAN, _HOP if r.label != "normal" else _HOP_HEALTHY)
        samples.append(rows)
        start.append(starts)
        lines += [orders.lines_hz(r.rpm)] * len(rows)
        label += [named(r.label)] * len(rows)
        bearing += [r.bearing] * len(rows)
        name += [r.name] * len(rows)
    return Windows(np.concatenate(samples), np.array(lines), np.array(label), np.array(bearing), np.array(name),
                   np.concatenate(start))  # fmt: skip


def simulated(seed: int, count: int = SIMULATED) -> Windows:
    """Return `count` simulated windows, every class as often; one in four has lines almost on shaft orders."""
    rng = np.random.default_rng((seed, 1))
    samples, lines = np.empty((count, WINDOW), np.float32), np.empty((count, 5), np.float32)
    for i in range(count):
        machine = bearingsim.machine(rng)
        if i // 4 % 4 == 0:
            machine = replace(machine, orders=near_integers(rng))
        samples[i] = bearingsim.vibration(rng, machine, CLASSES[i % 4], cwru.RATE_HZ, 1.0)
        lines[i] = machine.orders.lines_hz(machine.rpm * (1 + rng.uniform(-0.003, 0.003)))
    label, names = np.arange(count) % 4, np.array([f"simulated {i}" for i in range(count)])
    return Windows(samples, lines, label, names, names, np.zeros(count, np.int64))


def planted(rows: Windows, seed: int, count: int) -> tuple[Windows, Array]:
    """Return `count` healthy windows of `rows` with impacts of simulated bearings in them, and the rows they are of.

    Every class as often, geometries drawn anew, half of them with lines almost on shaft orders; speed and noise are the
    recording's. It is as near as one gets to another bearing on the same rig, seen by the same sensor.
    """
    rng = np.random.default_rng((seed, 5))
    healthy = np.flatnonzero(rows.label == 0)
    origin = healthy[rng.integers(0, len(healthy), count)]
    made = rows.take(origin).plain()
    samples, lines = np.empty((count, WINDOW), np.float32), np.empty((count, 5), np.float32)
    for i, x in enumerate(made.samples):
        machine = bearingsim.machine(rng, rpm=60.0 * float(made.lines_hz[i, 0]))
        if rng.random() < 0.5:
            machine = replace(machine, orders=near_integers(rng))
        lines[i], samples[i] = machine.orders.lines_hz(machine.rpm), x / x.std()
        if i % 4:  # 12 dB below the noise to 8 dB above it
            hits = bearingsim.hits(rng, machine, CLASSES[i % 4], cwru.RATE_HZ, WINDOW)
            samples[i] += np.exp(rng.uniform(np.log(0.25), np.log(2.5))) * hits
    return Windows(samples, lines, np.arange(count) % 4, made.bearing, made.recording, made.start), origin


def material(rows: Windows, seed: int, simulations: int | None = None) -> Material:
    """Return everything that one seed trains on: of the rows, of the simulator, of both."""
    count = SIMULATED if simulations is None else simulations
    return bearing_train.material(rows, simulated(seed, count), planted(rows, seed, count // 4),
                                  extractor(), seed)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fold:
    """One outer fold: the head, what was chosen for it, and the mask of its test rows."""

    name: str
    head: Head
    options: Options
    test: Array


def cross_validate(rows: Windows, what: Material, recordings: Sequence[Recording], seed: int) -> list[Fold]:
    """Return a fold per fault diameter. Raises LeakError."""
    lengths = {r.name: len(r.samples) for r in recordings}
    diameter = {r.name: r.diameter for r in recordings}
    group = np.array([diameter[name] for name in rows.recording.tolist()])
    outer = list(folds(rows, group, lengths))
    found = []
    for name, train, test in outer:
        inner = [(train & a, train & b) for other, a, b in outer if other != name]
        head, options = bearing_train.nested(what, rows, (train, test), inner, seed)
        found.append(Fold(name, head, options, test))
    return found


def make(rows: Windows, what: Material, recordings: Sequence[Recording], seed: int) -> tuple[Head, Options]:
    """Return the head to ship: all recordings, choices by leaving each diameter out."""
    lengths = {r.name: len(r.samples) for r in recordings}
    diameter = {r.name: r.diameter for r in recordings}
    group = np.array([diameter[name] for name in rows.recording.tolist()])
    inner = [(train, test) for _, train, test in folds(rows, group, lengths)]
    options, limit = bearing_train.choose(what, inner, seed)
    head = bearing_train.train(what, np.ones(len(rows), np.bool_), options, seed)
    return replace(head, limit=limit), options


def build(data: Path, seed: int = 0, simulations: int = SIMULATED) -> tuple[Head, dict[str, Any]]:
    """Return the head trained on the recordings of `data`, and what its card must say: hashes, choices, seed.

    Raises InputError where a recording, under whatever name, would be on both sides of the split that choices are made
    by.
    """
    recordings = [r for r in cwru.read(data) if r.label is not None]
    refuse_twins(recordings)
    rows = windows(recordings, KNOWN[cwru.BEARING])
    try:
        head, options = make(rows, material(rows, seed, simulations), recordings, seed)
    except LeakError as error:
        raise InputError(f"{data}: the split leaks: {error}") from error
    return head, {"seed": seed, "options": asdict(options), "limit": head.limit, "hashes": cwru.hashes(recordings)}


def refuse_twins(recordings: Sequence[Recording]) -> None:
    """Refuse a recording that is there twice: as two bearings it would be fitted to and held out."""
    if not any(r.label == "normal" for r in recordings) or len({r.diameter for r in recordings if r.diameter}) < 2:
        raise InputError("needs recordings of a healthy bearing and of defects of two sizes, with their index.csv")
    seen: dict[str, Recording] = {}
    for r in recordings:
        twin = seen.setdefault(r.content, r)
        if twin is not r and (twin.bearing != r.bearing or r.label == "normal"):
            raise InputError(f"the split leaks: recording {r.name} is {twin.name} under another name, and would be on "
                             "both sides of it; remove one of them")
