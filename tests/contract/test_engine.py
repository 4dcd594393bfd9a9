"""What every engine promises. A new engine is one more name in `engines.ENGINES` and passes all of this."""

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import ENGINES, Bundle, Engine, EngineError, TensorSpec, load_bundle, open_engine, shipped_bundles
from engines.bundle import OutputSpec
from tests import frontends, models

ROWS = 64


def window_rows(seed: int, n: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(n, 2, 4, 16)).astype("f4")}


def mewma_rows(seed: int, n: int, channels: int = 5) -> dict[str, np.ndarray]:
    """Rows as charts make them: one channel dropped, a second row at its mean, a third beyond every limit."""
    rng = np.random.default_rng(seed)
    whitening = rng.normal(size=(n, channels, channels))
    if channels > 1:
        whitening[:, 1] = whitening[:, :, 1] = 0
    z = rng.normal(size=(n, channels))
    z[1 % n], z[2 % n] = 0, 1e200
    return {"z": z, "center": np.zeros((n, channels)), "whitening": whitening, "limit": rng.uniform(5, 50, n)}


def signals(seed: int, n: int) -> dict[str, np.ndarray]:
    """Windows of seven channels in two frames; one channel stands still, one is far from 0, one is mad."""
    x = np.random.default_rng(seed).normal(size=(n, 2, 7, 16)).astype("f4")
    x[:, :, 1], x[:, :, 2], x[2 % n, 0, 3, 4] = 3, x[:, :, 2] + 1e4, 1e15
    return {"x": x}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "dense": models.load(models.bundle(folder / "dense", models.dense(), match={"max_channels": 4})),
        "picky": models.load(models.bundle(folder / "picky", models.picky(), rows=models.picky_rows(), threshold=1.5,
                                          window={"size": 1, "hop": 1})),
        "fused": models.load(models.bundle(folder / "fused", frontends.fused(), threshold=3.0,
                                           match={"max_channels": 4})),
        **{name: load_bundle(path) for name, path in shipped_bundles().items()},
    }


CASES = [(engine, model) for engine in ENGINES for model in ("dense", "fused", "anomaly-mewma", "anomaly-convae")]
rows_of = {"dense": window_rows, "fused": window_rows, "anomaly-mewma": mewma_rows, "anomaly-convae": signals}


@pytest.fixture(scope="module")
def engines(bundles) -> Iterator[dict[tuple[str, str], Engine]]:
    opened = {(e, b): open_engine(e, bundles[b]) for e in ENGINES for b in bundles}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.mark.parametrize(("engine", "model"), CASES)
def test_engine_names_itself_its_inputs_and_its_outputs(engines, engine, model):
    opened = engines[engine, model]
    assert opened.name == engine
    if model in ("dense", "fused"):
        assert opened.inputs == (TensorSpec("x", "f4", (None, 4, None)),)
        assert opened.outputs == (TensorSpec("score", "f4", ()),)
    elif model == "anomaly-convae":
        assert opened.inputs == (TensorSpec("x", "f4", (None, None, None)),)
        assert [o.name for o in opened.outputs] == ["score", "features"]
    else:
        assert {i.name: (i.dtype, len(i.shape)) for i in opened.inputs} == {
            "z": ("f8", 1), "center": ("f8", 1), "whitening": ("f8", 2), "limit": ("f8", 0)}  # fmt: skip
        assert [o.name for o in opened.outputs] == ["score", "contributions"]


@pytest.mark.parametrize(("engine", "model"), CASES)
@pytest.mark.parametrize("n", [1, 2, 257, 1024])
def test_engine_returns_arrays_as_its_outputs_say(engines, engine, model, n):
    opened, rows = engines[engine, model], rows_of[model](1, n)
    result = opened.infer(rows)
    assert list(result) == [o.name for o in opened.outputs]
    for spec in opened.outputs:
        assert result[spec.name].dtype == np.dtype(spec.dtype)
        assert len(result[spec.name]) == n
        spec.check(result[spec.name])
        assert np.isfinite(result[spec.name]).all()


