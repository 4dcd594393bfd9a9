"""Training: from a folder of data to a sealed bundle. `pipeline.cli.train` lists the recipes and does the rest.

To add a recipe NAME, list it in `pipeline.cli.train` and write `pipeline/plant/train/MODULE.py` with

    def train(job: Job) -> None: ...

a `Trainer`. It reads `job.data`, refuses a split that leaks (`refuse_leak`), writes model.onnx, golden.msgpack and
model.toml into `job.out`, with what it was trained on in the card, and no more: manifest and signature come from the
command. The same data, seed and machine give the same bytes, also when it was interrupted: what takes long goes through
`job.work.once`. Heavy imports (jax, sklearn, onnx) belong inside `train`.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.plant.csvhistory import is_table
from pipeline.plant.csvmap import SHIPPED, CsvMap, load_map
from pipeline.plant.evaluate.given import sha256

Arrays = dict[str, NDArray[Any]]
#: Of a folder's tables: what their columns mean.
MAP = "map.toml"
#: How `about.json` of a work folder begins: by this a folder is known as ours.
_MARK = {"_": "finished parts of a training of kizashi"}
_OURS = re.compile(r"about\.json|[0-9a-f]{16}\.(npz|part)")


def _foreign(folder: Path) -> str:
    """Name a file of a folder that no training of ours has put there; empty if there is none."""
    if not folder.is_dir():
        return ""
    about = folder / "about.json"
    if about.exists() and not about.read_bytes().startswith(json.dumps(_MARK)[:-1].encode()):
        return "an about.json of something else"
    return next((path.name for path in sorted(folder.iterdir()) if not _OURS.fullmatch(path.name)), "")


class Work:
    """A folder that keeps finished parts of a training, so that a second run goes on where the first one ended.

    key: everything that the parts depend on (recipe and its choices, seed, hashes of the data); a folder with parts of
    another key is emptied. folder None: nothing is kept.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, object]) -> None:
        """Raises InputError when the folder cannot be written, or is no work folder and not empty."""
        self.folder = folder
        if folder is None:
            return
        about, text = folder / "about.json", json.dumps({**_MARK, **key}, sort_keys=True, default=str)
        try:
            if foreign := _foreign(folder):
                raise InputError(f"{folder}: holds {foreign}, which is no part of a training; name another with --work")
            if about.exists() and about.read_text("utf-8") != text:
                self.forget()
            folder.mkdir(parents=True, exist_ok=True)
            about.write_text(text, "utf-8")
        except OSError as error:
            raise InputError(f"{folder}: cannot keep finished parts: {error.strerror}; name another with --work"
                             ) from error

    def once(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays that `make` returns, from the folder where an earlier run has left them. Exact bits."""
        if self.folder is None:
            return make()
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as kept:
                return {key: kept[key] for key in kept.files}
        arrays = make()
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # names of arrays, none is allow_pickle
        os.replace(partial, path)  # an interrupted write leaves no half part
        return arrays

    def forget(self) -> None:
        """Remove the parts, and the folder if it holds nothing else: the bundle is there."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if _OURS.fullmatch(path.name):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


@dataclass(slots=True)
class Job:
    """One training. data: folder of the data set. out: empty folder for the three files of the bundle.

    work: makes a work folder's memory of finished parts, by their key. progress: gets the share done, 0 to 1, and a
    line. sample: a tenth of the steps or less, for tests that must end in seconds; the bundle says so in its card.
    """

    data: Path
    out: Path
    seed: int = 0
    sample: bool = False
    progress: Callable[[float, str], None] = lambda share, line: None
    work_folder: Path | None = None
    facts: list[str] = field(default_factory=list)  # for the terminal: hashes, figures
    works: list[Work] = field(default_factory=list)  # opened so far

    def work(self, **key: object) -> Work:
        """Open the memory of finished parts; key: see `Work`."""
        self.works.append(Work(self.work_folder, {**key, "seed": self.seed, "sample": self.sample}))
        return self.works[-1]


class Trainer(Protocol):
    """A recipe: writes model.onnx, golden.msgpack and model.toml into job.out. Raises InputError."""

    def __call__(self, job: Job) -> None: ...


def refuse_leak(what: str, fitted: Mapping[str, Iterable[str]], held_out: Mapping[str, Iterable[str]]) -> None:
    """Refuse a split with the same `what` (unit, recording, bearing) on both sides, and name it.

    fitted, held_out: by name, the hashes of what belongs to it (of a file, of rows): the same data under another name
    leaks too. Raises InputError.
    """
    there = {h: name for name, hashes in fitted.items() for h in hashes}
    for name, hashes in held_out.items():
        twin = name if name in fitted else next((there[h] for h in hashes if h in there), None)
        if twin is not None:
            same = f"{what} {name}" if twin == name else f"{what} {name}, which is {twin} under another name,"
            raise InputError(f"the split leaks: {same} is on both sides; it may be fitted to or held out, not both")


def refuse_twins(what: str, fitted: Mapping[str, Sequence[str]]) -> None:
    """Refuse the same data under two names: folds are drawn among `fitted`, so it may fall on both sides of one.

    fitted: as `refuse_leak` has it. Raises InputError.
    """
    before: dict[str, str] = {}
    for name, hashes in fitted.items():
        twin = next((before[h] for h in hashes if h in before), None)
        if twin is not None:
            refuse_leak(what, {twin: fitted[twin]}, {name: hashes})
        before |= dict.fromkeys(hashes, name)


def map_in(folder: Path, name: str = MAP) -> CsvMap:
    """Read the map of a folder's tables: a file in it, or one that comes with Kizashi. Raises InputError."""
    place = folder / name
    if name == MAP and not place.exists():
        raise InputError(f"{place}: is not there; it says which columns are channels, and of which asset. "
                         f"{SHIPPED / 'skab.toml'} is an example with every key")
    return load_map(place if place.exists() else Path(name))


def tables(folder: Path) -> dict[str, str]:
    """Return the tables (CSV, Parquet) in a folder and those below it: path in it -> SHA-256. Raises InputError."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and is_table(p))
    found = {p.relative_to(folder).as_posix(): sha256(p) for p in paths}
    if not found:
        raise InputError(f"{folder}: holds no .csv, .csv.gz or .parquet")
    return found
