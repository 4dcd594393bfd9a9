"""The TensorRT session end to end: PyCUDA itself, a stand-in driver, a fake TensorRT. The tests are in `inside`.

Each memory path is a process of its own: libcuda is found when a process starts, and says what kind of device it is.
"""

import pytest

from tests.gpu import bed

CASES = "tests/gpu/inside/session_cases.py"


@pytest.mark.parametrize("path", ["discrete", "integrated", "coherent"])
def test_session_keeps_its_promises_on_each_memory_path(path):
    bed.need()
    switches = {} if path == "discrete" else {path: True}
    done = bed.run(["-m", "pytest", "-q", "-p", "no:cacheprovider", CASES], timeout_s=110, check=False, **switches)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed > 50 and "skipped" not in done.stdout, done.stdout
