"""Faults of the simulated plant: what each kind does to which channel, and scripts of them."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from pipeline.errors import InputError

FaultKind = Literal["bearing_wear", "cavitation", "blocked_outlet", "leak", "motor_winding", "sensor_stuck"]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Fault(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault of one asset. It grows linearly from `onset_s` over `ramp_s` to `magnitude`, and stays.

    onset_s: seconds after the plant's start. magnitude: in healthy standard deviations of `channel`, the
    channel that a good detector names first (left out: the one that the kind hits hardest; `sensor_stuck` needs it).
    A stuck sensor has no ramp: from the onset on it holds a value `magnitude` above its working point.
    """

    kind: FaultKind
    asset: str
    onset_s: NotNegative
    ramp_s: NotNegative = 5.0
    magnitude: Positive = 6.0
    channel: str | None = None

    @property
    def first_channel(self) -> str:
        """Return the channel expected to be named first. Raises InputError for a stuck sensor without one."""
        name = self.channel or SIGNATURES[self.kind].first
        if name is None:
            raise InputError(f"{self.kind} of {self.asset} names no channel; add the stuck one: channel = \"flow\"")
        return name


@dataclass(frozen=True, slots=True)
class Signature:
    """What a kind does at magnitude 1, in healthy standard deviations of each channel.

    first: the channel hit hardest. shift: moves the mean. flutter: adds noise.
    """

    first: str | None
    shift: dict[str, float] = field(default_factory=dict)
    flutter: dict[str, float] = field(default_factory=dict)


# Directions as ISO 17359 annex tables and pump practice have them; sizes are ours: the first channel moves by 1,
# its companions by clearly less, so that "the first channel named" has one right answer. Temperatures rise by 0.3 Cel,
# which is much against their noise and little against their daily course.
SIGNATURES: dict[FaultKind, Signature] = {
    "bearing_wear": Signature(
        "vibration_de", {"vibration_de": 1.0, "vibration_nde": 0.3, "bearing_temp": 30.0}, {"vibration_de": 0.3},
    ),
    "cavitation": Signature(
        "suction_pressure", {"suction_pressure": -1.0, "flow": -0.3, "vibration_de": 0.15}, {"flow": 0.3},
    ),
    "blocked_outlet": Signature("discharge_pressure", {"discharge_pressure": 1.0, "flow": -0.5, "motor_current": -0.2}),
    "leak": Signature("discharge_pressure", {"discharge_pressure": -1.0, "flow": 0.4}),
    "motor_winding": Signature("motor_current", {"motor_current": 1.0, "motor_temp": 30.0}, {"motor_current": 0.2}),
    "sensor_stuck": Signature(None),
}


class _Script(Struct, forbid_unknown_fields=True):
    fault: list[Fault]


def load_faults(path: Path) -> tuple[Fault, ...]:
    """Read a fault script: TOML with one [[fault]] table each, keys as in `Fault`.

    Raises InputError with the file and the key that is wrong.
    """
    try:
        return tuple(msgspec.convert(tomllib.loads(path.read_text("utf-8")), _Script).fault)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        fields = "kind, asset, onset_s, and may have ramp_s, magnitude, channel"
        raise InputError(f"{path}: {error}. A fault has {fields}") from error
