"""The bed itself: what the stand-in libcuda promises, seen through PyCUDA; how the bed is built.

A test on the bed proves something only if the bed would notice: each of these does wrong what code under test must not.
"""

import json
import subprocess
import sys
import threading

import pytest

from tests.gpu import bed
from tests.gpu.bed.scripts import HEAD, TAIL


@pytest.fixture(scope="module", autouse=True)
def _bed() -> None:
    bed.need()


def on_bed(script: str, **switches: object) -> str:
    return bed.run(HEAD + script + TAIL, **switches).stdout


def test_a_missing_wait_reads_stale_bytes():
    on_bed("""
there_and_back()
assert (back == 0).all(), "work ran before anybody waited"
stream.synchronize()
assert (back == 7).all()

# A wait for an event goes no further than the event.
host[:] = 8
cuda.memcpy_htod_async(memory, host, stream)
event.record(stream)
cuda.memcpy_dtoh_async(back, memory, stream)
event.synchronize()
assert (back == 7).all(), "the copy behind the event ran"
stream.synchronize()
assert (back == 8).all()

# One query proves nothing, and a loop of queries ends.
host[:] = 9
there_and_back()
event.record(stream)
assert not event.query() and event.query() and (back == 9).all()

# The pinned source is read when the copy runs, not when it is called: it may not be written meanwhile.
there_and_back()
host[:] = 10
stream.synchronize()
assert (back == 10).all()
""")


def test_streams_wait_for_each_other_only_where_told():
    on_bed("""
other, second = cuda.Stream(1), cuda.mem_alloc(host.nbytes)
cuda.memcpy_htod_async(memory, host, stream)
event.record(stream)
cuda.memcpy_dtod_async(second, memory, host.nbytes, other)
cuda.memcpy_dtoh_async(back, second, other)
other.synchronize()
assert not (back == 7).any(), "nothing told it to wait"
other.wait_for_event(event)
cuda.memcpy_dtod_async(second, memory, host.nbytes, other)
cuda.memcpy_dtoh_async(back, second, other)
other.synchronize()
assert (back == 7).all()

# The default stream waits for blocking streams and not for the others.
blocking, host[:] = cuda.Stream(0), 5
cuda.memcpy_htod_async(memory, host, blocking)
cuda.memcpy_dtoh(back, memory)
assert (back == 5).all()
host[:] = 6
cuda.memcpy_htod_async(memory, host, stream)
cuda.memcpy_dtoh(back, memory)
assert (back == 5).all(), "a stream made to be independent was waited for"
""")


def test_memory_that_is_freed_foreign_or_too_short_is_an_error():
    on_bed("""
plain = np.zeros(8, np.float32)
assert "invalid argument" in fails(cuda.memcpy_htod_async, plain.ctypes.data, host, stream)
assert "invalid argument" in fails(cuda.memcpy_htod, int(memory) + 4, host)
address = int(memory)
memory.free()
assert "invalid argument" in fails(cuda.memcpy_dtoh, back, address)
assert standin.counters["bad_access"] == 3 and standin.counters["leaked_allocs"] == 0
assert standin.counters["device_live_bytes"] == 0
""")
    done = bed.run(HEAD + """
block = (ctypes.c_char * 40).from_address(int(memory))
block[35] = b"!"
assert standin.overruns() == 1
memory.free()
assert standin.counters["overruns"] == 1
""" + TAIL)
    assert "wrote past the ends of a block of 32 bytes" in done.stderr


def test_a_graph_that_outlives_its_buffer_is_an_illegal_address():
    on_bed("""
graph = Graph(there_and_back)
graph.launch()
stream.synchronize()
assert (back == 7).all()
memory.free()
graph.launch()
assert "illegal memory access" in fails(stream.synchronize)
assert "illegal memory access" in fails(cuda.mem_alloc, 8), "the context is lost for good"
cuda.Context.pop()  # touches no device
""")


def test_counters_tell_what_was_done():
    report = on_bed("""
standin.reset()
for _ in range(5):
    there_and_back()
stream.synchronize()
cuda.memcpy_htod_async(memory, np.zeros(8, np.float32), stream)  # pageable
extra = cuda.mem_alloc(1000), cuda.pagelocked_empty(10, np.uint8)
assert standin.allocations == 2
stream.synchronize()
import json
print(json.dumps(standin.counters))
""")
    c = json.loads(report)
    assert (c["h2d"], c["h2d_bytes"], c["d2h"], c["d2h_bytes"]) == (6, 6 * 32, 5, 5 * 32)
    assert (c["pageable"], c["syncs"], c["ops_run"]) == (1, 2, 11)
    assert (c["device_allocs"], c["pinned_allocs"], c["device_live_bytes"]) == (1, 1, 1032)
    assert (c["streams_live"], c["events_live"], c["errors"], c["calls_in_host_func"]) == (1, 1, 0, 0)


