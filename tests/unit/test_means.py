"""Kind `ewma`: the means of the flow are those that models are trained on, for any cut and any order of channels."""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.answerspec import LifeSpec, OutputSpec, UnknownSpec
from engines.base import TensorSpec
from engines.bundle import Bundle
from engines.kindspec import EwmaSpec
from engines.recipes import rul_state
from engines.spec import MatchSpec, ModelSpec
from pipeline import kinds
from pipeline.succession import Succession
from schemas import AssetBirth, TelemetryFrame
from schemas.codec import encode
from tests.rig import CARD, Rig, birth, frame

CHANNELS = rul_state.CHANNELS
SPEC = ModelSpec(
    name="life", version="1.0.0", kind="ewma", rule="life", card=CARD,
    outputs=OutputSpec(life=LifeSpec("cycles", cap=125.0), unknown=UnknownSpec("unknown", ("too few", "outside"))),
    ewma=EwmaSpec(rul_state.SMOOTHINGS, age=rul_state.CYCLES,
                  settings=dict(zip(rul_state.SETTINGS, rul_state.SETTING_SCALE, strict=True)),
                  squares=rul_state.SETTINGS[:2]),
    match=MatchSpec(channels=CHANNELS))
BUNDLE = Bundle(SPEC, Path("."), b"", "0" * 64)
#: As a plant may send them: another order, and one that the model does not take.
SENT = ("oil", *CHANNELS[::-1])


class Keeps:
    """Keeps what it is shown; says 200 / count cycles, and "too few" below 3 samples."""

    name = "keeps"
    inputs = tuple(TensorSpec(n, "f8", s) for n, s in SPEC.rows(len(CHANNELS), 1).items())
    outputs = tuple(TensorSpec(n, "f4", ()) for n in ("score", "rul", "p10", "p50", "p90"))

    def __init__(self):
        self.seen = []

    def warm_up(self, batch): ...

    def infer(self, inputs):
        self.seen.append({k: np.array(v) for k, v in inputs.items()})
        rul = (200 / np.maximum(inputs["count"], 1)).astype("f4")
        return {"score": rul * 0 + 2, "rul": rul, "p10": rul - 1, "p50": rul, "p90": rul + 1,
                "unknown": (inputs["count"] < 3).astype("i4")}

    def close(self): ...


