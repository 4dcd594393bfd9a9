"""Maps: what the columns of a plant's tables (CSV, Parquet) mean, as TOML; `maps/skab.toml` shows every key."""

import codecs
import re
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from pipeline.errors import InputError
from schemas import AssetBirth, Component
from schemas.birth import Dtype

#: Maps that come with the distribution, by name.
SHIPPED = Path(__file__).parent / "maps"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICKS = {"unix_s": 10**9, "unix_ms": 10**6, "unix_us": 10**3, "unix_ns": 1}
_Letter = Annotated[str, Meta(min_length=1, max_length=1)]


class TimeColumn(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the time is and how it is written. format: iso, unix_s, unix_ms, unix_us, unix_ns, or strptime's codes."""

    column: str
    format: str = "iso"
    zone: str = "UTC"
    order: Literal["strict", "any"] = "strict"


class AssetRule(Struct, frozen=True, forbid_unknown_fields=True):
    """Which asset a row belongs to: by a pattern on the file's path, or by a column."""

    name: str = "{value}"
    file: str | None = None
    column: str | None = None


class BirthRule(Struct, frozen=True, forbid_unknown_fields=True):
    """What the births say that no column does."""

    asset_class: str
    site: str
    rate_hz: float
    samples_per_frame: int = 1
    criticality: Literal["A", "B", "C"] = "B"
    nominal_rpm: float | None = None


class LongRule(Struct, frozen=True, forbid_unknown_fields=True):
    """A table with one value a row: `name` is the column that names the signal, `value` the column of its value.

    A channel's `column` is then a name in the first. Rows of one asset with one time make one sample of each channel.
    """

    name: str
    value: str


class ChannelRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One column that becomes a channel. Cells hold physical values; `scale` and `offset` only shape what is stored."""

    column: str
    name: str
    quantity: str
    unit: str
    dtype: Dtype = "f4"
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None


class ComponentRule(Component, frozen=True, forbid_unknown_fields=True):
    """A part of the asset as the births name it; `channel` is a channel's name, not its column."""


class CsvMap(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole map; see `maps/skab.toml`."""

    time: TimeColumn
    asset: AssetRule
    birth: BirthRule
    channel: Annotated[tuple[ChannelRule, ...], Meta(min_length=1, max_length=32)]
    component: tuple[ComponentRule, ...] = ()
    separator: _Letter = ","
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    missing: Literal["error", "skip", "hold"] = "error"
    long: LongRule | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that a file must have: time, asset if it has one, then the channels or name and value."""
        asset = () if self.asset.column is None else (self.asset.column,)
        values = tuple(c.column for c in self.channel) if self.long is None else (self.long.name, self.long.value)
        return (self.time.column, *asset, *values)

    def birth_of(self, asset: str, start_ns: int) -> AssetBirth:
        """Make the birth of an asset whose first sample is at `start_ns`. Raises msgspec.ValidationError."""
        return AssetBirth.make(
            asset=asset, start_ns=start_ns, rate_hz=self.birth.rate_hz, samples_per_frame=self.birth.samples_per_frame,
            asset_class=self.birth.asset_class, site=self.birth.site, criticality=self.birth.criticality,
            nominal_rpm=self.birth.nominal_rpm, components=self.component,
            # As plain values: only those does msgspec check against the limits of `Channel`.
            channels=[{k: v for k, v in asdict(c).items() if k != "column"} for c in self.channel],
        )

    def clock(self) -> Callable[[str], int]:
        """Return the function from a cell to Unix ns; it raises ValueError for a cell that is no time."""
        form = self.time.format
        if form in _TICKS:
            return lambda cell: _unix_ns(cell, _TICKS[form])
        zone = _zone(self.time.zone)
        if form == "iso":
            return lambda cell: _datetime_ns(datetime.fromisoformat(cell), zone)
        return lambda cell: _datetime_ns(datetime.strptime(cell, form), zone)  # noqa: DTZ007  (the map's zone follows)


def load_map(path: Path) -> CsvMap:
    """Read a map; a bare name that is no file is looked up among the shipped ones ("skab").

    Raises InputError with the file and the key that is wrong.
    """
    if not path.exists() and (SHIPPED / f"{path}.toml").exists():
        path = SHIPPED / f"{path}.toml"
    try:
        csv_map = msgspec.convert(tomllib.loads(path.read_text("utf-8")), CsvMap)
        _check(csv_map)
    except OSError as error:
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise InputError(f"{path}: cannot be read: {error.strerror}. Maps that come with Kizashi: {shipped}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no TOML: {error}") from error
    except (ValueError, KeyError) as error:  # msgspec.ValidationError is a ValueError
        raise InputError(f"{path}: {error}. {SHIPPED / 'skab.toml'} shows every key") from error
    return csv_map


def _check(csv_map: CsvMap) -> None:
    """Find out now what would otherwise fail at the first row."""
    _zone(csv_map.time.zone)
    try:
        codecs.lookup(csv_map.encoding)
    except LookupError as error:
        raise ValueError(f"encoding: {error}") from error
    rule = csv_map.asset
    if (rule.file is None) == (rule.column is None):
        raise ValueError("[asset] needs either `file`, a pattern on the path, or `column`")
    if csv_map.long is not None and csv_map.time.order == "any":
        raise ValueError("[long] puts rows of one time together: it needs order = \"strict\" in [time]")
    values = {"value": "x"}
    if rule.file is not None:
        try:
            values = dict.fromkeys(re.compile(rule.file).groupindex, "x")
        except re.error as error:
            raise ValueError(f"[asset] file: no regular expression: {error}") from error
    try:
        name = rule.name.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        there = ", ".join(values) or "no named group"
        raise ValueError(f"[asset] name {rule.name!r} wants {error}; there is {there}") from error
    csv_map.birth_of(name, 0)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"[time] zone {name!r} is unknown here; names are like \"UTC\" or \"Asia/Tokyo\"") from error


def _datetime_ns(time: datetime, zone: tzinfo) -> int:
    if time.tzinfo is None:
        time = time.replace(tzinfo=zone)
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def _unix_ns(cell: str, tick_ns: int) -> int:
    try:
        return int(Decimal(cell) * tick_ns)
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"{cell!r} is no number") from error
