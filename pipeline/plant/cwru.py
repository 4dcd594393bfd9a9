"""Read the recordings of the bearing data centre of Case Western Reserve University.

A folder holds NAME.npz (counts, step, fs, rpm; acceleration = counts * step) and, if labels are known, index.csv
(file, fault, diameter_mil, load_hp, ...). Each pair of fault and diameter is one physical bearing. The normal baseline
was sampled at 48 kHz: mixed with 12 kHz faults at its own rate, a model would tell them apart by the rate, so training
gets all at 12 kHz, by the filter that the flow has for every asset.
"""

import csv
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from engines.base import Array
from engines.orders import Orders
from pipeline.errors import InputError
from pipeline.resample import ratio, resample
from schemas import AssetBirth, TelemetryFrame

RATE_HZ = 12_000
#: The drive end's bearing, which the published set is named by; the fan end has a 6203-2RS.
BEARING = "6205-2RS"
ASSET_CLASS = "bearing-rig"
#: A tenth of a second: as a gateway would send them, and no window depends on it.
_FRAME_S = 0.1
#: Ten seconds between recordings, so that no time is in two of them. 2026-01-01.
_START_NS, _BETWEEN_NS = 1_767_225_600 * 10**9, 10 * 10**9
_LABELS = {"N": "normal", "IR": "inner", "B": "ball", "OR": "outer"}


@dataclass(frozen=True)
class Recording:
    """One recording. raw: (n,) float32 at rate_hz, g. label, bearing: None when the folder tells no labels.

    bearing names the physical bearing, e.g. "outer 014": its recordings at all loads belong on one side of a split.
    rpm: 0 when the file does not tell. sha256: of the file. content: of the counts, whatever file they are in.
    """

    name: str
    raw: Array
    rate_hz: float
    rpm: float
    label: str | None
    bearing: str | None
    diameter: str
    sha256: str
    content: str = ""

    @cached_property
    def samples(self) -> Array:
        """The recording at 12 kHz, float32."""
        share = ratio(self.rate_hz, RATE_HZ)
        x = self.raw.astype(np.float64)
        return resample(x - x.mean(), share.numerator, share.denominator).astype(np.float32)


def read(folder: Path, labels: bool = True, skipped: dict[str, str] | None = None) -> list[Recording]:
    """Return all recordings of `folder` by name; InputError names what cannot be read. labels=False: never look.

    skipped: gets why a file is no recording, by its name without .npz, and why index.csv tells no labels; without it
    the first such file raises.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise InputError(f"{folder} holds no recording (*.npz)")
    index = folder / "index.csv"
    known: dict[str, dict[str, str]] = {}
    if labels and index.is_file():
        try:
            known = _labels(index)
        except InputError as error:
            if skipped is None:
                raise
            skipped[index.name] = str(error)
    found, assets = list[Recording](), dict[str, Path]()
    for path in paths:
        try:
            recording = _one(path, known.get(path.stem))
            twin = assets.setdefault(asset_of(path.stem), path)
            if twin is not path:
                raise InputError(f"{path.name} and {twin.name} would be one asset, {asset_of(path.stem)}; rename one")
            found.append(recording)
        except InputError as error:
            if skipped is None:
                raise
            skipped[path.stem] = str(error)
    if not found:
        raise InputError(f"{folder} holds no recording: {next(iter((skipped or {}).values()), '')}")
    return found


def _labels(index: Path) -> dict[str, dict[str, str]]:
    """Return what index.csv says, by the recording's name."""
    with index.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if lost := {"file", "fault"} - (rows[0] if rows else {}).keys():
        raise InputError(f"{index} tells no labels: it has no column {', '.join(sorted(lost))}")
    return {(row["file"] or "").removesuffix(".npz"): row for row in rows}


