"""Files of the simulated process plant, as a plant would give its history for `kizashi train pca-t2q`.

python -m pipeline.plant.processfiles DIR [--units 2] [--samples 20000] [--seed 1]
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.plant.process import CHANNELS, NAMES, PERIOD_S, ProcessFault, run

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MAP = """\
# Each column of a unit's CSV, for `kizashi train pca-t2q` and `kizashi replay --map`.
[time]
column = "time"

[asset]
file = '(?P<unit>[^/.]+)\\.csv$'
name = "{unit}"

[birth]
asset_class = "process"
site = "plant"
rate_hz = %(rate)r
"""
_PLAN = """\
# What `kizashi train pca-t2q` has to know of this plant beside its map.
map = "map.toml"
# Channels whose quantity begins with "set point" are set points; all others are sensors.

[running]              # in operation while every moving mean of this channel is at least this
channel = "outlet_flow"
least = 4.0
"""


def write(folder: Path, units: int = 2, samples: int = 20_000, seed: int = 1, stops: int = 1,
          faults: Sequence[ProcessFault] = ()) -> list[Path]:
    """Write unit1.csv .., map.toml and plan.toml; return the CSV files. Same arguments, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "map.toml").write_text(map_text(), "utf-8")
    (folder / "plan.toml").write_text(_PLAN, "utf-8")
    files = []
    for unit in range(units):
        rows = run(seed + unit, samples, faults, stops=stops)
        lines = [",".join(("time", *NAMES))]
        for k, row in enumerate(rows.tolist()):
            time = _START + timedelta(seconds=k * PERIOD_S)
            lines.append(",".join((time.isoformat(), *(f"{x:.5g}" for x in row))))
        files.append(folder / f"unit{unit + 1}.csv")
        files[-1].write_text("\n".join(lines) + "\n", "utf-8")
    return files


def map_text() -> str:
    """Return the map of the files as TOML."""
    parts = [_MAP.replace("%(rate)r", repr(1 / PERIOD_S))]
    for c in CHANNELS:
        parts.append(f'[[channel]]\ncolumn = "{c.name}"\nname = "{c.name}"\nquantity = "{c.quantity}"\n'
                     f'unit = "{c.unit}"\n')
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("units", 2), ("samples", 20_000), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    write(given.folder, given.units, given.samples, given.seed)


if __name__ == "__main__":
    main()
