"""Build the plan of a bundle in a child process, watched for time and memory.

A builder is a large native library that may crash, hang or grow; the process that serves only reads its answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from engines.base import EngineError
from engines.bundle import Bundle
from engines.child import Watched, converse
from engines.gpu.pipe import Answer, Request
from engines.gpu.plan import BuildReport, BuildSpec, DeviceId, EngineKey, Named
from engines.gpu.report import RIM
from engines.gpu.store import Missing, PlanStore
from engines.wire import read_model


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What a build may take: seconds from start to answer, resident bytes of the child."""

    timeout_s: float = 600.0
    memory_bytes: int = 4 << 30


def row_shapes(bundle: Bundle, channels: int, samples: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of each input, for assets of so many channels.

    Rows of kind "window" are (frames, channels, samples per frame), without `samples` the whole window as one frame;
    other rows are of channels. Raises EngineError when frames do not divide the window.
    """
    free = (channels,) * 3
    if bundle.spec.window:
        size = bundle.spec.window.size
        samples = samples or size
        if size % samples:
            raise EngineError(f"{samples} samples per frame do not divide the window of {bundle.spec.name}, {size}")
        free = (size // samples, channels, samples)
    return {
        tensor.name: tuple(dim if isinstance(dim, int) else size
                           for dim, size in zip(tensor.dims[1:], (*free, *free), strict=False))
        for tensor in read_model(bundle.model).inputs
    }  # fmt: skip


def build_plan(
    bundle: Bundle, spec: BuildSpec, flavour_name: str, device: DeviceId | None = None,
    limits: BuildLimits = BuildLimits(),  # noqa: B008  (frozen)
    on_line: Callable[[str], None] = lambda line: None, *, stop: Callable[[], bool] = lambda: False,
) -> tuple[bytes, BuildReport]:  # fmt: skip
    """Return the plan of a bundle for this machine and the report of its build.

    Blocks the calling thread; the child ends with that thread. device: what the plan will run on; None: only a check.
    on_line: told of progress. stop: asked often, True ends the build. Raises EngineError, and nothing else.
    """
    request = Request(flavour_name, spec, bundle.sha256, device.cc if device else "")
    try:
        plan, report = _run(request.encode(bundle.model), limits, on_line, stop)
    except OSError as error:
        raise EngineError(f"the builder of {bundle.spec.name} cannot be started: {error}") from error
    _check(bundle, plan, report)
    return plan, report


@dataclass(frozen=True, slots=True)
class Obtained:
    """A plan that may be deserialised. missing: why it was built; None: it was stored. unkept: why it is not now."""

    plan: bytes
    report: BuildReport
    missing: Missing | None = None
    unkept: str = ""


def obtain(
    store: PlanStore, bundle: Bundle, spec: BuildSpec, flavour: Named, device: DeviceId,
    limits: BuildLimits = BuildLimits(),  # noqa: B008  (frozen)
    on_line: Callable[[str], None] = lambda line: None, *, stop: Callable[[], bool] = lambda: False,
) -> Obtained:  # fmt: skip
    """Return the plan of a bundle from the store, or build and keep it; of several who ask at once one builds.

    Blocks the calling thread, as `build_plan` does. Raises EngineError.
    """
    key = EngineKey.of(bundle.sha256, spec, flavour, device)
    kept = store.get(key)
    if isinstance(kept, Missing):
        with store.building(stop) as alone:
            # What another made meanwhile; `kept` stays the reason why this one builds.
            other = store.get(key) if alone else kept
            if isinstance(other, Missing):
                plan, report = build_plan(bundle, spec, flavour.name, device, limits, on_line, stop=stop)
                return Obtained(plan, report, kept, store.put(key, plan, report))
            kept = other
    return Obtained(kept.plan, kept.report)


def _run(
    request: bytes, limits: BuildLimits, on_line: Callable[[str], None], stop: Callable[[], bool]
) -> tuple[bytes, BuildReport]:
    answer = Answer()

    def hear(data: bytes) -> None:
        for line in answer.feed(data):
            on_line(line)

    watched = Watched("the build", limits.timeout_s, limits.memory_bytes, "raise engine.build_timeout_s",
                      "lower batch.max_size or raise engine.build_memory_mb")
    code, ending = converse("engines.gpu.builder_child", request, hear, watched, stop)
    if answer.error is not None:
        raise EngineError(answer.error)
    if code or answer.plan is None or answer.report is None:
        raise EngineError(f"the builder ended with {ending}")
    return answer.plan, answer.report


def _check(bundle: Bundle, plan: bytes, report: BuildReport) -> None:
    """Raise EngineError unless the plan takes and gives what the bundle says."""
    faults = []
    if report.plan_bytes != len(plan):
        faults.append(f"the plan has {len(plan)} bytes, its report says {report.plan_bytes}")
    model = read_model(bundle.model)
    for what, want, tensors in (("input", model.inputs, report.inputs), ("output", model.outputs, report.outputs)):
        wanted, have = {t.name for t in want}, {t.name for t in tensors}
        faults += [f"{what} {name!r} of the model is not in the plan" for name in sorted(wanted - have)]
        faults += [f"{what} {name!r} of the plan is not in the model" for name in sorted(have - wanted)]
    for tensor in report.tensors:
        if tensor.dtype not in RIM or not tensor.shape or tensor.shape[0] != -1:
            faults.append(f"{tensor} is not of rows of {', '.join(sorted(RIM))}")
        elif tensor.is_input and -1 in tensor.shape[1:]:
            faults.append(f"{tensor} is open besides its batch")
    if faults:
        raise EngineError(f"the plan of {bundle.spec.name} is not that of its model: {'; '.join(faults)}")
