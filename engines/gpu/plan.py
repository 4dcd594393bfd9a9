"""What an engine is built from and for, the key that names it, and the report of its build. Pure values.

A plan (a serialised TensorRT engine) is executable code for one GPU, one library and one driver: the key holds all that
it depends on, so a plan is found again only where it is right. Two builds of one model differ in their bytes, so a key
never holds the hash of a plan.
"""

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta, Struct

# Steps of batch sizes: a batch is padded up to the next, with one CUDA graph each. Below 128 rows a small net is bound
# by launches, so steps are wide; from there on padding costs arithmetic, and steps double.
_STEPS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# Activations and scratch memory of nets of our size stay below 0.5 GiB at 256 rows; the kernel choice gains nothing
# from more.
_WORKSPACE_BYTES = 1 << 30
_GPU = Path(__file__).parent
#: The files whose text decides what is built: a change to one of them makes every key a new one.
_CODE = (
    _GPU / "builder_child.py", _GPU / "flavour.py", _GPU / "library.py", _GPU / "network.py",
    _GPU.parent / "graph" / "half.py", _GPU.parent / "graph" / "precision.py",
)  # fmt: skip

Size = Annotated[int, Meta(ge=1, le=1 << 20)]
Precision = Literal["f32", "f16"]
PRECISIONS: tuple[Precision, ...] = ("f32", "f16")


def buckets(max_batch: int) -> tuple[int, ...]:
    """Return the batch sizes that an engine is prepared for, ascending; the last is `max_batch`."""
    return (*(step for step in _STEPS if step < max_batch), max_batch)


class BuildSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is built.

    precision: of the matrix work; inputs and outputs are float32 in both. max_batch: rows; the activation memory is
    that of `max_batch`. buckets: empty: `buckets(max_batch)`. dims: size of each open dimension besides the batch, by
    its name in the graph. tf32: let float32 products round to 10 bits. targets: compute capabilities as "8.6" to build
    for instead of those that the library builds for by itself; only for checks.
    """

    precision: Precision = "f32"
    max_batch: Annotated[int, Meta(ge=1, le=4096)] = 256
    buckets: tuple[Size, ...] = ()
    dims: dict[str, Size] = {}
    tf32: bool = False
    workspace_bytes: Annotated[int, Meta(ge=1 << 20)] = _WORKSPACE_BYTES
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.buckets:
            msgspec.structs.force_setattr(self, "buckets", buckets(self.max_batch))
        if sorted(set(self.buckets)) != list(self.buckets) or self.buckets[-1] != self.max_batch:
            raise ValueError(f"buckets {self.buckets} must rise and end at max_batch = {self.max_batch}")

    def bucket(self, rows: int) -> int:
        """Return the smallest bucket that holds `rows` rows."""
        return next(size for size in self.buckets if size >= rows)


class DeviceId(NamedTuple):
    """A kind of GPU with its driver: name as the driver gives it, compute capability as "8.6", driver as
    "13000 580.95.05".
    """

    name: str
    cc: str
    driver: str


class Named(Protocol):
    """What a key needs of a flavour: "tensorrt" or "tensorrt_rtx", and the version of its library."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


class EngineKey(Struct, frozen=True):
    """Everything that a plan depends on."""

    model: str
    spec: BuildSpec
    flavour: str
    version: str
    device: DeviceId
    system: str
    code: str

    @property
    def hex(self) -> str:
        """Return the name of the plan: 64 hex digits."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    @staticmethod
    def of(model_sha: str, spec: BuildSpec, flavour: Named, device: DeviceId) -> str:
        """Return the key, 64 hex digits, of model.onnx (hash `model_sha`) built so, by this library, on this device."""
        key = EngineKey(model_sha, spec, flavour.name, flavour.version, device, _system(), _code())
        return key.hex


class PlanTensor(Struct, frozen=True):
    """An input or output of a plan: NumPy dtype, dimensions with the batch first, -1 where open."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool

    def __str__(self) -> str:
        sizes = ", ".join("n" if d < 0 else str(d) for d in self.shape)
        return f"{self.name} {self.dtype}[{sizes}]"


class BuildReport(Struct, frozen=True):
    """What a build made, as far as the library's log tells; 0 where it does not.

    kernels: entries of the plan that launch a kernel. layers: entries of the plan per type. loops: loops that run on
    the device step by step, each named by the entry that jumps. activation_bytes: scratch memory of one context at
    max_batch. weights_bytes: constants on the device. warnings: of parser and builder, each once.
    """

    flavour: str
    version: str
    precision: Precision
    max_batch: int
    plan_bytes: int
    seconds: float
    tensors: tuple[PlanTensor, ...]
    kernels: int = 0
    layers: Mapping[str, int] = {}
    loops: tuple[str, ...] = ()
    activation_bytes: int = 0
    weights_bytes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[PlanTensor, ...]:
        return tuple(t for t in self.tensors if t.is_input)

    @property
    def outputs(self) -> tuple[PlanTensor, ...]:
        return tuple(t for t in self.tensors if not t.is_input)


@cache
def _system() -> str:
    libc = "".join(platform.libc_ver())
    return f"{platform.system()} {platform.machine()} {libc}"


@cache
def _code() -> str:
    parts = (hashlib.sha256(path.read_bytes()).digest() for path in _CODE)
    return hashlib.sha256(b"".join(parts)).hexdigest()