def test_the_report_of_a_process_that_ended_names_what_it_left(tmp_path):
    report = tmp_path / "counters.json"
    bed.run(HEAD + "del host, back, memory, stream, event\ncontext.pop()", report=report)
    left = json.loads(report.read_text())
    assert (left["device_frees"], left["pinned_frees"], left["leaked_allocs"]) == (1, 2, 0)
    assert left["streams_live"] == left["events_live"] == left["device_live_bytes"] == left["pinned_live_bytes"] == 0
    leave = """
del host, back, stream, event
address = ctypes.c_uint64()
assert lib.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(8)) == 0
memory.free(); context.pop(); lib.cuDevicePrimaryCtxRelease_v2(0)
"""
    bed.run(HEAD + leave, report=report, check=False)
    assert json.loads(report.read_text())["leaked_allocs"] == 1


def test_capture_and_replay():
    on_bed("""
graph = Graph(there_and_back)
assert standin.counters["h2d"] == 0, "a capture runs nothing"
for value in (1, 2, 3):
    host[:] = value
    graph.launch()
    assert not (back == value).any()
    stream.synchronize()
    assert (back == value).all()
assert standin.counters["graph_launches"] == standin.counters["h2d"] == standin.counters["d2h"] == 3
lib.cuGraphExecDestroy(graph.ready)
assert standin.counters["graphs_live"] == standin.counters["graph_execs_live"] == 0

# Work of a second stream is part of it when it forks off and joins again, and spoils it when it does not join.
other, fork, join = cuda.Stream(1), cuda.Event(2), cuda.Event(2)
def forked(joins):
    fork.record(stream); other.wait_for_event(fork)
    cuda.memcpy_htod_async(memory, host, other)
    join.record(other)
    if joins:
        stream.wait_for_event(join)
        cuda.memcpy_dtoh_async(back, memory, stream)
graph, host[:] = Graph(lambda: forked(True)), 4
graph.launch(); stream.synchronize()
assert (back == 4).all()
assert Graph(lambda: forked(False)).code == 904  # unjoined
""")


@pytest.mark.parametrize("wrong", [
    "stream.synchronize", "lambda: cuda.mem_alloc(8)", "lambda: cuda.pagelocked_empty(8, np.uint8)",
    "lambda: cuda.memcpy_htod_async(memory, np.zeros(8, np.float32), stream)", "context.synchronize",
])  # fmt: skip
def test_what_a_capture_forbids_spoils_it(wrong):
    on_bed(f"""
graph = Graph(lambda: fails({wrong}))
assert graph.code == 901, graph.code
there_and_back(); stream.synchronize()
assert (back == 7).all(), "the stream is of use again"
""")


def test_a_second_thread_may_allocate_during_a_thread_local_capture_and_not_during_a_global_one():
    on_bed("""
def allocate():
    context.push()
    told.append(lib.cuMemAlloc_v2(ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(8)))
    context.pop()
def beside():
    thread = threading.Thread(target=allocate)
    thread.start(); thread.join()
told = []
assert Graph(beside, mode=1).code == 0 and Graph(beside, mode=0).code == 901
assert told == [0, 900]
""")


def test_injected_errors():
    on_bed("""
standin.faults("cuMemAlloc:2+=2")
cuda.mem_alloc(8)
assert "out of memory" in fails(cuda.mem_alloc, 8)  # PyCUDA collects garbage and tries again: two faults
standin.faults("")
cuda.mem_alloc(8)

# An error of work on a stream comes to light at the wait, once; what follows on the stream runs.
standin.faults("copy:2=701")
there_and_back()
assert "too many resources" in fails(stream.synchronize)
stream.synchronize(); there_and_back(); stream.synchronize()
assert (back == 7).all()

standin.faults("cuStreamSynchronize:1+=719")
for _ in range(3):
    assert "unspecified launch failure" in fails(stream.synchronize)
standin.faults("")
stream.synchronize()

standin.faults("op:1=719:sticky")
there_and_back()
assert "unspecified launch failure" in fails(stream.synchronize)
for call in (stream.synchronize, event.query, lambda: cuda.mem_alloc(8), there_and_back):
    assert "unspecified launch failure" in fails(call)
assert standin.counters["faults_given"] == 7
try:
    standin.faults("cuMemAlloc=2")
except ValueError as error:
    assert "cuMemAlloc=2" in str(error)
else:
    raise AssertionError("a rule without a number was taken")
""")


