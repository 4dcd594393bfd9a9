"""The fixed part of `bearing-order`: from raw samples and line frequencies to features that know no rate and no scale.

1. Envelopes. Complex band filters as one strided convolution; the magnitude of each is the band's envelope, over its
   mean: from here on nothing depends on the signal's scale.
2. Envelope spectra at 0.5 Hz. A full DFT matrix of 3000 points has 36 MB and the DFT operator is not built by TensorRT,
   so it is done as Cooley and Tukey's first step: two small matrix products with twiddle factors in between. A DFT at
   input-dependent frequencies would need a cosine per sample and line (3000 x 3000): 20 times the work.
3. Lines. log|S| less its mean over 30 Hz is the height above the background (a mean of logs is as deaf to lines as a
   median, and needs no sort). Combs of harmonics and sidebands are read at 25 scales within 1.2 %, for slip and for
   what rpm is wrong by; the scale is common to a comb and to all bands.
4. Contrast. The same comb, read beside the expected place (6 % and 9 % off, searched as widely), is subtracted: what a
   search finds in noise, or in any dense forest of lines, cancels. 0 = no more than chance.
5. Beside the lines: kurtosis of the envelopes, shape of the spectrum, height of the shaft's own lines, and how close
   the expected lines are to them (the 6203's are within 2 % of the orders 3, 4 and 5).
"""

from typing import Any, Final, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from engines.base import Array
from engines.graph.builder import GraphBuilder, Name, means
from engines.orders import LINES

RATE_HZ: Final = 12_000
WINDOW: Final = 12_000  # one second: 0.5 Hz bins resolve the cage of a slow machine
BANDS: Final = 12  # centres 375 + 450 k Hz, each some 500 Hz wide: a resonance fills one to three
# Logarithms of the last few of a row are computed in another way than those of whole vectors, and a row must not depend
# on its place in a batch: what goes through one is filled up to this.
_WHOLE: Final = 16
TAPS: Final = 48
STRIDE: Final = 8
FRAMES: Final = 1500  # envelopes at 1500 Hz hold lines up to 750 Hz
BINS: Final = 1500
BIN_HZ: Final = 0.5
SCALES: Final = np.linspace(0.988, 1.012, 25)
OFFSETS: Final = (0.0, -0.09, -0.06, 0.06, 0.09)
MAX_LINE_HZ: Final = 700.0
MIN_LINE_HZ: Final = 3.0  # below, the window's own main lobe

_FTF, _BSF, _BPFO, _BPFI = 1, 2, 3, 4
# (scaled line, multiple, fixed line, multiple) per tooth of each comb.
COMBS: Final = {
    "outer": [(_BPFO, h, 0, 0.0) for h in (1, 2, 3, 4)],
    "inner": [(_BPFI, h, 0, 0.0) for h in (1, 2, 3)],
    "inner_side": [(_BPFI, h, 0, s) for h in (1, 2) for s in (-1.0, 1.0)],
    "ball": [(_BSF, h, 0, 0.0) for h in (2, 4)],
    "ball_side": [(_BSF, h, _FTF, s) for h in (2, 4) for s in (-1.0, 1.0)],
    "cage": [(_FTF, h, 0, 0.0) for h in (1, 2, 3)] + [(_FTF, -1, 0, 1.0)],
}
# Combs that share one search for the scale.
GROUPS: Final = (("outer",), ("inner", "inner_side"), ("ball", "ball_side"), ("cage",))
STATS: Final = ("mean", "top3", "weighted", "max")
SHAPE: Final = 13
FEATURES: Final = (
    *(f"{comb}_{stat}" for comb in COMBS for stat in STATS),
    "near_outer", "near_inner", "near_ball", "shaft", "kurtosis_mean", "kurtosis_top2", "kurtosis_weighted",
    *(f"shape_{k}" for k in range(SHAPE)),
)  # fmt: skip


