"""A model of the checkpoint protocol over the real flow: one partition, a compacted topic, workers that die and linger.

`play` runs a world with crashes at any write, half-written checkpoints and zombies; `uninterrupted` runs it in one go.
What differs between the two is a fault of the protocol.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pipeline import checkpoint
from pipeline.births import BirthBook
from pipeline.columns import Effects, Poll
from pipeline.flow import Step
from pipeline.infer import run
from pipeline.state import COUNTERS, Partition, Pool
from schemas.codec import decode_alert, encode, encode_alert
from tests.chaos.worlds import ENGINES, World, make_flow

#: How the protocol is broken on purpose, to see that the model notices.
Control = Literal["", "commit_first", "blocks_first", "ignore_through"]


@dataclass
class Broker:
    """What outlives every worker. reached: how far into the log anybody has come, so that its births are known."""

    state: dict[str, bytes] = field(default_factory=dict)
    alerts: list[tuple[str, int, bytes]] = field(default_factory=list)
    letters: dict[bytes, bytes] = field(default_factory=dict)
    committed: int = 0
    reached: int = 0

    def publish(self, effects: Effects) -> None:
        for letter in effects.dead_letters:
            self.letters[letter.message_key + (b"|row" if letter.row else b"")] = encode(letter)
        for alert in effects.alerts:
            self.alerts.append((alert.alert_id, alert.revision, encode_alert(alert)))


class Worker:
    """Restores the partition, then does as it is told, one small step at a time."""

    def __init__(self, world: World, broker: Broker, control: Control = "") -> None:
        self.world, self.broker, self.control = world, broker, control
        self.book, self.heard = BirthBook(), 0
        self.flow = make_flow(self.book)
        self.batches: deque[Any] = deque()
        self.outbox: deque[Effects] = deque()
        self.writing: deque[tuple[str, Any]] = deque()
        self._hear(broker.reached)
        restored = checkpoint.restore(0, broker.state, self.flow.seats.new_pool, broker.committed)
        self.part = restored.partition
        self._take(self.flow.adopt(self.part, 0.0, broker.reached))
        for pool in self.part.order:  # say again which alerts are open
            for value in pool.open.values():
                alert = decode_alert(value)
                self.outbox.append(Effects(alerts=[alert]))

    def _hear(self, upto: int) -> None:
        """Learn of births and tombstones before any frame is read."""
        while self.heard < len(self.world.births) and self.world.births[self.heard].at <= upto:
            entry = self.world.births[self.heard]
            self.heard += 1
            if entry.tombstone:
                self.book.retire(entry.of.asset, entry.of.birth_id)
            else:
                self.book.add(entry.of)

    def _take(self, step: Step) -> None:
        self.outbox.append(step.effects)
        self.batches += step.batches

    def settle(self, upto: int = 1 << 30) -> None:
        while self.batches and upto:
            batch = self.batches.popleft()
            self.outbox.append(self.flow.settle(batch, run(ENGINES[batch_kind(batch)], batch.inputs)))
            upto -= 1

    def drain(self) -> None:
        self.batches += self.flow.flush()
        self.settle()

    @property
    def done(self) -> bool:
        return self.part.position >= len(self.world) and self.heard == len(self.world.births)

    def step(self, most: int) -> None:
        """Hear what is due, then admit up to `most` records, no further than the next birth."""
        births = self.world.births
        while self.heard < len(births) and births[self.heard].at <= self.part.position:
            entry = births[self.heard]
            self.heard += 1
            if entry.tombstone:
                self.drain()
                self._take(self.flow.retire(entry.of.asset, entry.of.birth_id))
            elif self.flow.awaited(entry.of):
                self.drain()
                self._take(self.flow.announce(entry.of, 0.0))
            else:
                self.book.add(entry.of)
        start = self.part.position
        stop = min(start + most, len(self.world), births[self.heard].at if self.heard < len(births) else 1 << 30)
        if stop <= start:
            self.heard_beyond()
            return
        poll: Poll | None = self.world.poll(start, stop)
        while poll is not None:
            step = self.flow.admit(poll, 0.0)
            self._take(step)
            poll = step.rest
            if poll is not None:
                self.drain()
        self.broker.reached = max(self.broker.reached, self.part.position)

    def heard_beyond(self) -> None:
        """At the end of the log hear of everything that is still to come."""
        if self.part.position >= len(self.world):
            for entry in self.world.births[self.heard:]:
                entry.at = min(entry.at, self.part.position) if entry.at < 10**9 else entry.at
            if self.world.births[self.heard:] and self.world.births[self.heard].at >= 10**9:
                self.heard = len(self.world.births)

    def publish(self, upto: int = 1 << 30) -> None:
        while self.outbox and upto:
            self.broker.publish(self.outbox.popleft())
            upto -= 1

    def checkpoint(self, name: str) -> None:
        """Take a checkpoint and queue its writes, each of which may be the last one that happens."""
        self.drain()
        self._take(self.flow.obey_tombstones(0))
        snap = checkpoint.take(self.part, name, 1)
        alerts: list[tuple[str, Any]] = [("alert", None)] * len(self.outbox)
        blocks: list[tuple[str, Any]] = [("state", (key, checkpoint.encode(record))) for key, record in snap.blocks]
        manifest = [("state", ("manifest", checkpoint.encode(snap.manifest)))]
        commit: list[tuple[str, Any]] = [("commit", snap.manifest.offset)]
        if self.control == "blocks_first":
            order = [*blocks, *manifest, *commit, *alerts]
        elif self.control == "commit_first":
            order = [*alerts, *commit, *blocks, *manifest]
        else:
            order = [*alerts, *blocks, *manifest, *commit]
        self.writing += [*order, ("durable", snap.manifest)]

    def write(self, upto: int = 1 << 30) -> None:
        """Do the next writes of the checkpoint."""
        while self.writing and upto:
            kind, what = self.writing.popleft()
            upto -= 1
            if kind == "alert":
                self.publish(1)
            elif kind == "state":
                self.broker.state[what[0]] = what[1]
            elif kind == "commit":
                self.broker.committed = what
            else:
                checkpoint.durable(self.part, what)


def batch_kind(batch: Any) -> str:
    return str(batch.segments[0].pool.bundle.spec.name)


def uninterrupted(world: World) -> tuple[Worker, Broker]:
    """Run a world by one worker that never stops and takes no checkpoint."""
    broker = Broker()
    worker = Worker(world, broker)
    while not worker.done:
        worker.step(7)
        worker.drain()
    worker.publish()
    return worker, broker


def play(world: World, seed: int, *, zombies: bool = False, crashes: bool = True,
         control: Control = "") -> tuple[Worker, Broker]:
    """Run a world by workers that crash; return the last one, which has come to the end, and what the broker has."""
    rng, broker = random.Random(seed), Broker()
    worker, lingering = Worker(world, broker, control), list[Worker]()
    crash, names = rng.choice((0.05, 0.15, 0.3)) if crashes else 0.0, _names()
    for _ in range(45):
        act = rng.random()
        if act < crash:
            if zombies and rng.random() < 0.6:
                lingering.append(worker)
            worker = Worker(world, broker, control)
        elif worker.writing and act < 0.5:
            worker.write(rng.randrange(1, 6))
        elif not worker.writing and act < 0.45:
            worker.checkpoint(next(names))
        elif act < 0.55:
            worker.publish(rng.randrange(4))
        elif act < 0.65:
            worker.settle(rng.randrange(3))
        else:
            worker.step(rng.randrange(1, 9))
        if lingering and rng.random() < 0.4:
            _linger(rng, lingering, next(names))
    while not worker.done:
        worker.step(rng.randrange(1, 20))
        if not worker.writing and rng.random() < 0.2:
            worker.checkpoint(next(names))
        worker.write(rng.randrange(3))
    for _ in range(2):  # the second finds durable what the first wrote
        worker.write()
        worker.checkpoint(next(names))
        worker.publish()
        worker.write()
    return worker, broker


def _names() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"m{number}"


def _linger(rng: random.Random, lingering: list[Worker], name: str) -> None:
    """Let a worker that was only paused go on: it works, publishes and writes as if it still owned the partition."""
    zombie = rng.choice(lingering)
    act = rng.random()
    if act < 0.2:
        lingering.remove(zombie)
    elif act < 0.7 and zombie.writing:
        zombie.write(rng.randrange(1, 3))
    elif act < 0.8:
        zombie.publish(1)
    elif act < 0.9 and not zombie.writing:
        zombie.checkpoint(name)
    else:
        zombie.step(rng.randrange(1, 6))


# -- the oracle


def state_of(part: Partition) -> dict[str, Any]:
    """Return all that is known of a partition, by asset: places of slots and blocks are nobody's business."""
    seats: dict[Any, Any] = {}
    for pool in part.order:
        for slot, who in pool.seated():
            if pool.table["leave"][slot] >= 0:
                continue
            columns = {c.name: _meant(pool, c.name, slot).tobytes() for c in pool.table.columns
                       if c.persist and c.name not in PLACES}
            rows = pool.calibration.get(slot)
            collected = b"" if rows is None else rows[:int(pool.table["collected"][slot])].tobytes()
            alerts = {rule: value for (s, rule), value in pool.open.items() if s == slot}
            key = (pool.key, who.asset, who.birth.birth_id, who.historical)
            seats.setdefault(key, []).append((columns, collected, alerts))
    waiting = {k: [(f[0], f[2]) for f in w.frames] for k, w in part.unassigned.waiting.items() if w.leave < 0 and w.frames}
    return {"seats": seats, "totals": part.totals(), "waiting": waiting}


