"""Numbers and decisions of ONNX Runtime against the reference, on 10,000 windows, and on each shipped bundle."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from engines import Bundle, load_bundle, open_engine, shipped_bundles
from engines.golden import GoldenCase
from pipeline.parity import decide, hear
from tests import frontends, models

ROWS, ASSETS = 10_000, 100
STARTS = tuple(range(0, ROWS, ROWS // ASSETS))
Rows = dict[str, np.ndarray]


def levels(seed: int, high: float) -> np.ndarray:
    """How much worse than healthy each row is: every asset has one episode, some barely over the limit."""
    rng = np.random.default_rng(seed)
    level = np.ones((ASSETS, ROWS // ASSETS))
    for asset in level:
        begin = rng.integers(10, 60)
        asset[begin : begin + rng.integers(5, 40)] = rng.uniform(1, high)
    return level.reshape(-1)


def window_rows(bundle: Bundle) -> Rows:
    """Noise whose strength changes, with an offset of some hundred times it in a few rows."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(ROWS, 2, 4, 16)) * levels(12, 3.0)[:, None, None, None]
    x[::97] += rng.uniform(-300, 300, (len(x[::97]), 1, 4, 1))
    return {"x": x.astype("f4")}


def raw_rows(bundle: Bundle) -> Rows:
    """The same as int16 in bytes, 1000 counts a unit: the offsets saturate."""
    counts = (window_rows(bundle)["x"] * 1000).round().clip(-32768, 32767).astype("<i2")
    return {"x": counts.view("u1").reshape(*counts.shape, 2)}


def chart_rows(bundle: Bundle) -> Rows:
    """Charts of 6 channels of which one is dropped, at T2 around their limits."""
    rng = np.random.default_rng(13)
    channels = 6
    whitening = np.tile(np.linalg.qr(rng.normal(size=(channels, channels)))[0] * 3, (ROWS, 1, 1))
    whitening[:, 2] = whitening[:, :, 2] = 0
    z = rng.normal(size=(ROWS, channels)) / 3 * levels(14, 4.0)[:, None]
    return {"z": z, "center": np.full((ROWS, channels), 0.01), "whitening": whitening, "limit": np.full(ROWS, 12.0)}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("numbers")

    def window(name: str, model: bytes, threshold: float) -> Bundle:
        judge = {"on": [3, 5], "off": 4, "deadband": 0.05}
        return models.load(models.bundle(folder / name, model, threshold=threshold, judge=judge))

    fused = window("fused", frontends.fused(), 3.0)
    return {
        "dense": window("dense", models.dense(), 1.5),
        "fused": fused,
        # No bundle: rows of windows are float32 so far. Engines take it as it is.
        "fused-raw": replace(fused, model=frontends.fused(raw=True)),
        "anomaly-mewma": load_bundle(shipped_bundles()["anomaly-mewma"]),
    }


ROWS_OF: dict[str, Callable[[Bundle], Rows]] = {
    "dense": window_rows, "fused": window_rows, "fused-raw": raw_rows, "anomaly-mewma": chart_rows,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS_OF)
def test_onnx_runtime_gives_the_numbers_and_decisions_of_the_reference(bundles, name):
    bundle, rows = bundles[name], ROWS_OF[name](bundles[name])
    ours, oracle = (open_engine(engine, bundle).infer(rows) for engine in ("onnx_cpu", "reference"))
    for output, want in oracle.items():
        excess = np.abs(ours[output].astype("f8") - want) / np.maximum(1, np.abs(want))
        assert excess.max() <= 1e-5, f"{output}: {excess.max():.2e} at row {excess.reshape(ROWS, -1).max(1).argmax()}"
    limit = bundle.spec.threshold
    over = oracle["score"] >= limit
    assert 0.05 < over.mean() < 0.6, "rows on both sides of the limit, or the test says nothing"
    np.testing.assert_array_equal(ours["score"] >= limit, over)
    states = [decide(bundle, made["score"].astype("f8"), STARTS) for made in (ours, oracle)]
    assert len(np.unique(states[1])) == 3, "normal, over and active must all occur"
    np.testing.assert_array_equal(*states)