def streamed(samples, cuts, per_frame=1, bundle=BUNDLE, **lane):
    asset = birth("engine", channels=SENT, samples=per_frame)
    rig = Rig.make(bundle, [asset], engine=Keeps())
    sent = np.concatenate([np.ones((len(samples), 1)), samples[:, ::-1]], axis=1)
    frames = [frame(asset, i, sent[i * per_frame:(i + 1) * per_frame].T, **lane)
              for i in range(len(samples) // per_frame)]
    for part in np.split(np.arange(len(frames)), cuts):
        rig.poll([frames[i] for i in part])
    rig.drain()
    return rig, {k: np.concatenate([b[k] for b in rig.engine.seen]) for k in ("ewma", "count", "last", "same")}


@pytest.fixture
def samples():
    rng = np.random.default_rng(5)
    out = rng.normal(3.0, 1.0, (30, len(CHANNELS))).astype("f4").astype("f8")
    out[5:9, 7] = out[4, 7]  # a sensor that stands still for a while
    return out


def test_means_are_bit_for_bit_those_of_training(samples):
    rig, got = streamed(samples, [1, 2, 9, 10])
    want = rul_state.run([rul_state.History("e", samples)])
    for name, array in want.inputs().items():
        assert np.array_equal(got[name], array), name
    assert rig.totals()["rows_scored"] == 30


def test_the_cut_of_the_stream_and_the_frame_length_change_nothing(samples):
    _, one = streamed(samples, [])
    _, other = streamed(samples, [3, 4, 20])
    _, wide = streamed(samples, [2], per_frame=3)
    for name in one:
        assert np.array_equal(one[name], other[name])
        assert np.array_equal(one[name][2::3], wide[name])


def test_an_unknown_answer_is_assessed_with_its_reason_and_never_judged(samples):
    rig, _ = streamed(samples, [4])
    told = rig.effects.assessments
    assert reasons(rig) == ["too few"] * 2 + [""] * 28
    assert [s for a in told for s in a.state] == [3, 3] + [2] * 28
    assert told[0].answers.life[0] == (200.0, 199.0, 200.0, 201.0)
    assert (told[0].answers.life_unit, told[0].answers.life_cap) == ("cycles", 125.0)
    raised, = [a for a in rig.alerts if a.state == "raised"]
    assert raised.seq == 2  # the first answer that counts
    assert raised.life.mean == 66.7 and not raised.life.at_least
    assert "remaining life 67 cycles (80 %: 66 to 68)" in raised.why


def test_an_asset_without_a_channel_of_the_model_is_refused_by_name(samples):
    asset = birth("engine", channels=[c for c in SENT if c != "T30"], samples=1)
    rig = Rig.make(BUNDLE, [asset], engine=Keeps())
    rig.poll([frame(asset, 0, 1.0)])
    letter, = rig.effects.dead_letters
    assert letter.reason == "no_route" and "T30" in letter.detail


def test_a_reboot_keeps_the_means_and_other_channels_forget_them(samples):
    rig = Rig.make(BUNDLE, [a := birth("engine", channels=SENT, samples=1),
                            b := birth("engine", channels=SENT, samples=1, start=2)], engine=Keeps())
    rig.poll([frame(a, i, 1.0) for i in range(4)])
    rig.poll([frame(b, 0, 1.0)])
    rig.drain()
    counts = np.concatenate([x["count"] for x in rig.engine.seen])
    assert counts.tolist() == [1, 2, 3, 4, 5]


def test_a_sample_too_large_to_be_averaged_changes_no_mean(samples):
    wild = samples.copy()
    wild[10, 1], wild[20, 9] = 1e200, -1e101
    asset = AssetBirth.make(
        asset="engine", start_ns=1, rate_hz=1.0, samples_per_frame=1, asset_class="engine", site="s",
        channels=[{"name": n, "quantity": "q", "unit": "1", "dtype": "f8"} for n in CHANNELS])
    rig = Rig.make(BUNDLE, [asset], engine=Keeps())
    for i, row in enumerate(wild):
        rig.poll([encode(TelemetryFrame(asset.asset, asset.birth_id, i, 10**9 + i, row.astype("<f8").tobytes()))])
    rig.drain()
    got = {k: np.concatenate([b[k] for b in rig.engine.seen]) for k in ("ewma", "count", "last", "same")}
    want = rul_state.run([rul_state.History("e", wild)])
    calm = rul_state.run([rul_state.History("e", np.delete(wild, [10, 20], axis=0))])
    for name, array in want.inputs().items():
        assert np.array_equal(got[name], array), name
    assert np.array_equal(got["ewma"][-1], calm.ewma[-1]) and got["count"][-1] == 28


#: As made samples are, 3 +- 1, with room for six deviations.
RANGE = (-3.0, 9.0)
GUARDED = dataclasses.replace(BUNDLE, spec=msgspec.structs.replace(
    SPEC, ewma=msgspec.structs.replace(SPEC.ewma, plausible=dict.fromkeys(CHANNELS, RANGE))))


def reasons(rig):
    return [r for a in rig.effects.assessments for r in a.answers.unknown]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, 29), st.tuples(st.integers(0, 17), st.sampled_from([65535.0, -9.5, 3e30])),
                       max_size=8), st.lists(st.integers(1, 29), max_size=4).map(sorted), st.booleans())
def test_a_sample_beyond_its_range_is_named_kept_out_and_forgotten_at_once(wild, cuts, historical):
    clean = np.random.default_rng(5).normal(3.0, 0.5, (30, len(CHANNELS))).astype("f4").astype("f8")
    samples = clean.copy()
    for row, (channel, value) in wild.items():
        samples[row, channel] = np.float32(value)
    rig, got = streamed(samples, cuts, bundle=GUARDED, historical=historical)
    want = rul_state.run([rul_state.History("e", samples)], np.full((2, 18), [[RANGE[0]], [RANGE[1]]]))
    for name, array in want.inputs().items():
        assert np.array_equal(got[name], array), name
    assert rig.totals()["rows_scored"] == 30
    said = reasons(rig)
    for row, why in enumerate(said):
        if row in wild:
            assert why == f"{CHANNELS[wild[row][0]]}: a sample beyond its plausible range, kept out of the means"
        else:
            assert why == ("too few" if got["count"][row] < 3 else "")
    kept = np.delete(clean, list(wild), axis=0)
    if len(kept):
        assert np.array_equal(got["ewma"][-1], rul_state.run([rul_state.History("e", kept)]).ewma[-1])