def _meant(pool: Pool, name: str, slot: int) -> Any:
    """Return a slot's column; of a ring that is not full yet only what was put in since it started over."""
    value = pool.table[name][slot]
    if name == "ring":
        value = value.copy()
        value[int(pool.table["frames"][slot]):] = 0
    return value


#: Columns that say how far a block is, not what its frames came to.
PLACES = frozenset(("leave", "hold"))


def differences(world: World, got: tuple[Worker, Broker], want: tuple[Worker, Broker]) -> list[str]:
    """Say how a run differs from the uninterrupted one; nothing if the protocol is right."""
    found = []
    (worker, broker), (ideal, truth) = got, want
    a, b = state_of(worker.part), state_of(ideal.part)
    for key in sorted(a["seats"].keys() | b["seats"].keys()):
        if key[1] in world.retired:
            continue
        here, there = a["seats"].get(key, []), b["seats"].get(key, [])
        if here != there:
            found.append(f"state of {key[1:]}: {_what(here, there)}")
    if not world.retired:
        found += [f"{k}: {a['totals'][k]} for {b['totals'][k]}" for k in a["totals"] if a["totals"][k] != b["totals"][k]]
    if a["waiting"] != b["waiting"]:
        found.append(f"waiting {a['waiting']} for {b['waiting']}")
    found += _laws(a["totals"], worker.part)
    found += _alerts(world, broker, truth)
    letters = {k for k in truth.letters if not _retired(world, truth.letters[k])}
    missing, invented = letters - broker.letters.keys(), broker.letters.keys() - truth.letters.keys()
    if missing or (invented and not world.retired):
        found.append(f"dead letters missing {sorted(missing)}, invented {sorted(invented)}")
    return found


