"""The seam to every inference engine: named arrays in, named arrays out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]


class EngineError(Exception):
    """The engine could not compute this batch. The caller splits it until the poison row is alone."""


class Unready(EngineError):
    """What an engine needs is not to be had now: a device, memory, time. The model is not at fault: try it again."""


class EngineLost(Exception):
    """The engine is broken for good (a sticky CUDA error, a closed device): nothing that it holds may be used again.

    The caller serves the same batches on another engine; they are not at fault.
    """


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: name, NumPy dtype ("f4", "f8"), shape without the batch dimension (None = any)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def check(self, array: Array) -> None:
        """Raise EngineError unless `array` is (batch, *shape) of this dtype."""
        fits = array.ndim == len(self.shape) + 1 and all(
            want is None or want == got for want, got in zip(self.shape, array.shape[1:], strict=True)
        )
        if array.dtype != np.dtype(self.dtype) or not fits:
            raise EngineError(
                f"input {self.name!r} is {array.dtype}{list(array.shape)}, the model wants "
                f"{self.dtype}[n, {', '.join('any' if d is None else str(d) for d in self.shape)}]"
            )


class Engine(Protocol):
    """Computes a batch. Not thread-safe: one thread owns an engine from `warm_up` to `close`."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def warm_up(self, batch: int) -> None:
        """Run once at `batch` rows so that the first real batch pays nothing extra."""

    def infer(self, inputs: Arrays) -> Arrays:
        """Return one array per output, leading dimension as the inputs'.

        Outputs may be buffers that the next call reuses: copy what must outlive it. A row's result does not
        depend on the other rows. Raises EngineError; the engine stays usable afterwards.
        """

    def close(self) -> None:
        """Free what the engine holds; idempotent."""


@dataclass(slots=True)
class Staging:
    """Input arrays of whole batches that rows are written into. pinned: the device reads them without another copy."""

    arrays: dict[str, Array]
    pinned: bool = False


class Pipelined(Engine, Protocol):
    """An engine that computes while the next batch is begun. `infer` is `finish(begin(inputs))`.

    depth: batches that may be begun before the oldest is finished. Tickets are finished in the order they were begun.
    """

    depth: int

    def staging(self, shapes: Mapping[str, tuple[int, ...]], rows: int) -> Staging:
        """Return input arrays of `rows` rows; shapes: of one row of each input. Not pinned once the budget is used up.

        The first call for a layout (these shapes) allocates everything that serving it needs, and warms it up. Later
        ones may come from any thread, also while a batch hangs: they wait for nothing.
        """

    def begin(self, inputs: Arrays) -> int:
        """Start a batch and return its ticket. inputs: the first n rows of a `Staging`, or any arrays (one more copy).

        Raises EngineError, EngineLost. The inputs may not be written until the batch is finished.
        """

    def finish(self, ticket: int) -> Arrays:
        """Wait for a batch; outputs are views that stay valid until `depth` more batches are begun.

        Raises EngineError (this batch failed, the engine goes on) or EngineLost.
        """
