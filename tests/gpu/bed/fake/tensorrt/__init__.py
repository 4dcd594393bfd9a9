"""A `tensorrt` for machines without a GPU: plans hold an ONNX model, contexts run ONNX Runtime on the stand-in libcuda.

What the product's adapter uses of TensorRT 10.13 to 11 is here, under the real names (tests/gpu/test_bed.py looks each
of them up in the real bindings). `execute_async_v3` puts a host function on the stream; when the stream runs, that
function reads the inputs and writes the outputs at the tensors' addresses, which is possible because device memory of
the stand-in is host memory. It works inside a capture: a graph pins shapes and addresses of the capture.

It is stricter than the real one where the real one answers with undefined behaviour: memory that is not the stand-in's,
or is freed, a graph that outlives its context, and scratch memory that is too small or shared with a tensor are
illegal addresses, and each run overwrites its scratch memory.

Switches (environment, read when they matter; N counts from 1, over the process):
    FAKE_TENSORRT_VERSION   version to be, default 11.4.0.106; one of 10.x has flags of 10.x
    FAKE_TENSORRT_BUILD     fail | hang | crash | sleep:SECONDS | memory (grows until it is stopped)
    FAKE_TENSORRT_LOAD      fail: a plan cannot be deserialised
    FAKE_TENSORRT_CONTEXT   fail: no execution context is made
    FAKE_TENSORRT_ENQUEUE   fail[@N]: execute_async_v3 answers False (from the N-th call on)
    FAKE_TENSORRT_CAPTURE   no: enqueueing does what a capture forbids
    FAKE_TENSORRT_OUTPUT    nan[@N] | zero[@N] | add:AMOUNT[@N] | scale:FACTOR[@N]: wrong numbers in float outputs, from
                            the N-th run on
    FAKE_TENSORRT_RUN       sleep:SECONDS[@N] | leak:BYTES[@N]: from the N-th run on, a slow or leaking engine
    FAKE_TENSORRT_POISON    VALUE[=CODE[:sticky]]: a run with an input that holds VALUE fails on the device with CUDA
                            error CODE (default 701, launch out of resources, which is not sticky)
    FAKE_TENSORRT_THREADS   threads of ONNX Runtime, default 1
    FAKE_TENSORRT_REPORT    file that receives, as JSON when the process ends, runs per batch size
"""

from tensorrt._build import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    OnnxParser,
    ParserError,
)
from tensorrt._names import (
    BuilderFlag,
    DataType,
    ErrorCodeTRT,
    ExecutionContextAllocationStrategy,
    IErrorRecorder,
    ILogger,
    IProgressMonitor,
    IRuntimeConfig,
    Logger,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
    version,
)
from tensorrt._run import ICudaEngine, IExecutionContext, Runtime

__version__ = version()

float32, float16, int8, int32, int64, uint8 = (
    DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32, DataType.INT64, DataType.UINT8
)  # fmt: skip

__all__ = [
    "Builder", "BuilderFlag", "DataType", "ErrorCodeTRT", "ExecutionContextAllocationStrategy", "IBuilderConfig",
    "ICudaEngine", "IErrorRecorder", "IExecutionContext", "ILogger", "INetworkDefinition",
    "IOptimizationProfile", "IProgressMonitor", "IRuntimeConfig", "ITensor", "Logger", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "ProfilingVerbosity", "Runtime", "TensorIOMode",
    "TensorLocation",
]  # fmt: skip
