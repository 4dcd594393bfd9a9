"""Read what TensorRT says: its log of a build, and its refusals, as a report and as advice.

The log of a build with detailed profiling lists the whole plan, on a machine without a GPU too. Nothing here imports
TensorRT; a line that is not understood is ignored, so a new release costs numbers in a report and nothing else.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

# A plan's entries, one line each: "Name: n, LayerType: gemm, Inputs: [...], ..., TacticName: t, ...".
_ENTRY = re.compile(r"^Name: (?P<name>[^,]+), LayerType: (?P<type>[^,]+),", re.MULTILINE)
_TACTIC = re.compile(r"TacticName: (?P<tactic>[^,\n]+),")
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+)")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+)")
# The entry that jumps back to the head of a loop; what ONNX's GRU, LSTM, RNN, Loop and Scan become.
_JUMP = "cjmp"
_NODE = re.compile(r"^Parsing node: (?P<node>.*) \[(?P<operator>\w+)\]$")
_RECURRENT = frozenset({"GRU", "LSTM", "RNN", "Loop", "Scan"})
# Warnings that say nothing about the model: on a machine without a GPU, or about settings that we do not touch.
_NOISE = re.compile(r"cudaError 35|CUDA initialization failure|CUDA lazy loading is not enabled")
# A person reads at most so many warnings, and a report lies beside every plan.
_MAX_WARNINGS = 20
_MAX_LINE = 500

#: Operators that TensorRT or TensorRT-RTX cannot build or builds badly, and what does the same.
INSTEAD = {
    "DFT": "a strided Conv or a MatMul with cos and sin as weights (engines.graph)",
    "STFT": "a strided Conv with cos and sin times the window as weights (engines.graph): 3 kernels instead of 8",
    "MelWeightMatrix": "the matrix as a constant and MatMul",
    "Attention": "MatMul, Softmax, MatMul written out",
    "GRU": "a convolution over the window, or the cell unrolled: the loop runs step by step on the device",
    "LSTM": "a convolution over the window, or the cell unrolled: the loop runs step by step on the device",
    "RNN": "a convolution over the window, or the cell unrolled: the loop runs step by step on the device",
    "Loop": "the loop unrolled: it runs step by step on the device",
    "Scan": "the loop unrolled: it runs step by step on the device",
    "BitShift": "Mul or Div by a power of two on int32",
    "BitwiseAnd": "Mod, Div and Mul on int32",
    "BitwiseOr": "Mod, Div and Add on int32",
    "BitwiseXor": "Mod, Div and Sub on int32",
    "Compress": "Gather with constant indices, or Where",
    "Unique": "TopK, or work before the model",
    "ConcatFromSequence": "Concat of named tensors",
    "SequenceAt": "Split and named tensors",
    "SplitToSequence": "Split",
    "Det": "a reduced form written out in Mul and Sub",
    "Multinomial": "ArgMax: a model must give the same twice",
    "ConvInteger": "QuantizeLinear and DequantizeLinear around Conv, or float16",
    "MatMulInteger": "QuantizeLinear and DequantizeLinear around MatMul, or float16",
    "QLinearConv": "QuantizeLinear and DequantizeLinear around Conv, or float16",
    "QLinearMatMul": "QuantizeLinear and DequantizeLinear around MatMul, or float16",
    "DynamicQuantizeLinear": "QuantizeLinear with a constant scale, or float16",
}
#: Types that inputs and outputs cannot have there, named as in engines.wire, and what to do.
TYPES = {
    "f8": "float64, which TensorRT has not: build from the float32 variant (engines.graph.precision)",
    "f2": "float16: give float32 and cast inside",
    "ONNX type 16": "bfloat16: give float32 and cast inside",
    "ONNX type 5": "int16, which TensorRT has not: give samples as pairs of uint8 and scale inside (engines.graph)",
    "ONNX type 4": "uint16, which TensorRT has not: give samples as pairs of uint8 and scale inside (engines.graph)",
    "ONNX type 3": "int8: give uint8 and subtract 128 inside",
    "ONNX type 12": "uint32, which TensorRT has not: give int64",
    "ONNX type 13": "uint64, which TensorRT has not: give int64",
    "ONNX type 8": "text, which TensorRT has not: give numbers",
}
#: What inputs and outputs of a plan are, NumPy's names.
RIM = frozenset({"f4", "i4", "i8", "u1", "b1"})


@dataclass(slots=True)
class Log:
    """Collects what a build says. Its `add` is called from inside the library and never raises."""

    kernels: int = 0
    layers: Counter[str] = field(default_factory=Counter)
    loops: list[str] = field(default_factory=list)
    activation_bytes: int = 0
    weights_bytes: int = 0
    warnings: dict[str, None] = field(default_factory=dict)
    recurrent: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Note one message. severity: VERBOSE, INFO, WARNING, ERROR or INTERNAL_ERROR."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            if len(self.errors) < _MAX_WARNINGS and not _NOISE.search(text):
                self.errors.append(one_line(text))
        elif severity == "WARNING":
            if len(self.warnings) < _MAX_WARNINGS and not _NOISE.search(text):
                self.warnings[one_line(text)] = None
        elif text.startswith("Layers:"):
            self._plan(text)
        elif node := _NODE.match(text):
            if node["operator"] in _RECURRENT:
                self.recurrent.append(refusal(node["operator"], node["node"], "is a loop at run time"))
        else:
            for pattern, name in ((_ACTIVATIONS, "activation_bytes"), (_WEIGHTS, "weights_bytes")):
                found = pattern.search(text)
                if found:
                    setattr(self, name, getattr(self, name) + int(found[1]))

    def all_warnings(self) -> tuple[str, ...]:
        """Return the warnings to show: first, ours about loops, if the plan has any."""
        return (*(self.recurrent if self.loops else ()), *self.warnings)

    def _plan(self, text: str) -> None:
        for line in text.splitlines():
            entry = _ENTRY.match(line)
            if entry is None:
                continue
            self.layers[entry["type"]] += 1
            if _TACTIC.search(line):
                self.kernels += 1
            if entry["type"] == _JUMP:
                self.loops.append(entry["name"])


def refusal(operator: str, node: str, why: str) -> str:
    """Say which node cannot be built and what to use instead."""
    where = f"node {node!r} ({operator})" if operator else f"{node!r}" if node else "the model"
    instead = INSTEAD.get(operator)
    if "Plugin not found" in why:  # what the parser says of every operator that it does not know
        why = "the library has no such operator"
    return f"{where}: {one_line(why)}" + (f"; use {instead}" if instead else "")


def one_line(text: str) -> str:
    """Return `text` as one line of bounded length."""
    return " ".join(text.split())[:_MAX_LINE]
