"""Model bundles: a folder with `model.onnx` and its passport `model.toml`.

The model's bytes are read once, hashed, and handed to the engine as bytes: what was checked is what runs.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engines.golden import Golden
from engines.spec import (
    BudgetSpec,
    BundleError,
    Card,
    JudgeSpec,
    MatchSpec,
    MewmaSpec,
    ModelSpec,
    OutputSpec,
    WindowSpec,
    read_spec,
)
from engines.trust import Trust, TrustPolicy
from engines.wire import external_tensors

__all__ = [
    "SHIPPED", "BudgetSpec", "Bundle", "BundleError", "Card", "JudgeSpec", "MatchSpec", "MewmaSpec", "ModelSpec",
    "OutputSpec", "Trust", "TrustPolicy", "WindowSpec", "load_bundle", "shipped_bundles",
]  # fmt: skip

# A bundle is for an edge box: the shipped ones are below 200 kB. 64 MiB leaves room for a convolutional net and
# stops a wrong file (a data set, a disk image) before it is read into memory.
MAX_MODEL_BYTES = 64 << 20
# Part of every state hash. Raise it when the meaning of streaming state changes although no parameter does.
STATE_LAYOUT = 1
SHIPPED = Path(__file__).parent / "bundles"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle. `model` = the bytes of model.onnx, `sha256` = their hash (64 hex digits).

    manifest_sha256: hash of its manifest, which names all of its files.
    """

    spec: ModelSpec
    path: Path
    model: bytes
    sha256: str
    manifest_sha256: str = ""
    trust: Trust = Trust("unsigned")
    golden: Golden | None = None

    def state_hash(self, channels: int, samples_per_frame: int) -> str:
        """Name the layout and meaning of an asset's streaming state: 12 hex digits.

        Two bundles with the same hash can take over each other's state: weights, threshold, judge, card and
        version are not in it; the inputs, the window or recursion and the calibration recipe are.
        """
        shape = (STATE_LAYOUT, self.spec.kind, self.spec.window, self.spec.mewma, channels, samples_per_frame)
        return hashlib.sha256(msgspec.json.encode(shape, order="deterministic")).hexdigest()[:12]


def load_bundle(path: str | Path, policy: TrustPolicy = TrustPolicy()) -> Bundle:  # noqa: B008  (frozen)
    """Read and check the bundle in folder `path`.

    Raises BundleError with every fault found in model.toml and model.onnx, not only the first.
    """
    path = Path(path)
    try:
        spec, faults = read_spec((path / "model.toml").read_bytes())
    except OSError as error:
        spec, faults = None, [f"model.toml cannot be read: {error.strerror or error}"]
    model = b""
    try:
        size = (path / "model.onnx").stat().st_size
        if size > MAX_MODEL_BYTES:
            faults.append(f"model.onnx is {size} bytes, the limit is {MAX_MODEL_BYTES} bytes")
        else:
            model = (path / "model.onnx").read_bytes()
            faults += _model_faults(model)
    except OSError as error:
        faults.append(f"model.onnx cannot be read: {error.strerror or error}")
    if spec is None or faults:
        raise BundleError(path, faults)
    return Bundle(spec, path, model, hashlib.sha256(model).hexdigest())


def shipped_bundles() -> dict[str, Path]:
    """List the bundles that come with this package: name -> folder."""
    return {p.parent.name: p.parent for p in sorted(SHIPPED.glob("*/model.toml"))}


def _model_faults(model: bytes) -> list[str]:
    try:
        outside = external_tensors(model)
    except ValueError as error:
        return [f"model.onnx is not an ONNX model: {error}"]
    return [f"model.onnx keeps tensor {name!r} in another file; save it with all data inside" for name in outside]