class Graph(GraphBuilder):
    """A graph with the few shorthands that this model is written in."""

    def mean(self, x: Name, *axes: int, keep: int = 1) -> Name:
        """Return the mean over `axes`."""
        return self.node("ReduceMean", x, np.array(axes), keepdims=keep)

    def total(self, x: Name, axis: int) -> Name:
        """Return the sum over `axis`, which stays with length 1."""
        return self.node("ReduceSum", x, np.array([axis]), keepdims=1)

    def largest(self, x: Name, axis: int) -> Name:
        """Return the greatest over `axis`, which stays with length 1."""
        return self.node("ReduceMax", x, np.array([axis]), keepdims=1)

    def shape(self, x: Name, *dims: int) -> Name:
        """Return `x` in another shape (0: as it was)."""
        return self.node("Reshape", x, np.array(dims))

    def slice(self, x: Name, start: int, stop: int, axis: int) -> Name:
        """Return x[start:stop] along `axis`."""
        return self.node("Slice", x, np.array([start]), np.array([stop]), np.array([axis]))

    def halves(self, x: Name, size: int, axis: int) -> tuple[Name, Name]:
        """Return real and imaginary part, `size` rows each along `axis`."""
        return self.slice(x, 0, size, axis), self.slice(x, size, 2 * size, axis)

    def power(self, re: Name, im: Name) -> Name:
        """Return |re + i im|^2."""
        return self.node("Add", self.node("Mul", re, re), self.node("Mul", im, im))

    def times(self, matrix: Array, column: Name) -> Name:
        """Return matrix @ column for rows (n, k) -> (n, m).

        The constant stands at the left: ONNX Runtime joins the rows of a batch into one product when it stands at the
        right, and takes another kernel, with other last bits, when there is only one row.
        """
        made = self.node("MatMul", matrix, self.node("Unsqueeze", column, np.array([2])))
        return self.node("Squeeze", made, np.array([2]))

    def added(self, column: Name, length: int, scale: float = 1.0) -> Name:
        """Return each row's sum, (n, length) -> (n, 1), times `scale`: the same bits in every batch (see `means`)."""
        return self.times(np.full((1, length), scale), column)

    def top(self, x: Name, count: int, axis: int) -> Name:
        """Return the `count` greatest along `axis`, greatest first."""
        made = f"top{len(self._nodes)}"
        given = [x, self.constant(np.array([count]))]
        self._nodes.append(helper.make_node("TopK", given, [made, made + "_at"], name=made, axis=axis))
        return made


class Front(NamedTuple):
    """What the front end gives: features (n, F), found scale of each group (n, groups), 1 for a dead signal (n, 1)."""

    features: Name
    scale: Name
    dead: Name


def front(g: Graph, samples: Name, lines_hz: Name) -> Front:
    """Add the front end."""
    level = g.mean(samples, 1)
    x = g.node("Sub", samples, level)
    rms = g.node("Sqrt", g.mean(g.node("Mul", x, x), 1))
    # float32 rounds a constant's mean: what is left of it is no signal.
    least = g.node("Add", g.node("Mul", g.node("Abs", level), np.float32(1e-5)), np.float32(1e-20))
    dead = g.node("Cast", g.node("LessOrEqual", rms, least), to=TensorProto.FLOAT)
    x = g.shape(g.node("Div", x, g.node("Max", rms, np.float32(1e-20))), 0, 1, WINDOW)
    power, amplitude = _envelopes(g, x)
    energy = g.shape(means(g, power, FRAMES), 0, BANDS)
    share = g.node("Sqrt", energy)
    share = g.node("Div", share, g.node("Max", g.added(share, BANDS), np.float32(1e-20)))
    height = _spectra(g, amplitude)
    contrast, scale = _lines(g, height, share, lines_hz)
    features = g.node("Concat", contrast, *_shaft(g, height, lines_hz), *_kurtosis(g, power, energy, share),
                    _shape(g, x), axis=1)  # fmt: skip
    return Front(features, scale, dead)


def _envelopes(g: Graph, x: str) -> tuple[str, str]:
    """Return power and magnitude of the bands, each (n, BANDS, 1500)."""
    t = np.arange(TAPS)
    window = np.hanning(TAPS + 2)[1:-1]
    phase = 2 * np.pi * (375 + 450 * np.arange(BANDS))[:, None] * t / RATE_HZ
    kernel = np.concatenate([window * np.cos(phase), window * np.sin(phase)])[:, None] / window.sum()
    # 20 zeros at each end make 1500 frames of it: 30 x 50.
    both = g.node("Conv", x, kernel, strides=[STRIDE], pads=[20, 20])
    re, im = g.halves(both, BANDS, 1)
    power = g.power(re, im)
    return power, g.node("Sqrt", power)


