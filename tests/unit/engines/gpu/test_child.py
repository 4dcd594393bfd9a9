"""The process that builds a plan: however it ends, the caller has an EngineError that says why, and no process is left.

A `tensorrt` of a few lines, found first on the child's path, does what a native library may do.
"""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import Bundle, EngineError
from engines.gpu.build import BuildLimits, build_plan, obtain, row_shapes
from engines.gpu.plan import BuildSpec, DeviceId
from engines.gpu.provide import dims_of
from engines.gpu.store import Found, PlanStore
from tests import models

Library = Callable[[str], None]
DEVICE = DeviceId("none", "8.6", "13000")
MINUTE = BuildLimits(60.0)

# What a library that builds would leave behind: the plan is the model's name and the time.
BUILDS = """
    import engines.gpu.flavour as flavour, os, time
    from engines.gpu.plan import BuildReport, PlanTensor
    from engines.wire import read_model
    __version__ = "0"

    def build(self, model, spec, on_line, *, device_cc):
        on_line("compile")
        facts = read_model(model)
        plan = b"plan %d" % time.time_ns()
        tensors = tuple(
            PlanTensor(t.name, t.dtype, (-1, *(d if isinstance(d, int) else spec.dims[d] for d in t.dims[1:])), i)
            for ts, i in ((facts.inputs, True), (facts.outputs, False)) for t in ts)
        return plan, BuildReport("tensorrt", "0", spec.precision, spec.max_batch, len(plan), 0.0, tensors)

    flavour.Flavour.__init__ = lambda self, name, module: None
    flavour.Flavour.build = build
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Return what installs source text as the child's `tensorrt`, by way of the interpreter's start-up."""

    def install(code: str) -> None:
        (tmp_path / "tensorrt.py").write_text(textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return models.load(models.bundle(tmp_path_factory.mktemp("bundle"), models.dense()))


def _alive(marker: str) -> list[str]:
    """Return the command lines of processes that have `marker` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found


@pytest.fixture(autouse=True)
def _no_orphans(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> object:
    marker = f"BUILD_TEST_MARKER={hashlib.sha256(request.node.nodeid.encode()).hexdigest()}"
    monkeypatch.setenv(*marker.split("="))
    yield
    deadline = time.monotonic() + 5.0  # who was killed is gone when the kernel gets to it
    while left := _alive(marker):
        assert time.monotonic() < deadline, f"outlived the build: {left}"
        time.sleep(0.02)


def _refused(bundle: Bundle, why: str, limits: BuildLimits = MINUTE, **options: object) -> str:
    with pytest.raises(EngineError, match=why) as caught:
        build_plan(bundle, _spec(bundle), "tensorrt", DEVICE, limits, **options)  # type: ignore[arg-type]  # of tests
    return str(caught.value)


def _spec(bundle: Bundle) -> BuildSpec:
    return BuildSpec(max_batch=8, dims=dims_of(bundle, row_shapes(bundle, 4)))


def test_a_hanging_build_is_killed_at_its_limit(library: Library, bundle: Bundle) -> None:
    library("import time; time.sleep(600)")
    started = time.monotonic()
    _refused(bundle, "killed after 1.5 s, its limit; raise engine.build_timeout_s", BuildLimits(1.5))
    assert time.monotonic() - started < 10.0


def test_a_build_that_ignores_signals_is_killed_all_the_same(library: Library, bundle: Bundle) -> None:
    library("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    _refused(bundle, "killed after 1.5 s", BuildLimits(1.5))


def test_a_build_that_grows_is_killed_at_its_limit(library: Library, bundle: Bundle) -> None:
    library("import time\nhold = [bytearray(b'x' * (32 << 20)) for _ in range(40) if not time.sleep(0.03)]")
    said = _refused(bundle, "its limit is 256 MiB; lower batch.max_size", BuildLimits(60.0, 256 << 20))
    assert int(said.split("killed at ")[1].split()[0]) < 1024, "it was watched too rarely"


@pytest.mark.parametrize(("code", "why", "words"), [
    ("import os, sys; print('kernel 7 exploded', file=sys.stderr, flush=True); os.abort()",
     "ended with SIGABRT and no answer", "kernel 7 exploded"),
    ("import os; print('no licence', flush=True); os._exit(3)", "ended with exit code 3 and no answer", "no licence"),
    ("import os; os._exit(0)", "ended with exit code 0 and no answer", ""),
    ("raise ZeroDivisionError('division by nothing')", "division by nothing", ""),
    ("import os, sys; os.write(int(sys.argv[1]), b'P' + (99).to_bytes(8, 'little') + b'half'); os._exit(0)",
     "no answer", ""),
    ("import os, subprocess, sys; subprocess.Popen(['sleep', '600']); os._exit(1)", "exit code 1", ""),
], ids=["crash", "exit", "exit that looks good", "error of ours", "half an answer", "leaves a process behind"])
def test_an_end_without_an_answer_is_told_with_the_last_words(
        library: Library, bundle: Bundle, code: str, why: str, words: str) -> None:
    library(code)
    assert words in _refused(bundle, why)


def test_a_library_that_cannot_be_loaded_names_package_extra_and_cpu_setting(library: Library, bundle: Bundle) -> None:
    library("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    said = _refused(bundle, "needs the package tensorrt")
    assert all(word in said for word in ("libnvinfer.so.10", "kizashi[gpu]", 'name = "onnx_cpu"'))


@pytest.mark.parametrize("garbage", ["b'?' * 64", "b'P' + b'\\xff' * 8", "b'R' + (4).to_bytes(8, 'little') + b'{}{}'",
                                     "os.urandom(4096)"])  # fmt: skip
def test_garbage_for_an_answer_is_refused(library: Library, bundle: Bundle, garbage: str) -> None:
    library(f"import os, sys, time; os.write(int(sys.argv[1]), {garbage}); time.sleep(600)")
    _refused(bundle, "not understood", BuildLimits(20.0))


def test_a_flood_of_output_is_not_kept(library: Library, bundle: Bundle) -> None:
    library("import os\nfor _ in range(2000): os.write(2, b'x' * 65536)\nos._exit(1)")
    assert len(_refused(bundle, "exit code 1")) < 500


def test_a_build_can_be_stopped(library: Library, bundle: Bundle) -> None:
    library("import time; time.sleep(600)")
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    _refused(bundle, "the build was stopped", stop=stop.is_set)


def test_the_builder_ends_with_its_parent(library: Library, tmp_path: Path) -> None:
    library(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    code = ("import sys; from pathlib import Path; from engines.gpu.build import build_plan; from engines import *\n"
            "from engines.gpu.plan import BuildSpec\n"
            "build_plan(load_bundle(shipped_bundles()['anomaly-mewma']), BuildSpec(), 'tensorrt')")
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        deadline = time.monotonic() + 30.0
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    pid = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{pid}").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":  # ended; who adopted it has not looked yet
            break
        assert time.monotonic() < deadline, "the builder goes on without its parent"
        time.sleep(0.05)


def test_the_builder_sees_no_settings_no_sockets_and_serves_last(
    library: Library, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("KIZASHI_BROKER__PASSWORD", "secret")
    library(f"""
        import os
        with open({str(tmp_path / 'seen')!r}, "w") as out:
            links = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")
                     if os.path.exists(f"/proc/self/fd/{{fd}}")]
            print([name for name in os.environ if "KIZASHI" in name], [x for x in links if "socket" in x],
                  os.nice(0), os.getpgid(0) == os.getpid(), file=out)
        os._exit(1)
    """)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        _refused(bundle, "exit code 1")
    nice = min(os.nice(0) + 10, 19)
    assert (tmp_path / "seen").read_text().strip() == f"[] [] {nice} True"


def test_a_model_that_was_changed_on_the_way_is_not_built(library: Library, bundle: Bundle) -> None:
    import dataclasses

    library("raise AssertionError('loaded all the same')")
    _refused(dataclasses.replace(bundle, sha256="00" * 32), "its hash differs")


def test_a_plan_comes_back_with_its_report_and_progress(library: Library, bundle: Bundle) -> None:
    library(BUILDS)
    lines: list[str] = []
    plan, report = build_plan(bundle, _spec(bundle), "tensorrt", DEVICE, on_line=lines.append)
    assert plan.startswith(b"plan ") and report.plan_bytes == len(plan)
    assert lines and lines[0] == "load tensorrt"
    assert [t.name for t in report.inputs] == ["x"]


@pytest.mark.parametrize("change, why", [
    ("(-1,", "(256,"), ("t.dtype", "'f2'"), ("t.name", "t.name + '2'"), ("len(plan)", "7"),
], ids=["batch", "dtype", "name", "size"])  # fmt: skip
def test_a_plan_that_is_not_of_its_model_is_refused(library: Library, bundle: Bundle, change: str, why: str) -> None:
    library(BUILDS.replace(change, why))
    _refused(bundle, "the plan of made is not that of its model")


def test_obtaining_builds_once_and_then_finds(library: Library, bundle: Bundle, tmp_path: Path) -> None:
    from engines.gpu.plan import EngineKey

    library(BUILDS)

    class Named:
        name, version = "tensorrt", "0"

    store, spec = PlanStore(tmp_path / "engines"), _spec(bundle)
    plans: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: plans.append(obtain(store, bundle, spec, Named(), DEVICE).plan))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans) == 3 and len(set(plans)) == 1, "two built the same plan"
    again = obtain(store, bundle, spec, Named(), DEVICE)
    assert again.missing is None and again.plan == plans[0]
    key = EngineKey.of(bundle.sha256, spec, Named(), DEVICE)
    (store.folder / f"{key}.plan").write_bytes(b"spoilt")
    anew = obtain(store, bundle, spec, Named(), DEVICE)
    assert anew.missing is not None and anew.missing.reason == "damaged" and not anew.unkept
    assert store.get(key) == Found(anew.plan, anew.report)


def test_a_plan_that_cannot_be_kept_serves_all_the_same(library: Library, bundle: Bundle, tmp_path: Path) -> None:
    library(BUILDS)

    class Named:
        name, version = "tensorrt", "0"

    (tmp_path / "engines").touch()
    got = obtain(PlanStore(tmp_path / "engines"), bundle, _spec(bundle), Named(), DEVICE)
    assert got.plan.startswith(b"plan ") and "not used" in got.unkept
