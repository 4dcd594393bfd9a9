"""A flow without a broker: fleets, frames and polls for tests of the steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Arrays, EngineError, TensorSpec
from engines.baselinespec import BaselineSpec, FeatureSpec
from engines.bundle import Bundle, Card, JudgeSpec, MewmaSpec, ModelSpec, OutputSpec, WindowSpec
from engines.kindspec import EwmaSpec
from engines.spec import MatchSpec
from pipeline.births import BirthBook
from pipeline.columns import Effects, Poll
from pipeline.flow import Flow, FlowSettings, Step
from pipeline.infer import run
from pipeline.seating import Route, Seating
from pipeline.state import Partition
from schemas import Alert, AssetBirth, TelemetryFrame
from schemas.codec import encode

CARD = Card("a test", "none", "none", "none", "none")


class WindowMean:
    """Scores a window by its mean absolute value; refuses rows whose first sample is `poison`."""

    name = "window_mean"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "f4", (None, None, None)),)
    outputs = (TensorSpec("score", "f8", ()),)

    def __init__(self, poison: float | None = None) -> None:
        self.poison, self.calls = poison, 0

    def warm_up(self, batch: int) -> None:
        del batch

    def infer(self, inputs: Arrays) -> Arrays:
        self.calls += 1
        x = inputs["x"]
        if self.poison is not None and (x[:, 0, 0, 0] == np.float32(self.poison)).any():
            raise EngineError("this row cannot be computed")
        return {"score": np.abs(x.astype(np.float64)).reshape(len(x), -1).mean(axis=1)}

    def close(self) -> None: ...


class Drift:
    """Scores a mewma row by the largest standardised channel; contributions follow the squares."""

    name = "drift"
    inputs: tuple[TensorSpec, ...] = (
        TensorSpec("z", "f8", (None,)), TensorSpec("center", "f8", (None,)),
        TensorSpec("whitening", "f8", (None, None)), TensorSpec("limit", "f8", ()))
    outputs = (TensorSpec("score", "f8", ()), TensorSpec("contributions", "f8", (None,)))

    def warm_up(self, batch: int) -> None:
        del batch

    def infer(self, inputs: Arrays) -> Arrays:
        square = (inputs["z"] - inputs["center"]) ** 2 + 1e-12
        return {"score": np.sqrt(square.max(axis=1)) / inputs["limit"],
                "contributions": square / square.sum(axis=1, keepdims=True)}

    def close(self) -> None: ...


class Means:
    """Scores moving means by their mean size, and by how long sensors stood still."""

    name = "means"
    outputs = (TensorSpec("score", "f8", ()),)

    def __init__(self, spec: ModelSpec) -> None:
        self.inputs = tuple(TensorSpec(n, "f8", s) for n, s in spec.rows(len(spec.match.channels), 1).items())

    def warm_up(self, batch: int) -> None:
        del batch

    def infer(self, inputs: Arrays) -> Arrays:
        return {"score": np.abs(inputs["ewma"]).mean(axis=(1, 2)) + inputs["same"].sum(axis=1)}

    def close(self) -> None: ...


class Levels:
    """Gives mean and largest size of each channel of a window as features, and no score worth reading."""

    name = "levels"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "f4", (None, None, None)),)
    outputs = (TensorSpec("score", "f8", ()), TensorSpec("features", "f4", (None,)))

    def warm_up(self, batch: int) -> None:
        del batch

    def infer(self, inputs: Arrays) -> Arrays:
        x = inputs["x"].transpose(0, 2, 1, 3).reshape(len(inputs["x"]), inputs["x"].shape[2], -1)
        found = np.stack([x.mean(axis=2), np.abs(x).max(axis=2)], axis=2)
        found[x[:, :, 0] == 777.0] = np.nan
        return {"score": np.zeros(len(x)), "features": found.reshape(len(x), -1)}

    def close(self) -> None: ...


def window_bundle(size: int = 8, hop: int = 4, threshold: float = 1.0, **judge: Any) -> Bundle:
    spec = ModelSpec(name="win", version="1.0.0", kind="window", rule="level", card=CARD, threshold=threshold,
                     window=WindowSpec(size, hop), judge=JudgeSpec(**judge))
    return Bundle(spec, Path("."), b"", "0" * 64)


def birth(asset: str, *, start: int = 1, channels: Sequence[Any] = ("a", "b"), samples: int = 2, rate: float = 2000.0,
          **content: Any) -> AssetBirth:
    """Describe an asset; channels that are only named are float32 accelerations."""
    kinds = [{"name": n, "quantity": "acceleration", "unit": "m/s2"} if isinstance(n, str) else n for n in channels]
    return AssetBirth.make(**{"asset": asset, "start_ns": start, "channels": kinds, "rate_hz": rate,
                              "samples_per_frame": samples, "asset_class": "pump", "site": "s", **content})


def frame(of: AssetBirth, seq: int, value: float | np.ndarray = 0.0, **fields: Any) -> bytes:
    """Encode a frame; value: every sample, or an array (channels, samples)."""
    shape = (len(of.channels), of.samples_per_frame)
    period = round(1e9 / of.rate_hz)
    data = np.broadcast_to(np.asarray(value, "<f4"), shape).tobytes()
    t0 = of.start_ns + seq * of.samples_per_frame * period
    return encode(TelemetryFrame(**{"asset": of.asset, "birth_id": of.birth_id, "seq": seq, "t0_ns": t0, "data": data,
                                    **fields}))


@dataclass
class Rig:
    """Runs a flow in place: what `admit` batches is computed and settled at once, in order."""

    flow: Flow
    engine: Any
    effects: Effects = field(default_factory=Effects)
    rows: list[tuple[str, int, float]] = field(default_factory=list)  # asset, seq, score in order of settling

    @classmethod
    def make(cls, bundle: Bundle, births: Iterable[AssetBirth] = (), *, engine: Any = None, partitions: int = 1,
             max_assets: int = 1000, **settings: Any) -> "Rig":
        book = BirthBook()
        for b in births:
            book.add(b)
        engine = engine or (WindowMean() if bundle.spec.kind == "window" else Drift())
        name = bundle.spec.name
        seats = Seating({name: bundle}, [Route(name)], book, max_assets, None)
        flow = Flow(FlowSettings(**{"max_size": 4, "assessments": True, **settings}), seats, {name: engine.inputs})
        for p in range(partitions):
            flow.adopt(Partition(p), 0.0)
        return cls(flow, engine)

    def part(self, number: int = 0) -> Partition:
        return self.flow.partitions[number]

    def poll(self, values: Sequence[bytes | None], *, ts_ms: int | Sequence[int] = 1_000, number: int = 0) -> Effects:
        """Admit records at the partition's position and settle everything that becomes a full batch."""
        start = self.part(number).position
        stamps = np.broadcast_to(np.asarray(ts_ms, np.int64), (len(values),)).copy()
        poll: Poll | None = Poll(number, np.arange(start, start + len(values)), stamps, list(values),
                                 [None] * len(values), start + len(values))
        seen = Effects()
        while poll is not None:
            step = self.flow.admit(poll, 0.0)
            seen.extend(self.settle(step))
            poll = step.rest
            if poll is not None:
                seen.extend(self.drain())
        return seen

    def settle(self, step: Step) -> Effects:
        seen = step.effects
        for batch in step.batches:
            seen.extend(self.flow.settle(batch, run(self.engine, batch.inputs)))
        self.effects.extend(seen)
        for a in seen.assessments:
            self.rows += [(a.asset, q, s) for q, s in zip(a.seq, a.score, strict=True)]
        if step.more is not None:
            seen.extend(self.drain())
            seen.extend(self.settle(step.more()))
        return seen

    def drain(self) -> Effects:
        return self.settle(Step(batches=self.flow.flush()))

    @property
    def alerts(self) -> list[Alert]:
        return self.effects.alerts

    def totals(self, number: int = 0) -> dict[str, int]:
        """Return the counters, having checked both conservation laws."""
        self.drain()
        t = self.part(number).totals()
        waiting = self.part(number).unassigned.frames_waiting()
        ends = t["judged"] + t["dead_lettered"] + t["late"] + t["duplicate"] + t["shed"]
        assert t["received"] == ends + waiting, (t, waiting)
        assert t["rows"] == t["rows_scored"] + t["rows_dead_lettered"], t
        return t


