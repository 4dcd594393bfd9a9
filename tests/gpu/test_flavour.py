"""The adapter against the real bindings of each supported release: every name that it uses is there, and is called so.

The names are read off the adapter's source, so that a new use cannot be forgotten here. Errors of the library become
ours in the second half, over a module of a few lines.
"""

import ast
import json
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines import EngineError, EngineLost
from engines.gpu import library, network, planengine
from engines.gpu.flavour import Flavour
from tests.gpu import bindings

MODULE = ("trt", "library.trt", "self._library.trt")
#: File -> what its variables are in the library.
OBJECTS = {
    library: {},
    network: {
        "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "parser": "OnnxParser",
        "error": "ParserError", "profile": "IOptimizationProfile", "entry": "ITensor", "t": "ITensor",
    },
    planengine: {
        "engine": "ICudaEngine", "config": "IRuntimeConfig", "self._runtime": "Runtime",
        "self._context": "IExecutionContext",
    },
}  # fmt: skip
#: What only releases with a feature have; it is used only there.
GUARDED = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION": "user_allocation",
    "IBuilderConfig.num_compute_capabilities": "compute_targets",
    "IBuilderConfig.set_compute_capability": "compute_targets",
    "ComputeCapability": "compute_targets",
    "IRuntimeConfig.create_runtime_cache": "runtime_cache",
    "IRuntimeConfig.set_runtime_cache": "runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy": "graph_strategy",
    "CudaGraphStrategy.DISABLED": "graph_strategy",
    "CudaGraphStrategy": "graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "kernel_specialization",
    "DynamicShapesKernelSpecializationStrategy.EAGER": "kernel_specialization",
    "DynamicShapesKernelSpecializationStrategy": "kernel_specialization",
}  # fmt: skip
#: Names of which one is enough: the adapter asks which.
EITHER = {"ICudaEngine.device_memory_size": "ICudaEngine.device_memory_size_v2"}
#: What the adapter derives from classes of the library, and the methods that the library calls on it.
CALLED_BACK = {
    "ILogger": ("log",),
    "IErrorRecorder": ("num_errors", "get_error_code", "get_error_desc", "has_overflowed", "clear", "report_error"),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
}  # fmt: skip
ALWAYS = {"user_memory", "progress"}
RTX = {"user_allocation", "compute_targets", "graph_strategy", "kernel_specialization", "runtime_cache"}


