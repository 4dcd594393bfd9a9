"""Kind `order` for tests: a small spec, an engine that answers with every bit of its rows, assets and their signals."""

from pathlib import Path
from typing import Any

import numpy as np

from engines.answerspec import LineSpec, ModeSpec, OutputSpec, UnknownSpec
from engines.base import Arrays, TensorSpec
from engines.bundle import Bundle, JudgeSpec
from engines.kindspec import OrderSpec
from engines.spec import MatchSpec, ModelSpec
from schemas import AssetBirth
from tests.rig import CARD

SPEC = OrderSpec(rate_hz=1000.0, size=200, hop=100)
LABELS = ("normal", "inner", "ball", "outer")
ORDERS = {"bpfo": 3.585, "bpfi": 5.415, "bsf": 2.357, "ftf": 0.398}
BEARING = {"name": "de", "kind": "bearing", "orders": ORDERS}


def bundle(max_rate: float = 4000.0, spec: OrderSpec = SPEC, **judge: Any) -> Bundle:
    outputs = OutputSpec("score", mode=ModeSpec(LABELS, "normal"), line=LineSpec(),
                         unknown=UnknownSpec("doubt", ("no class is clear",)))
    spec_ = ModelSpec(name="ord", version="1.0.0", kind="order", rule="bearing", card=CARD, threshold=0.5, order=spec,
                      outputs=outputs, judge=JudgeSpec(**judge),
                      match=MatchSpec(min_rate_hz=spec.rate_hz, max_rate_hz=max_rate))
    return Bundle(spec_, Path("."), b"", "0" * 64)


class Hears:
    """Keeps its rows. score: a sum in which each sample has a weight of its own, so any other bit gives another one."""

    name = "hears"
    inputs = tuple(TensorSpec(name, "f4", shape) for name, shape in SPEC.rows().items())
    outputs = (TensorSpec("score", "f8", ()),)

    def __init__(self) -> None:
        self.samples: list[np.ndarray] = []
        self.lines: list[np.ndarray] = []

    def warm_up(self, batch: int) -> None:
        del batch

    def infer(self, inputs: Arrays) -> Arrays:
        samples, lines = inputs["samples"].copy(), inputs["lines_hz"].copy()
        self.samples += list(samples)
        self.lines += list(lines)
        weights = 1 + np.arange(samples.shape[1]) / 7
        score = np.array([abs(float((row * weights).sum())) / 1e3 + float(line.sum()) for row, line in
                          zip(samples.astype(np.float64), lines, strict=True)])
        p = np.tile(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), (len(samples), 1))
        return {"score": score, "probabilities": p, "doubt": np.zeros(len(samples), np.float32),
                "line": lines[:, [1, 1, 2, 3]]}

    def close(self) -> None: ...


def asset(name: str = "m", *, rate: float = 1000.0, samples: int = 30, rpm_channel: bool = False,
          **content: Any) -> AssetBirth:
    channels = [{"name": "acc", "quantity": "acceleration", "unit": "m/s2"}]
    if rpm_channel:
        channels.append({"name": "n", "quantity": "rotational speed", "unit": "{rpm}"})
    return AssetBirth.make(**{"asset": name, "start_ns": 1, "channels": channels, "rate_hz": rate, "site": "s",
                              "samples_per_frame": samples, "asset_class": "motor", "components": [BEARING], **content})