def test_a_frame_with_one_wild_sample_says_so_whatever_the_hop(samples):
    wild = samples.copy()
    wild[13, 6] = 65535.0
    spec = msgspec.structs.replace(GUARDED.spec, ewma=msgspec.structs.replace(GUARDED.spec.ewma, hop=10))
    rig, got = streamed(wild, [2], per_frame=3, bundle=dataclasses.replace(GUARDED, spec=spec))
    assert [r.split(":")[0] for r in reasons(rig)] == ["", "T50", ""]  # 10 samples, the wild one, 20 samples
    assert got["count"].tolist() == [12, 14, 20]


def test_the_birth_knows_the_measuring_range_better_and_a_new_one_keeps_the_state(samples):
    kinds = [{"name": n, "quantity": "q", "unit": "1", **({"low": 0.0, "high": 1e3} if n == "T50" else {})}
             for n in CHANNELS]
    asset = AssetBirth.make(asset="engine", start_ns=1, rate_hz=1.0, samples_per_frame=1, asset_class="engine",
                            site="s", channels=kinds)
    rig = Rig.make(GUARDED, [asset], engine=Keeps())
    sent = np.abs(samples[:6]).copy()
    sent[3, 6], sent[4, 6], sent[5, 7] = 500.0, -1.0, 500.0
    rig.poll([frame(asset, i, row[:, None]) for i, row in enumerate(sent)])
    rig.drain()
    assert [r.split(":")[0] for r in reasons(rig)] == ["too few", "too few", "", "", "T50", "P30"]
    assert GUARDED.state_hash(18, 1) == BUNDLE.state_hash(18, 1)
    assert "least < most" in SPEC.ewma.__class__(
        SPEC.ewma.smoothings, plausible={"T50": (1.0, 1.0)}).faults(CHANNELS)[0]


def test_an_heir_keeps_out_of_its_means_what_the_birth_puts_beyond_the_measuring_range(samples):
    asset = AssetBirth.make(asset="engine", start_ns=1, rate_hz=1.0, samples_per_frame=1, asset_class="engine",
                            site="s", channels=[{"name": n, "quantity": "q", "unit": "1", "low": -10.0, "high": 10.0}
                                                for n in CHANNELS])
    new = dataclasses.replace(BUNDLE, spec=msgspec.structs.replace(
        SPEC, version="2.0.0", ewma=msgspec.structs.replace(SPEC.ewma, smoothings=(0.5, 0.1))))
    rig = Rig.make(BUNDLE, [asset], engine=Keeps())
    rig.flow.successions["life"] = Succession(new)
    wild = samples.copy()
    wild[13, 6] = 1e6
    rig.poll([frame(asset, i, row[:, None]) for i, row in enumerate(wild)])
    rig.drain()
    rig.flow.succeed(new, rig.engine.inputs)
    pool, alone = rig.part().order[0], streamed(np.delete(samples, 13, axis=0), [], bundle=new)[0].part().order[0]
    assert pool.bundle is new and pool.table["count"][0] == 29
    assert np.array_equal(pool.table["ewma"][0], alone.table["ewma"][0])


def test_what_was_lost_makes_answers_provisional_until_the_longest_memory_is_new(samples):
    asset = birth("engine", channels=SENT, samples=1)
    rig = Rig.make(BUNDLE, [asset], engine=Keeps())
    rig.poll([frame(asset, i, 1.0) for i in range(5)])
    rig.drain()
    rig.flow.skip(rig.part())
    pool = rig.part().order[0]
    rig.poll([frame(asset, i, 1.0) for i in range(5, 104)])
    assert pool.table["provisional"][0] == 1
    rig.poll([frame(asset, 104, 1.0)])
    assert pool.table["provisional"][0] == 0
    rig.flow.skip(rig.part())
    kinds.start_over(pool, 0)
    assert pool.table["provisional"][0] == 0 and pool.table["count"][0] == 0
