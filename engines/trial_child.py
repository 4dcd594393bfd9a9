"""The process that tries one model: `python -m engines.trial_child FD PARENT`, used by `engines.trial`."""

import os
import resource
import sys
from pathlib import Path

import msgspec
import numpy as np

from engines.base import EngineError
from engines.child import resident, settle
from engines.parity import compare
from engines.supply import EngineOptions, open_engine
from engines.trial import PASSED, Request

# It runs beside what serves and nobody waits for it: it takes what is left of the CPU.
_NICE = 19
# Rows of a batch of golden vectors, as in the gate.
_GATE_ROWS = 256
_MIB = 1 << 20


def main(fd: int, parent: int) -> None:
    """Try what stdin asks for, answer, and leave without the runtime's own clean-up."""
    settle(parent, _NICE)
    _idle()
    try:
        said = _try(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)).encode() or PASSED
    except EngineError as error:
        said = str(error).encode()
    except MemoryError:
        said = b"out of memory"
    try:
        os.write(fd, said)
    except OSError:
        os._exit(1)
    sys.stderr.flush()
    os._exit(0)


def _try(request: Request) -> str:
    """Run everything that the serving process will run; returns why it cannot be run, "" if it can."""
    bundle = request.bundle()
    if request.engine == "onnx_cpu":  # the runtime itself is not the model's memory
        import engines.onnx_cpu  # noqa: F401
    _bound(request.memory_bytes)
    before = resident(os.getpid())
    engine = open_engine(request.engine, bundle, EngineOptions(request.threads))
    engine.warm_up(request.rows)
    if bundle.golden is not None:  # what it says is judged where it is to serve
        report = compare(engine, bundle, None, min(_GATE_ROWS, request.rows))
        if report.faults:
            return "; ".join(report.faults)
    # Of the rows that its author knew: other assets' may be larger. An arena gives nothing back, nor does a leak.
    used, budget = (resident(os.getpid()) - before) / _MIB, bundle.spec.budget.memory_mb
    if budget is not None and used > budget:
        return f"its golden vectors take {used:.1f} MiB, budget.memory_mb = {budget:g}"
    for shapes in request.shapes:
        try:
            engine.infer({t.name: np.ones((request.rows, *shapes[t.name]), t.dtype) for t in engine.inputs})
        except (EngineError, MemoryError) as error:
            raise EngineError(f"{request.rows} rows of {dict(shapes)}: {str(error) or 'out of memory'}") from error
    return ""


def _bound(memory_bytes: int) -> None:
    """Let this process have so much more address space than it has, so that asking for more fails at once."""
    try:
        now = int(Path("/proc/self/statm").read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: the parent watches what is resident
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + memory_bytes, now + memory_bytes))


def _idle() -> None:
    """Run only when nobody else wants the CPU, where the system knows that."""
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