def _spectra(g: Graph, amplitude: str) -> str:
    """Return the height of each bin over its background in nepers, at least 0: (n, BANDS, BINS)."""
    level = means(g, amplitude, FRAMES)
    a = g.node("Div", g.node("Sub", amplitude, level), g.node("Max", level, np.float32(1e-20)))
    a = g.node("Mul", a, np.hanning(BINS + 2)[1:-1])
    # 3000 = 60 x 50 points of which 1500 are not zero: time 50 i + j, bin p + 60 q.
    n = 2 * BINS
    first = 2 * np.pi * np.outer(np.arange(60), np.arange(30)) / 60
    z = g.node("MatMul", np.concatenate([np.cos(first), -np.sin(first)]), g.shape(a, 0, BANDS, 30, 50))
    re, im = g.halves(z, 60, 2)
    twist = 2 * np.pi * np.outer(np.arange(60), np.arange(50)) / n
    cos, sin = np.cos(twist), -np.sin(twist)
    turned_re = g.node("Sub", g.node("Mul", re, cos), g.node("Mul", im, sin))
    turned_im = g.node("Add", g.node("Mul", re, sin), g.node("Mul", im, cos))
    last = 2 * np.pi * np.outer(np.arange(50), np.arange(25)) / 50
    matrix = np.block([[np.cos(last), -np.sin(last)], [np.sin(last), np.cos(last)]])
    both = g.node("MatMul", g.node("Concat", turned_re, turned_im, axis=3), matrix)
    re, im = g.halves(both, 25, 3)
    power = g.power(re, im)
    power = g.shape(g.node("Transpose", power, perm=[0, 1, 3, 2]), 0, BANDS, BINS)
    log = g.node("Mul", g.node("Log", g.node("Add", power, np.float32(1e-10))), np.float32(0.5))
    background = g.node("AveragePool", log, kernel_shape=[61], strides=[1], pads=[30, 30], count_include_pad=0)
    # log(1 + r^2) / 2: what is below the background counts little, or the deep gaps of noise drown a line.
    above = g.node("Sub", log, background)
    return g.node("Mul", g.node("Softplus", g.node("Add", above, above)), np.float32(0.5))


