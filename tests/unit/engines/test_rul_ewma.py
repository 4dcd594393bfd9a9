"""rul-ewma end to end on a made-up fleet: it learns, is honest, says when it does not know, and why."""

import dataclasses

import numpy as np
import onnxruntime
import pytest

from engines.recipes import rul_bundle
from engines.recipes.rul_ewma import fit, fit_once
from engines.recipes.rul_graph import OUTPUTS, build
from engines.recipes.rul_model import BAD, CAP, COUNTER, FEATURES, FEW, KNOWN, OUTSIDE, forecast
from engines.recipes.rul_state import CHANNELS, SENSORS, History, run
from tests.unit.engines.rul_fleet import QUICK, fleet

pytest.importorskip("jax", reason="the extra `train` is not installed")


@pytest.fixture(scope="module")
def fitted():
    return fit(fleet(30), 0, QUICK)[0]


@pytest.fixture(scope="module")
def session(fitted):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(build(fitted), options, providers=["CPUExecutionProvider"])


def ask(session, rows):
    inputs = rows if isinstance(rows, dict) else rows.inputs()
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))


def end(session, history):
    return {name: array[-1] for name, array in ask(session, run([history])).items()}


def error(model, histories):
    rows, truth = run(histories), np.concatenate([np.minimum(h.rul(), CAP) for h in histories])
    return float(np.sqrt(((forecast(model, rows).rul - truth) ** 2).mean())), float(truth.std())


def changed(history, channel, values):
    rows = history.rows.copy()
    rows[:, CHANNELS.index(channel)] = values
    return dataclasses.replace(history, rows=rows)


def test_learns_what_the_sensors_tell_and_nothing_from_shuffled_labels(fitted):
    unseen = fleet(12, seed=7)
    good, chance = error(fitted, unseen)
    assert good < 0.5 * chance
    lives = np.random.default_rng(0).permutation([float(v) for v in np.linspace(0, 400, 30)])
    ages = np.random.default_rng(1)
    # wrong ends, and ages that say nothing: what is left is chance
    shuffled = []
    for h, life in zip(fleet(30), lives, strict=True):
        rows = h.rows.copy()
        rows[:, 4:] = ages.permutation(rows[:, 4:])
        rows[:, 0] += int(ages.integers(0, 200))
        shuffled.append(dataclasses.replace(h, rows=rows, remaining=float(life)))
    assert error(fit_once(shuffled, 0, QUICK), unseen)[0] > 0.9 * chance


def test_scoring_needs_no_label_and_training_refuses_to_go_without(fitted, session):
    unseen = fleet(3, seed=7)
    blind = [dataclasses.replace(h, remaining=None) for h in unseen]
    assert np.array_equal(ask(session, run(unseen))["rul"], ask(session, run(blind))["rul"])
    with pytest.raises(ValueError, match=r"made/0: the remaining life is not known"):
        fit_once(blind, 0, QUICK)


def test_graph_says_what_numpy_says(fitted, session):
    histories = fleet(8, seed=9)
    histories[0].rows[60, 9] = np.nan
    histories[1].rows[40:, 1] = 30.0
    rows = run([*histories, histories[2].joined(70)])
    told, want = ask(session, rows), forecast(fitted, rows)
    for name in ("rul", "p10", "p50", "p90"):
        np.testing.assert_allclose(told[name], getattr(want, name), atol=1e-3)
    assert np.array_equal(told["unknown"], want.unknown) and set(want.unknown) == {KNOWN, FEW, OUTSIDE, BAD}
    assert all(np.isfinite(array).all() for array in told.values())
    assert (told["p10"] <= told["p50"]).all() and (told["p50"] <= told["p90"]).all() and told["p90"].max() <= CAP
    sure = told["unknown"] == KNOWN
    np.testing.assert_allclose(told["score"][sure], 50 / np.maximum(told["rul"][sure], 5), rtol=1e-6)
    assert not told["score"][~sure].any()
    assert (told["p10"] <= told["rul"]).all() and (told["rul"] <= told["p90"]).all()
    assert (told["p10"][~sure] == 0).all() and (told["p90"][~sure] == CAP).all()


def test_a_row_alone_has_the_bits_of_the_row_in_any_batch(session):
    rows = run(fleet(2, seed=9)).inputs()
    whole = ask(session, rows)
    for size in (1, 2, 3, 7, 16, 33):
        for start in range(0, 160, size):
            part = ask(session, {name: array[start : start + size] for name, array in rows.items()})
            for name in OUTPUTS:
                assert part[name].tobytes() == whole[name][start : start + size].tobytes(), (name, size, start)


def test_deleting_later_rows_changes_no_earlier_answer(session):
    history = fleet(1, seed=5)[0]
    whole = ask(session, run([history]))
    for stop in (1, 40, 111):
        short = ask(session, run([History(history.name, history.rows[:stop])]))
        assert all(np.array_equal(short[name], whole[name][:stop]) for name in OUTPUTS)


