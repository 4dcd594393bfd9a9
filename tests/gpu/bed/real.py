"""What `make gpu` runs: the tests of tests/gpu/device on the GPU of this machine, or a loud word that there is none.

PyCUDA is taken from the environment, else from the bed (.build/gpu/site, which works over the real driver as well).
TensorRT is taken from the environment; RTX from the bed if the environment has neither.
"""

import ctypes
import importlib.util
import os
import subprocess
import sys

from tests.gpu.bed import build


def device() -> tuple[str, str] | str:
    """Return (name, "compute capability, memory, driver") of the first GPU, or a text that says why there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver: {error}"
    code = cuda.cuInit(0)
    if code:
        return f"cuInit answers CUDA error {code}"
    handle, version, value, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    if cuda.cuDeviceGet(ctypes.byref(handle), 0):
        return "the driver knows no device"
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), handle)
    if hasattr(cuda, "standin_reset"):
        return "the driver found is the stand-in of the test bed: LD_LIBRARY_PATH leads to it"
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        capability.append(str(value.value))
    driver = f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return name.value.decode(), f"sm_{''.join(capability)}, {total.value / 2**30:.0f} GiB, {driver}"


def main() -> None:
    found = device()
    if isinstance(found, str):
        print(f"NOT TESTED on a GPU: {found}")
        if "gpu" in os.environ.get("KIZASHI_REQUIRE", "").replace(",", " ").split():
            sys.exit("KIZASHI_REQUIRE=gpu, and there is none")
        return
    print(f"GPU: {found[0]} ({found[1]})", flush=True)
    paths = [str(build.ROOT)]
    if importlib.util.find_spec("pycuda") is None:
        reason = build.why_not()
        if reason:
            sys.exit(f"PyCUDA is not installed, and cannot be built here: {reason}")
        build.build()
        paths.append(str(build.SITE))
    if not any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx")) and build.RTX.is_dir():
        paths.append(str(build.RTX))
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *inherited])}
    command = [sys.executable, "-m", "pytest", "tests/gpu/device", "-rs", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=build.ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
