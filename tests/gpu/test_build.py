"""Builds by the real TensorRT-RTX, which needs no GPU for them; nothing is run. And the command, over the fake one."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import Bundle, EngineError, load_bundle, shipped_bundles
from engines.bundle import Card, ModelSpec, WindowSpec
from engines.gpu.build import build_plan, row_shapes
from engines.gpu.plan import BuildReport, BuildSpec, DeviceId
from engines.gpu.provide import dims_of
from tests import models
from tests.gpu import bed
from tests.gpu.bed import build as bedding

Build = Callable[..., BuildReport]
SPEC = ModelSpec(name="made", version="1.0.0", kind="window", rule="made", card=Card(**models.CARD),
                 window=WindowSpec(32, 32))  # fmt: skip


@pytest.fixture(autouse=True)
def _bed() -> None:
    bed.need()


def _bundle(model: bytes) -> Bundle:
    return Bundle(SPEC, Path("made"), model, hashlib.sha256(model).hexdigest())


def _shipped() -> Bundle:
    return load_bundle(shipped_bundles()["anomaly-mewma"])


def _built(bundle: Bundle, device: DeviceId | None = None, **options: object) -> BuildReport:
    dims = dims_of(bundle, row_shapes(bundle, 8))
    spec = BuildSpec(**{"max_batch": 64, "dims": dims, **options})  # type: ignore[arg-type]  # checked by msgspec
    plan, report = _real(bundle, spec, device)
    assert len(plan) == report.plan_bytes > 10_000
    return report


def _real(bundle: Bundle, spec: BuildSpec, device: DeviceId | None = None) -> tuple[bytes, BuildReport]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(bedding.RTX))  # the child finds it, this process does not
        return build_plan(bundle, spec, "tensorrt_rtx", device)


def _model(nodes: Sequence[object], x: tuple[int, Sequence[object]], score: Sequence[object], opset: int = 18,
           **constants: np.ndarray) -> bytes:
    """Return a graph from x (ONNX type, dimensions) to score (float32)."""
    graph = helper.make_graph(
        nodes, "made", [helper.make_tensor_value_info("x", x[0], x[1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, score)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return bytes(made.SerializeToString())


def _gru() -> bytes:
    rng = np.random.default_rng(0)
    return _model(
        [helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
         helper.make_node("GRU", ["steps", "w", "r"], ["all", "last"], hidden_size=8, name="memory"),
         helper.make_node("ReduceMean", ["last"], ["score"], keepdims=0, axes=[0, 2])],
        (TensorProto.FLOAT, ["n", 64, 3]), ["n"], opset=17,
        w=rng.standard_normal((1, 24, 3)).astype("f4"), r=rng.standard_normal((1, 24, 8)).astype("f4"),
    )  # fmt: skip


# --- what a report says


def test_the_report_of_a_small_net_is_sane() -> None:
    report = _built(_bundle(models.dense()))
    assert report.flavour == "tensorrt_rtx" and report.version[0].isdigit()
    assert [str(t) for t in report.inputs] == ["x f4[n, 1, 4, 32]"]
    assert [t.name for t in report.outputs] == ["score"] and report.outputs[0].shape[0] == -1
    assert 1 <= report.kernels <= 16 and sum(report.layers.values()) >= report.kernels
    assert report.weights_bytes > 1000 and report.activation_bytes > 64 * 4
    assert report.loops == () and report.warnings == ()
    assert 0.0 < report.seconds < 60.0
    assert msgspec.json.decode(msgspec.json.encode(report), type=BuildReport) == report


def test_activation_memory_is_that_of_the_largest_batch() -> None:
    conv = _model(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2]), helper.make_node("Relu", ["y"], ["z"]),
         helper.make_node("ReduceMean", ["z"], ["score"], keepdims=0, axes=[1, 2])],
        (TensorProto.FLOAT, ["n", 3, 2048]), ["n"], opset=17, w=np.ones((16, 3, 5), "f4"),
    )  # fmt: skip
    small, large = (_built(_bundle(conv), max_batch=rows).activation_bytes for rows in (8, 256))
    one_layer = (256 - 8) * 16 * 1022 * 4
    assert one_layer < large - small < 3 * one_layer


def test_open_dimensions_are_fixed_and_outputs_follow() -> None:
    report = _built(_shipped())
    assert [str(t) for t in report.tensors] == [
        "z f4[n, 8]", "center f4[n, 8]", "whitening f4[n, 8, 8]", "limit f4[n]",
        "score f4[n]", "contributions f4[n, 8]",
    ]  # fmt: skip


def test_rows_of_a_window_are_cut_as_its_frames_are() -> None:
    bundle = _bundle(models.dense())
    assert row_shapes(bundle, 4) == {"x": (1, 4, 32)}
    assert row_shapes(bundle, 4, 8) == {"x": (4, 4, 8)}
    plan, report = _real(bundle, BuildSpec(max_batch=8, dims=dims_of(bundle, row_shapes(bundle, 4, 8))))
    assert str(report.inputs[0]) == "x f4[n, 4, 4, 8]"
    with pytest.raises(EngineError, match="5 samples per frame do not divide the window of made, 32"):
        row_shapes(bundle, 4, 5)


def test_half_precision_keeps_inputs_and_outputs_and_halves_the_weights() -> None:
    single, half = (_built(_bundle(models.dense()), precision=p) for p in ("f32", "f16"))
    assert half.tensors == single.tensors
    assert half.weights_bytes < 0.7 * single.weights_bytes


def test_a_loop_at_run_time_is_found_and_its_node_named() -> None:
    report = _built(_bundle(_gru()))
    assert len(report.loops) == 1
    (warning,) = report.warnings
    assert warning.startswith("node 'memory' (GRU)") and "a convolution over the window" in warning


def test_two_builds_of_one_model_say_the_same_of_it() -> None:
    one, two = (msgspec.structs.replace(_built(_bundle(models.dense())), seconds=0.0, plan_bytes=0) for _ in range(2))
    assert one == two


# --- for which GPU


def test_a_plan_for_one_gpu_is_smaller_than_one_for_all() -> None:
    every = _built(_bundle(models.dense())).plan_bytes
    one = _built(_bundle(models.dense()), targets=("8.6",)).plan_bytes
    assert one < every or one == pytest.approx(every, rel=0.01)


@pytest.mark.parametrize("cc", ["8.6", "9.0", "12.9"])
def test_a_device_that_the_library_may_not_know_is_no_reason_not_to_build(cc: str) -> None:
    _built(_bundle(models.dense()), DeviceId("a GPU", cc, "13000"))


def test_a_target_that_the_library_does_not_know_is_refused_with_those_it_does() -> None:
    with pytest.raises(EngineError, match=r"cannot build for compute capability 9\.0; it knows 8\.0, 8\.6"):
        _built(_bundle(models.dense()), targets=("9.0",))


@pytest.mark.parametrize("device, targets", [(DeviceId("T4", "7.5", "13000"), ()), (None, ("7.5",))])
def test_turing_is_refused_because_its_float32_products_can_be_zero(device: DeviceId | None, targets: object) -> None:
    with pytest.raises(EngineError, match=r"7\.5 \(Turing\) is not supported.*onnx_cpu"):
        _built(_bundle(models.dense()), device, targets=targets)


# --- what cannot be built is named, with what to use instead


def _dft() -> bytes:
    return _model([helper.make_node("DFT", ["x"], ["score"], axis=1, name="spectrum")],
                  (TensorProto.FLOAT, ["n", 64, 1]), ["n", 64, 2])  # fmt: skip


def _cast(kind: int) -> bytes:
    return _model([helper.make_node("Cast", ["x"], ["score"], to=TensorProto.FLOAT)], (kind, ["n", 8]), ["n", 8])


@pytest.mark.parametrize("model, said", [
    (_dft(), ("node 'spectrum' (DFT): the library has no such operator", "strided Conv or a MatMul")),
    (_cast(TensorProto.INT16), ("'x'", "int16", "pairs of uint8")),
    (_model([helper.make_node("Unique", ["x"], ["score"], name="only")], (TensorProto.FLOAT, ["n"]), ["k"]),
     ("node 'only' (Unique)", "TopK")),
    (_model([helper.make_node("Relu", ["x"], ["score"])], (TensorProto.FLOAT, [4, 8]), [4, 8]),
     ("'x'", "the first must be an open batch")),
    (b"\x08\x09", ("ONNX",)),
], ids=["dft", "int16", "unique", "fixed batch", "no model"])  # fmt: skip
def test_what_cannot_be_built_is_named_with_what_to_use_instead(model: bytes, said: tuple[str, ...]) -> None:
    with pytest.raises(EngineError) as caught:
        _real(_bundle(model), BuildSpec(max_batch=8))
    assert [word for word in said if word not in str(caught.value)] == [], str(caught.value)


def test_an_open_dimension_without_a_size_is_named() -> None:
    with pytest.raises(EngineError, match=r"input 'z' leaves dimension '\w+' open; a plan needs its size, given are"):
        _real(_shipped(), BuildSpec(max_batch=8))


def test_float64_that_was_not_converted_is_refused_by_the_adapter() -> None:
    code = """
