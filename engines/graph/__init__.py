"""Write ONNX graphs: front ends from raw samples to features, and variants of a model in another precision.

A front end inside the model means one launch from raw bytes to scores, no host pass over the samples, and the same
arithmetic on every engine. Graphs keep to operators that TensorRT builds well: no DFT, no int16, no float64, no loops.

    graph = GraphBuilder("pump")
    counts = raw_samples(graph, "x", channels=3, length=2048)     # int16 as pairs of uint8
    signal = centred(graph, scaled(graph, counts, scale=0.0023))         # m/s2
    lines = mean_spectrum(graph, stft(graph, signal, size=256, hop=128))
    demodulated = envelope(graph, signal, 25600.0, (2000.0, 6000.0), decimate=4)
    impacts = spectrum(graph, demodulated, centre=True)
    columns = [
        bands(graph, lines, 25600.0, [(0.0, 1000.0), (1000.0, 4000.0), (4000.0, 12800.0)]),
        bands(graph, impacts, 6400.0, [(20.0, 200.0), (200.0, 1000.0)]),
        statistics(graph, signal, ("rms", "crest", "kurtosis")),
    ]
    row = flat(graph, graph.node("Concat", *columns, axis=-1), 3 * 8)
    graph.output("features", row, (24,))
    graph.output("score", distance(graph, row, mean, std), ())           # of healthy rows' features
    model = graph.build()

mean and std come from healthy windows that ran through the same graph with its output "features" alone.

Needs the `onnx` package (extras `onnx`, `gpu`, `rtx`, `train`): a worker on `onnx_cpu` never imports this package.
"""

from engines.graph.builder import GraphBuilder, Signal, means
from engines.graph.envelope import envelope
from engines.graph.net import distance, flat, layer, reconstruction_error
from engines.graph.precision import PRECISIONS, to_precision
from engines.graph.samples import centred, raw_samples, scaled, standardised, standardised_per_asset, windows
from engines.graph.spectrum import Frames, Spectrum, bands, mean_spectrum, spectrum, stft
from engines.graph.statistics import STATISTICS, statistics

__all__ = [
    "PRECISIONS", "STATISTICS", "Frames", "GraphBuilder", "Signal", "Spectrum",
    "bands", "centred", "distance", "envelope", "flat", "layer", "mean_spectrum", "means", "raw_samples",
    "reconstruction_error", "scaled", "spectrum", "standardised", "standardised_per_asset", "statistics", "stft",
    "to_precision", "windows",
]
