"""What a bundle's passport `model.toml` may say, and what of it must agree.

Every key is checked and every fault is named, not only the first. Nothing here reads a file.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import msgspec
from msgspec import Meta, Struct

# A chart's calibration must span its memory (1 / smoothing samples) this often, or its limit is a guess.
_MIN_MEMORIES = 20

# `(?!\n)` because Python's `$` also matches before a newline at the end.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}(?!\n)$")]
Version = Annotated[str, Meta(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(?!\n)$")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Hashes = Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}( [0-9a-f]{8,64})*(?!\n)$", max_length=4096)]
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
    regime_quantities: channels with one of these words say how the asset is driven (speed, load): they are not charted,
    the others are regressed on them. wander_bound: largest cumulated deviation of a steady channel, in units of a
    Brownian bridge. limit_bound: largest limit of a steady asset, as a multiple of that of independent channels. Beyond
    them a baseline is suspect; None: not looked at.
    """

    smoothing: Annotated[float, Meta(gt=0.0, le=1.0)]
    hop: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    calibration_rows: Annotated[int, Meta(ge=64, le=100_000)] = 400
    folds: Annotated[int, Meta(ge=2, le=32)] = 8
    stationarity: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.5
    slow_stationarity: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.35
    exceedance: Annotated[float, Meta(gt=0.0, lt=0.5)] = 2e-5
    slow_quantities: tuple[Text, ...] = ()
    regime_quantities: tuple[Text, ...] = ()
    wander_bound: Positive | None = None
    limit_bound: Positive | None = None


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
    """What an asset must look like for this model.

    min_rate_hz, max_rate_hz: samples per second and channel that the model was made for, none: any. units: UCUM codes
    that its channels may have, empty: any.
    """

    min_channels: Annotated[int, Meta(ge=1, le=1024)] = 1
    max_channels: Annotated[int, Meta(ge=1, le=1024)] = 1024
    min_rate_hz: Positive | None = None
    max_rate_hz: Positive | None = None
    units: tuple[Text, ...] = ()


class InputSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One input of the graph, `[[inputs]]`: shape without the batch dimension, open dimensions by their name."""

    name: Text
    dtype: Literal["f4", "f8", "f2", "i4", "i8", "u1", "b1"]
    shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 20)] | Text, ...], Meta(max_length=7)]
    unit: Text
    meaning: Text


class Tolerance(Struct, frozen=True, forbid_unknown_fields=True):
    """How far an engine's output may be from the golden one: abs + rel * |golden|, per element.

    The default is what float32 sums of some hundred terms need.
    """

    abs: Annotated[float, Meta(ge=0.0, le=1e9)] = 1e-5
    rel: Annotated[float, Meta(ge=0.0, le=1.0)] = 1e-5


class GoldenSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Tolerance per output of the golden vectors in `golden.msgpack`; outputs that are not named have the default."""

    tolerance: dict[str, Tolerance] = {}


class BudgetSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What the model may cost; none: anything.

    latency_ms: p99 of one batch of 256 rows on one CPU thread. memory_mb: what an engine with this model may add to a
    process. model_kb: size of model.onnx.
    """

    latency_ms: Positive | None = None
    memory_mb: Positive | None = None
    model_kb: Positive | None = None


class Card(Struct, frozen=True, forbid_unknown_fields=True):
    """The model card: what a person reads before trusting an alert of this model.

    trained_on: by name of a file or group, SHA-256 of what the weights were fitted to, or heads of such hashes, of 8
    digits and more, with spaces between. `kizashi evaluate` leaves what it meets again out of its headline.
    """

    purpose: Text
    protocol: Text
    figures: Text
    limits: Text
    failures: Text
    trained_on: dict[Text, Hashes] = {}


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The passport of a model, `model.toml`. `rule` names its alerts and is part of their ids."""

    name: Name
    version: Version
    kind: Literal["window", "mewma"]
    rule: Name
    card: Card
    threshold: Positive = 1.0
    outputs: OutputSpec = OutputSpec()
    window: WindowSpec | None = None
    mewma: MewmaSpec | None = None
    judge: JudgeSpec = JudgeSpec()
    match: MatchSpec = MatchSpec()
    inputs: tuple[InputSpec, ...] = ()
    golden: GoldenSpec = GoldenSpec()
    budget: BudgetSpec = BudgetSpec()

    def misfits(
        self, channels: int, samples_per_frame: int, rate_hz: float | None = None, units: Iterable[str] = ()
    ) -> list[str]:
        """Say why an asset of this layout cannot be judged by this model; empty if it can.

        channels: how many an asset has. samples_per_frame: per channel, as its birth fixes it. rate_hz: samples per
        second and channel. units: of its channels.
        """
        found = self._foreign(rate_hz, units)
        if not self.match.min_channels <= channels <= self.match.max_channels:
            found.append(
                f"{channels} channels, {self.name} wants {self.match.min_channels} to {self.match.max_channels}"
            )
        for key, value in (("size", self.window.size), ("hop", self.window.hop)) if self.window else ():
            if value % samples_per_frame:
                frame = f"{samples_per_frame} samples per frame"
                found.append(f"{frame} do not divide window.{key} = {value} samples of {self.name}")
        return found or self._other_shapes(channels, samples_per_frame)

    def rows(self, channels: int, samples_per_frame: int) -> dict[str, tuple[int, ...]]:
        """Return the inputs that a row of an asset has, and their shapes."""
        if self.window is not None:  # as frames hold them: (frames, channels, samples)
            return {"x": (self.window.size // samples_per_frame, channels, samples_per_frame)}
        return {"z": (channels,), "center": (channels,), "whitening": (channels, channels), "limit": ()}

    def _other_shapes(self, channels: int, samples_per_frame: int) -> list[str]:
        rows = self.rows(channels, samples_per_frame)
        return [f"its rows have {t.name}{list(rows[t.name])}, {self.name} takes {t.name}{list(t.shape)}"
                for t in self.inputs if t.name in rows and any(
                    isinstance(want, int) and want != got
                    for want, got in zip(t.shape, rows[t.name], strict=False))]

    def _foreign(self, rate_hz: float | None, units: Iterable[str]) -> list[str]:
        found, match = [], self.match
        low, high = match.min_rate_hz or 0.0, match.max_rate_hz or float("inf")
        if rate_hz is not None and not low <= rate_hz <= high:
            found.append(f"{rate_hz:g} samples/s, {self.name} is made for {low:g} to {high:g}")
        if match.units:
            found += [f"a channel in {unit!r}, {self.name} takes {', '.join(match.units)}"
                      for unit in sorted(set(units) - set(match.units))]
        return found


def read_spec(passport: bytes) -> tuple[ModelSpec | None, list[str]]:
    """Read the bytes of a model.toml: the spec, None when it has faults of type, and all faults found."""
    try:
        table = tomllib.loads(passport.decode())
    except (ValueError, RecursionError) as error:
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
    options = () if get_origin(kind) in (dict, tuple) else getattr(kind, "__args__", ())
    for option in (kind, *options):
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
    low, high = spec.match.min_rate_hz, spec.match.max_rate_hz
    if low is not None and high is not None and low > high:
        faults.append(f"match.min_rate_hz = {low:g} is above max_rate_hz {high:g}")
    if len({tensor.name for tensor in spec.inputs}) < len(spec.inputs):
        faults.append("inputs: a name is there twice")
    if spec.match.min_channels > spec.match.max_channels:
        faults.append(f"match.min_channels = {spec.match.min_channels} is above max_channels {spec.match.max_channels}")
    return faults
