"""Drift in the flow: what is told, for any cut of the stream and over a crash, and what ends it."""

from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import pytest

from engines.bundle import Bundle
from engines.driftspec import DriftSpec
from pipeline import checkpoint, drift, kinds, terms
from pipeline.checkpoint import encode
from pipeline.succession import Succession
from schemas import Alert
from schemas.codec import encode_alert
from tests.rig import Rig, birth, frame, mewma_bundle, window_bundle
from tests.unit import test_baseline_flow

SPEC = DriftSpec(input="z", every=4, reference=32, window=16, bins=4, psi=1.5, restore=2, widen=1.5)
ASSETS = [birth("d0"), birth("d1")]
LEARNT = 32  # frames of two samples in the calibration
REFERENCE = 5 + 2 * 32 * 4  # rows until it is complete, the off-delay before the first included


def bundle(spec: DriftSpec | None = SPEC, version: str = "1.0.0") -> Bundle:
    of = mewma_bundle(rows=64, on=(3, 4), off=5, deadband=0.1)
    return replace(of, spec=msgspec.structs.replace(of.spec, drift=spec, version=version))


@cache
def log(shift: float = 1.2, away: tuple[int, int] = (400, 10**9), n: int = 700, seed: int = 0) -> tuple[bytes, ...]:
    """Frames of both assets in turn; the first channel of d0 is elsewhere from frame to frame of `away`."""
    rng = np.random.default_rng(seed)
    out = []
    for seq in range(n):
        values = rng.normal(size=(2, 2, 2))
        if away[0] <= seq < away[1]:
            values[0, 0] += shift
        out += [frame(ASSETS[k], seq, values[k]) for k in range(2)]
    return tuple(out)


def play(values: tuple[bytes, ...], edges: list[int], of: Bundle | None = None, **settings: int) -> Rig:
    rig = Rig.make(of or bundle(), ASSETS, **settings)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        rig.poll(values[a:b], ts_ms=[1000 + i for i in range(a, b)])
    rig.drain()
    return rig


def said(rig: Rig, rule: str = "drift") -> list[Alert]:
    return [a for a in rig.alerts if a.rule == rule]


def test_a_drift_is_told_once_and_alerts_meanwhile_are_provisional_by_a_wider_limit() -> None:
    rig = play(log(), [0, 1400])
    (told,) = said(rig)
    assert (told.asset, told.state, told.severity, told.iso13374_block) == ("d0", "raised", "low", "HA")
    assert told.provisional and not told.annunciate and "annunciate" in (told.annunciate_why_not or "")
    assert told.contributions[0].channel == "a" and told.score > 1.0 and LEARNT + REFERENCE < told.seq < 700
    assert "`kizashi calibrate d0`" in told.why and "1.5 x" in told.why
    limits = {limit for a in rig.effects.assessments for limit in a.limit if a.asset == "d0"}
    assert limits == {1.0, 1.5}
    assert {limit for a in rig.effects.assessments for limit in a.limit if a.asset == "d1"} == {1.0}
    rig.poll([frame(ASSETS[0], 700 + k, 50.0) for k in range(8)], ts_ms=2500)
    rig.drain()
    (alert,) = said(rig, "anomaly")[:1]
    assert alert.provisional and alert.threshold == 1.5 and "1.5 x the usual one because the asset drifts" in alert.why


def test_messages_have_the_same_bytes_however_the_stream_is_cut() -> None:
    values, end = log(away=(400, 600), n=1000), 2000
    rng = np.random.default_rng(0)
    runs = [play(values, [0, end], max_size=64), play(values, list(range(end + 1)), max_size=1)]
    for size in (2, 3, 8):
        runs.append(play(values, sorted({0, end, *rng.integers(1, end, 20).tolist()}), max_size=size))
    bytes_of = [[encode_alert(a) for a in said(rig)] for rig in runs]
    assert len(bytes_of[0]) == 2 and all(b == bytes_of[0] for b in bytes_of)
    rows = [sorted((a.asset, *row) for a in r.effects.assessments for row in zip(a.seq, a.limit, a.state, strict=True))
            for r in runs]
    assert all(r == rows[0] for r in rows)


def test_a_drift_ends_when_the_old_distribution_is_back() -> None:
    raised, cleared = said(play(log(away=(400, 600), n=1000), [0, 2000]))
    assert cleared.alert_id == raised.alert_id and (cleared.state, cleared.revision) == ("cleared", 2)
    assert not cleared.active and cleared.t_cleared == cleared.t_last > raised.t_raised
    assert "distributed as in its first rows again" in cleared.why


