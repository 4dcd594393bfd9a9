"""Beginning and end of the scripts by which the bed is tested: one stream, pinned memory, a way to capture."""

HEAD = """
import ctypes, os, sys, threading
import numpy as np
import pycuda.driver as cuda
from tests.gpu.bed.standin import Standin

standin = Standin()
lib = standin._library
cuda.init()
context = cuda.Device(0).retain_primary_context()
context.push()
stream, event = cuda.Stream(1), cuda.Event(2)
host, back = (cuda.pagelocked_empty(8, np.float32) for _ in range(2))
host[:], back[:] = 7, 0
memory = cuda.mem_alloc(host.nbytes)

def fails(call, *arguments):
    try:
        call(*arguments)
    except cuda.Error as error:
        return str(error)
    raise AssertionError("it went well")

def handle(stream):
    return ctypes.c_void_p(stream.handle)

def there_and_back():
    cuda.memcpy_htod_async(memory, host, stream)
    cuda.memcpy_dtoh_async(back, memory, stream)

class Graph:
    def __init__(self, work, mode=1):
        assert lib.cuStreamBeginCapture_v2(handle(stream), mode) == 0
        work()
        made, self.ready = ctypes.c_void_p(), ctypes.c_void_p()
        self.code = lib.cuStreamEndCapture(handle(stream), ctypes.byref(made))
        if self.code == 0:
            assert lib.cuGraphInstantiateWithFlags(ctypes.byref(self.ready), made, ctypes.c_uint64(0)) == 0
            assert lib.cuGraphDestroy(made) == 0
    def launch(self):
        assert lib.cuGraphLaunch(self.ready, handle(stream)) == 0
"""
TAIL = """
sys.stdout.flush()
os._exit(0)  # no clean-up: some of these leave the context lost
"""
