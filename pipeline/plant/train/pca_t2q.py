"""`kizashi train pca-t2q`: from a process plant's own history of normal operation to a monitor of that plant.

The folder holds tables (CSV, Parquet), a map of their columns, map.toml, and optionally plan.toml:

    map = "map.toml"                # or the name of a shipped map; this is the default
    set_points = ["feed_set"]       # else the channels whose quantity begins with "set point"
    sensors = ["level", "flow"]     # else all others that change
    [running]                       # start-ups and stops are told by a channel; none: it always runs
    channel = "outlet_flow"
    least = 4.0
"""

import tomllib
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.series import series
from pipeline.plant.train import MAP, Job, map_in, refuse_twins, tables
from schemas import AssetBirth

PLAN = "plan.toml"
_SET_POINT = "set point"


class Running(Struct, frozen=True, forbid_unknown_fields=True):
    """In operation while every moving mean of `channel` is at least `least`."""

    channel: str
    least: float


class PlanFile(Struct, frozen=True, forbid_unknown_fields=True):
    """plan.toml; see the head of this module."""

    map: str = MAP
    set_points: tuple[str, ...] | None = None
    sensors: tuple[str, ...] | None = None
    running: Running | None = None


def train(job: Job) -> None:
    """Read the tables, fit, write the bundle. Every asset of the tables is one more history of the same plant."""
    from engines.recipes import pca_t2q
    from engines.recipes.pca_model import Plan, fit

    wanted = read_plan(job.data)
    hashes = tables(job.data)
    refuse_twins("file", {name: [digest] for name, digest in hashes.items()})  # limits come from blocks left out
    files = [job.data / name for name in hashes]
    job.progress(0.0, f"reading {len(hashes)} files")
    found = series(CsvHistory(map_in(job.data, wanted.map)).read(files))
    births = [birth for birth, _ in found.values()]
    if not births:
        raise InputError(f"{job.data}: its tables hold no row")
    rows = [values for _, values in found.values()]
    sensors, sets, dead = channels_of(wanted, births[0], rows)
    names = [c.name for c in births[0].channels]
    order = [names.index(name) for name in (*sensors, *sets)]
    running = None if wanted.running is None else (wanted.running.channel, wanted.running.least)
    plan = Plan(sensors, sets, running)
    job.progress(0.2, f"fitting {len(sensors)} sensors, {len(sets)} set points")
    try:
        fitted = fit([values[:, order] for values in rows], plan)
    except ValueError as error:
        raise InputError(f"{job.data}: {error}") from error
    job.progress(0.9, "golden vectors and passport")
    what = f"{len(rows)} histories of {sum(map(len, rows))} samples in {len(hashes)} files"
    pca_t2q.write(job.out, fitted, what + (", a trial" if job.sample else ""), hashes)
    job.facts += [f"{name}: SHA-256 {digest[:12]}" for name, digest in hashes.items()]
    job.facts += [line.replace("\n", " ").strip() for line in pca_t2q.card(fitted, what).values()][1:3]
    job.facts += [f"{name} never changes: left out" for name in dead]


def read_plan(folder: Path) -> PlanFile:
    """Read plan.toml of a folder, or what holds without one. Raises InputError."""
    path = folder / PLAN
    if not path.exists():
        return PlanFile()
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), PlanFile)
    except (OSError, ValueError) as error:  # of TOML, UTF-8 and msgspec
        raise InputError(f"{path}: {error}") from error


def channels_of(
    wanted: PlanFile, birth: AssetBirth, rows: list[NDArray[np.float64]]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return sensors, set points, and channels left out because they never change. Raises InputError."""
    names = [c.name for c in birth.channels]
    sets = wanted.set_points
    if sets is None:
        sets = tuple(c.name for c in birth.channels if c.quantity.casefold().startswith(_SET_POINT))
    sensors = wanted.sensors or tuple(n for n in names if n not in sets)
    running = () if wanted.running is None else (wanted.running.channel,)
    for name in (*sets, *sensors, *running):
        if name not in names:
            raise InputError(f"{PLAN}: there is no channel {name!r}; the map has {', '.join(names)}")
    both = sorted(set(sets) & set(sensors))
    if both:
        raise InputError(f"{PLAN}: {both[0]} is a sensor and a set point")
    whole = np.concatenate(rows)
    still = {n for n, low, high in zip(names, whole.min(axis=0), whole.max(axis=0), strict=True) if low == high}
    dead = tuple(n for n in (*sensors, *sets) if n in still)
    sensors, sets = (tuple(n for n in group if n not in still) for group in (sensors, sets))
    if len(sensors) < 2:
        raise InputError(f"{len(sensors)} sensors change; two are needed, or there is nothing that moves together")
    if running and running[0] not in (*sensors, *sets):
        raise InputError(f"{PLAN}: running.channel = {running[0]!r} never changes, or is neither sensor nor set point")
    return sensors, sets, dead
