"""Calibration: what holds for any rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engines.bundle import MewmaSpec
from pipeline.calibrate import Baseline, calibrate, ewma_step

#: As short as a recipe may be, so that many examples run.
RECIPE = MewmaSpec(smoothing=0.4, calibration_rows=64, folds=4)
SHAPE = st.tuples(st.integers(64, 70), st.integers(1, 5))
ANY = arrays.arrays(np.float64, SHAPE, elements=st.floats(-1e300, 1e300), fill=st.nothing())
#: Rows with more sense in them: noise with a level, a drift and a spread per channel.
SEEDS = st.integers(0, 2**32 - 1)


def rows_of(seed: int, n: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 7))
    noise = rng.normal(size=(n, channels)) @ (np.eye(channels) + rng.normal(size=(channels, channels)) / 2)
    return rng.normal(size=channels) * 100 + 10.0 ** rng.integers(-3, 4, channels) * noise


def bits(baseline: Baseline) -> tuple[object, ...]:
    return tuple(
        np.asarray(getattr(baseline, key)).tobytes()
        for key in ("center", "scale", "zmean", "whitening", "kept", "limit", "ewma")
    ) + (baseline.status, baseline.reason)


def t2(baseline: Baseline, rows: np.ndarray) -> np.ndarray:
    """T2 of each of `rows` taken as a state of the recursion, in standard units."""
    return np.sum(((rows - baseline.zmean) @ baseline.whitening.T) ** 2, axis=1)


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_any_finite_rows_give_a_finite_baseline_that_is_good_or_says_why_not(rows):
    baseline = calibrate(rows, RECIPE)
    for values in (baseline.center, baseline.scale, baseline.whitening, baseline.limit, baseline.ewma):
        assert np.isfinite(values).all()
    assert (baseline.scale > 0).all()
    assert baseline.limit > 0
    assert (baseline.status == "good") == (baseline.reason == "")
    assert baseline.kept.any() or baseline.status == "suspect"


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, allowed=st.lists(st.booleans(), min_size=6, max_size=6))
def test_dropped_channels_have_no_part_in_the_chart(seed, allowed):
    rows = rows_of(seed)
    mask = np.array(allowed[: rows.shape[1]])
    baseline = calibrate(rows, RECIPE, mask)
    assert not baseline.kept[~mask].any()
    assert not baseline.whitening[~baseline.kept].any()
    assert not baseline.whitening[:, ~baseline.kept].any()
    assert (np.diagonal(baseline.whitening)[baseline.kept] > 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_same_rows_give_the_same_bits_in_any_memory_layout(seed):
    rows = rows_of(seed)
    wanted = bits(calibrate(rows, RECIPE))
    shifted = np.empty(rows.size + 1)[1:].reshape(rows.shape)
    shifted[:] = rows
    for same in (np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2], shifted, rows.copy()):
        assert bits(calibrate(same, RECIPE)) == wanted


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_calibration_leaves_its_rows_alone(seed):
    rows = rows_of(seed)
    before = rows.tobytes()
    baseline = calibrate(rows, RECIPE)
    baseline.ewma[:] = 7
    assert rows.tobytes() == before


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, powers=st.lists(st.integers(-8, 8), min_size=6, max_size=6))
def test_units_do_not_matter(seed, powers):
    """By powers of two the arithmetic is exact, so it is the same chart to the bit."""
    rows = rows_of(seed)
    factor = 2.0 ** np.array(powers[: rows.shape[1]])
    plain, scaled = calibrate(rows, RECIPE), calibrate(rows * factor, RECIPE)
    assert bits(scaled)[3:] == bits(plain)[3:]
    assert (scaled.scale == plain.scale * np.where(plain.scale == 1, 1, factor)).all()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, order=st.permutations(range(6)))
def test_order_of_channels_does_not_matter(seed, order):
    rows = rows_of(seed)
    shuffled = [i for i in order if i < rows.shape[1]]
    plain, other = calibrate(rows, RECIPE), calibrate(rows[:, shuffled], RECIPE)
    assert (other.kept == plain.kept[shuffled]).all()
    np.testing.assert_allclose(other.limit, plain.limit, rtol=1e-7)
    probe = np.random.default_rng(1).normal(size=(20, rows.shape[1]))
    np.testing.assert_allclose(t2(other, probe[:, shuffled]), t2(plain, probe), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_limit_rises_when_fewer_healthy_rows_may_exceed_it(seed):
    rows = rows_of(seed)
    limits = [calibrate(rows, MewmaSpec(smoothing=0.4, calibration_rows=64, folds=4, exceedance=e)).limit
              for e in (1e-2, 1e-4, 1e-6, 1e-9)]
    assert limits == sorted(limits)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, cuts=st.sets(st.integers(1, 11)), smoothing=st.floats(0.01, 1.0))
def test_recursion_has_the_same_bits_for_any_grouping_of_assets(seed, cuts, smoothing):
    rng = np.random.default_rng(seed)
    state, x, center = rng.normal(size=(3, 12, 5))
    scale = rng.uniform(0.1, 9, (12, 5))
    whole = ewma_step(state, x, center, scale, smoothing)
    for part in np.split(rng.permutation(12), sorted(cuts)):
        alone = ewma_step(state[part], x[part], center[part], scale[part], smoothing)
        assert alone.tobytes() == whole[part].tobytes()
