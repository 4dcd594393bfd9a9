"""Where the rows of a batch lie: one block a batch, in page-locked memory and on the device, laid out alike.

The inputs of a batch are parts of one block, so that a full batch goes to the device in one copy whatever the number
of inputs. What way the bytes take is chosen from what the device says of itself, never from its name.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.base import Array
from engines.gpu.driver import DeviceInfo, Pinned

# cudaMalloc aligns to 256 bytes, and so do kernels that read whole cache lines of each input.
_ALIGN = 256
# Two parts are copied as one if that copies at most this much for nothing: at 25 GB/s (PCIe 4 x16) 64 KiB take 2.6 us,
# about what issuing another copy costs.
_MAX_GAP = 64 << 10


@dataclass(frozen=True, slots=True)
class Path:
    """How bytes get to the device and back. copy_in, copy_out: by a copy, else in mapped memory."""

    name: str
    copy_in: bool
    copy_out: bool


DISCRETE = Path("discrete", copy_in=True, copy_out=True)
INTEGRATED = Path("integrated", copy_in=False, copy_out=False)
COHERENT = Path("coherent", copy_in=True, copy_out=False)


def choose_path(info: DeviceInfo) -> Path:
    """Choose from the device's attributes.

    Integrated: host and device share the chips, so a copy would only be one more pass over them. Coherent (Grace): the
    inputs are copied, because kernels may read them more than once and each read would cross the link; results are
    written once, so the engine writes them straight into host memory. Else both are copied.
    """
    if not info.mappable:
        return DISCRETE
    if info.integrated:
        return INTEGRATED
    return COHERENT if info.coherent else DISCRETE


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor in a block. shape: of one row."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    row_bytes: int


@dataclass(frozen=True, slots=True)
class Block:
    """Where each tensor of a batch of `rows` rows lies in one piece of memory."""

    parts: tuple[Part, ...]
    rows: int
    nbytes: int

    @classmethod
    def of(cls, tensors: Sequence[tuple[str, str, tuple[int, ...]]], rows: int) -> "Block":
        """Lay out (name, dtype, shape of one row) one after the other."""
        parts, offset = [], 0
        for name, dtype, shape in tensors:
            kind = np.dtype(dtype)
            row_bytes = kind.itemsize * int(np.prod(shape, dtype=np.int64))
            parts.append(Part(name, kind, shape, offset, row_bytes))
            offset += -(-max(row_bytes * rows, 1) // _ALIGN) * _ALIGN
        return cls(tuple(parts), rows, offset)

    def views(self, memory: Array) -> dict[str, Array]:
        """Show `memory` (uint8) as the tensors, (rows, *shape) each."""
        return {p.name: memory[p.offset : p.offset + p.row_bytes * self.rows].view(p.dtype).reshape(self.rows, *p.shape)
                for p in self.parts}

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return the (offset, end) to copy for the first `rows` rows of every tensor, neighbours together."""
        pieces: list[tuple[int, int]] = []
        for part in self.parts:
            start, end = part.offset, part.offset + part.row_bytes * rows
            if pieces and start - pieces[-1][1] <= _MAX_GAP:
                pieces[-1] = pieces[-1][0], end
            else:
                pieces.append((start, end))
        return pieces


@dataclass(slots=True)
class StagingSet:
    """The inputs of one batch in page-locked memory.

    pieces: per bucket, what is copied: offset in the block and the bytes. addresses: of each input's first row.
    """

    index: int
    memory: Pinned
    arrays: dict[str, Array]
    addresses: tuple[int, ...]
    pieces: dict[int, list[tuple[int, Array]]]
    loan: "weakref.ref[Loan] | None" = None

    @classmethod
    def of(cls, index: int, memory: Pinned, block: Block, buckets: Sequence[int]) -> "StagingSet":
        """Divide `memory` as `block` says. It is cleared: rows that nobody has written yet must be numbers."""
        memory.array.fill(0)
        return cls(
            index, memory, block.views(memory.array), tuple(memory.address + p.offset for p in block.parts),
            {n: [(a, memory.array[a:b]) for a, b in block.pieces(n)] for n in buckets},
        )  # fmt: skip


class Loan:
    """Held by the arrays of a set that is lent out; puts the set back when the last of them is gone."""

    __slots__ = ("__weakref__", "_pool", "_set")

    def __init__(self, lent: StagingSet, pool: list[StagingSet]) -> None:
        self._set, self._pool = lent, pool

    def __del__(self) -> None:
        self._set.loan = None
        self._pool.append(self._set)


class _Window:
    """Gives NumPy an array whose memory belongs to a loan: every view of it keeps the loan."""

    __slots__ = ("__array_interface__", "loan")

    def __init__(self, array: Array, loan: Loan) -> None:
        self.__array_interface__: Mapping[str, Any] = array.__array_interface__
        self.loan = loan


@dataclass(slots=True)
class Pool:
    """Sets that a layout lends out; taking and giving back is safe on any thread."""

    free: list[StagingSet] = field(default_factory=list)

    def lend(self, rows: int) -> dict[str, Array] | None:
        """Return the first `rows` rows of a set's arrays, None when all are out."""
        try:
            lent = self.free.pop()
        except IndexError:
            return None
        loan = Loan(lent, self.free)
        lent.loan = weakref.ref(loan)
        return {name: np.asarray(_Window(array[:rows], loan)) for name, array in lent.arrays.items()}