def uses() -> dict[str, list[int]]:
    """Return "Class.name" or "name" of the library -> with how many arguments the adapter calls it."""
    found: dict[str, list[int]] = {}
    for module, objects in OBJECTS.items():
        tree = ast.parse(Path(module.__file__).read_text())
        calls = {id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr.startswith("_"):
                continue
            owner = ast.unparse(node.value)
            name = None
            if owner in MODULE:
                name = node.attr
            elif owner in objects:
                name = f"{objects[owner]}.{node.attr}"
            elif any(owner.startswith(f"{root}.") for root in MODULE):
                name = f"{owner.rsplit('.', 1)[1]}.{node.attr}"
            if name and not name.endswith(".__init__"):
                found.setdefault(name, []).extend([calls[id(node)]] if id(node) in calls else [])
    return found


# Runs in a process that has the bindings; answers with what is absent, odd signatures, and the features.
LOOK = r"""
import json, re, sys
name, uses = sys.argv[1], json.loads(sys.argv[2])
from engines.gpu.flavour import load_flavour
from engines.gpu.library import Library, monitor, recorder
flavour = load_flavour(name)
trt = sys.modules[name]

def find(path):
    thing = trt
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing

def counts(doc):
    "Numbers of arguments that a signature in pybind11's words takes; one pair of bounds for each overload."
    for line in re.findall(r"^(?:\d+\. )?\w+\((self: .*)\) -> ", doc, re.M):
        depth, parts = 0, [""]
        for c in line:
            depth += (c in "[(<") - (c in "])>")
            if c == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += c
        parts = parts[1:]
        yield sum("=" not in p for p in parts), len(parts)

absent, odd, checked = [], [], 0
for path, calls in uses.items():
    try:
        thing = find(path)
    except AttributeError:
        absent.append(path)
        continue
    bounds = list(counts(getattr(thing, "__doc__", None) or ""))
    for n in calls if bounds else ():
        checked += 1
        if not any(low <= n <= high for low, high in bounds):
            odd.append(f"{path} is called with {n}, takes {bounds}")
made = recorder(trt)
made.report_error(trt.ErrorCodeTRT.FAILED_EXECUTION, "two\n  lines")
assert made.num_errors() == 1 and made.take() == ["two lines"] and made.num_errors() == 0
lines = []
watch = monitor(trt, lines.append)
watch.phase_start("tactics", None, 7)
assert watch.step_complete("tactics", 2) is True and lines == ["tactics 3/7"]
watch.phase_finish("tactics")
flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
print(json.dumps({"absent": absent, "odd": odd, "checked": checked, "features": sorted(flavour.features),
                  "version": flavour.version, "strong": None if flag is None else 1 << int(flag),
                  "severities": sorted(trt.ILogger.Severity.__members__), "types": sorted(trt.DataType.__members__)}))
"""


def _look(flavour: str, version: str) -> dict[str, Any]:
    names = {**uses(), **{f"{c}.{method}": [] for c, methods in CALLED_BACK.items() for method in methods}}
    done = subprocess.run([sys.executable, "-c", LOOK, flavour, json.dumps(names)], capture_output=True, text=True,
                          env=bindings.environ(flavour, version), check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_names_are_read_off_the_source() -> None:
    names = uses()
    assert len(names) > 60
    for name in ("Builder", "BuilderFlag.TF32", "INetworkDefinition.get_input", "IExecutionContext.execute_async_v3",
                 "ProfilingVerbosity.DETAILED", "Runtime.engine_host_code_allowed", "OnnxParser.parse"):  # fmt: skip
        assert name in names


@pytest.mark.parametrize("flavour, version", bindings.RELEASES, ids="-".join)
def test_every_name_is_there_and_takes_these_arguments(flavour: str, version: str) -> None:
    seen = _look(flavour, version)
    features, absent = set(seen["features"]), set(seen["absent"])
    assert seen["version"] == version
    guarded = {name for name, feature in GUARDED.items() if feature not in features}
    replaced = {name for name, other in EITHER.items() if other not in absent}
    assert absent <= guarded | replaced, f"not in {flavour} {version}: {absent - guarded - replaced}"
    assert seen["odd"] == [] and seen["checked"] > 15
    assert features == (ALWAYS | RTX if flavour == "tensorrt_rtx" else ALWAYS)
    assert seen["strong"] == (2 if version.startswith("10.") else 1)
    assert {"VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"} == set(seen["severities"])
    assert set(library.DTYPES) <= set(seen["types"])


@pytest.mark.parametrize("name", sorted(GUARDED))
def test_every_exception_is_used_so_that_none_hides_a_fault(name: str) -> None:
    assert name in uses()


# --- errors of the library become ours


class _Type(Enum):
    FLOAT = 0
    HALF = 1


class _Place(Enum):
    DEVICE = 0
    HOST = 1


class _Mode(Enum):
    INPUT = 0
    OUTPUT = 1


class _Base:
    """What the adapter derives from."""


class _Context:
    def __init__(self, runtime: "_Runtime") -> None:
        self._runtime, self.ok = runtime, True

    def _answer(self, *_: object) -> bool:
        for text in self._runtime.says:
            self._runtime.error_recorder.report_error(7, text)
        return self.ok

    set_input_shape = set_tensor_address = execute_async_v3 = _answer

    def set_device_memory(self, ptr: int, size: int) -> None:
        self._answer()

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (3, 8)


class _Engine:
    num_io_tensors, device_memory_size_v2 = 2, 4096
    kind, place = _Type.FLOAT, _Place.DEVICE

    def __init__(self, runtime: "_Runtime") -> None:
        self._runtime = runtime

    def get_tensor_name(self, index: int) -> str:
        return ("x", "score")[index]

    def get_tensor_dtype(self, name: str) -> _Type:
        return self.kind

    def get_tensor_location(self, name: str) -> _Place:
        return self.place

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 8)

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name == "x" else _Mode.OUTPUT

    def create_execution_context(self, strategy: object) -> _Context | None:
        assert strategy == "user managed"
        return None if self._runtime.says == ["no context"] else _Context(self._runtime)


class _Runtime:
    loads, says = True, ()

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.engine_host_code_allowed = True
        self.tempfile_control_flags = 3

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        assert self.engine_host_code_allowed is False and self.tempfile_control_flags == 0
        if not self.loads:
            self.logger.log(SimpleNamespace(name="ERROR"), "version tag\n does not match")
        return _Engine(self) if self.loads else None


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(_Runtime, "loads", True)
    monkeypatch.setattr(_Runtime, "says", [])
    return SimpleNamespace(
        __version__="11.4", ILogger=_Base, IErrorRecorder=_Base, BuilderFlag=SimpleNamespace(TF32=1),
        IExecutionContext=_Context, ICudaEngine=_Engine, IBuilderConfig=_Base, TensorLocation=_Place,
        TensorIOMode=_Mode, Runtime=_Runtime,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    )  # fmt: skip


def test_a_loaded_plan_says_what_it_takes_and_gives(trt: SimpleNamespace) -> None:
    plan = Flavour("tensorrt", trt).deserialize(b"plan")
    assert [str(t) for t in plan.tensors] == ["x f4[n, 8]", "score f4[n, 8]"]
    assert [t.is_input for t in plan.tensors] == [True, False]
    assert plan.device_memory_bytes == 4096
    context = plan.context()
    context.set_memory(1 << 20, 4096)
    context.set_shape("x", (3, 8))
    context.set_address("x", 1 << 21)
    context.enqueue(77)
    assert context.capturable(77)
    context.close()
    context.close()
    plan.close()
    plan.close()
    with pytest.raises(EngineError, match="the plan is closed"):
        plan.context()


def test_a_plan_that_does_not_load_gives_the_librarys_reason(trt: SimpleNamespace) -> None:
    _Runtime.loads = False
    with pytest.raises(EngineError, match="tensorrt 11.4 cannot load the plan: version tag does not match"):
        Flavour("tensorrt", trt).deserialize(b"plan")


@pytest.mark.parametrize("change, why", [({"kind": _Type.HALF}, "'x' of the plan is f2"),
                                         ({"place": _Place.HOST}, "lies in host memory")])  # fmt: skip
def test_a_plan_whose_rim_is_not_ours_is_refused(trt: SimpleNamespace, change: dict[str, object], why: str,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in change.items():
        monkeypatch.setattr(_Engine, name, value)
    with pytest.raises(EngineError, match=why):
        Flavour("tensorrt", trt).deserialize(b"plan")


def test_no_context_is_an_error_with_the_recorded_reason(trt: SimpleNamespace) -> None:
    plan = Flavour("tensorrt", trt).deserialize(b"plan")
    _Runtime.says = ["no context"]
    with pytest.raises(EngineError, match="creating a context failed"):
        plan.context()


@pytest.mark.parametrize("call", ["set_memory", "set_shape", "set_address", "enqueue"])
@pytest.mark.parametrize("said, kind", [
    ("Error Code 3: API Usage Error (dimension 0 is outside the profile)", EngineError),
    ("Error Code 1: Cuda Runtime (cudaError 700: an error)", EngineLost),
    ("Error Code 1: Cuda Runtime (an illegal memory access was encountered)", EngineLost),
    ("Error Code 1: Cuda Runtime (unspecified launch failure)", EngineLost),
    ("Error Code 1: Cuda Runtime (cudaError 2: out of memory)", EngineError),
    ("Error Code 1: Cuda Runtime (cudaError 7009: no such error)", EngineError),
])  # fmt: skip
def test_what_the_recorder_holds_after_a_call_is_raised_once(
    call: str, said: str, kind: type[Exception], trt: SimpleNamespace
) -> None:
    context = Flavour("tensorrt", trt).deserialize(b"plan").context()
    every = {"set_memory": (256, 4096), "set_shape": ("x", (9, 8)), "set_address": ("x", 256), "enqueue": (7,)}
    arguments = every[call]
    _Runtime.says = [said]
    with pytest.raises((EngineError, EngineLost)) as caught:
        getattr(context, call)(*arguments)
    assert type(caught.value) is kind and said in str(caught.value)
    _Runtime.says = []
    getattr(context, call)(*arguments)  # what was told is told once


def test_contexts_of_a_plan_share_what_was_compiled_for_them(
    trt: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[SimpleNamespace] = []

    class Config:
        cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = strategy = cache = None

        def create_runtime_cache(self) -> object:
            return SimpleNamespace()

        def set_runtime_cache(self, cache: object) -> None:
            self.cache = cache

        def set_execution_context_allocation_strategy(self, strategy: object) -> None:
            self.strategy = strategy

    def create(engine: _Engine, config: Any) -> _Context:
        given.append(config)
        return _Context(engine._runtime)

    monkeypatch.setattr(_Engine, "create_runtime_config", lambda engine: Config(), raising=False)
    monkeypatch.setattr(_Engine, "create_execution_context", create)
    trt.IRuntimeConfig = Config
    trt.CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")
    trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    plan = Flavour("tensorrt_rtx", trt).deserialize(b"plan")
    contexts = [plan.context(), plan.context()]
    assert given[0].cache is given[1].cache is not None
    for config in given:
        assert (config.strategy, config.cuda_graph_strategy) == ("user managed", "disabled")
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    for context in contexts:
        context.close()


def test_a_call_that_answers_false_without_a_reason_is_an_error(trt: SimpleNamespace) -> None:
    context = Flavour("tensorrt", trt).deserialize(b"plan").context()
    context._context.ok = False
    with pytest.raises(EngineError, match="enqueueing a batch failed: it gives no reason"):
        context.enqueue(7)
