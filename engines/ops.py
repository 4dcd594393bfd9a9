"""Operators of ONNX that a model may have: those that every engine of ours can run, with one row's result its own.

The list is what ONNX Runtime's CPU provider and TensorRT's parser both know (TensorRT 10 and RTX 1.7, operators.md of
the parser). Left out on purpose: control flow, whose time has no bound or whose branch one row chooses for the others;
random numbers, which give a row another score each time; and operators of variable output size.
"""

#: Allowed, of domain ai.onnx.
OPERATORS = frozenset("""
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf
    IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max
    MaxPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear RNN Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    Round STFT ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
""".split())

_LOOP = "unroll it, or write it as Conv or CumSum over the whole window: a batch must take a bounded time"
_BIT = "use Floor, Mod and Mul on a wider type: TensorRT has no bit operators"
_QUANTIZED = "use QuantizeLinear and DequantizeLinear around the plain operator"
_RANDOM = "put the numbers into the model as a constant: a row must have the same score again"
_SEQUENCE = "use Split, Concat, Gather on tensors: TensorRT has no sequences"
#: Not allowed, with what to use instead.
INSTEAD = {
    "Attention": "write it out as MatMul, Softmax, MatMul: TensorRT has no float32 kernel for it",
    "If": "compute both sides and choose with Where: a branch is taken for all rows of a batch",
    "Loop": _LOOP, "Scan": _LOOP,
    "DFT": "use Conv or MatMul with constant cosines and sines, or STFT: TensorRT has no DFT",
    "BitShift": _BIT, "BitwiseAnd": _BIT, "BitwiseNot": _BIT, "BitwiseOr": _BIT, "BitwiseXor": _BIT,
    "ConvInteger": _QUANTIZED, "MatMulInteger": _QUANTIZED, "QLinearConv": _QUANTIZED, "QLinearMatMul": _QUANTIZED,
    "DynamicQuantizeLinear": _QUANTIZED,
    "Dropout": "export the model in evaluation mode",
    "Bernoulli": _RANDOM, "Multinomial": _RANDOM, "RandomNormal": _RANDOM, "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM, "RandomUniformLike": _RANDOM,
    "ConcatFromSequence": _SEQUENCE, "SequenceAt": _SEQUENCE, "SequenceConstruct": _SEQUENCE,
    "SplitToSequence": _SEQUENCE,
    "Compress": "use Where with a value that counts for nothing: the size of an output must not depend on data",
    "NonZero": "use Where with a value that counts for nothing: the size of an output must not depend on data",
    "Unique": "use TopK: the size of an output must not depend on data",
    "Scatter": "use ScatterElements", "Upsample": "use Resize", "Hardmax": "use ArgMax and OneHot",
    "MelWeightMatrix": "put the matrix into the model as a constant",
    "HannWindow": "put the window into the model as a constant",
    "HammingWindow": "put the window into the model as a constant",
    "BlackmanWindow": "put the window into the model as a constant",
}  # fmt: skip
_CUSTOM = "use operators of ONNX itself, or export to them: no library of custom operators is ever loaded"
#: Domains that exporters write besides ONNX's own, with what to use instead.
_DOMAINS = {
    "ai.onnx.ml": "TensorRT has none of that domain: write a scaler as Sub and Div, a linear model as Gemm, trees as "
                  "MatMul, Less and Gather",
}  # fmt: skip


def misfit(domain: str, operator: str) -> str:
    """Say why an operator is not allowed and what to use instead; empty if it is allowed."""
    if domain not in ("", "ai.onnx"):
        return f"operator {operator} of domain {domain!r}: {_DOMAINS.get(domain, _CUSTOM)}"
    if operator not in OPERATORS:
        hint = INSTEAD.get(operator, "use others: not every engine of ours runs it; `engines/ops.py` lists those")
        return f"operator {operator}: {hint}"
    return ""