from engines import EngineError
from engines.gpu.flavour import load_flavour
from engines.gpu.plan import BuildSpec
from tests.gpu.test_build import _cast
try:
    load_flavour("tensorrt_rtx").build(_cast(11), BuildSpec(max_batch=8))
except EngineError as error:
    assert "float64" in str(error) and "float32 variant" in str(error), error
else:
    raise AssertionError("the library reads float64 as float32, and the adapter let it")
"""
    bed.run(code, fake=False, rtx=True, driver=False)


def test_a_plan_that_the_machine_cannot_load_is_refused_with_the_reason() -> None:
    code = """
from engines import EngineError
from engines.gpu.flavour import load_flavour
from engines.gpu.plan import BuildSpec
from tests import models
flavour = load_flavour("tensorrt_rtx")
for model in (models.dense(), models.dense(1)):     # the second: one logger for all of a process
    plan, report = flavour.build(model, BuildSpec(max_batch=8, dims={"frames": 1, "samples": 32}))
    assert report.kernels and not report.warnings, report
    for broken in (plan, plan[:100], b"no plan at all" * 10):
        try:
            flavour.deserialize(broken)
        except EngineError as error:
            assert "cannot load the plan: " in str(error) and "no reason" not in str(error), error
        else:
            raise AssertionError("loaded without a driver")
