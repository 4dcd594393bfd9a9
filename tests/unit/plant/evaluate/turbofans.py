"""A made-up fleet in C-MAPSS's files, and a bundle trained on it in seconds: for tests without NASA's data."""

from pathlib import Path

import numpy as np

from pipeline.ops.settings import Models, Settings
from pipeline.plant.cmapss import _COLUMNS
from pipeline.plant.train import Job
from tests.unit.engines.rul_fleet import fleet


def write_file(path: Path, engines: list[np.ndarray]) -> None:
    """Write 26 columns a row as NASA does; engines: (flights, 18) each, the columns that `rul-ewma` takes."""
    lines = []
    for unit, rows in enumerate(engines, 1):
        table = np.full((len(rows), 26), 100.0)
        table[:, 0] = unit
        table[:, list(_COLUMNS)] = rows
        lines += [" ".join(f"{v:.4f}" if np.isfinite(v) else "nan" for v in row) for row in table]
    path.write_text("\n".join(lines) + "\n")


def engines(count: int, seed: int) -> list[np.ndarray]:
    return [h.rows for h in fleet(count, seed)]


def train_data(folder: Path, count: int = 24) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "train_FD001.txt", engines(count, 0))
    return folder


def test_data(folder: Path, count: int = 6, seed: int = 7, cut: int = 30) -> Path:
    """Write engines that stop `cut` flights before their end (the last one 100), and their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = engines(count, seed)
    cuts = [cut] * (count - 1) + [100]
    write_file(folder / "test_FD001.txt", [rows[:-n] for rows, n in zip(whole, cuts, strict=True)])
    (folder / "RUL_FD001.txt").write_text("\n".join(map(str, cuts)) + "\n")
    return folder


def trained(folder: Path, data: Path) -> Path:
    """Return the folder of a sealed bundle trained on `data` in seconds."""
    from engines.archive import MANIFEST
    from engines.sealing import sealed
    from pipeline.plant.train.rul_ewma import train

    bundle = folder / "rul-ewma"
    bundle.mkdir(parents=True)
    train(Job(data, bundle, sample=True))
    (bundle / MANIFEST).write_bytes(sealed(bundle)[MANIFEST])
    return bundle


def settings_of(bundle: Path) -> Settings:
    """Return settings that serve this bundle before a shipped one of its name."""
    return Settings(models=Models(folder=bundle.parent, allow_unsigned=True, state=bundle.parent / "state"))
