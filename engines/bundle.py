"""Model bundles: a folder with `model.onnx` and its passport `model.toml`.

The model's bytes are read once, hashed, and handed to the engine as bytes: what was checked is what runs.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from engines.wire import external_tensors

# A bundle is for an edge box: the shipped ones are below 200 kB. 64 MiB leaves room for a convolutional net and
# stops a wrong file (a data set, a disk image) before it is read into memory.
MAX_MODEL_BYTES = 64 << 20
# Part of every state hash. Raise it when the meaning of streaming state changes although no parameter does.
STATE_LAYOUT = 1
# A chart's calibration must span its memory (1 / smoothing samples) this often, or its limit is a guess.
_MIN_MEMORIES = 20
SHIPPED = Path(__file__).parent / "bundles"

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Fraction = Annotated[float, Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1e9)]


class BundleError(ValueError):
    """A bundle cannot be used; `faults` lists every reason, one line each."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__(f"bundle {path}: " + "; ".join(faults))
        self.path, self.faults = path, faults


class OutputSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the graph's outputs: the score of a row, and its shares per channel (none if the model has none)."""

    score: Text = "score"
    contributions: Text | None = None


class WindowSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Rows are windows of `size` samples, one every `hop` samples (kind "window")."""

    size: Annotated[int, Meta(ge=1, le=1 << 20)]
    hop: Annotated[int, Meta(ge=1, le=1 << 20)]


class MewmaSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Rows are the state of a recursion per sample (kind "mewma"); the rest is the recipe of its calibration.

    smoothing: weight of the newest sample. hop: samples between two rows, 0 = one row a frame.
    calibration_rows: samples of a healthy asset that the chart is set up from. folds: blocks of them, each of which is
    judged by a chart fitted on the others. stationarity, slow_stationarity: least von Neumann ratio (2 = white noise,
    0 = drift) of a channel's samples, and of its means over tenths of the calibration: slow drift under fast noise.
    exceedance: chance that a healthy row is over the limit, by the fitted tail. slow_quantities: channels whose
    quantity contains one of these words are left out: what moves for hours looks steady in a short calibration.
    """

    smoothing: Annotated[float, Meta(gt=0.0, le=1.0)]
    hop: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    calibration_rows: Annotated[int, Meta(ge=64, le=100_000)] = 400
    folds: Annotated[int, Meta(ge=2, le=32)] = 8
    stationarity: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.5
    slow_stationarity: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.35
    exceedance: Annotated[float, Meta(gt=0.0, lt=0.5)] = 2e-5
    slow_quantities: tuple[Text, ...] = ()


class JudgeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """When scores become an alert.

    on: raise when `on[0]` of the last `on[1]` rows are over the threshold. off: clear when that many rows in
    a row are below threshold * (1 - deadband). severity: score / threshold from which on an alert is low,
    medium, high, critical.
    """

    on: tuple[Annotated[int, Meta(ge=1, le=64)], Annotated[int, Meta(ge=1, le=64)]] = (1, 1)
    off: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    deadband: Fraction = 0.0
    severity: tuple[Positive, Positive, Positive, Positive] = (1.0, 2.0, 4.0, 8.0)


class MatchSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What an asset must look like for this model."""

    min_channels: Annotated[int, Meta(ge=1, le=1024)] = 1
    max_channels: Annotated[int, Meta(ge=1, le=1024)] = 1024


class Card(Struct, frozen=True, forbid_unknown_fields=True):
    """The model card: what a person reads before trusting an alert of this model."""

    purpose: Text
    protocol: Text
    figures: Text
    limits: Text
    failures: Text


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The passport of a model, `model.toml`. `rule` names its alerts and is part of their ids."""

    name: Name
    version: Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    kind: Literal["window", "mewma"]
    rule: Name
    card: Card
    threshold: Positive = 1.0
    outputs: OutputSpec = OutputSpec()
    window: WindowSpec | None = None
    mewma: MewmaSpec | None = None
    judge: JudgeSpec = JudgeSpec()
    match: MatchSpec = MatchSpec()

    def misfits(self, channels: int, samples_per_frame: int) -> list[str]:
        """Say why an asset of this layout cannot be judged by this model; empty if it can.

        channels: how many an asset has. samples_per_frame: per channel, as its birth fixes it.
        """
        found = []
        if not self.match.min_channels <= channels <= self.match.max_channels:
            found.append(
                f"{channels} channels, {self.name} wants {self.match.min_channels} to {self.match.max_channels}"
            )
        for key, value in (("size", self.window.size), ("hop", self.window.hop)) if self.window else ():
            if value % samples_per_frame:
                frame = f"{samples_per_frame} samples per frame"
                found.append(f"{frame} do not divide window.{key} = {value} samples of {self.name}")
        return found


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle. `model` = the bytes of model.onnx, `sha256` = their hash (64 hex digits)."""

    spec: ModelSpec
    path: Path
    model: bytes
    sha256: str

    def state_hash(self, channels: int, samples_per_frame: int) -> str:
        """Name the layout and meaning of an asset's streaming state: 12 hex digits.

        Two bundles with the same hash can take over each other's state: weights, threshold, judge, card and
        version are not in it; the inputs, the window or recursion and the calibration recipe are.
        """
        shape = (STATE_LAYOUT, self.spec.kind, self.spec.window, self.spec.mewma, channels, samples_per_frame)
        return hashlib.sha256(msgspec.json.encode(shape, order="deterministic")).hexdigest()[:12]


def load_bundle(path: str | Path) -> Bundle:
    """Read and check the bundle in folder `path`.

    Raises BundleError with every fault found in model.toml and model.onnx, not only the first.
    """
    path = Path(path)
    spec, faults = _read_spec(path / "model.toml")
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


def _read_spec(path: Path) -> tuple[ModelSpec | None, list[str]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return None, [f"model.toml cannot be read: {error.strerror or error}"]
    except ValueError as error:
        return None, [f"model.toml is not TOML: {error}"]
    faults = _type_faults(table, ModelSpec, "")
    if faults:
        return None, faults
    spec = msgspec.convert(table, ModelSpec)
    return spec, _sense_faults(spec)


def _type_faults(value: Any, kind: Any, where: str) -> list[str]:
    """Check field by field, because msgspec itself stops at the first fault."""
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    faults = [f"{where}{key}: unknown key" for key in value if key not in fields]
    for key, field in fields.items():
        if key not in value:
            if field.required:
                faults.append(f"{where}{key}: missing")
            continue
        nested = _struct_of(field.type)
        if nested is not None and isinstance(value[key], dict):
            faults += _type_faults(value[key], nested, f"{where}{key}.")
            continue
        try:
            msgspec.convert(value[key], field.type)
        except msgspec.ValidationError as error:
            faults.append(f"{where}{key} = {value[key]!r}: {error}")
    return faults


def _struct_of(kind: Any) -> Any:
    for option in (kind, *getattr(kind, "__args__", ())):
        if isinstance(option, type) and issubclass(option, Struct):
            return option
    return None


def _sense_faults(spec: ModelSpec) -> list[str]:
    faults = []
    for key, table in (("window", spec.window), ("mewma", spec.mewma)):
        if (table is not None) != (spec.kind == key):
            faults.append(f"kind is {spec.kind!r}, so [{key}] must {'be there' if spec.kind == key else 'go'}")
    if spec.window and spec.window.hop > spec.window.size:
        faults.append(f"window.hop = {spec.window.hop} is above window.size = {spec.window.size}: samples get lost")
    if spec.mewma and spec.mewma.calibration_rows * spec.mewma.smoothing < _MIN_MEMORIES:
        faults.append(
            f"mewma.calibration_rows = {spec.mewma.calibration_rows} are fewer than {_MIN_MEMORIES} times the memory "
            f"of 1 / smoothing = {1 / spec.mewma.smoothing:.0f} samples: calibrate longer or smooth less"
        )
    if spec.judge.on[0] > spec.judge.on[1]:
        faults.append(f"judge.on = {list(spec.judge.on)}: n of m needs n <= m")
    if list(spec.judge.severity) != sorted(set(spec.judge.severity)) or spec.judge.severity[0] < 1.0:
        faults.append(f"judge.severity = {list(spec.judge.severity)}: must rise and start at 1.0 or above")
    if spec.match.min_channels > spec.match.max_channels:
        faults.append(f"match.min_channels = {spec.match.min_channels} is above max_channels {spec.match.max_channels}")
    return faults
