"""Why all that is known of an asset lies in one block: a model of the protocol with the columns of `acquire` apart.

Two blocks per asset, versioned by offset like every block: `acquire` (which frame numbers were seen) and `flow` (what
the frames came to). A frame that `acquire` holds and `flow` does not can be neither skipped nor applied: skipped, it is
missing in `flow`; applied, `acquire` calls it a duplicate, and it is missing all the same.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

LENGTH, ASSETS = 80, 3
Topic = dict[str, Any]
Seen = frozenset[int]


class Worker:
    """Reads (asset, number) records; keeps per asset the numbers seen and, in order, those that were applied."""

    def __init__(self, log: list[tuple[int, int]], topic: Topic, together: bool) -> None:
        self.log, self.together = log, together
        self.seen: dict[int, Seen] = {}
        self.applied: dict[int, tuple[int, ...]] = {}
        self.need: dict[str, int] = {}
        manifest = topic.get("manifest", {"offset": 0, "through": {}})
        for block in blocks(together):
            record = topic.get(block, {"through": 0, "seen": {}, "applied": {}})
            named = manifest["through"].get(block) == record["through"]
            self.need[block] = max(manifest["offset"], record["through"]) if named else record["through"]
            self.seen |= record["seen"]
            self.applied |= record["applied"]
        self.position = min(manifest["offset"], *self.need.values())

    def step(self) -> None:
        asset, number = self.log[self.position]
        block, acquire = f"flow{asset}", f"flow{asset}" if self.together else "acquire"
        fresh = self.position >= self.need[acquire]
        if fresh and number not in self.seen.get(asset, frozenset()):
            self.seen[asset] = self.seen.get(asset, frozenset()) | {number}
            if self.position >= self.need[block]:
                self.applied[asset] = (*self.applied.get(asset, ()), number)
        self.position += 1

    def checkpoint(self) -> list[tuple[str, Any]]:
        """Return the writes of a checkpoint, in order."""
        out: list[tuple[str, Any]] = []
        for block in blocks(self.together):
            assets = [int(block[4:])] if block != "acquire" else []
            mine = list(self.seen) if block == "acquire" else assets if self.together else []
            out.append((block, {"through": max(self.position, self.need[block]),
                                "seen": {a: self.seen.get(a, frozenset()) for a in mine},
                                "applied": {a: self.applied.get(a, ()) for a in assets}}))
        through = {block: record["through"] for block, record in out}
        return [*out, ("manifest", {"offset": self.position, "through": through})]


def blocks(together: bool) -> list[str]:
    return [f"flow{a}" for a in range(ASSETS)] + ([] if together else ["acquire"])


def trial(seed: int, together: bool) -> bool:
    """Tell whether every asset's numbers were applied, each once and in order, in spite of half-written checkpoints."""
    rng = random.Random(seed)
    counts = [0] * ASSETS
    log: list[tuple[int, int]] = []
    for _ in range(LENGTH):
        asset = rng.randrange(ASSETS)
        log.append((asset, counts[asset]))
        counts[asset] += 1
    topic: Topic = {}
    worker = Worker(log, topic, together)
    while worker.position < LENGTH:
        worker.step()
        if rng.random() < 0.2:
            *records, manifest = worker.checkpoint()
            rng.shuffle(records)  # whatever the order, a late write of a paused worker turns it round
            writes = [*records, manifest]
            done = len(writes) if rng.random() < 0.5 else rng.randrange(len(writes))
            topic |= dict(writes[:done])
            if done < len(writes):
                worker = Worker(log, topic, together)
    return all(worker.applied.get(a, ()) == tuple(range(counts[a])) for a in range(ASSETS))


@pytest.mark.parametrize(("together", "holds"), [(True, all), (False, lambda results: not all(results))])
def test_a_half_written_checkpoint_is_harmless_only_when_all_of_an_asset_is_in_one_block(
        together: bool, holds: Callable[[list[bool]], bool]) -> None:
    assert holds([trial(seed, together) for seed in range(500)])
