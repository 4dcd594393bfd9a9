"""The net of `anomaly-convae`: a convolutional autoencoder of one channel's window, trained in JAX on one CPU thread.

It sees windows with mean 0 and mean square 1, so that what it learns is the shape of a signal: level and size are told
apart beside it. The same seed gives the same bytes.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Samples of a window. Two strides of 2 and four blocks of a code word must divide it.
SIZE = 32
_KERNEL, _STRIDE = 5, 2


@dataclass(frozen=True, slots=True)
class Net:
    """Shape and schedule. code: numbers that a window of SIZE samples is told by.

    Six of 32 hold what is smooth in a window and what repeats, and leave out three quarters of white noise: with twelve
    a step in noise is reproduced too.
    """

    first: int = 16
    second: int = 24
    code: int = 6
    steps: int = 3_000
    batch: int = 256
    rate: float = 3e-3


@dataclass(frozen=True, slots=True)
class Weights:
    """Convolutions (out, in, taps) with biases, products (in, out) with biases, in the order of the graph."""

    first: tuple[F32, F32]
    second: tuple[F32, F32]
    encode: tuple[F32, F32]
    decode: tuple[F32, F32]
    third: tuple[F32, F32]
    fourth: tuple[F32, F32]

    @property
    def parameters(self) -> int:
        return sum(w.size + b.size for w, b in self.pairs)

    @property
    def pairs(self) -> tuple[tuple[F32, F32], ...]:
        return self.first, self.second, self.encode, self.decode, self.third, self.fourth


def shapes(windows: F64) -> F64:
    """Return windows (n, SIZE) with mean 0 and mean square 1; what stands still is 0."""
    off = windows - windows.mean(axis=1, keepdims=True)
    size = np.sqrt((off * off).mean(axis=1, keepdims=True))
    found: F64 = np.divide(off, size, out=np.zeros_like(off), where=size > 0)
    return found


def fit(windows: F32, seed: int, net: Net = Net()) -> Weights:  # noqa: B008  (frozen)
    """Train on `windows` (n, SIZE) as `shapes` gives them: Adam with a falling rate over random batches."""
    # Sums are cut among threads, so their number would be in the bytes; read once, when JAX starts.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax  # of the extra `train`
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)
    start = _initial(rng, net)
    rows = rng.integers(0, len(windows), (net.steps, net.batch), np.int32)
    data = jnp.asarray(windows)

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean((_forward(jnp, params, x) - x) ** 2)

    gradient = jax.grad(loss)

    def step(carry: Any, picked: Any) -> Any:
        params, first, second, t = carry
        slope = gradient(params, data[picked])
        t = t + 1
        rate = net.rate * jnp.minimum(1.0, t / 100) * 0.5 * (1 + jnp.cos(jnp.pi * t / net.steps))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, slope)
        params = jax.tree.map(
            lambda p, m, v: p - rate * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.99**t)) + 1e-8), params, first, second
        )
        return (params, first, second, t), None

    with jax.default_device(jax.devices("cpu")[0]):
        zero = jax.tree.map(jnp.zeros_like, start)
        (params, _, _, _), _ = jax.jit(lambda carry, picks: jax.lax.scan(step, carry, picks))(
            (start, zero, zero, jnp.float32(0)), jnp.asarray(rows)
        )
    pairs = [(np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in params]
    return Weights(*((_as_conv(w) if k in (0, 1, 4, 5) else w, b) for k, (w, b) in enumerate(pairs)))


def errors(weights: Weights, windows: F64) -> F64:
    """Return what the net does not give back of windows (n, SIZE) as `shapes` gives them: mean squares (n)."""
    params = [((w.transpose(2, 1, 0) if w.ndim == 3 else w).astype(np.float64), b) for w, b in weights.pairs]
    found = np.empty(len(windows))
    for at in range(0, len(windows), 4096):
        x = windows[at:at + 4096]
        found[at:at + 4096] = ((_forward(np, params, x) - x) ** 2).mean(axis=1)
    return found


def _as_conv(weight: F32) -> F32:
    """(taps, in, out) -> (out, in, taps), as ONNX has it."""
    return np.ascontiguousarray(weight.transpose(2, 1, 0))


def _initial(rng: np.random.Generator, net: Net) -> list[tuple[F32, F32]]:
    wide = net.second * SIZE // 4
    sizes = [(_KERNEL, 1, net.first), (_KERNEL, net.first, net.second), (wide, net.code), (net.code, wide),
             (3, net.second, 2 * net.first), (3, net.first, 2)]  # fmt: skip
    return [((rng.normal(size=s) * np.sqrt(2 / np.prod(s[:-1]))).astype(np.float32), np.zeros(s[-1], np.float32))
            for s in sizes]  # fmt: skip


def _forward(np_: Any, params: Any, x: Any) -> Any:
    """Give back windows (n, SIZE); np_: NumPy or jax.numpy. Signals are (n, length, channels)."""
    first, second, encode, decode, third, fourth = params
    h = np_.maximum(_conv(np_, x[:, :, None], first, _STRIDE), 0)
    h = np_.maximum(_conv(np_, h, second, _STRIDE), 0)
    n, quarter, wide = h.shape
    h = np_.swapaxes(h, 1, 2).reshape(n, -1) @ encode[0] + encode[1]
    h = np_.maximum(h @ decode[0] + decode[1], 0)
    h = np_.swapaxes(h.reshape(n, wide, quarter), 1, 2)
    h = _twice(np_.maximum(_conv(np_, h, third, 1), 0))
    return _twice(_conv(np_, h, fourth, 1))[:, :, 0]


def _conv(np_: Any, x: Any, layer: Any, stride: int) -> Any:
    """Convolve (n, length, in) with (taps, in, out), ends filled with zeros."""
    weight, bias = layer
    taps, length = weight.shape[0], x.shape[1]
    padded = np_.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0)))
    parts = [padded[:, k:k + length:stride] for k in range(taps)]
    return np_.concatenate(parts, axis=2) @ weight.reshape(-1, weight.shape[2]) + bias


def _twice(x: Any) -> Any:
    """(n, length, 2 * channels) -> (n, 2 * length, channels): the first half of the channels are the even places."""
    n, length, channels = x.shape
    return x.reshape(n, length * 2, channels // 2)