def test_injected_errors_from_the_environment():
    assert "illegal" in on_bed("print(fails(there_and_back))", faults="cuMemcpyDtoHAsync:1=700:sticky")
    done = bed.run("import ctypes; ctypes.CDLL('libcuda.so.1')", faults="nonsense", check=False)
    assert done.returncode == 2 and "nonsense" in done.stderr


def test_limits_of_memory():
    on_bed("""
assert cuda.mem_get_info() == (1000 - 32, 1000)
kept = cuda.mem_alloc(900)
assert "out of memory" in fails(cuda.mem_alloc, 100)
kept.free()
cuda.mem_alloc(100)
assert "out of memory" in fails(cuda.pagelocked_empty, 100, np.uint8)
""", memory=1000, pinned=100)


SWITCHES = """
import pycuda.driver as cuda
cuda.init()
a = cuda.device_attribute
named = (a.INTEGRATED, a.PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES, a.CAN_MAP_HOST_MEMORY)
print(*(cuda.Device(0).get_attribute(x) for x in named))
"""


def test_kinds_of_device():
    assert bed.run(SWITCHES).stdout.split() == ["0", "0", "1"]
    assert bed.run(SWITCHES, integrated=True).stdout.split() == ["1", "0", "1"]
    assert bed.run(SWITCHES, coherent=True).stdout.split() == ["0", "1", "1"]
    assert "no CUDA-capable device" in bed.run(SWITCHES, no_device=True, check=False).stderr
    assert "libcuda.so.1: cannot open" in bed.run(SWITCHES, driver=False, check=False).stderr


def test_a_context_is_of_a_thread():
    on_bed("""
def elsewhere():
    told.append(fails(cuda.mem_alloc, 8))
    context.push()
    told.append(int(cuda.mem_alloc(8)))
    context.pop()
told = []
thread = threading.Thread(target=elsewhere)
thread.start(); thread.join()
assert "invalid device context" in told[0] and told[1]
""")


def test_host_functions_run_without_the_lock():
    """A function that needs the GIL must not deadlock with a thread that holds the GIL and calls the driver."""
    on_bed("""
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def busy(argument):
    inside.set()
    ran.append(sum(range(200_000)))  # gives up the GIL now and then, and wants it back

def beside():
    context.push()
    second = cuda.Event(2)
    second.record(cuda.Stream(1))
    inside.wait()
    for _ in range(2000):
        second.query(); event.query(); stream.is_done()  # PyCUDA holds the GIL in these
    del second
    context.pop()

ran, inside = [], threading.Event()
thread = threading.Thread(target=beside)
thread.start()
for _ in range(50):
    assert lib.cuLaunchHostFunc(handle(stream), busy, None) == 0
event.record(stream)
stream.synchronize()
thread.join()
assert len(ran) == 50 == standin.counters["host_funcs"]
""", timeout_s=60)


# ----------------------------------------------------------------------------------------- its building


def test_two_processes_build_it_once_and_nothing_of_it_is_in_the_environment_of_the_tests():
    builders = [threading.Thread(target=bed.need) for _ in range(4)]
    for thread in builders:
        thread.start()
    for thread in builders:
        thread.join()
    assert bed.build.ready()
    for name in ("pycuda", "tensorrt", "tensorrt_rtx"):
        command = [sys.executable, "-c", f"import {name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "ModuleNotFoundError" in done.stderr, f"{name} is in .venv"


def test_a_machine_that_cannot_build_it_skips_or_fails(monkeypatch):
    monkeypatch.setattr("tests.gpu.bed.build.shutil.which", lambda tool: None)
    monkeypatch.setenv("KIZASHI_REQUIRE", "kafka")
    with pytest.raises(pytest.skip.Exception, match="NOT TESTED over PyCUDA.*no `gcc`"):
        bed.need()
    monkeypatch.setenv("KIZASHI_REQUIRE", "kafka,gpu-bed")
    with pytest.raises(pytest.fail.Exception, match="gpu-bed.*no `gcc`"):
        bed.need()
