"""Read NASA's turbofan data, C-MAPSS: histories of simulated engines, one sample a flight.

Files train_FD00k.txt, test_FD00k.txt, RUL_FD00k.txt (or .txt.gz): 26 numbers a row, unit, cycle, 3 settings and 21
sensors. Engines of `train` run to failure. Those of `test` stop before, and RUL has what was left, one number a unit.
Source: Saxena, Goebel, Simon, Eklund, PHM 2008, doi 10.1109/PHM.2008.4711414. US government work.

As frames: an asset per unit, a channel per column after the first (25), a frame per flight. The data has no clock, so
flight n of every engine takes off n hours after 2008-01-01: the fleet flies together, an engine whose file begins at
flight 61 joins then, and the order of frames is that of a plant and not of a file.
"""

import gzip
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.recipes.rul_state import History
from pipeline.errors import InputError
from schemas import AssetBirth, Channel, TelemetryFrame

SUBSETS = ("FD001", "FD002", "FD003", "FD004")
_WIDTH = 26
#: Columns of CHANNELS: the cycle, the settings, and sensors 2 3 4 7 8 9 11 12 13 14 15 17 20 21.
_COLUMNS = (1, 2, 3, 4, *(4 + sensor for sensor in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)))

#: Of the births; the route of the fleet.
ASSET_CLASS, SITE = "turbofan", "nasa-cmapss"
#: Name, quantity and UCUM unit of the columns after the unit number, in their order.
COLUMNS = (
    ("cycles", "operating cycles", "1"), ("altitude", "altitude", "10*3.[ft_i]"), ("mach", "Mach number", "1"),
    ("throttle", "throttle resolver angle", "deg"), ("T2", "temperature", "[degR]"), ("T24", "temperature", "[degR]"),
    ("T30", "temperature", "[degR]"), ("T50", "temperature", "[degR]"), ("P2", "pressure", "[psi]"),
    ("P15", "pressure", "[psi]"), ("P30", "pressure", "[psi]"), ("Nf", "speed", "/min"), ("Nc", "speed", "/min"),
    ("epr", "pressure ratio", "1"), ("Ps30", "pressure", "[psi]"), ("phi", "fuel ratio", "[lb_av]/s/[psi]"),
    ("NRf", "corrected speed", "/min"), ("NRc", "corrected speed", "/min"), ("BPR", "bypass ratio", "1"),
    ("farB", "fuel-air ratio", "1"), ("htBleed", "bleed enthalpy", "1"), ("Nf_dmd", "demanded speed", "/min"),
    ("PCNfR_dmd", "demanded corrected speed", "/min"), ("W31", "coolant bleed", "[lb_av]/s"),
    ("W32", "coolant bleed", "[lb_av]/s"),
)
#: 2008-01-01 00:00 UTC, the year of the data, and an hour between take-offs, Unix ns.
START_NS, PERIOD_NS = 1_199_145_600 * 10**9, 3600 * 10**9
#: Flight numbers beyond are no flight numbers: the time of the next one would not fit a frame.
_MOST_FLIGHTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Engine:
    """One unit of a file. rows: (flights, 26) as NASA has them."""

    unit: int
    rows: NDArray[np.float64]

    @property
    def flights(self) -> NDArray[np.int64]:
        """Return the number of each flight."""
        return self.rows[:, 1].astype(np.int64)

    def history(self, name: str, group: str = "", remaining: float | None = None) -> History:
        """Return the columns that `rul-ewma` takes."""
        return History(name, np.ascontiguousarray(self.rows[:, _COLUMNS]), group, remaining)


def subsets_in(data: Path, part: str = "test") -> tuple[str, ...]:
    """List the subsets whose file of a part, test, train or RUL, is in `data`."""
    return tuple(s for s in SUBSETS if _find(data, f"{part}_{s}.txt") is not None)


def path_of(data: Path, name: str) -> Path:
    """Return where a file of the set is, plain or packed. Raises InputError."""
    path = _find(data, name)
    if path is None:
        raise InputError(f"{data}: holds no {name} or {name}.gz")
    return path


def train(data: Path, subsets: Iterable[str] = SUBSETS) -> list[History]:
    """Return the engines that ran to failure. Raises InputError for a missing or broken file."""
    return [e.history(f"train {s}/{e.unit}", s, 0.0) for s in subsets for e in engines(data, f"train_{s}.txt")]


