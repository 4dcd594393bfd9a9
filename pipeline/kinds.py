"""Kinds of rows: which step makes the rows of a bundle, by the `kind` of its passport. Pure.

A bundle with a `[baseline]` has a second part of state, filled after the engine; the functions here care for both.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from engines.bundle import Bundle
from pipeline import baseline, condition, drift, judge, means, order, window
from pipeline.columns import Calibrated, FrameBatch, Groups, Rows
from pipeline.state import Column, Pool


class Kind(Protocol):
    """A step from frames to rows, with its own columns of state; a module of functions."""

    def columns(self, bundle: Bundle, channels: int, samples: int) -> tuple[Column, ...]:
        """Return what a slot needs. channels: those that the model takes. samples: per frame."""

    def calibration_rows(self, bundle: Bundle, samples: int) -> int:
        """Return how many samples a slot collects before its first row, 0: none."""

    def step(self, pool: Pool, batch: FrameBatch, groups: Groups) -> tuple[Rows, Sequence[Calibrated]]:
        """Take frames sorted by slot; return the rows that they finish, and the baselines."""

    def restart(self, pool: Pool, slot: int, *, recalibrate: bool) -> None:
        """Start over after a reboot; recalibrate: what was learnt of the asset is void too."""

    def inherit(self, pool: Pool, source: int, target: int) -> None:
        """Start a historical lane with what is known of the live slot."""

    def warm(self, pool: Pool, slot: int) -> bool:
        """Say whether a slot that began with nothing can be judged by now."""

    def lost(self, pool: Pool, slots: Sequence[int]) -> None:
        """Take note that frames of these slots are gone for good."""


KINDS: Mapping[str, Kind] = {"window": window, "mewma": condition, "ewma": means, "order": order}


def kind_of(bundle: Bundle) -> Kind:
    """Return the step that makes a bundle's rows."""
    return KINDS[bundle.spec.kind]


def new_pool(key: str, bundle: Bundle, channels: int, samples: int, pick: Sequence[int] | None) -> Pool:
    """Make an empty pool with all the state that the bundle needs. Arguments: of `Pool`."""
    kind, spec = kind_of(bundle), bundle.spec
    own, rows, width = kind.columns(bundle, channels, samples), kind.calibration_rows(bundle, samples), channels
    if spec.baseline is not None:
        own = (*own, *baseline.columns(spec.baseline, channels))
        rows, width = spec.baseline.rows, spec.baseline.width(channels)
    watched = drift.columns(spec.drift, spec.watched(channels, samples))
    return Pool(key, bundle, channels, samples, (*own, *judge.COLUMNS, *watched), rows, pick, width)


def restart(pool: Pool, slot: int, *, recalibrate: bool) -> None:
    """Start a slot over after a reboot; recalibrate: what was learnt of the asset is void too."""
    kind_of(pool.bundle).restart(pool, slot, recalibrate=recalibrate)
    if pool.bundle.spec.baseline is not None:
        baseline.restart(pool, slot, recalibrate=recalibrate)
    if recalibrate:
        drift.restart(pool, slot)


def start_over(pool: Pool, slot: int) -> None:
    """Forget all that was learnt of an asset; what is said of it is provisional until a baseline stands again."""
    restart(pool, slot, recalibrate=True)
    if pool.calibration_rows:
        pool.table["provisional"][slot] = 1


def inherit(pool: Pool, source: int, target: int) -> None:
    """Start a historical lane with what is known of the live slot."""
    kind_of(pool.bundle).inherit(pool, source, target)
    if pool.bundle.spec.baseline is not None:
        baseline.inherit(pool, source, target)


def lost(pool: Pool, slots: Sequence[int]) -> None:
    """Take note that frames of these slots are gone for good."""
    kind_of(pool.bundle).lost(pool, slots)
    if pool.bundle.spec.baseline is not None:
        pool.table["provisional"][list(slots)] = 1
