"""SKAB (Skoltech Anomaly Benchmark): a closed water loop, one experiment a file, read by the shipped map.

Source: Katser, Kozitsin, 2020, doi 10.34740/KAGGLE/DSV/1693952. Licence of the data: GPL-3.0.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import load_map
from pipeline.plant.labelled import labelled_files
from schemas import AssetBirth, TelemetryFrame


def messages(data: Path) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield every file of `data` as an asset of its own. Raises InputError."""
    return CsvHistory(load_map(Path("skab"))).read(labelled_files(data))
