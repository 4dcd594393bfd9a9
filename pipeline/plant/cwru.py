"""Read the recordings of the bearing data centre of Case Western Reserve University, at 12 kHz.

A folder holds NAME.npz (counts, step, fs, rpm; acceleration = counts * step) and, if labels are known, index.csv
(file, fault, diameter_mil, load_hp, ...). Each pair of fault and diameter is one physical bearing. The normal baseline
was sampled at 48 kHz: mixed undecimated with 12 kHz faults, a model would tell them apart by the rate.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from engines.base import Array
from pipeline.errors import InputError
from pipeline.resample import ratio, resample

RATE_HZ = 12_000
_LABELS = {"N": "normal", "IR": "inner", "B": "ball", "OR": "outer"}


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. samples: (n,) float32 at 12 kHz, g. label, bearing: None when the folder tells no labels.

    bearing names the physical bearing, e.g. "outer 14": its recordings at all loads belong on one side of a split.
    rpm: 0 when the file does not tell.
    """

    name: str
    samples: Array
    rpm: float
    label: str | None
    bearing: str | None
    diameter: str
    sha256: str


def read(folder: Path, labels: bool = True) -> list[Recording]:
    """Return all recordings of `folder` by name; InputError names what cannot be read. labels=False: never look."""
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise InputError(f"{folder} holds no recording (*.npz)")
    known: dict[str, dict[str, str]] = {}
    index = folder / "index.csv"
    if labels and index.is_file():
        with index.open(newline="") as lines:
            known = {row["file"]: row for row in csv.DictReader(lines)}
    return [_one(path, known.get(path.name)) for path in paths]


def _one(path: Path, row: dict[str, str] | None) -> Recording:
    raw = path.read_bytes()
    try:
        with np.load(path, allow_pickle=False) as file:
            x = file["counts"].astype(np.float64) * float(file["step"])
            rate, rpm = int(file["fs"]), float(file["rpm"]) if "rpm" in file else 0.0
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} is no recording: {error}") from error
    if rate < RATE_HZ:
        raise InputError(f"{path} has {rate} samples/s; 12000 or more can be used")
    share = ratio(rate, RATE_HZ)
    x = resample(x - x.mean(), share.numerator, share.denominator)
    label, bearing, diameter = None, None, ""
    if row is not None:
        fault = row["fault"].strip().upper()
        label = _LABELS.get("OR" if fault.startswith("OR") else fault)
        if label is None:
            raise InputError(f"{path.name}: index.csv says fault {row['fault']!r}; known are N, IR, B, OR*")
        mil = row.get("diameter_mil", "")
        diameter = f"{float(mil):03.0f}" if mil not in ("", "nan") else ""
        bearing = f"{label} {diameter}".strip()
    return Recording(path.stem, x.astype(np.float32), rpm, label, bearing, diameter, sha256(raw).hexdigest())


def cut(samples: Array, size: int, hop: int) -> tuple[Array, Array]:
    """Return the starts (k,) of all whole windows and the windows (k, size), each of samples at or after its start."""
    starts = np.arange(0, len(samples) - size + 1, hop)
    return starts, samples[starts[:, None] + np.arange(size)] if len(starts) else np.empty((0, size), samples.dtype)


def hashes(recordings: Sequence[Recording]) -> dict[str, str]:
    """Return name -> hash of the file, for a card: what a model was trained on."""
    return {r.name: r.sha256 for r in recordings}
