"""An engine on a bundle for `kizashi models`, in this process or in one of its own (`python -m` this FD PARENT).

In its own, what an engine holds can be told from what the one before it left, and one that crashes, hangs or grows
takes nothing along.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import msgspec
from msgspec import Struct

from engines import Bundle, Engine, EngineError, EngineLost, load_bundle, open_engine
from engines.child import Watched, converse, resident, settle
from engines.golden import GoldenCase
from engines.measure import BUCKETS, BucketTimes, measure
from engines.parity import ParityReport, compare
from engines.supply import GPU_ENGINES, EngineOptions
from engines.trust import TrustPolicy
from pipeline import parity
from pipeline.ops.settings import Settings

#: Rows of the largest batch; the one that budget.latency_ms is about.
FULL_BATCH = 256

# Opening and the golden rows; the reference takes seconds for the largest shipped bundle, on a busy machine a minute.
_OPEN_S = 600.0
# A round is a batch of each size; that of the largest shipped bundle takes 1 s.
_ROUND_S = 10.0
_MODULE = "pipeline.cli.modelsengine"
# Before the answer come lines of text, none of which begins so.
_ANSWER = b"\0"


class Request(Struct, frozen=True):
    """What to check. files: of the bundle, which somebody has verified. rounds: batches per size, 0: no times."""

    engine: str
    path: str
    files: dict[str, bytes]
    rounds: int
    precision: str
    cache: str | None
    build_timeout_s: float
    build_memory_mb: int


class Answer(Struct, frozen=True):
    """What came of it. error: why the engine cannot run the model. used: bytes that this process has grown by."""

    error: str = ""
    report: ParityReport | None = None
    times: tuple[BucketTimes, ...] = ()
    used: int = 0


def try_engine(name: str, bundle: Bundle, files: Mapping[str, bytes], settings: Settings, rounds: int) -> Answer:
    """Run the golden vectors and measure, in a process of its own. files: those that `bundle` was loaded from."""
    e, cases = settings.engine, len(bundle.golden.cases) if bundle.golden else 0
    request = Request(name, str(bundle.path), dict(files), rounds, e.precision, str(e.cache) if e.cache else None,
                      e.build_timeout_s, e.build_memory_mb)
    builds = cases * e.build_timeout_s if name in GPU_ENGINES else 0.0
    watched = Watched(f"engine {name}", _OPEN_S + rounds * _ROUND_S + builds, e.build_memory_mb << 20,
                      "it hangs, or no CPU is left for it", "raise engine.build_memory_mb or make the model smaller")
    heard = bytearray()

    def hear(data: bytes) -> None:
        heard.extend(data)
        while not heard.startswith(_ANSWER) and b"\n" in heard:
            line, _, rest = bytes(heard).partition(b"\n")
            heard[:] = rest
            print(line.decode("utf-8", "replace"), file=sys.stderr, flush=True)

    try:
        _, ending = converse(_MODULE, msgspec.msgpack.encode(request), hear, watched, lambda: False)
    except (EngineError, OSError) as error:
        return Answer(str(error))
    if not heard.startswith(_ANSWER):
        return Answer(f"its process ended with {ending}")
    return msgspec.msgpack.decode(bytes(heard[1:]), type=Answer)


@contextmanager
def opened(name: str, bundle: Bundle, options: EngineOptions, cases: Iterable[GoldenCase],
           tell: Callable[[str], None]) -> Iterator[Engine]:
    """Open an engine; for a GPU the plans of these cases' rows are built first, `tell` gets a line per step."""
    if name in GPU_ENGINES:
        from engines.gpu.provide import GpuSupply

        supply = GpuSupply(name, bundle, options)
        for case in cases:
            supply.ensure({key: array.shape[1:] for key, array in case.inputs.items()},
                          lambda line, case=case: tell(f"{name}, {case.name}: {line}"))  # type: ignore[misc]
    engine = open_engine(name, bundle, options)
    try:
        yield engine
    finally:
        engine.close()


def _main(fd: int, parent: int) -> None:
    """Check what stdin asks for, answer, and leave without the runtimes' own clean-up."""
    settle(parent, 0)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    with os.fdopen(fd, "wb") as out:
        def tell(line: str) -> None:
            out.write(" ".join(line.split()).encode() + b"\n")
            out.flush()

        try:
            answer = _check(request, tell)
        except (EngineError, EngineLost) as error:
            answer = Answer(str(error))
        except MemoryError:
            answer = Answer("out of memory")
        out.write(_ANSWER + msgspec.msgpack.encode(answer))
    os._exit(0)


def _check(request: Request, tell: Callable[[str], None]) -> Answer:
    bundle = load_bundle(request.path, TrustPolicy(allow_unsigned=True), request.files)
    assert bundle.golden is not None
    name, times = request.engine, list[BucketTimes]()
    options = EngineOptions(1, request.precision, FULL_BATCH, cache=Path(request.cache) if request.cache else None,
                            build_timeout_s=request.build_timeout_s,
                            build_memory_mb=request.build_memory_mb)  # one thread: the budget is for that
    with suppress(ImportError):  # what the package itself takes is not the model's
        import_module(f"engines.{name}")
    before = resident(os.getpid())
    with opened(name, bundle, options, bundle.golden.cases, tell) as engine:
        report = compare(engine, bundle, parity, FULL_BATCH)
        if request.rounds and report.ok:
            engine.warm_up(FULL_BATCH)
            # One thread of the CPU computes: what a busy machine takes from it says nothing of the model.
            clock = time.thread_time if name == "onnx_cpu" else time.perf_counter
            times = measure(engine, bundle, clock, BUCKETS, request.rounds)
        return Answer(report=report, times=tuple(times), used=resident(os.getpid()) - before)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
