"""What an asset's own normal is: learnt from its first rows, judged by rows that the fit did not see."""

import msgspec
import numpy as np
import pytest

from engines.baselinespec import BaselineSpec, FeatureSpec
from pipeline import baseline
from pipeline.state import Pool
from tests.rig import window_bundle

TWO = (FeatureSpec("rms", "up", log=True), FeatureSpec("level"))


def spec(features=TWO, rows=80, **fields):
    return BaselineSpec(**{"features": features, "rows": rows, "smoothing": 0.2, **fields})


def pool(of, channels=1, assets=1):
    made = Pool("p", window_bundle(), channels, 1, baseline.columns(of, channels))
    for _ in range(assets):
        made.take(0)
    return made


def healthy(n, seed=0, width=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width))
    x[:, 0] = np.exp(0.1 * x[:, 0])
    return x


def feed(of, x, channels=1, usable=None):
    made = pool(of, channels)
    usable = np.ones(len(x), bool) if usable is None else usable
    return made, baseline.step(made, of, np.zeros(len(x), np.int64), x, usable)


def test_rows_of_the_baseline_have_no_score_and_the_next_have_one():
    made, settled = feed(spec(), healthy(200))
    assert settled.calibrating.tolist() == [True] * 80 + [False] * 120
    assert not settled.score[:80].any()
    assert settled.score[80:].min() > 0
    assert [(f.slot, f.row, f.reason) for f in settled.finished] == [(0, 79, "")]
    assert not made.calibration
    assert baseline.warm(made, 0)


def test_features_of_the_whole_asset_are_learnt_whatever_the_number_of_its_channels():
    _, settled = feed(spec(), healthy(200), channels=3)
    assert settled.score[80:].tobytes() == feed(spec(), healthy(200))[1].score[80:].tobytes()


def test_few_healthy_rows_are_over_the_limit_and_a_shift_is():
    over, found = 0, 0
    for seed in range(40):
        x = healthy(1080, seed)
        x[580:, 1] += 3.0
        _, settled = feed(spec(exceedance=1e-3), x)
        over += int((settled.score[80:580] >= 1).sum())
        found += int((settled.score[600:] >= 1).mean() > 0.9)
        assert settled.shares[700:, 1].mean() > 0.8
        assert (settled.z[700:, 1] > 0).all()
    assert over / (40 * 500) < 4e-3
    assert found >= 38


def test_a_side_that_is_no_fault_scores_nothing():
    x = healthy(400, 3)
    x[200:, 0] /= 3.0
    _, settled = feed(spec(), x)
    assert settled.score[200:].max() < 1.5
    x[200:, 0] *= 9.0
    assert feed(spec(), x)[1].score[-1] > 2.0


def test_a_logarithm_makes_factors_steps():
    x = healthy(400, 4)
    x[200:, 0] *= 2.0
    _, settled = feed(spec(combine="rms"), x)
    assert settled.score[-1] > 1.0
    assert settled.shares[-1, 0] > 0.9


def test_a_scale_is_never_below_what_is_worth_acting_on():
    x = healthy(400, 5)
    x[:, 0] = np.exp(1e-4 * np.log(x[:, 0]))
    x[200:, 0] *= 1.01
    assert feed(spec(), x)[1].score[-1] > 5.0
    floored = spec((FeatureSpec("rms", "up", log=True, least_scale=0.05), FeatureSpec("level")))
    assert feed(floored, x)[1].score[200:].max() < 1.5


def test_odd_rows_in_a_calibration_move_no_centre_and_what_they_make_wide_is_suspect():
    x = healthy(80, 6)
    of = spec((FeatureSpec("a"), FeatureSpec("b")))
    clean = baseline.learn(x, of)
    x[[10, 40]] = 1e6
    odd = baseline.learn(x, of)
    assert np.abs((odd.center - clean.center) / clean.scale).max() < 0.5
    assert (odd.scale / clean.scale).max() < 30 * 0.2  # the cut, and one row's weight
    assert "its limit is" in odd.reason


def test_features_that_wander_when_healthy_do_not_hide_those_that_do_not():
    rng = np.random.default_rng(14)
    x, state = rng.normal(size=(600, 2)), 0.0
    for row in x:
        row[0] = state = 0.95 * state + row[0]
    x[400:, 1] += 3.0
    _, settled = feed(spec((FeatureSpec("wanders"), FeatureSpec("steady")), rows=200, fleet_limit=100), x)
    assert settled.shares[450:, 1].mean() > 0.8
    assert (settled.score[450:] >= 1).mean() > 0.9


def test_the_limit_comes_from_rows_that_the_fit_did_not_see():
    """With as many features as rows in a fit, a limit from the same rows would be far too low."""
    of = spec(tuple(FeatureSpec(f"f{i}") for i in range(24)), rows=32, smoothing=1.0, exceedance=1e-2, fleet_limit=1e3)
    over = []
    for seed in range(30):
        x = np.random.default_rng(seed).normal(size=(532, 24))
        over.append((feed(of, x)[1].score[32:] >= 1).mean())
    assert np.mean(over) < 0.05