def golden_like(case: GoldenCase, rows: int) -> tuple[Rows, tuple[int, ...]]:
    """Golden rows over and over, from the second time on a little louder or quieter, and noisy, and their sequences."""
    rng = np.random.default_rng(17)
    index = np.arange(max(rows, case.rows))
    again = index >= case.rows
    made = {}
    for name, array in case.inputs.items():
        x = array[index % case.rows].copy()
        if x.dtype.kind == "f":
            wide = (-1, *(1,) * (x.ndim - 1))
            louder = np.where(again, rng.uniform(0.9, 1.1, len(x)), 1.0).reshape(wide)
            noise = 1e-3 * again.reshape(wide) * rng.normal(size=x.shape)
            x = (x * louder * (1 + noise)).astype(x.dtype)
        made[name] = x
    starts = [start + first for first in range(0, len(index), case.rows) for start in case.starts]
    return made, tuple(start for start in starts if start < len(index))


#: Rows for each golden case: what the reference takes seconds for. It takes 8 ms for a row of bearing-order.
SHIPPED_ROWS = {name: 0 if name == "bearing-order" else 1000 for name in shipped_bundles()}

#: Float32 through 104 to 277 nodes: of 10,000 rows the farthest were 2.3e-5, 1.3e-4 (1,500 rows) and 6.0e-5, each times
#: max(1, |reference|). The other bundles, and all decisions, meet what is asked of models here, 1e-5.
WITHIN = {"battery-fade": 1e-4, "bearing-order": 5e-4, "rul-ewma": 2e-4}


@pytest.mark.parametrize("name", SHIPPED_ROWS)
def test_shipped_bundle_has_the_numbers_and_decisions_of_the_reference(name):
    bundle = load_bundle(shipped_bundles()[name])
    output = bundle.spec.outputs.features or bundle.spec.outputs.score
    ours, oracle = (open_engine(engine, bundle) for engine in ("onnx_cpu", "reference"))
    seen: set[int] = set()
    for case in bundle.golden.cases:
        rows, starts = golden_like(case, SHIPPED_ROWS[name] // len(bundle.golden.cases))
        got, want = ours.infer(rows), oracle.infer(rows)
        for key, values in want.items():
            assert np.isfinite(values).all()
            excess = np.abs(got[key].astype("f8") - values) / np.maximum(1, np.abs(values))
            assert excess.max() <= WITHIN.get(name, 1e-5), f"{case.name}: {key}: {excess.max():.2e}"
        heard = hear(bundle, GoldenCase(case.name, rows, want, starts), [want[output], got[output]])
        states = [decide(bundle, score, starts) for score in heard]
        np.testing.assert_array_equal(*states)
        seen |= set(states[0].tolist())
    assert {0, 1} <= seen, "rows on both sides of the limit, or the test says nothing"


@pytest.mark.parametrize("name", ["dense", "fused", "fused-raw"])
def test_row_has_its_bits_wherever_in_memory_and_in_a_batch_it_lies(bundles, name):
    """Rows at addresses 0 to 60 after a cache line, alone and in batches of every size up to 40."""
    engine = open_engine("onnx_cpu", bundles[name])
    x = ROWS_OF[name](bundles[name])["x"][:40]
    whole = engine.infer({"x": x})["score"].copy()
    for shift in range(0, 64, 4):
        room = np.empty(x.nbytes + 128, "u1")
        at = -room.ctypes.data % 64 + shift
        moved = room[at : at + x.nbytes].view(x.dtype).reshape(x.shape)
        moved[:] = x
        assert moved.ctypes.data % 64 == shift
        for size in (1, 7, 40) if shift else range(1, 41):
            first = (shift * 5) % (41 - size)
            alone = engine.infer({"x": moved[first : first + size]})["score"]
            assert alone.tobytes() == whole[first : first + size].tobytes(), f"rows {first} + {size}, shift {shift}"


@pytest.mark.parametrize("channels,length", [(1, 32), (1, 48), (2, 80), (3, 64), (3, 1024), (5, 160), (8, 2048)])
def test_front_end_of_any_layout_gives_a_row_the_same_bits_in_every_batch(bundles, channels, length):
    bundle = replace(bundles["fused"], model=frontends.fused(channels=channels, length=length))
    engine = open_engine("onnx_cpu", bundle)
    x = np.random.default_rng(channels).normal(size=(19, 1, channels, length)).astype("f4")
    whole = engine.infer({"x": x})["score"].copy()
    for first, size in ((i, 1) for i in range(19)):
        assert engine.infer({"x": x[first : first + size]})["score"].tobytes() == whole[first : first + size].tobytes()
    for first, size in ((0, 2), (1, 3), (2, 8), (3, 16), (5, 9)):
        assert engine.infer({"x": x[first : first + size]})["score"].tobytes() == whole[first : first + size].tobytes()
