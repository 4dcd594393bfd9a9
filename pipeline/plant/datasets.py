"""Public data sets by name, as births and frames: one way in for `import`, `replay`, `evaluate` and the demo.

A set is a function of a module,

    def messages(data: Path) -> Iterator[AssetBirth | TelemetryFrame]: ...

that reads the folder `data` and yields each birth before its asset's frames, and an asset's frames in the order of
time. It never reads a label. To add one, list it in DATASETS; a module is imported when its set is asked for.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.columns import Poll
from pipeline.errors import InputError
from pipeline.plant.source import Ignored, Retired, items, message_records
from schemas import AssetBirth, TelemetryFrame

Message = AssetBirth | TelemetryFrame
Item = AssetBirth | Retired | Poll


@dataclass(frozen=True, slots=True)
class Dataset:
    """module, function: where its births and frames come from. holds: what its folder holds, for people."""

    module: str
    holds: str
    function: str = "messages"


DATASETS = {
    "skab": Dataset("pipeline.plant.skab", "FOLDER/NUMBER.csv or .csv.gz, as valve1/0.csv"),
    "cmapss": Dataset("pipeline.plant.cmapss", "test_FD00k.txt or .txt.gz", "test_fleets"),
    "cwru": Dataset("pipeline.plant.cwru", "NAME.npz with counts, step, fs and rpm"),
    "femto": Dataset("pipeline.plant.femto", "BearingX_Y.npz"),
    "nab": Dataset("pipeline.plant.nab", "realKnownCause/NAME.csv or .csv.gz"),
    "battery": Dataset("pipeline.plant.battery", "CELL_discharge.csv or .csv.gz"),
}


def messages(name: str, data: Path) -> Iterator[Message]:
    """Yield births and frames of the set `name` in the folder `data`. Raises InputError."""
    known = DATASETS.get(name)
    if known is None:
        raise InputError(f"data set {name!r} is unknown; there are {', '.join(DATASETS)}. Tables of your own: "
                         "`kizashi import csv` or `parquet` with a map")
    if not data.is_dir():
        raise InputError(f"{data}: is no folder; one with {name} holds {known.holds}")
    yield from getattr(importlib.import_module(known.module), known.function)(data)


@dataclass(slots=True)
class DatasetSource:
    """Births and polls of a set, as `pipeline.plant.source.Source` has them of files."""

    name: str
    data: Path
    ignored: Ignored = field(default_factory=Ignored)

    def __iter__(self) -> Iterator[Item]:
        return items(message_records(messages(self.name, self.data)), self.ignored)
