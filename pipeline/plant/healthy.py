"""Healthy signals to train a detector on: of the simulated pump line, or of a user's files by a map."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.recipes.convae import Signals
from engines.recipes.convae_net import SIZE
from pipeline.errors import InputError
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.series import samples
from pipeline.plant.simulator import Plant
from schemas import AssetBirth, TelemetryFrame

F64 = NDArray[np.float64]

#: Samples per second at which the simulated line is looked at, and time scales of its load, seconds: from samples that
#: know nothing of each other to a load that turns within a window.
_RATES, _LOADS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0), (10.0, 60.0)
_ASSETS, _SAMPLES = 4, 4096


def simulated(seed: int = 0) -> list[Signals]:
    """Return signals of 24 healthy pumps, six lines of four at other rates; no line is that of the demo."""
    rng = np.random.default_rng([seed, 3])
    found = []
    for number, rate_hz in enumerate(_RATES):
        plant = Plant(seed=1_000 * seed + 500 + number, assets=_ASSETS, rate_hz=rate_hz, line=f"line{number}",
                      load_period_s=float(rng.uniform(*_LOADS)))
        for asset, name in enumerate(plant.names):  # as frames have them: what a machine's sine adds at the end is gone
            found.append(Signals(name, (plant.values(asset, 0, _SAMPLES).astype(np.float32).astype(np.float64),)))
    return found


def of_files(files: Iterable[Path], csv_map: CsvMap) -> list[Signals]:
    """Return the signals of every asset in these tables. Raises InputError."""
    births: dict[str, AssetBirth] = {}
    frames: dict[str, list[TelemetryFrame]] = {}
    for message in CsvHistory(csv_map).read(files):
        if isinstance(message, AssetBirth):
            births[message.asset], frames[message.asset] = message, []
        else:
            frames[message.asset].append(message)
    found = [Signals(asset, tuple(_parts(births[asset], of))) for asset, of in frames.items() if of]
    if not found:
        raise InputError("the files hold no whole frame: check samples_per_frame in the map")
    return found


def _parts(birth: AssetBirth, frames: list[TelemetryFrame]) -> Iterator[F64]:
    """Yield (channels, n) in physical units, cut where more than a window is missing.

    Smaller gaps are met in service too: loggers skip a second now and then, and no window is given up for it.
    """
    longest_ns = (birth.samples_per_frame + SIZE) * 1e9 / birth.rate_hz
    t0 = np.array([f.t0_ns for f in frames])
    cuts = np.flatnonzero(np.diff(t0) > longest_ns) + 1
    for group in np.split(np.arange(len(frames)), cuts):
        yield np.concatenate([samples(birth, frames[i].data) for i in group.tolist()]).T.copy()