def _lines(g: Graph, height: str, share: str, lines_hz: str) -> tuple[str, str]:
    """Return contrasts (n, combs x stats) and the scales that were found (n, groups)."""
    teeth = [(comb, tooth) for comb, rows in COMBS.items() for tooth in rows]
    scaled, fixed = np.zeros((5, len(teeth))), np.zeros((5, len(teeth)))
    for k, (_, (line, multiple, other, side)) in enumerate(teeth):
        scaled[line, k] = multiple
        fixed[other, k] = side
    factor = ((1 + np.array(OFFSETS))[:, None] * SCALES).ravel()
    move = g.node("Unsqueeze", g.times(scaled.T, lines_hz), np.array([2]))
    stay = g.node("Unsqueeze", g.times(fixed.T, lines_hz), np.array([2]))
    f = g.node("Add", g.node("Mul", move, factor), stay)
    read, inside = _read(g, height, f, (len(teeth), len(OFFSETS) * len(SCALES)))
    groups = np.array([[1.0 if comb == c else 0.0 for c, _ in teeth] for comb in COMBS])
    groups /= groups.sum(1, keepdims=True)
    read = g.node("Mul", read, g.node("Unsqueeze", inside, np.array([1])))
    combs = g.node("MatMul", groups, read)  # (n, bands, combs, offsets x scales)
    combs = g.shape(combs, 0, BANDS, len(COMBS), len(OFFSETS), len(SCALES))
    combs = g.node("Transpose", combs, perm=[0, 1, 3, 2, 4])  # (n, bands, offsets, combs, scales)
    names = list(COMBS)
    join = np.array([[1.0 / len(group) if c in group else 0.0 for c in names] for group in GROUPS])
    # The mean over bands is a product: in which order ONNX Runtime's ReduceMean adds over a middle axis depends on the
    # batch, and of two scales that are as good another one would win.
    every = g.shape(combs, 0, BANDS, len(OFFSETS) * len(COMBS) * len(SCALES))
    mean = g.node("MatMul", np.full((1, BANDS), 1.0 / BANDS), every)
    mean = g.shape(mean, 0, 1, len(OFFSETS), len(COMBS), len(SCALES))
    total = g.node("MatMul", join, mean)  # (n, 1, offsets, groups, scales)
    best = g.node("Equal", total, g.largest(total, 4))
    chosen = g.node("Cast", best, to=TensorProto.FLOAT)
    chosen = g.node("Div", chosen, g.total(chosen, 4))
    found = g.node("MatMul", chosen, SCALES[:, None])  # (n, 1, offsets, groups, 1)
    scale = g.shape(g.slice(found, 0, 1, 2), 0, len(GROUPS))
    back = np.array([[1.0 if c in group else 0.0 for group in GROUPS] for c in names])
    picked = g.node("Mul", combs, g.node("MatMul", back, chosen))
    picked = g.node("ReduceSum", picked, np.array([4]), keepdims=0)  # (n, bands, offsets, combs)
    flat = g.node("Transpose", g.shape(picked, 0, BANDS, len(OFFSETS) * len(names)), perm=[0, 2, 1])
    top = g.top(flat, 3, 2)
    stats = [
        means(g, flat, BANDS),
        means(g, top, 3),
        g.node("MatMul", flat, g.node("Unsqueeze", share, np.array([2]))),
        g.slice(top, 0, 1, 2),
    ]
    table = g.shape(g.node("Concat", *stats, axis=2), 0, len(OFFSETS), len(names) * len(STATS))
    weights = np.array([[1.0] + [-1.0 / (len(OFFSETS) - 1)] * (len(OFFSETS) - 1)])
    return g.shape(g.node("MatMul", weights, table), 0, len(names) * len(STATS)), scale


def _read(g: Graph, height: str, f: str, shape: tuple[int, int]) -> tuple[str, str]:
    """Return `height` at frequencies f (n, *shape) per band, and 1 where they are in the range that can be read."""
    index = g.node("Floor", g.node("Add", g.node("Mul", f, np.float32(1 / BIN_HZ)), np.float32(0.5)))
    index = g.node("Min", g.node("Max", index, np.float32(0.0)), np.float32(BINS - 1))
    index = g.shape(g.node("Cast", index, to=TensorProto.INT64), 0, 1, shape[0] * shape[1])
    index = g.node("Expand", index, np.array([1, BANDS, 1]))
    read = g.shape(g.node("GatherElements", height, index, axis=2), 0, BANDS, *shape)
    inside = g.node("And", g.node("Greater", f, np.float32(MIN_LINE_HZ)), g.node("Less", f, np.float32(MAX_LINE_HZ)))
    return read, g.node("Cast", inside, to=TensorProto.FLOAT)


def _shaft(g: Graph, height: str, lines_hz: str) -> list[str]:
    """Return how near the combs' teeth are to shaft orders, 1 = upon (n, 3), and the height of those (n, 1)."""
    pick, count = np.zeros((5, 9)), 0
    for line, multiple in ((_BPFO, 1), (_BPFI, 1), (_BSF, 2)):
        for h in (1, 2, 3):
            pick[line, count] = multiple * h
            count += 1
    shaft = g.slice(lines_hz, 0, 1, 1)
    shaft = g.node("Max", shaft, np.float32(1e-3))
    order = g.node("Div", g.times(pick.T, lines_hz), shaft)
    nearest = g.node("Floor", g.node("Add", order, np.float32(0.5)))
    off = g.node("Mul", g.node("Sub", order, nearest), g.node("Div", shaft, np.float32(1.5)))
    square = g.node("Mul", off, off)
    near = g.node("Div", np.float32(1.0), g.node("Add", g.node("Mul", square, square), np.float32(1.0)))
    near = g.times(np.kron(np.eye(3), np.full((1, 3), 1 / 3)), near)
    f = g.node("Unsqueeze", g.node("Mul", shaft, np.arange(1.0, 9.0)), np.array([2]))
    read, _ = _read(g, height, f, (8, 1))
    return [near, g.added(g.shape(read, 0, BANDS * 8), BANDS * 8, 1 / (BANDS * 8))]


