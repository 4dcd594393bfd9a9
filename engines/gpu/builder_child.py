"""The process that builds one plan: `python -m engines.gpu.builder_child FD PARENT`, used by `engines.gpu.build`.

Its input is a request with the bytes of a verified model, its answer goes to the file descriptor FD. Whatever the
library prints goes to stderr. It ends with its parent, and before everything else where memory runs out.
"""

import hashlib
import os
import sys
import time

import msgspec

from engines.base import EngineError
from engines.child import settle
from engines.gpu.pipe import ERROR, LINE, PLAN, REPORT, Request, frame

# Below everything that serves.
_NICE = 10
# A line a stage would do; a build of full TensorRT tells thousands of steps.
_LINE_EVERY_S = 0.2


class _Answers:
    """Writes frames to the parent. A parent that is gone needs none."""

    def __init__(self, fd: int) -> None:
        self._fd, self._next = fd, 0.0

    def line(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_EVERY_S
            self.send(LINE, text.encode())

    def send(self, kind: bytes, payload: bytes) -> None:
        left = memoryview(frame(kind, payload))
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            os._exit(1)


def main(fd: int, parent: int) -> None:
    """Build what stdin asks for, answer, and leave without the library's own clean-up."""
    # No RLIMIT_AS: CUDA reserves address space for all memory of host and device. The parent watches the resident set.
    settle(parent, _NICE)
    answers = _Answers(fd)
    os.dup2(2, 1)  # the library prints to stdout too
    try:
        _build(sys.stdin.buffer.read(), answers)
    except EngineError as error:
        answers.send(ERROR, str(error).encode())
    except ImportError as error:
        answers.send(ERROR, f"a package is missing: {error}; install kizashi[gpu] or kizashi[rtx]".encode())
    except MemoryError:
        answers.send(ERROR, b"out of memory")
    # Not sys.exit: what was built is out, and a crash in a destructor would only cast doubt on it.
    sys.stderr.flush()
    os._exit(0)


def _build(data: bytes, answers: _Answers) -> None:
    try:
        request, model = Request.decode(data)
    except msgspec.MsgspecError as error:
        raise EngineError(f"the request is not understood: {error}") from error
    if hashlib.sha256(model).hexdigest() != request.sha256:
        raise EngineError("the model is not the one that was verified: its hash differs")
    from engines.gpu.flavour import load_flavour
    from engines.graph.precision import to_precision

    answers.line(f"load {request.flavour}")
    flavour = load_flavour(request.flavour)
    model = to_precision(model, request.spec.precision)
    plan, report = flavour.build(model, request.spec, answers.line, device_cc=request.device_cc)
    answers.send(REPORT, msgspec.json.encode(report))
    answers.send(PLAN, plan)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