@pytest.mark.parametrize(("engine", "model"), CASES)
@settings(max_examples=60, deadline=None)
@given(chosen=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS))
def test_row_alone_has_the_bits_of_the_row_in_any_batch(engines, engine, model, chosen):
    opened, rows = engines[engine, model], rows_of[model](2, ROWS)
    batch = {name: copy[:] for name, copy in opened.infer({name: a[chosen] for name, a in rows.items()}).items()}
    for at in {0, len(chosen) // 2, len(chosen) - 1}:
        row = chosen[at]
        alone = opened.infer({name: a[row : row + 1] for name, a in rows.items()})
        for name, values in batch.items():
            assert values[at].tobytes() == alone[name][0].tobytes(), f"{name} of row {row} at {at} of {len(chosen)}"


@pytest.mark.parametrize("name", shipped_bundles())
def test_row_of_a_shipped_bundle_has_its_bits_alone_and_in_any_batch(bundles, engines, name):
    for case in bundles[name].golden.cases:
        opened, n = engines["onnx_cpu", name], case.rows
        whole = {key: array.copy() for key, array in opened.infer(case.inputs).items()}
        for size in (1, 2, 3, 7, 17):
            for first in range(0, n - size + 1, max(n // 8, size)):
                part = opened.infer({key: array[first : first + size] for key, array in case.inputs.items()})
                for key, array in whole.items():
                    at = f"{case.name}: {key} of rows {first} + {size}"
                    assert part[key].tobytes() == array[first : first + size].tobytes(), at


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 8, 13, 31, 32])
def test_chart_row_has_the_same_bits_at_every_place_for_any_number_of_channels(engines, engine, channels):
    """Rows of odd length begin at odd addresses: a runtime that adds by alignment shows here."""
    opened, rows = engines[engine, "anomaly-mewma"], mewma_rows(9, ROWS, channels)
    whole = {name: a.copy() for name, a in opened.infer(rows).items()}
    for i in range(ROWS):
        alone = opened.infer({name: a[i : i + 1] for name, a in rows.items()})
        assert all(alone[name][0].tobytes() == a[i].tobytes() for name, a in whole.items()), f"row {i}"


@pytest.mark.parametrize(("engine", "model"), CASES)
def test_engine_gives_the_same_bits_when_called_again(engines, engine, model):
    opened, rows = engines[engine, model], rows_of[model](3, 33)
    first = {name: a.tobytes() for name, a in opened.infer(rows).items()}
    opened.infer(rows_of[model](4, 7))
    assert {name: a.tobytes() for name, a in opened.infer(rows).items()} == first


@pytest.mark.parametrize(("engine", "model"), CASES)
def test_engine_leaves_its_inputs_alone_and_takes_any_memory_layout(engines, engine, model):
    opened, rows = engines[engine, model], rows_of[model](5, 9)
    plain = {name: a.tobytes() for name, a in opened.infer(rows).items()}
    odd = {name: np.repeat(a, 2, axis=0)[::2] for name, a in rows.items()}
    before = {name: a.tobytes() for name, a in odd.items()}
    assert {name: a.tobytes() for name, a in opened.infer(odd).items()} == plain
    assert {name: a.tobytes() for name, a in odd.items()} == before


def wrong(rows: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    first = next(iter(rows))
    array = rows[first]
    yield "dtype", {**rows, first: np.zeros(array.shape, "f8" if array.dtype == "f4" else "f4")}
    yield "byte order", {**rows, first: array.astype(array.dtype.newbyteorder(">"))}
    yield "rank", {**rows, first: array[..., None]}
    yield "channels", {**rows, first: array[..., :1, :] if array.ndim == 4 else array[..., :1]}
    yield "no rows", {name: a[:0] for name, a in rows.items()}
    yield "missing", {name: a for name, a in rows.items() if name != first}
    yield "unknown", {**rows, "y": array}


@pytest.mark.parametrize(("engine", "model"), CASES)
def test_engine_refuses_inputs_that_do_not_fit_and_goes_on(engines, engine, model):
    opened, rows = engines[engine, model], rows_of[model](6, 4)
    good = {name: a.tobytes() for name, a in opened.infer(rows).items()}
    for what, inputs in wrong(rows):
        if what == "channels" and opened.inputs[0].shape == (None, None, None):
            continue  # it takes any number of them
        with pytest.raises(EngineError, match="row" if what == "no rows" else "input '"):
            opened.infer(inputs)
    assert {name: a.tobytes() for name, a in opened.infer(rows).items()} == good


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_refuses_inputs_of_different_batch_sizes(engines, engine):
    rows = mewma_rows(7, 4)
    with pytest.raises(EngineError, match="batch"):
        engines[engine, "anomaly-mewma"].infer({**rows, "limit": rows["limit"][:1]})


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_that_fails_on_one_row_scores_the_others_afterwards(engines, engine):
    opened = engines[engine, "picky"]
    rows = np.array([0, 3, 9, 1], "f4").reshape(-1, 1, 1, 1)
    with pytest.raises(EngineError):
        opened.infer({"x": rows})
    with pytest.raises(EngineError):
        opened.infer({"x": rows[2:3]})
    assert opened.infer({"x": rows[[0, 1, 3]]})["score"].tolist() == [0.5, 3.5, 1.5]


@pytest.mark.parametrize(("engine", "model"), CASES)
@pytest.mark.parametrize("batch", [1, 256])
def test_engine_warms_up_without_being_told_shapes(engines, engine, model, batch):
    engines[engine, model].warm_up(batch)


@pytest.mark.parametrize(("engine", "model"), CASES)
def test_close_is_idempotent_and_a_closed_engine_says_so(bundles, engine, model):
    opened = open_engine(engine, bundles[model])
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match="closed"):
        opened.infer(rows_of[model](8, 2))


@pytest.mark.parametrize(("model", "tolerance"), [("dense", 1e-5), ("fused", 1e-5), ("anomaly-mewma", 1e-12)])
@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "reference"])
def test_engine_agrees_with_the_reference(engines, engine, model, tolerance):
    for seed in range(20):
        rows = rows_of[model](100 + seed, 1 + 3 * seed)
        ours, oracle = engines[engine, model].infer(rows), engines["reference", model].infer(rows)
        for name, values in oracle.items():
            np.testing.assert_allclose(ours[name], values, rtol=tolerance, atol=tolerance)


def test_unknown_engine_is_refused_with_the_setting_for_a_cpu(bundles):
    known = "onnx_cpu, reference, tensorrt, tensorrt_rtx"
    wanted = rf"'tpu' is unknown, there are {known}; .*\[engine\] name = \"onnx_cpu\""
    with pytest.raises(EngineError, match=wanted):
        open_engine("tpu", bundles["dense"])


def test_engine_without_its_package_is_refused_with_the_setting_for_a_cpu(bundles, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "engines.reference", None)
    with pytest.raises(EngineError, match=r"'reference' cannot be loaded.*\[engine\] name = \"onnx_cpu\""):
        open_engine("reference", bundles["dense"])


@pytest.mark.parametrize("engine", ENGINES)
def test_model_whose_outputs_are_not_the_passports_is_refused(tmp_path, engine):
    made = models.load(models.bundle(tmp_path / "made", models.dense()))
    made = replace(made, spec=msgspec.structs.replace(made.spec, outputs=OutputSpec("anomaly")))
    with pytest.raises(EngineError, match=r"has outputs \['score'\], its passport names 'anomaly'"):
        open_engine(engine, made)