def test_a_new_baseline_ends_a_drift_with_its_first_row() -> None:
    rig = play(log(), [0, 1400])
    pool, slot = rig.part().order[0], 0
    kinds.restart(pool, slot, recalibrate=True)
    assert not pool.table["drifting"][slot] and pool.table["band"][slot] == 1.0 and pool.table["drift_seen"][slot] == 0
    rng = np.random.default_rng(1)
    rig.poll([frame(ASSETS[0], 700 + k, rng.normal(size=(2, 2))) for k in range(LEARNT)], ts_ms=2500)
    rig.drain()
    assert len(said(rig)) == 1
    rig.poll([frame(ASSETS[0], 700 + LEARNT, 0.0)], ts_ms=2600)
    rig.drain()
    assert [(a.state, a.why) for a in said(rig)][1:] == [("cleared", "the asset has a new baseline")]
    rig.totals()


def test_an_asset_that_is_retired_leaves_no_drift_open() -> None:
    rig = play(log(), [0, 1400])
    rig.settle(rig.flow.retire("d0", ASSETS[0].birth_id))
    assert [a.state for a in said(rig)] == ["raised", "cleared"]


def test_a_crash_changes_nothing_of_a_drift() -> None:
    values, cut = log(away=(400, 600), n=1000), 1330
    want = play(values, [0, 2000])
    first = play(values, [0, cut])
    snap = checkpoint.take(first.part(), "m1", 1)
    stored = {key: encode(r) for key, r in snap.blocks} | {terms.MANIFEST: encode(snap.manifest)}
    second = Rig.make(bundle(), ASSETS)
    done = checkpoint.restore(0, stored, second.flow.seats.new_pool, 0)
    second.flow.adopt(done.partition, 0.0)
    assert done.position == cut and (0, "drift") in done.partition.order[0].open
    second.poll(values[cut:], ts_ms=[1000 + i for i in range(cut, 2000)])
    second.drain()
    assert [encode_alert(a) for a in said(first) + said(second)] == [encode_alert(a) for a in said(want)]


@pytest.mark.parametrize("spec", [None, msgspec.structs.replace(SPEC, every=2)])
def test_another_version_starts_without_the_drifts_of_the_old_one(spec: DriftSpec | None) -> None:
    rig = play(log(), [0, 1400])
    new = bundle(spec, "1.1.0")
    rig.flow.successions["mew"] = Succession(new)
    rng = np.random.default_rng(2)
    for seq in range(700, 740):
        rig.poll([frame(a, seq, rng.normal(size=(2, 2))) for a in ASSETS], ts_ms=2400 + seq)
        rig.drain()
    effects = rig.flow.succeed(new, rig.engine.inputs)
    assert [(a.rule, a.state) for a in effects.alerts] == [("drift", "cleared")]
    assert "mew 1.1.0 judges the asset now" in effects.alerts[0].why
    assert (0, "drift") not in rig.part().order[0].open


def test_without_the_table_nothing_of_it_is_kept_and_old_state_keeps_its_name() -> None:
    plain, drifting = bundle(None), bundle()
    assert plain.state_hash(2, 2) == mewma_bundle(rows=64).state_hash(2, 2) != drifting.state_hash(2, 2)
    wider = bundle(msgspec.structs.replace(SPEC, widen=2.0, psi=3.0))
    assert wider.state_hash(2, 2) == drifting.state_hash(2, 2)
    names = {c.name for c in drift.columns(SPEC, 2)}
    assert names.isdisjoint(c.name for c in kinds.new_pool("k", plain, 2, 2, None).table.columns)
    assert names <= {c.name for c in kinds.new_pool("k", drifting, 2, 2, None).table.columns}


def test_of_windows_the_mean_of_each_channel_is_watched() -> None:
    of = window_bundle(4, 2, threshold=4.0, on=(2, 3), off=5, deadband=0.1)
    spec = msgspec.structs.replace(SPEC, input="x", psi=2.0)
    rig = play(log(shift=1.5), [0, 1400], replace(of, spec=msgspec.structs.replace(of.spec, drift=spec)))
    (told,) = [a for a in said(rig) if a.state == "raised"]
    assert told.asset == "d0" and told.contributions[0].channel == "a"


def test_of_a_baseline_its_features_are_watched_by_their_names() -> None:
    spec = DriftSpec(input="features", every=2, reference=64, window=32, psi=0.9, trip=500.0)
    of = test_baseline_flow.bundle()
    rig = test_baseline_flow.rig(replace(of, spec=msgspec.structs.replace(of.spec, drift=spec, threshold=5.0)))
    test_baseline_flow.feed(rig, 0, 700)
    assert said(rig) == []
    test_baseline_flow.feed(rig, 700, 1100, shift=1.5, assets=(1,))
    rig.drain()
    (told,) = said(rig)
    assert told.asset == "a1"
    assert [c.channel for c in told.contributions if c.channel != "score"][0].startswith("b.")


def test_a_step_fault_alerts_with_the_same_bytes_as_without_drift_detection() -> None:
    values = log(shift=60.0, away=(400, 500))
    with_drift, without = play(values, [0, 1400]), play(values, [0, 1400], bundle(None))
    wanted = [encode_alert(a) for a in said(without, "anomaly")]
    assert [a.state for a in said(without, "anomaly")][0] == "raised" and said(with_drift) == []
    assert [encode_alert(a) for a in said(with_drift, "anomaly")] == wanted
