"""The checkpoint protocol against crashes at any write, half-written checkpoints and zombies: thousands of random runs.

KIZASHI_MODEL_RUNS: runs per test. A failing run is named by its world and its play; both are seeds.
"""

import os
from collections.abc import Iterator

import pytest

from pipeline import seating, state
from tests.chaos.compare import differences
from tests.chaos.protocol import Control, play, uninterrupted
from tests.chaos.worlds import World, make_world

# The faults that are planted below show in one of 3 to 12 plays; 400 miss what shows in one of 100 with 2 %.
RUNS = int(os.environ.get("KIZASHI_MODEL_RUNS", "400"))
pytestmark = pytest.mark.timeout(120 + RUNS // 5)
PLAYS = 5  # per world: a world and its uninterrupted run cost as much as two plays
BLOCK_BYTES = (1, 1400, 2600)  # blocks of one slot, of one or two, of two to four: several blocks in every pool


def prepare(world: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state, "BLOCK_BYTES", BLOCK_BYTES[world.seed % len(BLOCK_BYTES)])
    patch.setattr(seating, "MAX_WAITING_FRAMES", world.waiting_limit)
    patch.setattr(seating, "MAX_WAITING_MS", 1 << 50)  # a birth that comes late comes in time


def runs(count: int, patch: pytest.MonkeyPatch, *, zombies: bool = False, crashes: bool = True, control: Control = "",
         first: int = 0, impatient: bool = False) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """Yield (world, play) and how it differs from an uninterrupted run.

    impatient: few frames wait for a birth, the others are given up. Only without crashes: a worker that starts anew
    knows births from the beginning that its predecessor waited for.
    """
    for seed in range(first, first + -(-count // PLAYS)):
        world = make_world(seed)
        world.waiting_limit = 3 if impatient else world.waiting_limit
        prepare(world, patch)
        want = uninterrupted(world)
        for number in range(PLAYS):
            got = play(world, seed * 1000 + number, zombies=zombies, crashes=crashes, control=control)
            yield (seed, number), differences(world, got, want)


def test_state_and_alerts_are_the_same_when_polls_batches_and_checkpoints_fall_elsewhere(
        monkeypatch: pytest.MonkeyPatch) -> None:
    for impatient in (False, True):
        for run, found in runs(RUNS // 10, monkeypatch, crashes=False, impatient=impatient):
            assert not found, (run, found)


def test_nothing_is_lost_repeated_or_invented_when_workers_crash_at_any_write(monkeypatch: pytest.MonkeyPatch) -> None:
    for run, found in runs(RUNS, monkeypatch):
        assert not found, (run, found)


def test_nothing_is_lost_repeated_or_invented_when_old_workers_go_on_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    for run, found in runs(RUNS, monkeypatch, zombies=True, first=10_000):
        assert not found, (run, found)


@pytest.mark.parametrize("control", ["commit_first", "blocks_first", "ignore_through"])
def test_the_model_notices_when_the_protocol_is_broken(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit before the manifest, blocks before the alerts, a restore that ignores what blocks say of themselves."""
    assert any(found for _, found in runs(max(RUNS, 400), monkeypatch, control=control))
