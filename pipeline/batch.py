"""Batch: collect rows over all assets and partitions until a batch is full or its oldest row has waited long enough.

Pure: time is a parameter. Triton's dynamic batching in terms and meaning (max batch size, max queue delay).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.base import Staging, TensorSpec
from pipeline.columns import Array, Rows
from pipeline.state import Partition, Pool

#: Buffers kept for the next batches: as many as the default lets compute, wait and fill at a time. A burst of rows
#: takes more (1 MB each in W1) and gives them back.
MAX_SPARE = 3

#: Makes arrays for the batches of a bundle: its name, shapes of one row of each input, rows.
Stage = Callable[[str, Mapping[str, tuple[int, ...]], int], Staging]


@dataclass(slots=True)
class Segment:
    """Consecutive rows of a batch that came from one pool in one step: rows[a:b] of `rows`, at `at` in the batch."""

    partition: Partition
    pool: Pool
    rows: Rows
    a: int
    b: int
    at: int

    @property
    def here(self) -> slice:
        return slice(self.at, self.at + self.b - self.a)

    def frames(self, row: int) -> int:
        """Return how many frames a row of this segment rests on."""
        frames = self.rows.frames
        return frames if isinstance(frames, int) else int(frames[self.a + row])

    def column(self, name: str) -> Array:
        array: Array = getattr(self.rows, name)
        return array[self.a:self.b]


@dataclass(slots=True)
class Batch:
    """Rows for one call of the engine. staging: whole arrays of max_size rows; `inputs` shows the first n."""

    key: str
    staging: Staging
    opened_at: float
    segments: list[Segment] = field(default_factory=list)
    n: int = 0

    @property
    def buffers(self) -> dict[str, Array]:
        return self.staging.arrays

    @property
    def inputs(self) -> dict[str, Array]:
        return {name: array[: self.n] for name, array in self.staging.arrays.items()}


def plain(specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]], rows: int) -> Staging:
    """Return ordinary arrays of `rows` rows for these inputs. shapes: of one row of each."""
    return Staging({s.name: np.zeros((rows, *shapes[s.name]), s.dtype) for s in specs})


class Batcher:
    """One per model and row shape. allocate: makes arrays of max_size rows; max_delay_s: longest wait for company."""

    def __init__(self, key: str, allocate: Callable[[], Staging], max_size: int, max_delay_s: float) -> None:
        self.key, self.max_size, self.max_delay_s = key, max_size, max_delay_s
        self._allocate = allocate
        self._open: Batch | None = None
        self._pinned: list[Staging] = []
        self._spare: list[Staging] = []

    def add(self, partition: Partition, pool: Pool, rows: Rows, now: float) -> list[Batch]:
        """Take rows; return the batches that became full, in order. `rows.fill` is called before this returns."""
        full, a = [], 0
        while a < len(rows):
            batch = self._open
            if batch is None:
                batch = self._open = Batch(self.key, self._take(), now)
            b = min(len(rows), a + self.max_size - batch.n)
            here = slice(batch.n, batch.n + b - a)
            rows.fill(a, b, {name: array[here] for name, array in batch.staging.arrays.items()})
            batch.segments.append(Segment(partition, pool, rows, a, b, batch.n))
            batch.n, a = here.stop, b
            if batch.n == self.max_size:
                full.append(batch)
                self._open = None
        return full

    def flush(self) -> list[Batch]:
        """Return the open batch, if any, whatever its size."""
        batch, self._open = self._open, None
        return [] if batch is None else [batch]

    def due(self, now: float) -> list[Batch]:
        """Return the open batch if its oldest row has waited `max_delay_s`."""
        return self.flush() if self._open is not None and now >= self._open.opened_at + self.max_delay_s else []

    @property
    def deadline(self) -> float | None:
        """Return when `due` will have something, or None."""
        return None if self._open is None else self._open.opened_at + self.max_delay_s

    def recycle(self, batch: Batch) -> None:
        """Take back the arrays of a settled batch; pinned ones always, the engine has no others to give."""
        if batch.staging.pinned:
            self._pinned.append(batch.staging)
        elif len(self._spare) < MAX_SPARE:
            self._spare.append(batch.staging)

    def _take(self) -> Staging:
        # Pinned first. Ordinary ones, once there are any, are taken before the engine is asked again.
        spare = self._pinned or self._spare
        return spare.pop() if spare else self._allocate()