def _one(path: Path, row: dict[str, str] | None) -> Recording:
    try:
        file_bytes = path.read_bytes()
        with np.load(path, allow_pickle=False) as file:
            counts = np.squeeze(np.asarray(file["counts"]))
            if counts.ndim != 1:
                raise ValueError(f"counts is {list(counts.shape)}; one channel is wanted, of more make one file each")
            x = counts.astype(np.float64) * float(file["step"])
            rate, rpm = float(file["fs"]), float(file["rpm"]) if "rpm" in file else 0.0
    except (KeyError, ValueError, TypeError, AttributeError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no recording: {error}") from error
    if not rate >= RATE_HZ:
        raise InputError(f"{path} has {rate:g} samples/s; 12000 or more can be used")
    label, bearing, diameter = None, None, ""
    if row is not None:
        fault = (row["fault"] or "").strip().upper()
        label = _LABELS.get("OR" if fault.startswith("OR") else fault)
        if label is None:
            raise InputError(f"{path.name}: index.csv says fault {row['fault']!r}; known are N, IR, B, OR*")
        mil = row.get("diameter_mil") or ""
        try:
            diameter = f"{float(mil):03.0f}" if mil not in ("", "nan") else ""
        except ValueError as error:
            raise InputError(f"{path.name}: index.csv says diameter_mil {mil!r}, which is no number") from error
        bearing = f"{label} {diameter}".strip()
    exact = "<f8" if counts.dtype.kind == "f" else "<i8"
    return Recording(
        path.stem, x.astype(np.float32), rate, rpm if np.isfinite(rpm) else 0.0, label, bearing, diameter,
        sha256(file_bytes).hexdigest(), sha256(counts.astype(exact).tobytes()).hexdigest(),
    )  # fmt: skip


def messages(data: Path) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield the recordings of a folder as `frames` does. Labels are not read."""
    return frames(read(data, labels=False))


def frames(
    recordings: Iterable[Recording], bearing: str = BEARING, orders: Orders | None = None
) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield every recording as an asset of its own: its birth, then its frames; one recording after the other in time.

    bearing: designation that the births name; orders: said by them instead.
    """
    start_ns = _START_NS
    for recording in recordings:
        birth = birth_of(recording, start_ns, bearing, orders)
        yield birth
        for k in range(len(recording.raw) // birth.samples_per_frame):
            start = k * birth.samples_per_frame
            yield TelemetryFrame(
                birth.asset, birth.birth_id, k, start_ns + round(start * 1e9 / birth.rate_hz),
                recording.raw[start : start + birth.samples_per_frame].astype("<f4").tobytes(),
                rpm=recording.rpm or None,
            )  # fmt: skip
        start_ns += round(len(recording.raw) * 1e9 / recording.rate_hz) + _BETWEEN_NS


def birth_of(
    recording: Recording, start_ns: int = _START_NS, bearing: str = BEARING, orders: Orders | None = None
) -> AssetBirth:
    """Return the birth of a recording's asset."""
    said = {} if orders is None else {"bpfo": orders.bpfo, "bpfi": orders.bpfi, "bsf": orders.bsf, "ftf": orders.ftf}
    return AssetBirth.make(
        asset=asset_of(recording.name), start_ns=start_ns, rate_hz=recording.rate_hz, site="cwru",
        samples_per_frame=max(1, round(_FRAME_S * recording.rate_hz)), asset_class=ASSET_CLASS,
        channels=[{"name": "acceleration", "quantity": "acceleration", "unit": "[g]"}],
        components=[{"name": "bearing", "kind": "bearing" if said else f"bearing {bearing}", "orders": said}],
    )  # fmt: skip


def asset_of(name: str) -> str:
    """Return the asset that a recording becomes; names of files may have what an asset's may not."""
    return "cwru/" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:120]


def cut(samples: Array, size: int, hop: int) -> tuple[Array, Array]:
    """Return the starts (k,) of all whole windows and the windows (k, size), each of samples at or after its start."""
    starts = np.arange(0, len(samples) - size + 1, hop)
    return starts, samples[starts[:, None] + np.arange(size)] if len(starts) else np.empty((0, size), samples.dtype)


def hashes(recordings: Sequence[Recording]) -> dict[str, str]:
    """Return name -> hashes of file and content, for a card: what a model was trained on, under any name."""
    return {r.name: f"{r.sha256} {r.content}" for r in recordings}
