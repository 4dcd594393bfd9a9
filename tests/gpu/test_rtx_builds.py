"""Plans by the real TensorRT-RTX, built on a CPU: every shipped bundle and a model that begins at raw samples.

Nothing runs here: what can be seen without a GPU is that a model builds, what goes in and out, how many kernels one
batch launches and how much memory it takes. A budget that breaks is a model that became slow on a device.
"""

import json
from dataclasses import dataclass

import pytest

from engines import graph as front
from engines import load_bundle, shipped_bundles
from engines.gpu.plan import PRECISIONS
from tests import frontends, models
from tests.gpu import bed

CHANNELS, LENGTH = 3, 2048
MIB = 1 << 20

# In the child: a native library that is imported, not to be had in the process of the tests.
BUILD = """
import json, pathlib, msgspec
from engines import EngineError
from engines.gpu.flavour import load_flavour
from engines.gpu.plan import BuildSpec
from engines.graph.precision import to_precision

flavour, made = load_flavour("tensorrt_rtx"), {}
for name, precision, max_batch, dims in json.loads(pathlib.Path("jobs.json").read_text()):
    model = pathlib.Path(name + ".onnx").read_bytes()
    spec = BuildSpec(precision=precision, max_batch=max_batch, dims=dims)
    try:
        _, report = flavour.build(to_precision(model, precision), spec)
        made[f"{name} {precision} {max_batch}"] = msgspec.to_builtins(report)
    except EngineError as error:
        made[f"{name} {precision} {max_batch}"] = str(error)
print(json.dumps(made))
"""


@dataclass(frozen=True)
class Case:
    """A model, sizes of its open dimensions, and what its plan may cost at 256 rows."""

    model: bytes
    dims: dict[str, int]
    kernels: int
    activation_mib: int


def part(write) -> bytes:
    """A graph of one front end, from raw bytes to its result."""
    graph = front.GraphBuilder("part")
    tensor, shape = write(graph, front.raw_samples(graph, "x", CHANNELS, LENGTH))
    graph.output("y", tensor, shape)
    return graph.build()