"""
    bed.run(code, fake=False, rtx=True, driver=False)


# --- the command


def _command(*arguments: str, rtx: bool = False, fake: bool = False, **switches: object) -> tuple[int, str]:
    command = ["-m", "pipeline.cli.main", "models", "build", "anomaly-mewma", *arguments]
    done = bed.run(command, check=False, rtx=rtx, fake=fake, driver=fake, **switches)
    return done.returncode, done.stdout + done.stderr


def _kept(folder: Path, limit_s: int = 50, **switches: object) -> tuple[int, str]:
    """Build on the bed's device with its fake TensorRT, and keep it in `folder`."""
    keys = (f"cache={folder}", f"build_timeout_s={limit_s}", "build_memory_mb=512")
    options = [part for key in keys for part in ("--set", f"engine.{key}")]
    return _command(*options, fake=True, **switches)


def test_check_builds_for_named_gpus_and_keeps_nothing(tmp_path: Path) -> None:
    code, said = _command("--check", "--target", "sm_86,sm_120", "--precision", "f16", "--channels", "4",
                          "--channels", "32", "--set", f"engine.cache={tmp_path / 'engines'}", rtx=True)  # fmt: skip
    assert code == 0, said
    assert not (tmp_path / "engines").exists()
    for word in ("rows of 4 channels", "rows of 32 channels", "sm_86, sm_120", "f16", "checked and discarded",
                 "of activations for 256 rows", "kernels", "whitening f4[n, 32, 32]", "none at run time"):  # fmt: skip
        assert word in said, said


