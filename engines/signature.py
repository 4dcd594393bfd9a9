"""What a model takes and gives, with the dimensions that must agree between its inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.base import Array, Arrays, EngineError, TensorSpec
from engines.bundle import ModelSpec

# A model that leaves a dimension open is warmed up with this many channels: the middle of what assets have.
_WARM_CHANNELS = 8

Dims = Sequence[int | str | None]


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a graph. dims: per input, the names of its open dimensions (batch included)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[tuple[int | str | None, ...], ...]

    @classmethod
    def of(cls, inputs: Sequence[tuple[str, str, Dims]], outputs: Sequence[tuple[str, str, Dims]]) -> "Signature":
        """Build from (name, NumPy dtype, dims with the batch first). Raises EngineError if a batch dim is fixed."""
        for name, _, dims in (*inputs, *outputs):
            if not dims or isinstance(dims[0], int):
                raise EngineError(f"{name!r} of the model has dimensions {list(dims)}: the first must be an open batch")
        return cls(_specs(inputs), _specs(outputs), tuple(tuple(dims) for _, _, dims in inputs))

    def require(self, spec: ModelSpec) -> None:
        """Raise EngineError unless the graph has the outputs that the passport names."""
        have = {o.name for o in self.outputs}
        for name in (spec.outputs.score, spec.outputs.contributions):
            if name is not None and name not in have:
                raise EngineError(f"model {spec.name} has outputs {sorted(have)}, its passport names {name!r}")

    def check(self, arrays: Arrays) -> int:
        """Return the batch size of `arrays`. Raises EngineError naming the input that does not fit."""
        for name in arrays.keys() - {s.name for s in self.inputs}:
            raise EngineError(f"input {name!r} is none of the model's: {', '.join(s.name for s in self.inputs)}")
        seen: dict[str, tuple[int, str]] = {}
        batch = 0
        for spec, dims in zip(self.inputs, self.dims, strict=True):
            if spec.name not in arrays:
                raise EngineError(f"input {spec.name!r} is missing, the model wants {spec.dtype}{list(dims)}")
            array = arrays[spec.name]
            spec.check(array)
            # An open dimension has one value in a call: NumPy and ONNX would broadcast a 1 in silence.
            for label, size in zip(("batch", *dims[1:]), array.shape, strict=True):
                if isinstance(label, str) and seen.setdefault(label, (size, spec.name))[0] != size:
                    other = seen[label]
                    raise EngineError(
                        f"input {spec.name!r} has {label} = {size}, but {other[1]!r} has {other[0]}: they must agree"
                    )
            batch = array.shape[0]
        if batch == 0:
            raise EngineError("a batch has at least one row, this one has 0")
        return batch

    def example(self, spec: ModelSpec, batch: int) -> dict[str, Array]:
        """Make `batch` rows of ones in a shape that the model should accept, to warm an engine up."""
        channels = min(max(_WARM_CHANNELS, spec.match.min_channels), spec.match.max_channels)
        # Rows of kind "window" are (frames, channels, samples): take the whole window as one frame.
        open_dims = (1, channels, spec.window.size) if spec.window else (channels,) * 3
        rows: dict[str, Array] = {}
        for t in self.inputs:
            shape = (free if fixed is None else fixed for fixed, free in zip(t.shape, open_dims, strict=False))
            rows[t.name] = np.ones((batch, *shape), t.dtype)
        return rows


def _specs(tensors: Sequence[tuple[str, str, Dims]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, dtype, tuple(d if isinstance(d, int) else None for d in dims[1:]))
        for name, dtype, dims in tensors
    )