def mewma_bundle(rows: int = 64, hop: int = 0, **judge: Any) -> Bundle:
    spec = ModelSpec(name="mew", version="1.0.0", kind="mewma", rule="anomaly", card=CARD,
                     outputs=OutputSpec("score", "contributions"), mewma=MewmaSpec(
        smoothing=0.2, hop=hop, calibration_rows=rows), judge=JudgeSpec(**judge))
    return Bundle(spec, Path("."), b"", "0" * 64)


def means_bundle(hop: int) -> Bundle:
    """Moving means of channels a and b."""
    spec = ModelSpec(name="mean", version="1.0.0", kind="ewma", rule="life", card=CARD,
                     ewma=EwmaSpec((0.5, 0.05), hop=hop), match=MatchSpec(channels=("a", "b")))
    return Bundle(spec, Path("."), b"", "0" * 64)


def baseline_bundle(rows: int, version: str = "1.0.0", sha: str = "0" * 64, **fields: Any) -> Bundle:
    """Windows of 4 samples, whose mean and peak per channel are judged by the asset's first `rows` windows."""
    later = BaselineSpec((FeatureSpec("level"), FeatureSpec("peak", "up")), rows,
                         **{"per_channel": True, "smoothing": 0.5, "exceedance": 1e-3, **fields})
    spec = ModelSpec(name="own", version=version, kind="window", rule="own", card=CARD, baseline=later,
                     outputs=OutputSpec(features="features"), window=WindowSpec(4, 2), judge=JudgeSpec((2, 3), 4, 0.1))
    return Bundle(spec, Path("."), b"", sha)