def _kurtosis(g: Graph, power: str, energy: str, share: str) -> list[str]:
    """Return mean, mean of the two largest, and weighted mean of log(0.1 + the envelopes' variance / mean^2)."""
    square = g.node("Max", g.node("Mul", energy, energy), np.float32(1e-20))
    fourth = g.shape(means(g, g.node("Mul", power, power), FRAMES), 0, BANDS)
    spread = g.node("Sub", g.node("Div", fourth, square), np.float32(1.0))
    whole = g.times(np.eye(BANDS)[np.minimum(np.arange(_WHOLE), BANDS - 1)], g.node("Max", spread, np.float32(0.0)))
    log = g.slice(g.node("Log", g.node("Add", whole, np.float32(0.1))), 0, BANDS, 1)
    top = g.top(log, 2, 1)
    weighted = g.added(g.node("Mul", log, share), BANDS)
    return [g.added(log, BANDS, 1 / BANDS), g.added(top, 2, 0.5), weighted]


def _shape(g: Graph, x: str) -> str:
    """Return the broadband level of 13 bands of 375 Hz relative to all of them, log: (n, SHAPE).

    A mean over time of the log power of short frames, and over four bins of 94 Hz: a tone that fills one counts little.
    Nothing above 5 kHz: there the filter that made the rate 12 kHz shows, and with it who recorded what.
    """
    t = np.arange(128)
    window = np.hanning(130)[1:-1]
    bins = np.minimum(np.arange(2, 2 + 4 * _WHOLE), 1 + 4 * SHAPE)  # the last three bands only fill up
    phase = 2 * np.pi * bins[:, None] * t / 128
    kernel = np.concatenate([window * np.cos(phase), window * np.sin(phase)])[:, None] / window.sum()
    re, im = g.halves(g.node("Conv", x, kernel, strides=[93]), len(bins), 1)
    # 128 frames: means over whole cache lines have the same bits in every batch.
    log = g.shape(g.mean(g.node("Log", g.node("Add", g.power(re, im), np.float32(1e-12))), 2), 0, len(bins))
    level = g.node("Exp", g.times(np.kron(np.eye(_WHOLE), np.full((1, 4), 0.25)), log))
    part = g.node("Div", level, g.times(np.repeat([[1.0, 0.0]], (SHAPE, _WHOLE - SHAPE), axis=1), level))
    return g.slice(g.node("Log", g.node("Add", part, np.float32(1e-4))), 0, SHAPE, 1)


def begin(name: str) -> tuple[Graph, Front]:
    """Return a graph with the inputs samples (n, WINDOW), lines_hz (n, 5), float32, and its front end."""
    g = Graph(name)
    samples, lines_hz = g.input("samples", "f4", (WINDOW,)), g.input("lines_hz", "f4", (len(LINES),))
    with g.exact("front"):  # heights of 60 dB and guards of 1e-20 are beyond float16
        return g, front(g, samples, lines_hz)


def features_model() -> bytes:
    """Return the front end alone as a model: samples, lines_hz -> features, scale. For training."""
    g, made = begin("bearing-front")
    g.output("features", made.features, (len(FEATURES),))
    g.output("scale", made.scale, (len(GROUPS),))
    return g.build()


class Session:
    """A model on one thread of ONNX Runtime, for training and evaluation; `engines.onnx_cpu` serves bundles."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [o.name for o in self._session.get_outputs()]

    def __call__(self, samples: Array, lines_hz: Array, batch: int = 16) -> dict[str, Array]:
        """Return all outputs for samples (n, WINDOW), lines_hz (n, 5), computed `batch` rows at a time."""
        parts = [
            self._session.run(None, {
                "samples": np.ascontiguousarray(samples[i : i + batch], np.float32),
                "lines_hz": np.ascontiguousarray(lines_hz[i : i + batch], np.float32),
            })
            for i in range(0, len(samples), batch)
        ]  # fmt: skip
        return {name: np.concatenate([p[k] for p in parts]) for k, name in enumerate(self._names)}
