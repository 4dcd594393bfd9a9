"""Worlds for the protocol's model: a log of one partition, births and tombstones at their places, all from a seed."""

import random
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from engines.bundle import Bundle
from engines.driftspec import DriftSpec
from pipeline.births import BirthBook
from pipeline.columns import Poll
from pipeline.flow import Flow, FlowSettings
from pipeline.seating import Route, Seating
from schemas import AssetBirth, MachineEvent
from schemas.codec import encode
from tests.rig import Drift, Levels, WindowMean, baseline_bundle, birth, frame, mewma_bundle, window_bundle

#: So few rows that a world of some 15 frames an asset has drifts which begin and end; a passport must ask for more.
DRIFT = DriftSpec(input="x", every=1, reference=2, window=1, bins=3, psi=0.4, confirm=1, restore=1, tolerance=0.3)
_LEVEL = window_bundle(6, 2, on=(2, 3), off=2, deadband=0.1)
WINDOW = replace(_LEVEL, spec=msgspec.structs.replace(_LEVEL.spec, drift=DRIFT))
CHART = mewma_bundle(64, on=(2, 3), off=3, deadband=0.1)
OWN = baseline_bundle(8, folds=2)
ENGINES = {"win": WindowMean(), "mew": Drift(), "own": Levels()}
BUNDLES: dict[str, Bundle] = {"win": WINDOW, "mew": CHART, "own": OWN}
ROUTES = [Route("win", "pump"), Route("mew", "motor"), Route("own", "fan")]
SAMPLES = 2
MISROUTED = "elsewhere"
NEVER = 1 << 40


@dataclass
class Birth:
    """A record of the asset topic that comes when the log has `at` records. value None is a tombstone."""

    at: int
    of: AssetBirth
    tombstone: bool = False


@dataclass
class World:
    """A log and what is told beside it."""

    seed: int
    births: list[Birth] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    retired: set[str] = field(default_factory=set)
    waiting_limit: int = 256

    def poll(self, start: int, stop: int) -> Poll:
        return Poll(0, np.arange(start, stop), np.array(self.stamps[start:stop], np.int64), self.values[start:stop],
                    [None] * (stop - start), stop)

    def __len__(self) -> int:
        return len(self.values)


def make_world(seed: int, length: int = 110) -> World:
    """Make a world from a seed.

    It has assets of both kinds, reboots in place and into another pool, a birth that comes late or never, a tombstone,
    gaps, duplicates, reordered, late and refused records, silences, machine events.
    """
    rng = random.Random(seed)
    assets = _assets(rng)
    world = World(seed, waiting_limit=3 if any(a.name == "never" for a in assets) else 256)
    ts = 1_000_000
    while len(world) < length:
        at, odd = len(world), rng.random()
        ts += rng.choice((1_000, 1_000, 1_000, 20_000, 90_000) if rng.random() < 0.3 else (1_000,))
        living = [a for a in assets if a.begins <= at < a.ends] or assets
        world.values.append(b"\xc1 no frame" if odd < 0.03 else None if odd < 0.04 else
                            event(rng, assets, ts) if odd < 0.08 else rng.choice(living).next(at))
        world.stamps.append(ts)
    for asset in assets:
        world.births += [Birth(asset.birth_at, b) for b in asset.births]
        if asset.ends < NEVER:
            world.births.append(Birth(asset.ends + rng.randrange(10), asset.births[0], tombstone=True))
            world.retired.add(asset.name)
    world.births.sort(key=lambda b: b.at)
    return world


def event(rng: random.Random, assets: "list[_Asset]", ts_ms: int) -> bytes:
    """Encode a machine event of one of the assets, whether it has begun or not, or of nobody."""
    name = rng.choice([*(asset.name for asset in assets), "nobody"])
    return encode(MachineEvent(name, rng.choice(("part_replaced", "recalibrate")), ts_ms * 1_000_000, "ops"))


