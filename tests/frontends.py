"""Models that begin at samples, for tests of engines and builds: every front end, and a net of every kind of layer."""

import numpy as np
import onnxruntime as ort

from engines import graph as front


def fused(raw: bool = False, channels: int = 4, length: int = 32, frames: int | None = None) -> bytes:
    """Window model that begins at samples: STFT bands, envelope bands, statistics -> distance + autoencoder's error.

    x f4 (n, frames, channels, samples); raw: int16 as bytes, u1 (n, frames, channels, samples, 2), 1000 counts a unit.
    Healthy is white noise of standard deviation 1, whose features the constants were measured on.
    """
    healthy = np.random.default_rng(3).normal(size=(512, 1, channels, length)).astype("f4")
    size = 8 * channels
    features = front.GraphBuilder("features")
    row = _features(features, front.windows(features, "x", channels, length))
    features.output("row", row, (size,))
    seen = ort.InferenceSession(features.build(), providers=["CPUExecutionProvider"]).run(None, {"x": healthy})[0]
    mean, std = seen.mean(0), seen.std(0)

    graph, rng = front.GraphBuilder("fused"), np.random.default_rng(4)
    if raw:
        signal = front.scaled(graph, front.raw_samples(graph, "x", channels, length, frames), np.full(channels, 1e-3))
    else:
        signal = front.windows(graph, "x", channels, length, frames)
    row = _features(graph, signal)
    z = graph.node("Div", graph.node("Sub", row, mean), std)
    down, up = (rng.normal(size=s).astype("f4") / s[0] ** 0.5 for s in ((size, size // 2), (size // 2, size)))
    code = front.layer(graph, z, down, np.zeros(size // 2, "f4"), "Tanh")
    error = front.reconstruction_error(graph, z, front.layer(graph, code, up, np.zeros(size, "f4"), None), size)
    graph.output("score", graph.node("Add", front.distance(graph, row, mean, std), graph.node("Sqrt", error)), ())
    return graph.build()


def _features(graph: front.GraphBuilder, signal: front.Signal) -> str:
    """Eight a channel. The rate is 1 Hz."""
    length, still = signal.length, front.centred(graph, signal)
    frames = front.mean_spectrum(graph, front.stft(graph, still, length // 4, length // 8))
    demodulated = front.envelope(graph, still, 1.0, (0.125, 0.375), decimate=2, taps=15)
    impacts = front.spectrum(graph, demodulated, centre=True)
    columns = [
        graph.node("Sqrt", front.bands(graph, frames, 1.0, [(0.0, 0.2), (0.2, 0.4), (0.4, 0.6)])),
        graph.node("Sqrt", front.bands(graph, impacts, 0.5, [(0.0, 0.13), (0.13, 0.3)])),
        front.statistics(graph, signal, ("rms", "crest", "kurtosis")),
    ]
    return front.flat(graph, graph.node("Concat", *columns, axis=-1), 8 * signal.channels)


def autoencoder(channels: int = 3, length: int = 512) -> bytes:
    """Window model with the asset's mean and std as inputs: convolutions, a residual, a gate, attention, and back.

    x f4 (n, frames, channels, samples), mean and std f4 (n, channels) -> score, the mean square error. Tensors that
    feed two nodes and products of two computed tensors: where a conversion to float16 goes wrong first.
    """
    graph, rng = front.GraphBuilder("autoencoder"), np.random.default_rng(5)
    signal = front.standardised_per_asset(graph, front.windows(graph, "x", channels, length), "mean", "std")

    def conv(x: str, inputs: int, outputs: int, taps: int, stride: int = 1) -> str:
        weight = rng.normal(size=(outputs, inputs, taps)) / (inputs * taps) ** 0.5
        pads = [taps // 2, taps // 2]
        return graph.node("Conv", x, weight, rng.normal(size=outputs) * 0.1, strides=[stride], pads=pads)

    def back(x: str, inputs: int, outputs: int) -> str:
        weight = rng.normal(size=(inputs, outputs, 4)) / (2 * inputs) ** 0.5
        return graph.node("ConvTranspose", x, weight, strides=[2], pads=[1, 1])

    relu = lambda x: graph.node("Relu", x)  # noqa: E731
    code = relu(conv(relu(conv(signal.name, channels, 16, 5, 2)), 16, 32, 5, 2))
    code = graph.node("Add", code, relu(conv(code, 32, 32, 3)))
    code = graph.node("Mul", code, graph.node("Sigmoid", conv(code, 32, 32, 1)))
    turned = graph.node("Transpose", code, perm=[0, 2, 1])
    attention = graph.node("Softmax", graph.node("MatMul", turned, code), axis=-1)
    mixed = graph.node("Transpose", graph.node("MatMul", attention, turned), perm=[0, 2, 1])
    again = back(relu(back(graph.node("Add", code, mixed), 32, 16)), 16, channels)
    size = channels * length
    rows = front.flat(graph, signal.name, size)
    graph.output("score", front.reconstruction_error(graph, rows, front.flat(graph, again, size), size), ())
    return graph.build()