@pytest.mark.parametrize(("make", "said"), [
    (lambda t: 6.0 * (t >= 40), "a step after row 40"),
    (lambda t: 10.0 * t / 80, "a trend"),
    (lambda t: 5.0 * (t >= 60), "a step after row"),
])
def test_a_calibration_whose_level_moved_is_suspect(make, said):
    x = np.random.default_rng(7).normal(size=(80, 1)) + make(np.arange(80))[:, None]
    of = spec((FeatureSpec("level"),), fleet_limit=1e6, most_move=2.0)
    made, settled = feed(of, x)
    assert said in settled.finished[0].reason
    assert made.table["suspect"][0] == 1


def test_healthy_calibrations_are_not_suspect():
    """Some rows of a moving mean are correlated; only what is large and certain counts."""
    found = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x, state = np.empty((80, 2)), np.zeros(2)
        for row in x:
            state = 0.5 * state + rng.normal(size=2)
            row[:] = state
        found += bool(baseline.learn(x, spec((FeatureSpec("a"), FeatureSpec("b")), most_move=2.0)).reason)
    assert found <= 3


def test_a_limit_far_above_the_fleets_is_suspect():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(80, 1)) * np.where(rng.random((80, 1)) < 0.2, 25.0, 1.0)
    learnt = baseline.learn(x, spec((FeatureSpec("level"),)))
    assert "its limit is" in learnt.reason


def test_a_stuck_sensor_is_left_out_and_nothing_but_stuck_ones_is_suspect():
    x = healthy(80, 9)
    x[:, 1] = 5.0
    learnt = baseline.learn(x, spec())
    assert learnt.kept.tolist() == [True, False]
    assert learnt.reason == ""
    assert "stuck" in baseline.learn(np.full((80, 2), 3.0), spec()).reason
    assert feed(spec(), np.full((200, 2), 3.0))[1].score.tolist() == [0.0] * 200


def test_a_drifting_channel_is_left_out_with_all_its_features():
    of = spec(TWO, rows=100, per_channel=True, stationarity=0.35)
    x = np.concatenate([healthy(300, seed) for seed in (10, 11)], axis=1)
    x[:, 3] += np.arange(300) / 20
    made, settled = feed(of, x, channels=2)
    assert made.table["base_kept"][0].tolist() == [1, 1, 0, 0]
    assert settled.shares.shape == (300, 2)
    assert settled.shares[-1].tolist() == [1.0, 0.0]
    assert of.names(("a", "b")) == ("a.rms", "a.level", "b.rms", "b.level")


def test_rows_that_are_not_usable_teach_nothing_and_change_nothing():
    x = healthy(300, 12)
    usable = np.ones(300, bool)
    usable[[5, 100, 250]] = False
    x[30] = np.nan
    made, settled = feed(spec(), x, usable=usable)
    assert not settled.calibrating[[5, 30]].any()
    assert settled.finished[0].row == 81
    assert settled.score[[100, 250]].tolist() == [0.0, 0.0]
    keep = usable.copy()
    keep[30] = False
    other, again = feed(spec(), x[keep])
    assert again.score.tobytes() == settled.score[keep].tobytes()
    assert made.table["base_ewma"].tobytes() == other.table["base_ewma"].tobytes()


def test_a_reboot_keeps_the_baseline_and_new_channels_do_not():
    made, _ = feed(spec(), healthy(200))
    baseline.restart(made, 0, recalibrate=False)
    assert baseline.warm(made, 0)
    assert not made.table["base_ewma"].any()
    baseline.step(made, spec(), np.zeros(5, np.int64), healthy(5), np.ones(5, bool))
    baseline.restart(made, 0, recalibrate=True)
    assert not baseline.warm(made, 0)
    assert made.table["base_scale"][0].tolist() == [1.0, 1.0]


def test_a_historical_lane_starts_from_the_live_baseline_and_not_from_half_a_one():
    of = spec()
    made = pool(of, assets=3)
    slot = np.repeat(np.arange(2), (200, 40))
    x = healthy(240)
    baseline.step(made, of, slot, x, np.ones(240, bool))
    baseline.inherit(made, 0, 2)
    baseline.restart(made, 0, recalibrate=False)  # a lane begins at rest, as after a reboot
    after = baseline.step(made, of, np.array([0, 2]), healthy(1, 99)[[0, 0]], np.ones(2, bool))
    assert after.score[0] == after.score[1] > 0
    baseline.inherit(made, 1, 2)
    assert made.table["collected"][2] == 0
    assert not baseline.warm(made, 2)


def test_faults_of_a_table_are_named():
    twice = spec((FeatureSpec("a"), FeatureSpec("a")), rows=10, smoothing=0.05, folds=8)
    assert len(list(twice.faults())) == 3
    assert not list(spec().faults())
    assert msgspec.convert({"features": [{"name": "a"}], "rows": 8}, BaselineSpec).width(5) == 1


def test_learning_does_not_depend_on_how_the_rows_lie_in_memory():
    x = np.asfortranarray(healthy(80, 13))
    a, b = baseline.learn(x, spec()), baseline.learn(x[:, :].copy(order="C"), spec())
    assert a.limit == b.limit
    assert a.ewma.tobytes() == b.ewma.tobytes()