@pytest.mark.parametrize("arguments, code, why", [
    (["--target", "sm_86"], 2, "add --check"),
    (["--check", "--target", "sm_ninety"], 2, "no compute capability"),
    (["--check", "--precision", "f8"], 2, "neither f32 nor f16"),
    (["--check", "--engine", "cudnn"], 2, "none of tensorrt, tensorrt_rtx"),
    (["--check", "--channels", "33"], 4, "takes 1 to 32"),
    (["--check", "--target", "sm_90"], 4, "it knows 8.0, 8.6"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)  # fmt: skip
def test_what_is_asked_wrongly_is_said(arguments: list[str], code: int, why: str) -> None:
    found, said = _command(*arguments, rtx=True)
    assert found == code and why in said, said


def test_without_the_package_the_extras_and_the_cpu_setting_are_named() -> None:
    code, said = _command("--check")
    assert code == 4
    for word in ("kizashi[gpu]", "kizashi[rtx]", 'name = "onnx_cpu"'):
        assert word in said, said


def test_a_build_for_this_device_is_kept_found_again_and_made_anew_when_spoilt(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    code, said = _kept(folder)
    assert code == 0 and f"in {folder}" in said and "already" not in said, said
    (plan,) = folder.glob("*.plan")
    code, said = _kept(folder)
    assert code == 0 and "was there already" in said, said
    plan.write_bytes(plan.read_bytes()[:-1])
    code, said = _kept(folder)
    assert code == 0 and "was changed, cut off" in said and "already" not in said, said
    code, said = _kept(folder, no_device=True)
    assert code == 4 and "onnx_cpu" in said, said


def test_what_the_command_built_the_worker_finds(tmp_path: Path) -> None:
    code, said = _kept(tmp_path / "engines")
    assert code == 0, said
    bed.run(f"""
from pathlib import Path
from engines import load_bundle, shipped_bundles
from engines.gpu.build import row_shapes
from engines.gpu.provide import GpuSupply
from engines.supply import EngineOptions
bundle = load_bundle(shipped_bundles()["anomaly-mewma"])
supply = GpuSupply("tensorrt", bundle, EngineOptions(cache=Path({str(tmp_path / "engines")!r})))
assert supply.missing(row_shapes(bundle, 8)) == ""
assert "no plan" in supply.missing(row_shapes(bundle, 9))
""")


def test_a_terminal_shows_one_line_of_progress_that_goes_when_it_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli.modelsbuild import _Progress

    with _Progress() as silent:
        silent("parse")
    assert capsys.readouterr().err == "", "no terminal, no progress"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with _Progress() as shown:
        shown("parse")
        shown("Building engine 3/6")
    said = capsys.readouterr().err
    assert "\n" not in said and said.endswith("\r\033[K")
    assert [part.split() for part in said.split("\r\033[K") if part] == [
        ["building", "parse"], ["building", "Building", "engine", "3/6"]]


@pytest.mark.parametrize("fault, why", [
    ("hang", "killed after 5 s, its limit"), ("crash", "no answer"), ("memory", "its limit is 512 MiB"),
    ("fail", "cannot build the model"),
])  # fmt: skip
def test_a_build_that_goes_wrong_ends_with_the_reason(fault: str, why: str, tmp_path: Path) -> None:
    code, said = _kept(tmp_path / "engines", 5 if fault == "hang" else 50, extra={"FAKE_TENSORRT_BUILD": fault})
    assert code == 4 and why in said, said
    assert not list((tmp_path / "engines").glob("*.plan"))