def _assets(rng: random.Random) -> "list[_Asset]":
    assets = [_Asset(rng, name) for name in ("w0", "w1", "m0", "b0")]
    for name in ("moved", "moved2"):
        if rng.random() < 0.6:
            assets.append(_Asset(rng, name, reboot=rng.randrange(20, 90), channels=("a", "b", "c")))
    if rng.random() < 0.5:
        assets.append(_Asset(rng, "rebooted", reboot=rng.randrange(20, 90)))
    if rng.random() < 0.3:
        assets.append(_Asset(rng, "mchanged", reboot=rng.randrange(60, 100), channels=("a", "x")))
    if rng.random() < 0.3:
        assets.append(_Asset(rng, "bchanged", reboot=rng.randrange(30, 100), channels=("a", "x")))
    if rng.random() < 0.6:
        assets.append(_Asset(rng, "late", birth_at=rng.randrange(5, 90)))
    elif rng.random() < 0.6:
        assets.append(_Asset(rng, "never", birth_at=NEVER))
    if rng.random() < 0.3:
        assets.append(_Asset(rng, "gone", ends=rng.randrange(30, 80)))
    for name in (MISROUTED, "unroutable", "old"):
        if rng.random() < 0.3:
            assets.append(_Asset(rng, name, historical=name == "old"))
    return assets


class _Asset:
    def __init__(self, rng: random.Random, name: str, *, birth_at: int = 0, reboot: int = NEVER, ends: int = NEVER,
                 channels: tuple[str, ...] = ("a", "b"), historical: bool = False) -> None:
        kind = "motor" if name in ("m0", "mchanged") else "fan" if name in ("b0", "bchanged") else "pump"
        kind = "other" if name == "unroutable" else kind
        self.rng, self.name, self.birth_at, self.reboot = rng, name, birth_at, reboot
        self.ends, self.historical = ends, historical
        self.begins = rng.choice((0, 0, rng.randrange(60)))
        self.births = [birth(name, asset_class=kind, samples=8 if kind == "motor" else SAMPLES)]
        if reboot < NEVER:
            self.births.append(birth(name, start=2, asset_class=kind, channels=channels,
                                     samples=8 if kind == "motor" else SAMPLES))
        self.seq = [rng.randrange(5), 0]
        self.bad_until = 0

    def next(self, at: int) -> bytes:
        """Encode the asset's next frame; a function of the random state, faults in episodes."""
        rng, life = self.rng, int(at >= self.reboot)
        if life and rng.random() < 0.1:
            life = 0  # a straggler of the old birth
        of, seq = self.births[life], self.seq[life]
        step = rng.choice((1, 1, 1, 1, 1, 1, 1, 2, 0, -1, -70))
        seq = max(0, seq + step) if rng.random() < 0.3 else seq + 1
        self.seq[life] = max(seq, self.seq[life])
        if rng.random() < 0.08:
            self.bad_until = at + rng.randrange(15, 40)
        level = rng.choice((1.5, 2.5, 9.0)) if at < self.bad_until else 0.3
        shape = (len(of.channels), of.samples_per_frame)
        data = np.array([level * rng.uniform(0.8, 1.2) * rng.choice((-1, 1)) for _ in range(shape[0] * shape[1])])
        fields: dict[str, object] = {"historical": True} if self.historical else {}
        odd = rng.random()
        if odd < 0.02:
            fields["data"] = b"short"
        elif odd < 0.04:
            data[0] = np.nan
        elif odd < 0.05:
            fields["quality"] = "bad"
        return frame(of, seq, data.reshape(shape), **fields)


def make_flow(book: BirthBook) -> Flow:
    seats = Seating(BUNDLES, ROUTES, book, 1000, lambda asset: int(asset == MISROUTED))
    return Flow(FlowSettings(max_size=3, max_future_ms=10**15), seats, {n: e.inputs for n, e in ENGINES.items()})
