"""A bearing rig in the form of the bearing data centre's files, simulated: for tests that need its folder."""

from pathlib import Path

import numpy as np

from engines.orders import KNOWN
from pipeline.plant import bearingsim

RPM = 1790
STEP = 2.0**-6
_FAULTS = {"N": "normal", "IR": "inner", "B": "ball", "OR6": "outer"}


def recording(folder: Path, name: str, fault: str, *, rate: int = 12_000, seconds: float = 3.0, seed: int = 0,
              strength: float = 4.0, rpm: float | None = RPM, bearing: str = "6205-2RS") -> Path:
    """Write NAME.npz: counts, step, fs, rpm (none: the file does not tell)."""
    rng = np.random.default_rng(seed)
    machine = bearingsim.Machine(KNOWN[bearing], rpm or RPM, ((3100.0, 0.03, 1.0),), 0.3, (0.4, 0.3, 0.2),
                                 strength=strength, jitter=0.003)
    x = bearingsim.vibration(rng, machine, _FAULTS[fault], rate, seconds)
    told = {} if rpm is None else {"rpm": np.int32(rpm)}
    path = folder / f"{name}.npz"
    np.savez(path, counts=np.round(x / STEP).astype(np.int16), step=np.float64(STEP), fs=np.int32(rate), **told)
    return path


def folder(at: Path, diameters: tuple[int, ...] = (7, 14, 21), seconds: float = 3.0, healthy: float = 8.0) -> Path:
    """Write a rig: one healthy bearing at 48 kHz, and one of each defect and diameter at 12 kHz; with index.csv."""
    at.mkdir(parents=True, exist_ok=True)
    lines = ["file,fault,diameter_mil,load_hp,rpm"]
    recording(at, "N_0", "N", rate=48_000, seconds=healthy, seed=1)
    lines.append(f"N_0.npz,N,,0,{RPM}")
    for k, fault in enumerate(("IR", "B", "OR6")):
        for d in diameters:
            name = f"{fault}{d:03d}_0"
            recording(at, name, fault, seed=10 * k + d, strength=3.0 + d / 14, seconds=seconds)
            lines.append(f"{name}.npz,{fault},{d:.1f},0,{RPM}")
    (at / "index.csv").write_text("\n".join(lines) + "\n")
    return at
