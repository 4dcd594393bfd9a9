"""What a bundle's passport `model.toml` may say, and what of it must agree.

Every key is checked and every fault is named, not only the first. Nothing here reads a file.
"""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import msgspec
from msgspec import Meta, Struct

from engines.answerspec import OutputSpec
from engines.baselinespec import BaselineSpec
from engines.driftspec import DriftSpec
from engines.fields import ChannelName, Fraction, Hashes, Name, Positive, Text, Version
from engines.kindspec import EwmaSpec, MewmaSpec, OrderSpec, WindowSpec

# Characters of a wrong value that a fault repeats: enough for a list of channels.
_MOST_TOLD = 400


class BundleError(ValueError):
    """A bundle cannot be used; `faults` lists every reason, one line each."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__(f"bundle {path}: " + "; ".join(faults))
        self.path, self.faults = path, faults


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

    channels: names of those that the model takes, in its order; an asset may have more, in any order, and then
    min_channels and max_channels say nothing. min_rate_hz, max_rate_hz: samples per second and channel that the model
    was made for, none: any. units: UCUM codes that its channels may have, empty: any.
    """

    min_channels: Annotated[int, Meta(ge=1, le=1024)] = 1
    max_channels: Annotated[int, Meta(ge=1, le=1024)] = 1024
    min_rate_hz: Positive | None = None
    max_rate_hz: Positive | None = None
    units: tuple[Text, ...] = ()
    channels: Annotated[tuple[ChannelName, ...], Meta(max_length=1024)] = ()

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return the channels that an asset with these names lacks."""
        there = set(names)
        return [name for name in self.channels if name not in there]

    def faults(self) -> list[str]:
        """Say what of it does not agree."""
        found, low, high = [], self.min_rate_hz, self.max_rate_hz
        if low is not None and high is not None and low > high:
            found.append(f"match.min_rate_hz = {low:g} is above max_rate_hz {high:g}")
        if self.min_channels > self.max_channels:
            found.append(f"match.min_channels = {self.min_channels} is above max_channels {self.max_channels}")
        if len(set(self.channels)) < len(self.channels):
            found.append("match.channels: a name is there twice")
        return found


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
    process, its golden vectors run. model_kb: size of model.onnx. rows_at_once: most rows that an engine on a CPU
    computes together, where a row takes megabytes on its way.
    """

    latency_ms: Positive | None = None
    memory_mb: Positive | None = None
    model_kb: Positive | None = None
    rows_at_once: Annotated[int, Meta(ge=1, le=65_536)] | None = None


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
    kind: Literal["window", "mewma", "ewma", "order"]
    rule: Name
    card: Card
    threshold: Positive = 1.0
    outputs: OutputSpec = OutputSpec()
    window: WindowSpec | None = None
    mewma: MewmaSpec | None = None
    ewma: EwmaSpec | None = None
    order: OrderSpec | None = None
    baseline: BaselineSpec | None = None
    judge: JudgeSpec = JudgeSpec()
    match: MatchSpec = MatchSpec()
    drift: DriftSpec | None = None
    inputs: tuple[InputSpec, ...] = ()
    golden: GoldenSpec = GoldenSpec()
    budget: BudgetSpec = BudgetSpec()

    def misfits(
        self, channels: int | Sequence[str], samples_per_frame: int, rate_hz: float | None = None,
        units: Iterable[str] = (),
    ) -> list[str]:  # fmt: skip
        """Say why an asset of this layout cannot be judged by this model; empty if it can.

        channels: the names of an asset's, or how many it has that the model takes. samples_per_frame: per channel, as
        its birth fixes it. rate_hz: samples per second and channel. units: of its channels.
        """
        found = self._foreign(rate_hz, units)
        count, match = channels if isinstance(channels, int) else len(channels), self.match
        if match.channels and not isinstance(channels, int):
            if missing := match.missing(channels):
                found.append(f"{self.name} wants the channels {', '.join(missing)}, which it lacks")
            count = len(match.channels)
        elif not match.channels and not match.min_channels <= count <= match.max_channels:
            found.append(f"{count} channels, {self.name} wants {match.min_channels} to {match.max_channels}")
        for key, value in (("size", self.window.size), ("hop", self.window.hop)) if self.window else ():
            if value % samples_per_frame:
                frame = f"{samples_per_frame} samples per frame"
                found.append(f"{frame} do not divide window.{key} = {value} samples of {self.name}")
        if self.order:
            found += self.order.misfits(samples_per_frame)
        return found or self._other_shapes(count, samples_per_frame)

    def rows(self, channels: int, samples_per_frame: int) -> dict[str, tuple[int, ...]]:
        """Return the inputs that a row of an asset has, and their shapes; channels: those that the model takes."""
        if self.window is not None:  # as frames hold them: (frames, channels, samples)
            return {"x": (self.window.size // samples_per_frame, channels, samples_per_frame)}
        if self.ewma is not None:
            return self.ewma.rows(self.match.channels)
        if self.order is not None:
            return self.order.rows()
        return {"z": (channels,), "center": (channels,), "whitening": (channels, channels), "limit": ()}

    def watched(self, channels: int, samples_per_frame: int) -> int:
        """Return how many numbers of a row drift detection compares beside its score; of windows, a mean a channel."""
        if self.drift is None or self.drift.input is None:
            return 0
        if self.baseline is not None and self.drift.input == self.outputs.features:
            return self.baseline.width(channels)
        shape = self.rows(channels, samples_per_frame)[self.drift.input]
        return shape[0] if len(shape) == 1 else shape[1]

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
            faults.append(f"{where}{key} = {_told(value[key])}: {error}")
    return faults


def _told(value: Any) -> str:
    """Write a value of TOML, in part if it is long; a key of a thousand dots is deeper than Python writes."""
    try:
        text = repr(value)
    except RecursionError:
        return "tables within tables"
    return text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}..."


def _struct_of(kind: Any) -> Any:
    options = () if get_origin(kind) in (dict, tuple) else getattr(kind, "__args__", ())
    for option in (kind, *options):
        if isinstance(option, type) and issubclass(option, Struct):
            return option
    return None


def _baseline_faults(spec: ModelSpec) -> list[str]:
    if (spec.baseline is None) != (spec.outputs.features is None):
        return ["[baseline] and outputs.features go together: one without the other says nothing"]
    if spec.baseline is None:
        return []
    faults = list(spec.baseline.faults())
    if spec.kind == "mewma":
        faults.append("[baseline]: kind \"mewma\" has learnt what is normal before the graph")
    if spec.outputs.contributions is not None:
        faults.append("outputs.contributions: with a [baseline] the shares are those of its features")
    return faults


def _sense_faults(spec: ModelSpec) -> list[str]:
    faults = _kind_faults(spec)
    faults += spec.outputs.faults() + spec.match.faults() + _baseline_faults(spec)
    if spec.judge.on[0] > spec.judge.on[1]:
        faults.append(f"judge.on = {list(spec.judge.on)}: n of m needs n <= m")
    if list(spec.judge.severity) != sorted(set(spec.judge.severity)) or spec.judge.severity[0] < 1.0:
        faults.append(f"judge.severity = {list(spec.judge.severity)}: must rise and start at 1.0 or above")
    if len({tensor.name for tensor in spec.inputs}) < len(spec.inputs):
        faults.append("inputs: a name is there twice")
    if spec.drift:
        faults += [*spec.drift.faults(spec.judge.on[1]), *_drift_input(spec, spec.drift.input)]
    return faults


def _kind_faults(spec: ModelSpec) -> list[str]:
    faults = []
    tables = {"window": spec.window, "mewma": spec.mewma, "ewma": spec.ewma, "order": spec.order}
    for key, table in tables.items():
        if (table is not None) != (spec.kind == key):
            faults.append(f"kind is {spec.kind!r}, so [{key}] must {'be there' if spec.kind == key else 'go'}")
    if spec.window:
        faults += spec.window.faults()
    if spec.mewma:
        faults += spec.mewma.faults()
    if spec.ewma:
        faults += spec.ewma.faults(spec.match.channels)
    if spec.order:
        faults += spec.order.faults(spec.match.min_rate_hz, spec.match.max_rate_hz)
    return faults


def _drift_input(spec: ModelSpec, name: str | None) -> list[str]:
    there = [n for n, shape in spec.rows(1, 1).items() if len(shape) in (1, 3)]
    there += [spec.outputs.features] if spec.baseline is not None and spec.outputs.features else []
    if name is None or name in there:
        return []
    return [f"drift.input = {name!r} is none of what rows of kind {spec.kind!r} have: {', '.join(there)}"]
