"""The recursion of rul-ewma: what it averages, how it starts, what a gap does, and who leaks in a split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.recipes.rul_ewma import folds_of, held_out
from engines.recipes.rul_model import normalised
from engines.recipes.rul_normal import fit_normaliser
from engines.recipes.rul_state import CHANNELS, SENSORS, SMOOTHINGS, History, SplitLeaks, State, check_split, lift, run
from tests.unit.engines.rul_fleet import QUICK, REGIMES, fleet


def test_means_start_as_plain_means_and_then_forget():
    history = fleet(1)[0]
    rows = run([history])
    value = np.column_stack([history.rows[:, 4:], lift(history.rows[:, 1:4])])
    for k, a in enumerate(SMOOTHINGS):
        filled = int(1 / a)
        np.testing.assert_allclose(rows.ewma[min(filled, len(value)) - 1, k], value[:filled].mean(axis=0), rtol=1e-12)
    slow, fast = rows.ewma[-1, 0], rows.ewma[-1, -1]
    want = value[:3].mean(axis=0)
    for v in value[3:]:
        want = want + 0.3 * (v - want)
    np.testing.assert_allclose(fast, want, rtol=1e-12)
    assert not np.allclose(slow, fast)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 110), st.integers(1, 6))
def test_deleting_later_rows_changes_no_state_before(stop, engines):
    histories = fleet(engines)
    whole, short = run(histories), run([History(h.name, h.rows[:stop]) for h in histories])
    for i in range(engines):
        for name, array in whole.inputs().items():
            assert np.array_equal(array[whole.owner == i][:stop], short.inputs()[name][short.owner == i])


def test_a_gap_is_remembered_as_the_last_sample_and_changes_nothing_else():
    row = fleet(1)[0].rows
    plain, gapped = State.new(1), State.new(1)
    for i in range(30):
        plain.step(row[i : i + 1])
        gapped.step(row[i : i + 1])
    hole = row[30:31].copy()
    hole[0, 7] = np.nan
    gapped.step(hole)
    assert np.isnan(gapped.last[0, 7]) and gapped.count[0] == 30
    assert np.array_equal(plain.ewma, gapped.ewma) and np.array_equal(plain.same, gapped.same)
    gapped.step(row[31:32])
    assert gapped.count[0] == 31 and np.isfinite(gapped.last).all()


def test_runs_of_one_value_are_counted_per_sensor():
    row = fleet(1)[0].rows[:12].copy()
    row[5:, 4] = row[5, 4]
    same = run([History("a", row)]).same
    assert same[-1, 0] == 7 and (same[-1, 1:] == 1).all()


def test_normaliser_takes_the_regime_out_without_a_label():
    histories = fleet(20, seed=3)
    normaliser = fit_normaliser(histories)
    assert len(normaliser.regimes) == 3
    fresh = run([History(h.name, h.rows[:25]) for h in histories])
    z = normalised(normaliser, fresh)[fresh.count >= 20]
    # fresh engines are below the fleet's mean, and means of 3 samples vary; the regimes differ by hundreds of scales
    assert np.abs(z).max() < 2.5
    assert normaliser.strangeness(REGIMES).max() < 0.1 and normaliser.strangeness(np.array([[30.0, 0.5, 100.0]]))[0] > 1


def test_a_split_with_an_asset_on_both_sides_is_refused_and_named():
    histories = fleet(4)
    check_split(histories[:2], histories[2:])
    with pytest.raises(SplitLeaks, match=r"made/1 on both sides") as caught:
        check_split(histories[:2], histories[1:])
    assert caught.value.names == ("made/1",)
    with pytest.raises(SplitLeaks, match="under-another-name"):  # or by its rows, from anywhere in its life
        check_split(histories[:2], [History("under-another-name", histories[1].rows[50:60])])


def test_folds_hold_whole_assets_and_every_asset_once():
    histories = fleet(9) + fleet(4, seed=1, group="other")
    seen = []
    for _, inside, outside in folds_of(histories, 3, 0):
        assert not set(inside) & set(outside)
        seen += outside
        assert {histories[i].group for i in outside} == {"made", "other"}
    assert sorted(seen) == list(range(13))
    with pytest.raises(SplitLeaks, match="made/0"):
        held_out([*histories[:6], histories[0]], 0, QUICK)


def test_channels_are_the_cycle_the_settings_and_the_sensors():
    assert CHANNELS[0] == "cycles" and CHANNELS[4:] == SENSORS and len(set(CHANNELS)) == 18
