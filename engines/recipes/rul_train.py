"""Train the net of `rul-ewma`: Adam over random rows, in JAX on one CPU thread. The same seed gives the same bytes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.recipes.rul_model import CAP, F32, HEADS, SPAN, Layer
from engines.recipes.rul_state import SENSORS, SMOOTHINGS

_QUANTILES = (0.1, 0.5, 0.9)
#: Weight of the three quantiles' loss beside the mean's: of their sizes the mean's is then about half.
_PINBALL = 0.3


@dataclass(frozen=True, slots=True)
class Net:
    """Shape and schedule, chosen by cross-validation over training units (`kizashi evaluate cmapss --protocol cv`)."""

    members: int = 6
    hidden: tuple[int, ...] = (32, 24)
    steps: int = 6_000
    batch: int = 256
    rate: float = 1.2e-2
    decay: float = 1e-5


def fit_net(x: F32, y: NDArray[np.float64], weight: NDArray[np.float64], seed: int, net: Net = Net()) -> list[Layer]:  # noqa: B008  (frozen)
    """Return layers for features x (n, FEATURES), remaining life y (n) in cycles, weight of each row (n)."""
    # Sums are cut among threads, so their number would be in the bytes; read once, when JAX starts.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax  # of the extra `train`
    import jax.numpy as jnp

    mix, centre, scale = _conditioner(x)
    inputs = jnp.asarray((x @ mix - centre) / scale, jnp.float32)
    target = jnp.asarray(np.minimum(y, CAP) / CAP, jnp.float32)
    share = jnp.asarray(weight / weight.mean(), jnp.float32)
    rng = np.random.default_rng(seed)
    start = _initial(rng, (x.shape[1], *net.hidden, len(HEADS)), net.members)
    rows = rng.integers(0, len(x), (net.steps, net.members, net.batch), np.int32)
    gradient = jax.grad(_loss(jax, jnp, net.decay))

    def step(carry: Any, picked: Any) -> Any:
        params, first, second, smooth, t = carry
        slope = gradient(params, inputs[picked], target[picked], share[picked])
        t = t + 1
        rate = net.rate * jnp.minimum(1.0, t / 100) * 0.5 * (1 + jnp.cos(jnp.pi * t / net.steps))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, slope)
        params = jax.tree.map(
            lambda p, m, v: p - rate * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.99**t)) + 1e-8), params, first, second
        )
        smooth = jax.tree.map(lambda s, p: 0.99 * s + 0.01 * p, smooth, params)
        return (params, first, second, smooth, t), None

    zero = jax.tree.map(jnp.zeros_like, start)
    with jax.default_device(jax.devices("cpu")[0]):
        (_, _, _, smooth, _), _ = jax.jit(lambda carry, picks: jax.lax.scan(step, carry, picks))(
            (start, zero, zero, start, jnp.float32(0)), jnp.asarray(rows)
        )
    layers = [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in smooth]
    # What conditions the inputs is linear: folded into the first layer, the graph does without it.
    w, b = layers[0]
    w = w / scale[:, None]
    layers[0] = (mix @ w, b - (centre[:, None] * w).sum(axis=1, keepdims=True))  # no sum of a library: see `product`
    return [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers]


def _conditioner(x: F32) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrix, centre and scale that make inputs for descent of the features.

    The moving means of a sensor are nearly equal and their small differences tell the trend: the fastest mean and the
    differences from one memory to the next, each of variance 1, took the error in cross-validation from 9.0 to 8.5.
    """
    mix = np.eye(x.shape[1])
    count, sensors = len(SMOOTHINGS), len(SENSORS)
    block = np.zeros((count, count))
    block[-1, 0] = 1.0
    for k in range(1, count):
        block[k, k], block[k - 1, k] = 1.0, -1.0
    mix[:SPAN, :SPAN] = np.kron(block, np.eye(sensors))
    mixed = x @ mix
    return mix, mixed.mean(axis=0), mixed.std(axis=0) + 1e-6


def _initial(rng: np.random.Generator, sizes: Sequence[int], members: int) -> list[tuple[F32, F32]]:
    layers = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        weight = rng.normal(size=(members, a, b)) * np.sqrt(1.5 / a)
        layers.append((weight.astype(np.float32), np.zeros((members, 1, b), np.float32)))
    # Begin near the middle of the target with a narrow interval: the first steps then learn and do not repair.
    weight, bias = layers[-1]
    bias[..., :2], bias[..., 2:] = 0.6, -3.0
    layers[-1] = (weight * np.float32(0.3), bias)
    return layers


def _loss(jax: Any, jnp: Any, decay: float) -> Callable[..., Any]:
    def loss(params: Any, x: Any, y: Any, weight: Any) -> Any:
        h = x
        for w, b in params[:-1]:
            h = jax.nn.relu(jnp.matmul(h, w) + b)
        w, b = params[-1]
        out = jnp.matmul(h, w) + b
        total, p50 = (out[..., 0] - y) ** 2, out[..., 1]
        wide = 0.5 * (out[..., 2:] + jnp.sqrt(out[..., 2:] ** 2 + 1))  # rul_model.positive
        ends = (p50 - wide[..., 0], p50, p50 + wide[..., 1])
        for q, end in zip(_QUANTILES, ends, strict=True):
            total = total + _PINBALL * jnp.maximum(q * (y - end), (q - 1) * (y - end))
        return jnp.mean(total * weight, axis=1).sum() + decay * sum(jnp.sum(w**2) for w, _ in params)

    return loss
