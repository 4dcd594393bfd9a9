"""CUDA graphs through ctypes: PyCUDA has none, but its streams have handles that the driver's own functions take.

A graph replays what was put on a stream while it was captured: one call for all kernels of an engine instead of one
call each, and no Python between them.
"""

import ctypes
from ctypes import byref, c_char_p, c_int, c_uint64, c_void_p

from engines.gpu.faults import CudaError

#: Only unsafe calls of the capturing thread end a capture; a second engine may allocate meanwhile (hot swap).
_THREAD_LOCAL = 1
# Names of CUDA's driver API since 12.0; the suffix is what cuda.h makes of the plain name.
_FUNCTIONS = {
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, c_void_p],
    "cuGraphInstantiateWithFlags": [c_void_p, c_void_p, c_uint64],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuGraphDestroy": [c_void_p],
    "cuStreamQuery": [c_void_p],
    "cuGetErrorString": [c_int, c_void_p],
    "cuDeviceGet": [c_void_p, c_int],
    "cuDevicePrimaryCtxRetain": [c_void_p, c_int],
    "cuDevicePrimaryCtxRelease_v2": [c_int],
}
# The driver's codes lie in 0 .. 999; the largest is CUDA_ERROR_UNKNOWN.
_CODES = range(1, 1000)


class GraphApi:
    """Capture, instantiate and launch on any stream's handle. Raises CudaError."""

    def __init__(self, library: str = "libcuda.so.1") -> None:
        self._lib = ctypes.CDLL(library)
        for name, arguments in _FUNCTIONS.items():
            function = getattr(self._lib, name)
            function.argtypes, function.restype = arguments, c_int
        #: launch(graph, stream) -> CUresult: the bare function, because it is on the way of every batch.
        self.launch = self._lib.cuGraphLaunch
        self._codes: dict[str, int] | None = None

    def retain(self, index: int) -> None:
        """Keep the primary context of device `index`, and with it all page-locked memory, until `release`."""
        device, context = c_int(), c_void_p()
        self._call("cuDeviceGet", byref(device), index)
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)

    def release(self, index: int) -> None:
        """Undo `retain`; whether it works does not matter, the process ends."""
        device = c_int()
        if self._lib.cuDeviceGet(byref(device), index) == 0:
            self._lib.cuDevicePrimaryCtxRelease_v2(device)

    def begin(self, stream: int) -> None:
        """Record what is put on `stream` from now on, instead of running it."""
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def end(self, stream: int) -> int:
        """End the capture and return a graph that can be launched."""
        graph, ready = c_void_p(), c_void_p()
        code = self._lib.cuStreamEndCapture(stream, byref(graph))
        if code:
            self.abandon(stream)
            self.check(code, "cuStreamEndCapture")
        try:
            self._call("cuGraphInstantiateWithFlags", byref(ready), graph, 0)
        finally:
            self._lib.cuGraphDestroy(graph)
        return ready.value or 0

    def abandon(self, stream: int) -> None:
        """End a capture that went wrong, if it goes on: the stream is usable again."""
        graph = c_void_p()
        if self._lib.cuStreamEndCapture(stream, byref(graph)) == 0 and graph.value:
            self._lib.cuGraphDestroy(graph)

    def destroy(self, graph: int) -> None:
        """Free a graph; errors are not reported: there is nothing that a caller could do about them."""
        self._lib.cuGraphExecDestroy(graph)

    def query(self, stream: int) -> int:
        """Return the stream's CUresult: 0 idle, 600 busy, else what is wrong with the context."""
        return int(self._lib.cuStreamQuery(stream))

    def text(self, code: int) -> str:
        """Return the driver's own words for a code, nothing for a code that it does not know."""
        words = c_char_p()
        self._lib.cuGetErrorString(code, byref(words))
        return (words.value or b"").decode(errors="replace")

    def check(self, code: int, name: str) -> None:
        """Raise CudaError if `code`, answered by function `name`, is not success."""
        if code:
            raise CudaError(code, f"{name} failed: {self.text(code)}")

    def code_of(self, message: str) -> int | None:
        """Find the code that the driver words as in `message`: PyCUDA's exceptions keep the words and not the number.

        None when no code, or more than one, has these words.
        """
        if self._codes is None:
            found: dict[str, int] = {}
            for code in _CODES:
                words = self.text(code)
                found[words] = 0 if words in found else code
            self._codes = {words: code for words, code in found.items() if words and code}
        return self._codes.get(message.partition(" failed: ")[2].partition(" - ")[0])

    def _call(self, name: str, *arguments: object) -> None:
        self.check(getattr(self._lib, name)(*arguments), name)
