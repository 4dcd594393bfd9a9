"""Kinds of rows: which step makes the rows of a bundle, by the `kind` of its passport. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from engines.bundle import Bundle
from pipeline import condition, drift, judge, means, order, window
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


def columns_of(bundle: Bundle, channels: int, samples: int) -> tuple[Column, ...]:
    """Return all that a slot needs beside `acquire`'s: of the kind, the judge, and drift detection where it is on."""
    watched = bundle.spec.watched(channels, samples)
    return (*kind_of(bundle).columns(bundle, channels, samples), *judge.COLUMNS,
            *drift.columns(bundle.spec.drift, watched))


def restart(pool: Pool, slot: int, *, recalibrate: bool) -> None:
    """Start a slot over after a reboot; recalibrate: what was learnt of the asset is void too."""
    kind_of(pool.bundle).restart(pool, slot, recalibrate=recalibrate)
    if recalibrate:
        drift.restart(pool, slot)


def kind_of(bundle: Bundle) -> Kind:
    """Return the step that makes a bundle's rows."""
    return KINDS[bundle.spec.kind]
