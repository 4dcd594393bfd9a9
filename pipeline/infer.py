"""Infer: run a batch on the engine, split a failing one until the poison row is alone. [SD]"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from engines.base import Array, Engine, EngineError


@dataclass(slots=True)
class Outcome:
    """What became of a batch. outputs: (n, ...) arrays; rows in `failed` (row -> why) are zeros there.

    seconds: from its begin to its end on the engine.
    """

    outputs: dict[str, Array]
    failed: dict[int, str] = field(default_factory=dict)
    calls: int = 1
    seconds: float = 0.0


def run(engine: Engine, inputs: Mapping[str, Array]) -> Outcome:
    """Compute a batch; on EngineError halve it until the failing rows are alone and the others are scored."""
    n = len(next(iter(inputs.values())))
    try:
        return Outcome({name: np.array(a) for name, a in engine.infer(inputs).items()})
    except EngineError as error:
        if n == 1:
            outputs = {s.name: np.zeros((1, *(d or 1 for d in s.shape)), s.dtype) for s in engine.outputs}
            return Outcome(outputs, {0: str(error)})
    half = n // 2
    left = run(engine, {k: v[:half] for k, v in inputs.items()})
    right = run(engine, {k: v[half:] for k, v in inputs.items()})
    return Outcome(
        {k: np.concatenate(_alike(left.outputs[k], right.outputs[k])) for k in left.outputs},
        left.failed | {half + i: why for i, why in right.failed.items()},
        1 + left.calls + right.calls,
    )


def _alike(a: Array, b: Array) -> tuple[Array, Array]:
    """Give the zeros of a failed row the trailing shape of computed ones, where the spec leaves it open."""
    if a.shape[1:] == b.shape[1:]:
        return a, b
    shape = tuple(map(max, a.shape[1:], b.shape[1:]))
    return np.broadcast_to(a, (len(a), *shape)), np.broadcast_to(b, (len(b), *shape))
