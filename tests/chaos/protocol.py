"""A model of the checkpoint protocol over the real flow: one partition, a compacted topic, workers that die and linger.

`play` runs a world with crashes at any write, half-written checkpoints and zombies; `uninterrupted` runs it in one go.
What differs between the two is a fault of the protocol.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline import checkpoint, terms
from pipeline.births import BirthBook
from pipeline.columns import Effects, Poll
from pipeline.flow import Step
from pipeline.infer import run
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
    workers: int = 0

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
        self.flow.patient = True
        self.batches: deque[Any] = deque()
        self.outbox: deque[Effects] = deque()
        self.writing: deque[tuple[str, Any]] = deque()
        self._hear(broker.reached)
        stored = terms.sort_out(broker.state)
        restored = checkpoint.restore(0, stored.records, self.flow.seats.new_pool, broker.committed)
        broker.workers += 1
        self.part = restored.partition
        self.part.term, self.part.stale = stored.next_term(f"{random.Random(broker.workers).random()}"), stored.keys
        if control == "ignore_through":
            _ignore_through(restored, broker)
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
        if step.more is not None:
            self.drain()
            self._take(step.more())

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
            if start >= len(self.world) and self.heard < len(births):
                self.heard += 1  # at the end of the log: what is due later is never heard
            return
        poll: Poll | None = self.world.poll(start, stop)
        while poll is not None:
            step = self.flow.admit(poll, 0.0)
            self._take(step)
            poll = step.rest
            if poll is not None:
                self.drain()
        if self.flow.overdue(0):
            self.outbox.append(self.flow.give_up(0))
        self.broker.reached = max(self.broker.reached, self.part.position)

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
        term = self.part.term
        blocks: list[tuple[str, Any]] = [("state", (f"{term}|{key}", checkpoint.encode(record)))
                                         for key, record in snap.blocks]
        manifest = [("state", (f"{term}|{terms.MANIFEST}", checkpoint.encode(snap.manifest)))]
        stale, self.part.stale = [("remove", key) for key in self.part.stale], ()
        commit: list[tuple[str, Any]] = [("commit", snap.manifest.offset)]
        if self.control == "blocks_first":
            order = [*blocks, *manifest, *stale, *commit, *alerts]
        elif self.control == "commit_first":
            order = [*alerts, *commit, *blocks, *manifest, *stale]
        else:
            order = [*alerts, *blocks, *manifest, *stale, *commit]
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
            elif kind == "remove":
                self.broker.state.pop(what, None)
            elif kind == "commit":
                self.broker.committed = what
            else:
                checkpoint.durable(self.part, what)


def _ignore_through(restored: checkpoint.Restored, broker: Broker) -> None:
    """Believe that every block holds what the manifest says."""
    part, start = restored.partition, restored.manifest.offset if restored.manifest else broker.committed
    part.position = part.replay_until = part.unassigned.need = start
    for pool in part.order:
        pool.need = [start] * pool.blocks


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
        if rng.random() < crash:
            if zombies and rng.random() < 0.6:
                lingering.append(worker)
            worker = Worker(world, broker, control)
        else:
            _act(rng, worker, next(names))
        if lingering and rng.random() < 0.6:
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


def _act(rng: random.Random, worker: Worker, name: str) -> None:
    """Let a worker do one thing."""
    act = rng.random()
    if worker.writing and act < 0.5:
        worker.write(rng.randrange(1, 6))
    elif not worker.writing and act < 0.45:
        worker.checkpoint(name)
    elif act < 0.55:
        worker.publish(rng.randrange(4))
    elif act < 0.65:
        worker.settle(rng.randrange(3))
    else:
        worker.step(rng.randrange(1, 9))


def _names() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"m{number}"


def _linger(rng: random.Random, lingering: list[Worker], name: str) -> None:
    """Let a worker that was only paused go on: it works, publishes and writes as if it still owned the partition."""
    zombie = rng.choice(lingering)
    act = rng.random()
    if act < 0.1:
        lingering.remove(zombie)
    elif act < 0.7 and zombie.writing:
        zombie.write(rng.randrange(1, 3))
    elif act < 0.8:
        zombie.publish(1)
    elif act < 0.9 and not zombie.writing:
        zombie.checkpoint(name)
    else:
        zombie.step(rng.randrange(1, 6))
