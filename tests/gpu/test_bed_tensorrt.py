"""The fake TensorRT of the bed: it computes, it notices misuse, it goes wrong as told, it offers only what is real."""

import json
import subprocess
import sys

import pytest

from tests.gpu import bed, bindings
from tests.gpu.bed.scripts import HEAD, TAIL

PLAN = HEAD + """
from engines import EngineError, EngineLost
from engines.gpu.flavour import load_flavour
from engines.gpu.plan import BuildSpec
from onnx import TensorProto, helper

def model(kind=TensorProto.FLOAT):
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 2]) for name in "xy")
    node = helper.make_node("Add", ["x", "x"], ["y"], name="twice")
    graph = helper.make_graph([node], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()

flavour = load_flavour("tensorrt")
plan, report = flavour.build(model(), BuildSpec(max_batch=4))
engine = flavour.deserialize(plan)
run, scratch, target = engine.context(), cuda.mem_alloc(engine.device_memory_bytes), cuda.mem_alloc(32)
run.set_memory(int(scratch), engine.device_memory_bytes)
run.set_shape("x", (4, 2))
run.set_address("x", int(memory)); run.set_address("y", int(target))

def work():
    cuda.memcpy_htod_async(memory, host, stream)
    run.enqueue(stream.handle)
    cuda.memcpy_dtoh_async(back, target, stream)

def refused(call, *arguments):
    try:
        call(*arguments)
    except EngineError as error:
        return str(error)
    raise AssertionError("it went well")
"""


@pytest.fixture(scope="module", autouse=True)
def _bed() -> None:
    bed.need()


def test_a_fake_plan_runs_on_its_stream_and_in_graphs():
    bed.run(PLAN + """
assert [(t.name, t.dtype, t.shape) for t in engine.tensors] == [("x", "f4", (-1, 2)), ("y", "f4", (-1, 2))]
work()
assert (back == 0).all()
stream.synchronize()
assert (back == 14).all()
graph, host[:] = Graph(work), 1
run.set_shape("x", (1, 2))  # a graph keeps the shape of its capture
graph.launch(); stream.synchronize()
assert (back == 2).all()
assert "optimization profiles" in refused(run.set_shape, "x", (5, 2))
assert "cannot load the plan" in refused(flavour.deserialize, plan[:-1])
assert "cannot load the plan" in refused(flavour.deserialize, plan[:40] + b"?" + plan[41:])
run.close()
graph.launch()
assert "illegal memory access" in fails(stream.synchronize), "a graph outlived its context"
""" + TAIL)


def test_a_fake_plan_goes_wrong_as_told():
    bed.run(PLAN + """
def outcome(**switches):
    for name, value in switches.items():
        os.environ[f"FAKE_TENSORRT_{name}"] = value
    try:
        work(); stream.synchronize()
        return list(back)
    finally:
        for name in switches:
            del os.environ[f"FAKE_TENSORRT_{name}"]

assert np.isnan(outcome(OUTPUT="nan")).all()
assert outcome(OUTPUT="add:0.5") == [14.5] * 8 and outcome(OUTPUT="scale:2") == [28] * 8
assert outcome(OUTPUT="zero@1000") == [14] * 8, "not yet"
assert "told to fail" in refused(lambda: outcome(ENQUEUE="fail"))
assert "too many resources" in fails(lambda: outcome(POISON="7"))
assert outcome() == [14] * 8
spoilt = Graph(lambda: refused(lambda: outcome(CAPTURE="no")))
assert spoilt.code == 901
os.environ["FAKE_TENSORRT_CONTEXT"] = "fail"
assert "creating a context failed" in refused(engine.context)
assert "illegal" in fails(lambda: outcome(POISON="7=700:sticky"))
""" + TAIL)
    assert "cannot load the plan" in bed.run(PLAN, check=False, extra={"FAKE_TENSORRT_LOAD": "fail"}).stderr
    assert "cannot build the model" in bed.run(PLAN, check=False, extra={"FAKE_TENSORRT_BUILD": "fail"}).stderr
    assert bed.run(PLAN, check=False, extra={"FAKE_TENSORRT_BUILD": "crash"}).returncode == -6


def test_a_fake_plan_sees_wrong_memory():
    for wrong in ("target.free()", "run.set_address('y', back.ctypes.data + 16)", "scratch.free()",
                  "run.set_memory(int(scratch), engine.device_memory_bytes); run.set_address('x', int(scratch))"):
        done = bed.run(PLAN + wrong + """
run.enqueue(stream.handle)
assert "illegal memory access" in fails(stream.synchronize)
""" + TAIL)
        assert "fake tensorrt: illegal address" in done.stderr, wrong


def test_the_fake_builder_refuses_what_the_real_one_does():
    bed.run(PLAN + """
import tensorrt
logger = tensorrt.Logger(tensorrt.Logger.Severity.INTERNAL_ERROR)
for kind in (TensorProto.DOUBLE, TensorProto.INT16):
    parser = tensorrt.OnnxParser(tensorrt.Builder(logger).create_network(), logger)
    assert not parser.parse(model(kind)) and "Failed to convert ONNX data type" in parser.get_error(0).desc()
""" + TAIL)


OFFERED = """
import json, sys, tensorrt
from functools import reduce

def there(name):
    try:
        reduce(getattr, name.split("."), tensorrt)
    except AttributeError:
        return False
    return True

print(json.dumps([name for name in json.load(sys.stdin) if there(name)]))
"""


def offered(names: list[str], environment: dict[str, str]) -> set[str]:
    done = subprocess.run([sys.executable, "-c", OFFERED], env=environment, input=json.dumps(names),
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("version", ["10.13.3.9", "11.4.0.106"])
def test_the_fake_offers_nothing_that_the_real_bindings_do_not(version):
    listing = """
import enum, json, tensorrt
names = list(tensorrt.__all__)
for name in tensorrt.__all__:
    thing = getattr(tensorrt, name)
    if issubclass(thing, enum.Enum):
        names += [f"{name}.{member}" for member in thing.__members__]
    else:
        names += [f"{name}.{attribute}" for attribute in vars(thing) if not attribute.startswith("_")]
print(json.dumps(names))
"""
    names = json.loads(bed.run(listing, extra={"FAKE_TENSORRT_VERSION": version}).stdout)
    assert len(names) > 100
    assert set(names) - offered(names, bindings.environ("tensorrt", version)) == set()