def case_of_part(write, kernels: int, activation_mib: int) -> Case:
    return Case(part(write), {"frames": 2, "samples": LENGTH // 2}, kernels, activation_mib)


def envelope_lines(graph: front.GraphBuilder, signal: front.Signal) -> tuple[str, tuple[int, int]]:
    demodulated = front.envelope(graph, signal, 25600.0, (2000.0, 6000.0), decimate=8)
    found = front.spectrum(graph, demodulated, centre=True)
    return found.name, (found.channels, found.lines)


def shipped() -> dict[str, Case]:
    """Return the shipped bundles with their budgets, or those of bundles that have no line of their own.

    60 launches are 0.2 ms in a CUDA graph at 3 us each, a fifth of the millisecond that a batch may take; 256 MiB a
    context leave room for four slots on an 8 GB Orin.
    """
    # 2 products of small matrices and what is around them: 9 launches and 8 MiB seen. From raw samples over envelopes
    # of 12 bands to lines: 69 launches, most of them of one row's few numbers, and 230 MiB seen.
    own = {"anomaly-mewma": (12, 16), "bearing-order": (75, 240)}
    cases = {}
    for name, path in shipped_bundles().items():
        bundle = load_bundle(path)
        sizes = {"C": 8, "channels": 8, "frames": 1, "samples": bundle.spec.window.size if bundle.spec.window else 1}
        if bundle.spec.baseline is not None:
            sizes["F"] = bundle.spec.baseline.width(8)
        cases[name] = Case(bundle.model, sizes, *own.get(name, (60, 256)))
    return cases


CASES = {
    **shipped(),
    "dense": Case(models.dense(), {"frames": 2, "samples": 16}, 4, 16),
    # Raw bytes to score: 18 of 100 operators seen, so a mean or a mask that no longer fuses breaks it. The activations
    # are those of the spectra of 256 x 3 signals: 63 MiB seen.
    "fused": Case(frontends.fused(True, CHANNELS, LENGTH), {"frames": 2, "samples": LENGTH // 2}, 20, 72),
    # Casts, layouts and activations fuse into the 7 convolutions and products; 14 in float16 for the attention's casts.
    "autoencoder": Case(frontends.autoencoder(), {"frames": 1, "samples": 512}, 16, 64),
    # int16 from bytes, transpose and scale are one pass over the samples and need no memory.
    "counts": case_of_part(lambda g, s: (front.scaled(g, s, [1.0, 2.0, 3.0]).name, (CHANNELS, LENGTH)), 1, 1),
    # The convolution, its input laid out, and powers: the form for which STFT takes 8 kernels.
    "stft": case_of_part(lambda g, s: (front.stft(g, s, 256, 128).name, (CHANNELS, 129, 15)), 3, 32),
    # All moments in one pass over the samples and one over what it leaves.
    "statistics": case_of_part(lambda g, s: (front.statistics(g, s), (CHANNELS, 7)), 3, 1),
    # Two convolutions, the magnitude between, the spectrum's product and its powers.
    "envelope": case_of_part(envelope_lines, 7, 32),
}  # fmt: skip
JOBS = [
    *((name, precision, 256) for name in CASES for precision in PRECISIONS),
    ("fused", "f32", 1), ("fused", "f32", 64),
]  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, dict]:
    """Every build, in one child: the library takes longer to load than to build."""
    bed.need()
    folder = tmp_path_factory.mktemp("plans")
    for name, case in CASES.items():
        (folder / f"{name}.onnx").write_bytes(case.model)
    jobs = [(name, precision, rows, CASES[name].dims) for name, precision, rows in JOBS]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = bed.run(BUILD, driver=False, fake=False, rtx=True, cwd=folder, timeout_s=110)
    return json.loads(done.stdout.splitlines()[-1])


def report(reports: dict[str, dict], name: str, precision: str, rows: int = 256) -> dict:
    made = reports[f"{name} {precision} {rows}"]
    assert isinstance(made, dict), made
    return made


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_model_builds_within_its_budget_and_without_a_loop_that_runs_step_by_step(reports, name, precision):
    made, case = report(reports, name, precision), CASES[name]
    assert made["precision"] == precision and made["max_batch"] == 256
    assert 0 < made["kernels"] <= case.kernels, made["layers"]
    assert made["activation_bytes"] <= case.activation_mib * MIB
    assert not made["loops"] and not made["warnings"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_plan_takes_and_gives_what_the_model_does_in_float32(reports, name, precision):
    """Same names, in order; float64 becomes float32, bytes stay bytes; the batch is open, other sizes are given."""
    before = models.facts_of(CASES[name].model)
    for facts, given in ((before.inputs, True), (before.outputs, False)):
        tensors = [t for t in report(reports, name, precision)["tensors"] if t["is_input"] == given]
        assert [t["name"] for t in tensors] == [t.name for t in facts]
        for made, fact in zip(tensors, facts, strict=True):
            assert made["dtype"] == {"f8": "f4"}.get(fact.dtype, fact.dtype)
            assert made["shape"] == [-1, *(CASES[name].dims.get(d, d) for d in fact.dims[1:])]


def test_scratch_memory_is_that_of_the_largest_batch(reports):
    """The maximum is a decision about memory: on a small device it is taken smaller."""
    sizes = [report(reports, "fused", "f32", rows)["activation_bytes"] for rows in (1, 64, 256)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 4


@pytest.mark.parametrize("name", ["dense", "fused", "autoencoder"])
def test_float16_costs_no_more_than_two_kernels_for_casts(reports, name):
    single, half = (report(reports, name, precision) for precision in PRECISIONS)
    assert half["kernels"] <= single["kernels"] + 2


def test_float16_halves_the_weights_of_a_net(reports):
    single, half = (report(reports, "autoencoder", precision)["weights_bytes"] for precision in PRECISIONS)
    assert 0 < half < 0.6 * single