def test(data: Path, subsets: Iterable[str] = SUBSETS, labels: bool = False) -> list[History]:
    """Return the engines that stop early; labels: with what was left, else the label files are not opened.

    Raises InputError for a missing or broken file.
    """
    found = []
    for subset in subsets:
        units = engines(data, f"test_{subset}.txt")
        left: Sequence[float | None] = remaining(data, subset, len(units)) if labels else [None] * len(units)
        found += [e.history(f"test {subset}/{e.unit}", subset, n) for e, n in zip(units, left, strict=True)]
    return found


def remaining(data: Path, subset: str, units: int) -> list[float]:
    """Return the flights that each test engine had left after its last row: the labels. Raises InputError."""
    left: list[float] = _numbers(data, f"RUL_{subset}.txt").tolist()
    if len(left) != units:
        raise InputError(f"{data}: RUL_{subset}.txt has {len(left)} numbers for {units} units")
    return left


def asset_of(subset: str, engine: Engine) -> str:
    """Return the name of an engine as an asset."""
    return f"{subset}/unit-{engine.unit}"


def messages(subset: str, fleet: Sequence[Engine]) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield births and frames of a fleet in the order of time; the sequence number counts an engine's rows from 0."""
    channels = tuple(Channel(name, quantity, unit, "f8") for name, quantity, unit in COLUMNS)
    owner = np.concatenate([np.full(len(e.rows), k) for k, e in enumerate(fleet)])
    row = np.concatenate([np.arange(len(e.rows)) for e in fleet])
    times = START_NS + (np.concatenate([e.flights for e in fleet]) - 1) * PERIOD_NS
    births: dict[int, AssetBirth] = {}
    for i in np.lexsort((owner, times)).tolist():
        k, t0_ns = int(owner[i]), int(times[i])
        if k not in births:
            births[k] = AssetBirth.make(
                asset=asset_of(subset, fleet[k]), start_ns=t0_ns, channels=channels, rate_hz=1e9 / PERIOD_NS,
                samples_per_frame=1, asset_class=ASSET_CLASS, site=SITE)
            yield births[k]
        data = fleet[k].rows[row[i], 1:].astype("<f8").tobytes()
        yield TelemetryFrame(births[k].asset, births[k].birth_id, int(row[i]), t0_ns, data)


def test_fleets(data: Path) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield births and frames of the test engines of all subsets in `data`, in the order of time; no label is read."""
    subsets = subsets_in(data)
    if not subsets:
        raise InputError(f"{data}: holds no test_FD00k.txt or .txt.gz")
    fleets = [messages(subset, engines(data, f"test_{subset}.txt")) for subset in subsets]
    # a birth has the time of its asset's first frame and, being first in its stream, stays before it
    return heapq.merge(*fleets, key=lambda m: m.start_ns if isinstance(m, AssetBirth) else m.t0_ns)


def engines(data: Path, name: str) -> list[Engine]:
    """Return the units of a file, as test_FD001.txt. Raises InputError for a missing or broken file."""
    numbers = _numbers(data, name)
    if len(numbers) % _WIDTH or not len(numbers):
        want = f"rows of {_WIDTH}: unit, cycle, 3 settings, 21 sensors"
        raise InputError(f"{data / name}: {len(numbers)} numbers, want {want}")
    table = numbers.reshape(-1, _WIDTH)
    found = []
    for unit in np.unique(table[:, 0]):
        rows = table[table[:, 0] == unit]
        if not (np.diff(rows[:, 1]) > 0).all():
            raise InputError(f"{data / name}: the cycles of unit {unit:g} do not rise; sort the file by unit and cycle")
        if not 0 <= rows[0, 1] <= rows[-1, 1] <= _MOST_FLIGHTS:
            raise InputError(f"{data / name}: the cycles of unit {unit:g} are not between 0 and {_MOST_FLIGHTS}")
        found.append(Engine(int(unit), rows))
    return found


def _numbers(data: Path, name: str) -> NDArray[np.float64]:
    path = path_of(data, name)
    raw = path.read_bytes()
    try:
        return np.array((gzip.decompress(raw) if path.suffix == ".gz" else raw).split(), np.float64)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a table of numbers: {error}") from error


def _find(data: Path, name: str) -> Path | None:
    return next((p for p in (data / name, data / f"{name}.gz") if p.is_file()), None)
