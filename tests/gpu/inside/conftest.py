"""What the tests in here share. They run inside a process of the bed: `tests/gpu/test_session.py` starts it."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from engines import Bundle, load_bundle, open_engine, shipped_bundles
from engines.bundle import TrustPolicy
from engines.gpu.session import TensorRtEngine
from tests import models
from tests.gpu.bed.standin import Standin
from tests.gpu.plans import session

Rows = dict[str, np.ndarray]


def window_rows(seed: int, n: int) -> Rows:
    return {"x": np.random.default_rng(seed).normal(size=(n, 2, 4, 16)).astype("f4")}


def chart_rows(seed: int, n: int, channels: int = 5) -> Rows:
    """Rows as charts make them: one channel dropped, a second row at its mean, a third far beyond every limit."""
    rng = np.random.default_rng(seed)
    whitening = rng.normal(size=(n, channels, channels))
    if channels > 1:
        whitening[:, 1] = whitening[:, :, 1] = 0
    z = rng.normal(size=(n, channels))
    z[1 % n], z[2 % n] = 0, 1e6
    rows = {"z": z, "center": np.zeros((n, channels)), "whitening": whitening, "limit": rng.uniform(5, 50, n)}
    return {name: array.astype("f4") for name, array in rows.items()}


ROWS: dict[str, Callable[[int, int], Rows]] = {"dense": window_rows, "anomaly-mewma": chart_rows}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> dict[str, Bundle]:
    folder, policy = tmp_path_factory.mktemp("bundles"), TrustPolicy(allow_unsigned=True)
    return {
        "dense": load_bundle(models.bundle(folder / "dense", models.dense(), match={"max_channels": 4}), policy),
        "anomaly-mewma": load_bundle(shipped_bundles()["anomaly-mewma"]),
    }


@pytest.fixture(params=["dense", "anomaly-mewma"])
def model(request) -> str:
    return request.param


@pytest.fixture
def engine(bundles, model) -> Iterator[TensorRtEngine]:
    with session(bundles[model]) as opened:
        yield opened


@pytest.fixture
def rows(model) -> Callable[[int, int], Rows]:
    return ROWS[model]


@pytest.fixture
def standin() -> Standin:
    return Standin()


@pytest.fixture
def reference(bundles, model) -> Callable[[Rows], dict[str, np.ndarray]]:
    """The model on ONNX Runtime, in its own precision."""
    engine = open_engine("onnx_cpu", bundles[model])
    return lambda rows: engine.infer({s.name: rows[s.name].astype(s.dtype) for s in engine.inputs})


def copied(outputs) -> Rows:
    return {name: np.array(array) for name, array in outputs.items()}


def staged(engine: TensorRtEngine, rows: Rows, size: int = 256) -> Rows:
    """Write rows into staging memory; return the views that a batcher would give."""
    arrays = engine.staging({name: a.shape[1:] for name, a in rows.items()}, size).arrays
    n = len(next(iter(rows.values())))
    for name, array in rows.items():
        arrays[name][:n] = array
    return {name: arrays[name][:n] for name in rows}