def test_interval_holds_what_it_says_on_engines_not_seen(fitted):
    unseen = fleet(40, seed=11)
    rows, truth = run(unseen), np.concatenate([np.minimum(h.rul(), CAP) for h in unseen])
    said = forecast(fitted, rows)
    counted = rows.count >= 20
    inside = (truth >= said.p10) & (truth <= said.p90)
    assert 0.7 < inside[counted].mean() < 0.95
    worn = counted & (truth <= 50)
    assert 0.6 < inside[worn].mean() < 0.95


def test_an_engine_joined_late_has_an_interval_that_holds_as_well(fitted):
    unseen = [h.joined(int(n)) for h, n in zip(fleet(40, seed=11), np.random.default_rng(2).integers(20, 90, 40),
                                               strict=True)]
    rows, truth = run(unseen), np.concatenate([np.minimum(h.rul(), CAP) for h in unseen])
    said = forecast(fitted, rows)
    answered = said.unknown == KNOWN
    inside = (truth >= said.p10) & (truth <= said.p90)
    assert answered.mean() > 0.3 and 0.7 < inside[answered].mean() < 0.95
    born, late = (fitted.band(np.full(3, 50.0), np.full(3, missed)) for missed in (0.0, 30.0))
    half = fitted.band(np.full(3, 50.0), np.full(3, 15.0))
    np.testing.assert_allclose(half, (np.add(born, late)) / 2)


def test_short_histories_say_so(session):
    history = fleet(1, seed=5)[0]
    told = ask(session, run([history]))
    assert (told["unknown"][:19] == FEW).all() and (told["unknown"][19:] == KNOWN).all()
    late = ask(session, run([history.joined(60)]))
    # where wear shows fewer samples are enough
    enough = np.arange(1, len(late["rul"]) + 1) >= np.interp(late["rul"], [20, 60], [40, 120])
    assert np.array_equal(late["unknown"] == KNOWN, enough) and np.array_equal(late["unknown"] == FEW, ~enough)
    assert not enough[:39].any() and enough[:119].any() and enough[-1]
    slightly = ask(session, run([history.joined(10)]))["unknown"]
    assert slightly[38] == FEW and slightly[39] == KNOWN


def test_a_counter_of_cycles_may_begin_at_zero(session):
    history = fleet(1, seed=5)[0]
    rows = history.rows.copy()
    rows[:, 0] -= rows[0, 0]
    told = ask(session, run([History("from 0", rows)]))["unknown"]
    assert (told[19:] == KNOWN).all()


def test_bad_input_is_never_a_confident_number(session):
    history = fleet(1, seed=5)[0]
    last = history.rows[-1, CHANNELS.index("T50")]
    holes = history.rows[:, CHANNELS.index("T50")].copy()
    holes[-1] = np.nan
    cases = {
        "missing": (changed(history, "T50", holes), BAD),
        "constant": (changed(history, "T50", last), BAD),
        "never measured": (changed(history, "T50", np.nan), BAD),
        "other unit": (changed(history, "T50", history.rows[:, CHANNELS.index("T50")] / 1.8), OUTSIDE),
        "unseen regime": (changed(history, "altitude", 30.0), OUTSIDE),
        "older than any": (changed(history, "cycles", history.rows[:, 0] + 600), OUTSIDE),
        "frames counted as cycles": (changed(history, "cycles", 1.0), COUNTER),
    }
    for name, (bad, why) in cases.items():
        told = end(session, bad)
        assert told["unknown"] == why, name
        assert (told["p10"], told["p90"], told["score"]) == (0, CAP, 0), name
    assert end(session, history)["unknown"] == KNOWN


def test_one_regime_is_enough_to_train_on():
    model = fit_once(fleet(10, regimes=1), 0, QUICK)
    assert len(model.normaliser.regimes) == 1
    rows = run(fleet(3, seed=4, regimes=1)[:1])
    assert np.isfinite(forecast(model, rows).rul).all()


def test_contributions_name_the_sensors_that_moved(session):
    fleet_, parts = fleet(6, seed=21), []
    for history in fleet_:
        told = end(session, history)
        parts.append(told["contributions"])
    mean = np.mean(parts, axis=0)
    np.testing.assert_allclose(np.sum(parts, axis=1), 1, atol=1e-5)
    assert not mean[:4].any()
    moving = np.resize([True, True, False], len(SENSORS))
    assert mean[4:][moving].sum() > 0.9


def test_same_seed_same_bytes_and_bundle_on_disk(tmp_path, fitted):
    quick = dataclasses.replace(QUICK, net=dataclasses.replace(QUICK.net, steps=60))
    first, again, other = (build(fit(fleet(9), seed, quick)[0]) for seed in (0, 0, 1))
    assert first == again != other
    assert fitted.parameters < 20_000
    card = dict.fromkeys(("purpose", "protocol", "figures", "limits", "failures"), "made for a test")
    rul_bundle.write(tmp_path, fitted, fleet(12, seed=2), card, {"made": "0" * 64})
    passport = (tmp_path / "model.toml").read_text()
    assert 'kind = "ewma"' in passport and (tmp_path / "model.onnx").stat().st_size < 200_000
    assert (tmp_path / "golden.msgpack").stat().st_size > 0
    assert fitted.layers[0][0].shape[1] == FEATURES
