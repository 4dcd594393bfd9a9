"""Model bundles: `model.onnx`, its passport `model.toml`, golden vectors, manifest, signature; a folder or a .zip.

Everything is verified before a byte reaches a runtime: files within limits, their hashes, who vouches for them, and
only then what they say. Each file is read once and handed on as bytes: what was checked is what runs.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engines import golden as golden_vectors
from engines import manifest as manifests
from engines import trust as trusts
from engines.answerspec import OutputSpec
from engines.archive import GOLDEN, LIMITS, MANIFEST, MODEL, PASSPORT, SIGNATURE, read_files, read_manifest
from engines.baselinespec import BaselineSpec
from engines.golden import Golden
from engines.kindspec import EwmaSpec, MewmaSpec, OrderSpec, WindowSpec
from engines.manifest import Manifest
from engines.spec import BudgetSpec, BundleError, Card, JudgeSpec, MatchSpec, ModelSpec, read_spec
from engines.trust import Trust, TrustPolicy
from engines.wire import MAX_FAULTS, ModelFacts, TensorFacts, read_model

__all__ = [
    "SHIPPED", "BudgetSpec", "Bundle", "BundleError", "Candidate", "Card", "EwmaSpec", "JudgeSpec", "MatchSpec",
    "MewmaSpec", "ModelSpec", "OrderSpec", "OutputSpec", "Trust", "TrustPolicy", "WindowSpec", "available",
    "load_bundle", "shipped_bundles",
]  # fmt: skip

MAX_MODEL_BYTES = LIMITS[MODEL]
# Part of every state hash. Raise it when the meaning of streaming state changes although no parameter does.
STATE_LAYOUT = 1
SHIPPED = Path(__file__).parent / "bundles"
_BELIEVE_SHIPPED = TrustPolicy()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle. `model` = the bytes of model.onnx, `sha256` = their hash (64 hex digits).

    manifest_sha256: hash of its manifest, which names all of its files. golden: never None when `load_bundle` made it.
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
        version are not in it; the inputs, the window or recursion and the calibration recipe are. Of a model with a
        `[baseline]` the weights are too: what is normal was learnt in its features.
        """
        spec = self.spec
        shape = (STATE_LAYOUT, spec.kind, spec.window, spec.mewma, channels, samples_per_frame,
                 *(("runs",) if spec.mewma else ()),  # runs of equal samples are counted since
                 *((spec.ewma.state, spec.match.channels) if spec.ewma else ()),
                 *((spec.order, spec.match.max_rate_hz) if spec.order else ()),
                 *((spec.drift.layout(),) if spec.drift else ()),  # older kinds keep the names that they had
                 *((spec.baseline, self.sha256) if spec.baseline else ()))
        return hashlib.sha256(msgspec.json.encode(shape, order="deterministic")).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle that could be loaded, by its manifest alone. mark: changes when any byte of it may have changed.

    fault: why its manifest cannot be read; name is then that of the folder or .zip, version is "".
    """

    path: Path
    name: str
    version: str
    mark: str
    shipped: bool = False
    fault: str = ""


def load_bundle(path: str | Path, policy: TrustPolicy = _BELIEVE_SHIPPED,
                files: Mapping[str, bytes] | None = None) -> Bundle:
    """Read and check the bundle at `path`, a folder or a canonical .zip. Without a policy only shipped ones load.

    files: what was read from it, where somebody did (`engines.archive.read_files`); `path` is then only a name.
    Raises BundleError with every fault of the first stage that has one: files and hashes, trust, contents.
    """
    path = Path(path)
    files = read_files(path) if files is None else files
    manifest = verify(path, files)
    trust, faults = trusts.judge(manifest, files[MANIFEST], files.get(SIGNATURE), policy)
    if faults:
        raise BundleError(path, faults)
    return _parse(path, manifest, files, trust)


def verify(path: Path, files: Mapping[str, bytes]) -> Manifest:
    """Check the files of a bundle against its manifest, byte for byte, and return that. Raises BundleError."""
    if MANIFEST not in files:
        missing = [f"{name} is missing" for name in sorted({*manifests.FILES, MANIFEST} - files.keys())]
        raise BundleError(path, [*missing, "`kizashi models sign` writes the manifest"])
    try:
        manifest = manifests.decode_manifest(files[MANIFEST])
    except ValueError as error:
        raise BundleError(path, [f"{MANIFEST}: {error}"]) from error
    faults = manifest.faults(files)
    if faults:
        raise BundleError(path, faults)
    return manifest


def inspect(files: Mapping[str, bytes]) -> tuple[ModelSpec | None, Golden | None, list[str]]:
    """Read the contents of a bundle and say everything that is wrong with them."""
    spec, faults = read_spec(files[PASSPORT])
    facts = golden = None
    try:
        facts = read_model(files[MODEL])
        faults += [f"{MODEL}: {fault}" for fault in facts.faults]
    except ValueError as error:
        faults.append(f"{MODEL} is not an ONNX model that can be used: {error}")
    try:
        golden = golden_vectors.decode(files[GOLDEN])
    except ValueError as error:
        faults.append(f"{GOLDEN}: {error}")
    if spec is not None and facts is not None and golden is not None and not faults:  # else they would repeat it
        faults += _model_misfits(spec, facts, len(files[MODEL])) or [
            f"{GOLDEN}: {fault}" for fault in golden_vectors.faults(golden, spec, facts)]
    return spec, golden, faults


def available(folder: Path | None) -> list[Candidate]:
    """List the bundles of `folder` (folders and .zip in it, by name), then the shipped ones. Raises OSError."""
    found = []
    for path in sorted(folder.iterdir()) if folder is not None else ():
        if _is_one(path):
            found.append(_candidate(path, False))
    return found + [_candidate(path, True) for path in shipped_bundles().values()]


def shipped_bundles() -> dict[str, Path]:
    """List the bundles that come with this package: name -> folder."""
    return {p.parent.name: p.parent for p in sorted(SHIPPED.glob("*/model.toml"))}


def _parse(path: Path, manifest: Manifest, files: Mapping[str, bytes], trust: Trust) -> Bundle:
    spec, golden, faults = inspect(files)
    if spec is not None and (spec.name, spec.version) != (manifest.name, manifest.version):
        faults.append(f"{PASSPORT} is of {spec.name} {spec.version}, {MANIFEST} of {manifest.name} {manifest.version}")
    if spec is None or faults:
        raise BundleError(path, faults[:MAX_FAULTS] + (["and more"] if len(faults) > MAX_FAULTS else []))
    model = files[MODEL]
    return Bundle(spec, path, model, hashlib.sha256(model).hexdigest(), hashlib.sha256(files[MANIFEST]).hexdigest(),
                  trust, golden)


def _model_misfits(spec: ModelSpec, facts: ModelFacts, size: int) -> list[str]:
    """Compare what the passport says of inputs, outputs and size with what the model is."""
    graph, found = {tensor.name: tensor for tensor in facts.inputs}, []
    said = {tensor.name for tensor in spec.inputs}
    found += [f"inputs: {name!r} of {MODEL} is not described" for name in graph if name not in said]
    for tensor in spec.inputs:
        if tensor.name not in graph:
            found.append(f"inputs: {tensor.name!r} is none of {MODEL}, which has {', '.join(graph)}")
        elif (tensor.dtype, *tensor.shape) != (graph[tensor.name].dtype, *graph[tensor.name].dims[1:]):
            found.append(f"inputs: {tensor.name!r} is {tensor.dtype}{list(tensor.shape)}, in {MODEL} "
                         f"{graph[tensor.name].dtype}{list(graph[tensor.name].dims[1:])} after the batch")
    rows = spec.rows(1, 1)
    if {name: len(shape) for name, shape in rows.items()} != {t.name: len(t.dims) - 1 for t in facts.inputs}:
        wanted = ", ".join(f"{name} of {len(shape)} dimensions" for name, shape in rows.items())
        found.append(f"kind {spec.kind!r} feeds {wanted} after the batch, {MODEL} has "
                     f"{', '.join(f'{t.name}{list(t.dims[1:])}' for t in facts.inputs) or 'no inputs'}")
    outputs = {tensor.name: tensor for tensor in facts.outputs}
    named = dict(spec.outputs.names())
    found += [f"outputs.{key} = {name!r} is none of {MODEL}, which has {', '.join(outputs)}"
              for key, name in named.items() if name not in outputs] or [
                  f"outputs: {name!r} of {MODEL} is not described: give its unit and meaning in [outputs.others.{name}]"
                  for name in outputs if name not in named.values()]
    if spec.baseline is not None and spec.outputs.features in outputs:
        found += _width_fault(spec.baseline, spec.match.channels, outputs[spec.outputs.features])
    found += [f"golden.tolerance: {name!r} is no output of {MODEL}, which has {', '.join(outputs)}"
              for name in spec.golden.tolerance if name not in outputs]
    found += [fault for tensor in (*facts.inputs, *facts.outputs) if (fault := _tensor_fault(tensor))]
    if spec.budget.model_kb is not None and size > spec.budget.model_kb * 1000:
        found.append(f"{MODEL} is {size / 1000:g} kB, budget.model_kb = {spec.budget.model_kb:g}")
    return found


def _width_fault(baseline: BaselineSpec, channels: Sequence[str], tensor: TensorFacts) -> list[str]:
    """Compare the features of a row with what the baseline has; an open dimension is for any number of channels."""
    width = baseline.width(len(channels)) if channels or not baseline.per_channel else None
    if len(tensor.dims) == 2 and tensor.dims[1] == width:
        return []
    if width is None and len(tensor.dims) == 2 and (
            not isinstance(tensor.dims[1], int) or tensor.dims[1] % len(baseline.features) == 0):
        return []
    wanted = width if width is not None else f"{len(baseline.features)} for each channel"
    dims = ", ".join(map(str, tensor.dims))
    return [f"outputs.features: {tensor.name!r} is ({dims}), [baseline] has {wanted}"]


def _tensor_fault(tensor: TensorFacts) -> str:
    if tensor.dtype.startswith("ONNX"):
        return (f"{MODEL}: {tensor.name!r} is of {tensor.dtype}; engines take float32, float64, int32, int64, uint8, "
                "bool (int16 samples: as pairs of uint8)")
    if not tensor.dims or isinstance(tensor.dims[0], int):
        return f"{MODEL}: {tensor.name!r} has dimensions {list(tensor.dims)}: the first must be an open batch"
    return ""


def _is_one(path: Path) -> bool:
    if path.name.startswith("."):  # a part that is being written, or a file system's own
        return False
    try:
        if path.is_dir():
            return any((path / name).exists() for name in (MANIFEST, PASSPORT, MODEL))
        return path.suffix == ".zip" and path.is_file()
    except OSError:  # it may not be looked into: it is listed with that as its fault
        return True


def _candidate(path: Path, shipped: bool) -> Candidate:
    shown = Path(os.fsencode(path).decode("utf-8", "backslashreplace"))
    if shown != path:  # neither the log nor a JSON document could name it
        return Candidate(shown, shown.name.removesuffix(".zip"), "", _mark(path, b""), shipped,
                         "its file name is not UTF-8; rename it")
    try:
        raw = read_manifest(path)
        manifest = manifests.decode_manifest(raw)
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        return Candidate(path, path.name.removesuffix(".zip"), "", _mark(path, b""), shipped, f"{MANIFEST}: {why}")
    return Candidate(path, manifest.name, manifest.version, _mark(path, raw), shipped)


def _mark(path: Path, manifest: bytes) -> str:
    """Hash what a file system says of the files, and the manifest: an edit changes one of them."""
    digest = hashlib.sha256(manifest)
    with suppress(OSError):  # what vanishes meanwhile gives another mark next time
        for file in sorted(path.iterdir()) if path.is_dir() else (path,):
            status = file.stat()
            digest.update(os.fsencode(file.name))
            digest.update(f" {status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode())
    return digest.hexdigest()
