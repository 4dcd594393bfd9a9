"""`kizashi train anomaly-convae`: from healthy recordings of one's own machines to a detector of odd shapes.

The folder holds tables (CSV, Parquet) of healthy operation and a map of their columns, map.toml. `--data simulator`
stands for the simulated pump line that the shipped bundle was trained on.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.plant.train import Job, map_in, refuse_twins, tables

if TYPE_CHECKING:
    from engines.recipes.convae import Signals, Trained

#: Given instead of a folder.
SIMULATOR = Path("simulator")
_SAMPLE_STEPS = 60


def train(job: Job) -> None:
    """Read or simulate the signals, fit, write the bundle. Whole assets are held out for the figures in its card."""
    from engines.recipes import convae
    from engines.recipes.convae_net import Net

    job.progress(0.0, "reading")
    simulated = job.data == SIMULATOR
    signals, files = (_simulated(), {}) if simulated else _read(job)
    hashes = convae.hashes(signals)
    refuse_twins("recording", {name: [digest] for name, digest in hashes.items()})
    net = replace(Net(), steps=_SAMPLE_STEPS) if job.sample else Net()
    work = job.work(net=repr(net), data=hashes, layout=1)
    try:
        trained = convae.train(signals, job.seed, net, lambda line: job.progress(0.1, line), work.once)
    except convae.TooLittle as error:
        raise InputError(f"{job.data}: {error}") from error
    job.progress(0.95, "golden vectors and passport")
    shipped = simulated and job.seed == 0 and not job.sample
    card = convae.CARD if shipped else _own_card(job, signals, trained)
    convae.write(job.out, trained, signals, card, files=files, seed=job.seed)
    job.facts += [_data(signals), _figures(trained)]


def _simulated() -> "list[Signals]":
    from pipeline.plant import healthy

    return healthy.simulated()


def _read(job: Job) -> "tuple[list[Signals], dict[str, str]]":
    from pipeline.plant import healthy

    hashes = tables(job.data)
    return healthy.of_files([job.data / name for name in hashes], map_in(job.data)), hashes


def _data(signals: "list[Signals]") -> str:
    samples = sum(part.shape[1] for s in signals for part in s.parts)
    channels = sorted({len(part) for s in signals for part in s.parts})
    return f"{len(signals)} assets, {samples} samples of {' or '.join(map(str, channels))} channels"


def _figures(trained: "Trained") -> str:
    return (f"{trained.weights.parameters} parameters; of windows of {', '.join(trained.held_out)[:600]}, which were "
            f"held out, {trained.error:.3f} of the size is not given back, of one in a thousand more than "
            f"{trained.limit:.3f}")


def _own_card(job: Job, signals: "list[Signals]", trained: "Trained") -> dict[str, str]:
    from engines.recipes.convae import CARD

    how = f"kizashi train anomaly-convae --data {job.data.name} --seed {job.seed}"
    trial = "\nA trial of a few steps: not for use." if job.sample else ""
    return {
        **CARD,
        "protocol": f"{how}. Autoencoder fitted to {_data(signals)}, all taken for healthy; whole assets held out.",
        "figures": _figures(trained) + "\nFalse alarms and faults were not measured on these machines." + trial,
        "limits": CARD["limits"].strip() + "\nThe golden vectors hold windows of the signals that it was trained on.",
    }
