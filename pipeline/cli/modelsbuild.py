"""`kizashi models build`: make the TensorRT engine of a bundle for this device, or try if it can be made."""

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.options import Assignments, ConfigFile, read_settings
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from engines import Bundle
    from engines.gpu.plan import BuildReport, BuildSpec
    from pipeline.ops.settings import Settings

_LABEL = 12
_CHANNELS = 8  # the middle of what assets have
_TARGET = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)", re.IGNORECASE)
_GPU = ("tensorrt", "tensorrt_rtx")


def build(
    target: Annotated[str, typer.Argument(metavar="BUNDLE", help="Name, folder or .zip.")],
    check: Annotated[bool, typer.Option("--check", help="Build, print and discard; RTX needs no GPU for it.")] = False,
    targets: Annotated[
        str | None, typer.Option("--target", metavar="sm_86,...", help="With --check: GPUs to build for.")
    ] = None,
    precision: Annotated[str | None, typer.Option(metavar="f32|f16", help="Instead of engine.precision.")] = None,
    channels: Annotated[
        list[int] | None, typer.Option(min=1, max=1024, metavar="N", help="Of the assets to serve; may be repeated.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Per channel and frame; without: a whole window.")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="tensorrt or tensorrt_rtx; else as found.")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Build the engine of BUNDLE for this machine's GPU, in a process of its own, and keep it for the worker.

    One engine per number of channels where the model leaves them open. With --check nothing is kept: on a machine
    without a GPU it tells whether the model can be built, with how many kernels and how much memory. Exit code 4 when
    it cannot.
    """
    from engines import EngineError
    from engines.gpu.build import row_shapes
    from pipeline.assembly import bundle_at

    settings = read_settings(config, None, assignments)
    if targets is not None and not check:
        raise typer.BadParameter("an engine for another GPU is not kept; add --check", param_hint="--target")
    if precision not in (None, "f32", "f16"):
        raise typer.BadParameter(f"{precision!r} is neither f32 nor f16", param_hint="--precision")
    for_gpus = _targets(targets)
    bundle = bundle_at(target, settings)
    try:
        name = _flavour(engine, settings.engine.name)
        for count in _layouts(bundle, channels):
            shapes = row_shapes(bundle, count, samples)
            spec = _spec(bundle, precision or settings.engine.precision, settings.batch.max_size, shapes, for_gpus)
            _one(bundle, name, spec, settings, check, count)
    except EngineError as error:
        raise ModelError(f"{bundle.spec.name} cannot be built: {error}") from error


def _one(bundle: "Bundle", name: str, spec: "BuildSpec", settings: "Settings", check: bool, channels: int) -> None:
    from engines.gpu.build import BuildLimits, build_plan, obtain
    from engines.gpu.driver import probe
    from engines.gpu.flavour import load_flavour
    from engines.gpu.store import PlanStore
    from engines.supply import EngineOptions, cache_folder

    limits = BuildLimits(settings.engine.build_timeout_s, settings.engine.build_memory_mb << 20)
    what = f", rows of {channels} channels" if spec.dims else ""
    head = f"{bundle.spec.name} {bundle.spec.version}  {name}, {spec.precision}, {spec.max_batch} rows{what}"
    gpus = ", ".join("sm_" + cc.replace(".", "") for cc in spec.targets)
    if check:
        where = f"for {gpus}" if gpus else "for the GPUs that the library builds for by itself"
        print(f"{head}, {where}")
        with _Progress() as progress:
            _, report = build_plan(bundle, spec, name, None, limits, progress)
        _tell(report, "checked and discarded")
        return
    device = probe().id
    print(f"{head}, for {device.name} (sm_{device.cc.replace('.', '')})")
    store = PlanStore(cache_folder(EngineOptions(cache=settings.engine.cache)))
    with _Progress() as progress:
        got = obtain(store, bundle, spec, load_flavour(name), device, limits, progress)
    if got.missing is not None and got.missing.reason != "absent":
        print(f"  {'before':<{_LABEL}} {got.missing.why}")
    kept = f"NOT KEPT: {got.unkept}" if got.unkept else f"in {store.folder}"
    _tell(got.report, kept if got.missing is not None else f"was there already, {kept}")


def _tell(report: "BuildReport", fate: str) -> None:
    def say(label: str, *lines: str) -> None:
        for line in lines:
            print(f"  {label:<{_LABEL}} {line}")
            label = ""

    say("plan", f"{report.plan_bytes:,} B by {report.flavour} {report.version} in {report.seconds:.2f} s, {fate}")
    say("memory", f"{_size(report.activation_bytes)} of activations for {report.max_batch} rows, a context; "
                  f"{_size(report.weights_bytes)} of weights")
    say("inputs", *map(str, report.inputs))
    say("outputs", *map(str, report.outputs))
    say("kernels", f"{report.kernels} launches a batch; entries of the plan by type:")
    say("", *(f"{count:>5}  {kind}" for kind, count in sorted(report.layers.items(), key=lambda item: -item[1])))
    say("loops", f"{len(report.loops)} at run time: {', '.join(report.loops)}" if report.loops else "none at run time")
    say("warnings", *(report.warnings or ("none",)))


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB" if count >= 1e3 else f"{count} B"


class _Progress:
    """One line on a terminal that tells the stage; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Callable[[str], None]:
        return self._line

    def __exit__(self, *error: object) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        if self._shown:
            print(f"\r\033[K  {'building':<{_LABEL}} {text[:100]}", end="", file=sys.stderr, flush=True)


def _targets(text: str | None) -> tuple[str, ...]:
    """Read "sm_86,sm_120" as ("8.6", "12.0")."""
    found = []
    for part in filter(None, (text or "").split(",")):
        match = _TARGET.fullmatch(part.strip())
        if match is None:
            raise typer.BadParameter(f"{part!r} is no compute capability as sm_86", param_hint="--target")
        found.append(f"{match[1]}.{match[2]}")
    return tuple(dict.fromkeys(found))


def _flavour(asked: str | None, configured: str) -> str:
    """Return which package builds. Raises EngineError when there is none."""
    from importlib.util import find_spec

    from engines import EngineError
    from engines.gpu.flavour import FLAVOURS, load_flavour
    from engines.supply import CPU_SETTING

    if asked is not None and asked not in _GPU:
        raise typer.BadParameter(f"{asked!r} is none of {', '.join(_GPU)}", param_hint="--engine")
    wanted = asked or (configured if configured in _GPU else None)
    if wanted is None:
        wanted = next((name for name in _GPU if find_spec(name)), None)
    if wanted is None:
        ways = " or ".join(f"{package} (kizashi[{extra}])" for package, extra in FLAVOURS.values())
        raise EngineError(f"TensorRT is missing: install {ways}, or to serve without a GPU {CPU_SETTING}")
    return load_flavour(wanted).name


def _layouts(bundle: "Bundle", channels: list[int] | None) -> list[int]:
    from engines import EngineError

    low, high = bundle.spec.match.min_channels, bundle.spec.match.max_channels
    counts = channels or [min(max(_CHANNELS, low), high)]
    for count in counts:
        if not low <= count <= high:
            raise EngineError(f"{count} channels, {bundle.spec.name} takes {low} to {high}")
    return list(dict.fromkeys(counts))


def _spec(
    bundle: "Bundle", precision: str, max_batch: int, shapes: dict[str, tuple[int, ...]], targets: tuple[str, ...]
) -> "BuildSpec":
    from engines.gpu.plan import BuildSpec
    from engines.gpu.provide import dims_of

    kind: Literal["f32", "f16"] = "f16" if precision == "f16" else "f32"
    return BuildSpec(kind, max_batch, dims=dims_of(bundle, shapes), targets=targets)
