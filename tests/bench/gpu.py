"""GPU host cost: pack, enqueue and unpack of 256 rows, and host copies per row, over the stand-in driver.

The time that the stand-in spends in its own copies and in the fake TensorRT is left out: a device spends it beside us.
So it is what a batch costs this process, on any machine; nothing here says how fast a GPU is. Environment: ROUNDS
(2000).
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.bench.report import Bar, judge
from tests.gpu import bed

ROUNDS = int(os.environ.get("ROUNDS", "2000"))
ROWS = 256
# More rows than a batch, so that the rows of a batch are not in the cache from the batch before: 12 MiB of windows.
RING = 1024

Fill = Callable[[dict[str, np.ndarray], np.ndarray], None]


def main() -> int:
    """Measure in a process of the bed, because libcuda is found when a process starts."""
    reason = bed.why_not()
    if reason:
        print(f"NOT MEASURED: the GPU test bed cannot be built: {reason}")
        return 0
    return subprocess.run([sys.executable, "-m", "tests.bench.gpu", "here"], env=bed.environ(), check=False).returncode


def here() -> int:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (RING, 1, 3, 2048, 2), dtype=np.uint8)
    floats = rng.normal(size=(RING, 1, 3, 15)).astype("f4")
    z, whitening = rng.normal(size=(RING, 8)), rng.normal(size=(RING, 8, 8))

    def chart(views: dict[str, np.ndarray], index: np.ndarray) -> None:  # as pipeline.condition fills its rows
        views["z"][:] = z[index]
        views["center"][:] = z[index]
        views["whitening"][:] = whitening[index]
        views["limit"][:] = z[index, 0]

    bars = [
        _case("3 x 2048 int16, no overlap", "u1", (1, 3, 2048, 2), _take(samples), 600, 250),
        _case("45 floats", "f4", (1, 3, 15), _take(floats), 100, 50),
        _case("chart of 8 channels", None, (), chart, 100, 50),
    ]
    return judge([bar for pair in bars for bar in pair])


def _take(source: np.ndarray) -> Fill:  # as pipeline.window fills its rows
    def fill(views: dict[str, np.ndarray], index: np.ndarray) -> None:
        np.take(source, index, axis=0, out=views["x"], mode="clip")

    return fill


def _case(name: str, dtype: str | None, shape: tuple[int, ...], fill: Fill, must: float, moonshot: float) -> list[Bar]:
    from tests.gpu.bed.standin import Standin
    from tests.gpu.plans import session

    bundle = _window(dtype, shape) if dtype else _shipped()
    shapes = {"x": shape} if dtype else {"z": (8,), "center": (8,), "whitening": (8, 8), "limit": ()}
    standin, rng = Standin(), np.random.default_rng(1)
    with session(bundle) as engine:
        sets = [engine.staging(shapes, ROWS).arrays for _ in range(engine.depth + 1)]
        times = np.empty((ROUNDS, 4))
        start = engine.copied_rows
        for i in range(-50, ROUNDS):
            views = {key: array[:ROWS] for key, array in sets[i % len(sets)].items()}
            index = (rng.integers(RING) + np.arange(ROWS)) % RING
            own = standin.own_ns
            a = time.perf_counter()
            fill(views, index)
            b = time.perf_counter()
            ticket = engine.begin(views)
            c = time.perf_counter()
            outputs = engine.finish(ticket)
            results = {key: np.array(array) for key, array in outputs.items()}
            d = time.perf_counter()
            assert len(results["score"]) == ROWS
            times[max(i, 0)] = b - a, c - b, d - c, (standin.own_ns - own) * 1e-9
        # One is the write into memory that the device reads; a copy from pageable memory would be the driver's own.
        copies = 1 + (engine.copied_rows - start) / (ROWS * (ROUNDS + 50)) + standin.counters["pageable"]
    pack, enqueue, wait, theirs = (times * 1e6).T
    ours = pack + enqueue + wait - theirs
    parts = (pack, enqueue, wait - theirs)
    spread = "pack {:.0f}, enqueue {:.0f}, unpack {:.0f}; p99 {:.0f}".format(
        *(float(np.median(part)) for part in parts), float(np.percentile(ours, 99)))
    return [Bar(f"{name}: pack + enqueue + unpack", float(np.median(ours)), "us", must, moonshot, True, spread),
            Bar(f"{name}: host copies of a row", copies, "", 1, 1, True)]


def _window(dtype: str, shape: tuple[int, ...]):
    """A bundle whose model is the mean of a window: all that counts here is what goes in."""
    import hashlib

    from onnx import TensorProto, helper

    from engines import Bundle
    from tests import models

    kind = {"u1": TensorProto.UINT8, "f4": TensorProto.FLOAT}[dtype]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
         helper.make_node("ReduceMean", ["f"], ["score"], axes=list(range(1, len(shape) + 1)), keepdims=0)], "mean",
        [helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    return Bundle(models.spec(), Path("made"), model, hashlib.sha256(model).hexdigest())


def _shipped():
    from engines import load_bundle, shipped_bundles

    return load_bundle(shipped_bundles()["anomaly-mewma"])


if __name__ == "__main__":
    sys.exit(here() if sys.argv[1:] == ["here"] else main())
