"""Try a model out in a child process before it is loaded beside an engine that serves.

What a graph allocates cannot be read off it: shapes may be computed from data. So the child loads it, with the address
space that it may use as a hard limit, and runs the golden vectors and rows of every shape that it is to serve. A model
that asks for more memory, crashes the runtime or hangs ends the child, and an error says so.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from engines import golden as golden_vectors
from engines.base import EngineError, Unready
from engines.bundle import Bundle
from engines.child import Watched, converse
from engines.spec import ModelSpec

Shapes = Mapping[str, tuple[int, ...]]
# An answer is one error text, and "ok" is one.
_LONGEST = 65_536
#: What the child says when nothing is wrong.
PASSED = b"ok"
# The interpreter, NumPy and ONNX Runtime hold this much themselves, resident; it is not the model's.
_OWN_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What a trial may take: seconds, and bytes of memory for the model alone."""

    timeout_s: float = 120.0
    memory_bytes: int = 1 << 30


class Request(Struct, frozen=True):
    """What to try. engine: its name. rows: of the largest batch. shapes: of one row of each input, that will come."""

    engine: str
    rows: int
    threads: int
    memory_bytes: int
    path: str
    spec: ModelSpec
    shapes: tuple[dict[str, tuple[int, ...]], ...]
    model: bytes
    golden: bytes

    def bundle(self) -> Bundle:
        """Return the bundle to try; nobody has to believe it again."""
        golden = golden_vectors.decode(self.golden) if self.golden else None
        return Bundle(self.spec, Path(self.path), self.model, "", golden=golden)


def try_out(bundle: Bundle, engine: str, shapes: Iterable[Shapes], rows: int, threads: int = 1,
            limits: TrialLimits = TrialLimits(), *,  # noqa: B008  (frozen)
            stop: Callable[[], bool] = lambda: False) -> None:  # fmt: skip
    """Load and run a model in a child process. Blocks the calling thread; the child ends with that thread.

    engine: a name that `open_engine` knows. shapes: of rows that will come. rows: of the largest batch. stop: asked
    often, True ends the trial. Raises EngineError with why the model cannot be run here; Unready where it may be later.
    """
    golden = golden_vectors.encode(bundle.golden) if bundle.golden is not None else b""
    request = Request(engine, rows, threads, limits.memory_bytes, str(bundle.path), bundle.spec,
                      tuple(dict(s) for s in shapes), bundle.model, golden)
    answer = bytearray()

    def hear(data: bytes) -> None:
        answer.extend(data[: _LONGEST - len(answer)])

    watched = Watched("its trial", limits.timeout_s, limits.memory_bytes + _OWN_BYTES,
                      "it hangs, or no CPU is left for it",
                      "raise models.trial_memory_mb or make the model smaller")
    try:
        _, ending = converse("engines.trial_child", msgspec.msgpack.encode(request), hear, watched, stop)
    except OSError as error:
        raise Unready(f"its trial cannot be started: {error}") from error
    if bytes(answer) != PASSED:
        said = answer.decode("utf-8", "replace") or f"the process that tried it ended with {ending}"
        raise EngineError(f"in its trial, within {limits.memory_bytes >> 20} MiB: {said}")
