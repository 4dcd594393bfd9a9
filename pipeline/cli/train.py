"""`kizashi train RECIPE`: from data to a sealed bundle.

A recipe is a module of `pipeline.plant.train`, whose docstring says how to add one.
"""

import importlib
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from pipeline.cli.options import need_extra
from pipeline.errors import InputError, ModelError


class Entry(NamedTuple):
    """Where a recipe is, and what it makes from which data."""

    module: str
    help: str


RECIPES = {
    "rul-ewma": Entry("pipeline.plant.train.rul_ewma", "remaining life, from C-MAPSS: train_FD00k.txt"),
    "anomaly-convae": Entry("pipeline.plant.train.anomaly_convae", "anomalies, from healthy recordings of your own"),
    "bearing-order": Entry("pipeline.plant.train.bearing_order", "bearing faults, from CWRU: *.npz"),
    "pca-t2q": Entry("pipeline.plant.train.pca_t2q", "process plants, from a run of normal operation"),
}

#: Recipes whose data can be simulated, and what is given instead of a folder.
SIMULATED = {("anomaly-convae", Path("simulator"))}

app = typer.Typer(add_completion=False)


@app.command(help="From data to a sealed bundle. RECIPE: " + "; ".join(
    f"{name} ({entry.help})" for name, entry in RECIPES.items()) + ".")
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the training data; or: simulator (for convae).")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder that gets the bundle; new or empty.")],
    seed: Annotated[int, typer.Option(min=0, help="0 is the shipped bundle's.")] = 0,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key that signs the bundle.")] = None,
    key_id: Annotated[str | None, typer.Option("--id", help="Name of the key; without it the file's.")] = None,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps finished parts; without it BUNDLE.work beside BUNDLE.")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="A trial in seconds: few steps; not for use.")] = False,
) -> None:
    """Fit a recipe, seal the bundle. An interrupted run goes on where it ended when it is called again."""
    import hashlib
    import os
    import shutil

    from pipeline.cli.progress import bar
    from pipeline.cli.signing import read_key
    from pipeline.plant.train import Job

    if not data.is_dir() and (recipe, data) not in SIMULATED:
        raise InputError(f"{data}: is no folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not empty; a bundle is never written over: name another, or remove it")
    module, signer = _module(recipe), read_key(key, key_id)
    fresh = _begun(out)
    try:
        with bar(f"train {recipe}") as progress:
            job = Job(data, fresh, seed, sample, progress, work or out.with_name(f"{out.name}.work"))
            module.train(job)
        manifest = _seal(fresh, signer)
        os.replace(fresh, out)  # over an empty folder too
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    for part in job.works:
        part.forget()
    for line in job.facts:
        print(line)
    print(f"{out}: manifest {hashlib.sha256(manifest).hexdigest()}")
    print(f"signed by key {signer[1]!r}" if signer else
          "not signed: sign it (`kizashi models sign`), or set models.allow_unsigned = true for a trial")


def _begun(out: Path) -> Path:
    """Make the folder that becomes the bundle; beside it, under a name that nobody has, because it is removed later."""
    import secrets

    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out}: the bundle cannot be written there: {error.strerror}") from error
    return fresh


def _seal(folder: Path, signer: tuple[bytes, str] | None) -> bytes:
    """Write manifest and signature after all checks of a bundle; return the manifest. Raises ModelError."""
    from engines import BundleError
    from engines.archive import MANIFEST, SIGNATURE
    from engines.sealing import sealed

    try:
        files = sealed(folder, *(signer or (None, None)))
    except BundleError as error:
        raise ModelError("the bundle is not in order: " + "; ".join(error.faults)) from error
    for name in (MANIFEST, SIGNATURE):
        if name in files:
            (folder / name).write_bytes(files[name])
    return files[MANIFEST]


def _module(recipe: str) -> Any:
    if recipe not in RECIPES:
        raise typer.BadParameter(f"{recipe!r} is none of {', '.join(RECIPES)}", param_hint="RECIPE")
    need_extra("training", ("jax", "onnx", "sklearn"))
    return importlib.import_module(RECIPES[recipe].module)
