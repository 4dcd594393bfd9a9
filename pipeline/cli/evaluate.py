"""`kizashi evaluate SET`: a public data set through the same flow, predictions as the set's own judge reads them.

A set is a module of `pipeline.plant.evaluate`, whose docstring says how to add one.
"""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.options import Assignments, ConfigFile, need_extra, read_settings

app = typer.Typer(add_completion=False)


class Protocol(StrEnum):
    """What is scored: the bundle that is there, or fits per fold inside the training part."""

    shipped = "shipped"
    cv = "cv"


Data = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the data set; labels may be missing.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Gets the prediction files and report.html.")]
ProtocolOption = Annotated[
    Protocol, typer.Option(help="shipped: the bundle that is there. cv: fit anew per fold of the training part.")
]
Seeds = Annotated[int | None, typer.Option(min=1, max=100, help="How many seeds `--protocol cv` fits; without it 5.")]

#: Seeds of a fit; sets whose models have nothing to fit; those whose fit draws nothing by chance.
SEEDS, UNFITTED, EXACT = 5, ("femto", "nab"), ("skab", "battery")
#: What `--protocol cv` of a set takes from the extra `train`.
FITTED_WITH = {"cmapss": ("jax",), "battery": ("onnx",), "cwru": ("onnx", "scipy")}


@app.callback()
def evaluate() -> None:
    """Score a public data set; causal, by the flow that the worker runs. Writes predictions, a table and a page."""


@app.command("skab")
def skab(
    data: Data, out: Out, protocol: ProtocolOption = Protocol.shipped, seeds: Seeds = None,
    bundle: Annotated[str | None, typer.Option(metavar="NAME", help="Without it anomaly-mewma.")] = None,
    config: ConfigFile = None, assignments: Assignments = None,
) -> None:  # fmt: skip
    """Water circulation loop: anomalies. Holds FOLDER/NUMBER.csv or .csv.gz, as valve1/0.csv."""
    _run("skab", data, out, protocol, seeds, config, assignments, bundle=bundle)


def _offer(name: str, text: str) -> None:
    @app.command(name, help=text)
    def command(
        data: Data, out: Out, protocol: ProtocolOption = Protocol.shipped, seeds: Seeds = None,
        config: ConfigFile = None, assignments: Assignments = None,
    ) -> None:  # fmt: skip
        _run(name, data, out, protocol, seeds, config, assignments)


for _name, _text in {
    "cmapss": "Turbofan fleet: remaining life. Holds test_FD00k.txt or .txt.gz; writes pred_FD00k.csv.",
    "femto": "Bearings run to failure: health index and lead time. Holds BearingX_Y.npz.",
    "nab": "Machine temperature, ambient temperature: anomalies. Holds realKnownCause/*.csv or .csv.gz.",
    "battery": "Li-ion cells: capacity and end of life. Holds B*_discharge.csv or .csv.gz.",
}.items():
    _offer(_name, _text)


@app.command("cwru")
def cwru(
    data: Data, out: Out, protocol: ProtocolOption = Protocol.shipped, seeds: Seeds = None,
    bearing: Annotated[str | None, typer.Option(metavar="NAME", help="Built-in geometry, as 6205-2RS.")] = None,
    orders: Annotated[
        str | None, typer.Option(metavar="BPFI,BPFO,BSF,FTF", help="Geometry as orders, per turn of the shaft.")
    ] = None,
    config: ConfigFile = None, assignments: Assignments = None,
) -> None:  # fmt: skip
    """Bearing rig: the damaged part. Holds *.npz with counts, step, fs, rpm; writes pred.csv."""
    numbers = _numbers(orders) if orders is not None else None
    _run("cwru", data, out, protocol, seeds, config, assignments, bearing=bearing, orders=numbers)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: numbers with commas between", param_hint="--orders") from error


def _run(
    name: str, data: Path, out: Path, protocol: Protocol, seeds: int | None, config: Path | None,
    assignments: list[str] | None, **own: Any,
) -> None:
    from pipeline.cli.progress import bar
    from pipeline.errors import InputError
    from pipeline.plant.evaluate import Options

    if protocol is Protocol.cv and name in UNFITTED:
        raise typer.BadParameter(f"{name}: nothing is fitted, so nothing is left out", param_hint="--protocol")
    if seeds is not None and (protocol is Protocol.shipped or name in EXACT):
        why = "nothing is drawn by chance" if name in EXACT else "only --protocol cv fits seeds"
        raise typer.BadParameter(f"{name}: {why}", param_hint="--seeds")
    if protocol is Protocol.cv:
        need_extra(f"evaluate {name} --protocol cv", FITTED_WITH.get(name, ()))
    if not data.is_dir():
        raise InputError(f"{data}: is no folder")
    settings = read_settings(config, None, assignments)
    try:
        out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    except OSError as error:
        raise InputError(f"{out}: cannot be a folder: {error.strerror}") from error
    module = importlib.import_module(f"pipeline.plant.evaluate.{name}")
    try:
        with bar(f"evaluate {name}", quiet=True) as progress:
            report = module.evaluate(
                data, out, settings, Options(protocol.value, seeds or SEEDS, progress=progress, **own))
    except InputError as error:
        if not (data / name).is_dir():
            raise
        raise InputError(f"{error}; is it {data / name}?") from error  # given was the folder that holds the sets
    report.write(out / "report.html")
    for line in report.lines():
        print(line)
    print(f"{len(report.files)} files and report.html -> {out}")