def _retired(world: World, letter: bytes) -> bool:
    return any(name.encode() in letter for name in world.retired)


def _what(here: list[Any], there: list[Any]) -> str:
    if len(here) != 1 or len(there) != 1:
        return f"{len(here)} slots for {len(there)}"
    (columns, rows, alerts), (columns2, rows2, alerts2) = here[0], there[0]
    out = [f"{n} {_shown(n, columns[n])} for {_shown(n, columns2[n])}" for n in columns if columns[n] != columns2[n]]
    return "; ".join(out) or ("calibration rows" if rows != rows2 else f"open alerts {alerts} for {alerts2}")


def _shown(name: str, raw: bytes) -> Any:
    if name != "counts":
        return raw.hex()
    return {n: int(v) for n, v in zip(COUNTERS, np.frombuffer(raw, np.int64), strict=True) if v}


def _laws(t: dict[str, int], part: Partition) -> list[str]:
    ends = t["judged"] + t["dead_lettered"] + t["late"] + t["duplicate"] + t["shed"]
    found = []
    if t["received"] != ends + part.unassigned.frames_waiting():
        found.append(f"frames: received {t['received']}, ends {ends}, waiting {part.unassigned.frames_waiting()}")
    if t["rows"] != t["rows_scored"] + t["rows_dead_lettered"]:
        found.append(f"rows: {t['rows']} made, {t['rows_scored']} scored, {t['rows_dead_lettered']} dead-lettered")
    return found


def _alerts(world: World, broker: Broker, truth: Broker) -> list[str]:
    said = {(i, r): v for i, r, v in truth.alerts}
    found, seen = [], dict[tuple[str, int], bytes]()
    for ident, revision, value in broker.alerts:
        alert = decode_alert(value)
        if alert.asset in world.retired:
            continue
        want = said.get((ident, revision))
        if want is None:
            found.append(f"alert invented: {alert.asset} {alert.rule} {ident}.{revision}")
        elif want != value:
            fields = {f: (getattr(alert, f), getattr(decode_alert(want), f)) for f in alert.__struct_fields__}
            found.append(f"alert differs: {alert.asset} {alert.rule}.{revision} "
                         f"{ {f: v for f, v in fields.items() if v[0] != v[1]} }")
        seen[ident, revision] = value
    lost = [k for k, v in said.items() if k not in seen and decode_alert(v).asset not in world.retired]
    found += [f"alert lost: {decode_alert(said[k]).asset} {decode_alert(said[k]).rule} {k}" for k in lost]
    newest: dict[str, Any] = {}
    for ident, revision, value in broker.alerts:
        if revision >= newest.get(ident, (0, b""))[0]:
            newest[ident] = (revision, value)
    for ident, (_, value) in newest.items():
        alert = decode_alert(value)
        if alert.asset in world.retired and alert.active:
            found.append(f"alert of a retired asset stays open: {ident}")
    return found
