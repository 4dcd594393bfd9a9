"""Write ONNX graphs: front ends from raw samples to features, and variants of a model in another precision.

Needs the `onnx` package (extras `onnx`, `gpu`, `rtx`, `train`): a worker on `onnx_cpu` never imports this package.
"""
