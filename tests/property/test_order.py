"""Kind `order`: the same rows, reasons and alerts however the stream is cut, assets interleave, frames are lost."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import encode_alert
from tests.orderrig import Hears, asset, bundle
from tests.rig import Rig, frame

ASSETS = [asset("a"), asset("b", rate=2560.0, samples=64, rpm_channel=True), asset("c", rate=2000.0, samples=30)]
_X = [np.random.default_rng(k).normal(k, 1.0, (len(of.channels), 60 * of.samples_per_frame)).astype("f4")
      for k, of in enumerate(ASSETS)]  # fmt: skip
_X[1][1] = 1800.0
_X[1][1, 1800:] = 1860.0
#: Asset, sequence number, time, rpm of the frame.
Record = tuple[int, int, int, float | None]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Record], list[int]]:
    """Draw records in order of arrival, and the edges of the polls. Frames are lost, assets fall silent."""
    order = draw(st.lists(st.integers(0, 2), min_size=20, max_size=90))
    seqs, stream, ts = [0, 0, 0], [], 1_000
    for a in order:
        ts += draw(st.sampled_from([10] * 20 + [70_000]))
        seqs[a] += draw(st.sampled_from([1] * 15 + [2]))
        stream.append((a, seqs[a] % 60, ts, draw(st.sampled_from([1800.0, 1800.0, 1800.0, 1809.0, None]))))
    stream = [r for k, r in enumerate(stream) if r[1] > max([s for a, s, *_ in stream[:k] if a == r[0]], default=-1)]
    edges = sorted({0, len(stream), *draw(st.sets(st.integers(1, len(stream)), max_size=8))})
    return stream, edges


def play(rig: Rig, stream: list[Record], edges: list[int]) -> Rig:
    for a, b in pairwise(edges):
        values = []
        for k, seq, _, rpm in stream[a:b]:
            n = ASSETS[k].samples_per_frame
            values.append(frame(ASSETS[k], seq, _X[k][:, seq * n : (seq + 1) * n], rpm=rpm))
        rig.poll(values, ts_ms=[ts for _, _, ts, _ in stream[a:b]])
    rig.drain()
    rig.totals()
    return rig


def said(rig: Rig) -> dict[str, list[object]]:
    """Return per asset what was said of each row, every bit of it, and its alerts."""
    out: dict[str, list[object]] = {}
    for a in rig.effects.assessments:
        what = a.answers
        assert what is not None and what.unknown is not None and what.line is not None
        rows = zip(a.seq, a.t_end, a.score, a.state, what.unknown, what.line, strict=True)
        out.setdefault(a.asset, []).extend(rows)
    for alert in rig.alerts:
        if alert.rule == "bearing":
            out.setdefault("alerts of " + alert.asset, []).append(encode_alert(alert))
    return out


@given(drawn=streams())
@settings(max_examples=120, deadline=None)
def test_any_cut_of_the_stream_says_the_same_of_every_row(drawn: tuple[list[Record], list[int]]) -> None:
    stream, edges = drawn
    what = bundle(on=(2, 3), off=2)
    whole = said(play(Rig.make(what, ASSETS, engine=Hears()), stream, [0, len(stream)]))
    assert whole == said(play(Rig.make(what, ASSETS, engine=Hears(), max_size=1), stream, list(range(len(stream) + 1))))
    assert whole == said(play(Rig.make(what, ASSETS, engine=Hears(), max_size=3), stream, edges))


@given(drawn=streams(), keep=st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_later_frames_change_no_earlier_row(drawn: tuple[list[Record], list[int]], keep: int) -> None:
    stream, _ = drawn
    part = stream[:keep]
    before = said(play(Rig.make(bundle(), ASSETS, engine=Hears()), part, [0, len(part)]))
    after = said(play(Rig.make(bundle(), ASSETS, engine=Hears()), stream, [0, len(stream)]))
    assert all(after[name][: len(rows)] == rows for name, rows in before.items() if not name.startswith("alerts"))
