"""Fitting: opens the engines of bundles as the settings say, and builds TensorRT plans while the CPU serves.

A GPU engine serves only after the parity gate: its numbers and decisions on the golden vectors are the bundle's. What
fails is told by an event; the CPU goes on. No frame is ever refused for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol, cast

from engines.base import Engine, EngineError, EngineLost, Pipelined
from engines.bundle import Bundle
from engines.parity import compare
from engines.select import Choice, choose
from engines.supply import GPU_ENGINES, EngineOptions, open_engine
from pipeline.enginethread import EngineThread
from pipeline.errors import ModelError
from pipeline.ops.events import Events
from pipeline.ops.settings import Settings
from pipeline.parity import decide
from pipeline.serving import Active, Engines, Shapes, layout_of

CPU = "onnx_cpu"
#: A device that opens for the first time loads hundreds of MB of kernels.
OPEN_S = 120.0
#: Rows of a batch in the gate, where batches may be as large.
GATE_ROWS = 256


def engine_options(settings: Settings) -> EngineOptions:
    """Return what the settings say about engines."""
    e, batch = settings.engine, settings.batch
    return EngineOptions(e.threads, e.precision, batch.max_size, batch.in_flight, e.cache, e.build_timeout_s,
                         e.build_memory_mb)


class Supply(Protocol):
    """Plans and engines of one bundle for one device; `engines.gpu.provide.GpuSupply`."""

    def missing(self, shapes: Shapes) -> str:
        """Say why there is no plan for rows of these shapes; "" if there is."""

    def ensure(self, shapes: Shapes, *, stop: Callable[[], bool]) -> None:
        """Build the plan unless it is there. Raises EngineError."""

    def note(self, shapes: Shapes, text: bytes) -> None:
        """Lay a report beside the plan."""

    def open(self) -> Engine:
        """Open the engine on the calling thread. Raises EngineError, EngineLost."""


def golden_shapes(bundle: Bundle) -> list[Shapes]:
    """Return the row shapes of the golden vectors."""
    return [{name: array.shape[1:] for name, array in case.inputs.items()}
            for case in (bundle.golden.cases if bundle.golden is not None else ())]


class Fitter:
    """Opens engines. Every method blocks; none needs the event loop."""

    def __init__(self, settings: Settings, events: Events, choice: Choice | None = None,
                 supply: Callable[[Bundle], Supply] | None = None) -> None:
        """choice, supply: instead of what this machine has. Raises ModelError when the engine cannot be had."""
        self._options, self._events, self.stopped = engine_options(settings), events, False
        try:
            self.choice = choice or choose(settings.engine.name)
        except EngineError as error:
            raise ModelError(str(error)) from error
        self._supply = supply or self._of_this_machine

    @property
    def wants_device(self) -> bool:
        return self.choice.name in GPU_ENGINES

    def ground(self, bundle: Bundle) -> Active:
        """Open the engine on the CPU, warm. Raises ModelError."""
        name = CPU if self.wants_device else self.choice.name
        thread = EngineThread(lambda: open_engine(name, bundle, self._options), self._options.max_batch,
                              bundle.spec.name)
        try:
            thread.start()
            self._judge(thread, bundle)
        except (EngineError, ValueError) as error:
            thread.close(OPEN_S)
            raise ModelError(f"bundle {bundle.spec.name}: {error}") from error
        if self.wants_device:
            return Active(thread, name, f"{self.choice.name} is being prepared", degraded=True)
        return Active(thread, name, self.choice.why)

    def engines(self, bundle: Bundle, shapes: Iterable[Shapes] = (), *, build: bool = False) -> Engines:
        """Open all engines of a bundle; the device only where its plans are stored, or with `build`.

        Raises ModelError, and with `build` EngineError with why the device cannot serve.
        """
        engines = Engines(bundle, self.ground(bundle))
        if bundle.trust.status == "unsigned":
            self._events.emit("bundle_unsigned", bundle=bundle.spec.name, version=bundle.spec.version,
                              why=bundle.trust.why)
        if self.wants_device and (build or not self.missing(bundle)):
            try:
                return self.with_device(engines, shapes)
            except (EngineError, EngineLost) as error:
                if build:
                    engines.ground.thread.close()
                    raise EngineError(str(error)) from error
                self.refuse(bundle, str(error))
        return engines

    def missing(self, bundle: Bundle) -> str:
        """Say why the plans that the gate needs are not there; "" if they are."""
        try:
            supply = self._supply(bundle)
            return next(filter(None, map(supply.missing, golden_shapes(bundle))), "")
        except EngineError as error:
            return str(error)

    def with_device(self, engines: Engines, shapes: Iterable[Shapes] = ()) -> Engines:
        """Add the device, checked on the golden vectors and warm for rows of these shapes. Builds what is missing.

        Raises EngineError, EngineLost.
        """
        bundle = engines.bundle
        supply, golden = self._supply(bundle), golden_shapes(bundle)
        wanted = {layout_of(s): s for s in (*golden, *shapes)}
        for shape in wanted.values():
            self._ensure(supply, bundle, shape)
        judged = self._thread(supply.open, bundle)
        try:
            self._judge(judged, bundle, supply)
        finally:
            judged.close(OPEN_S)
        device = Active(self._thread(supply.open, bundle), self.choice.name, self.choice.why)
        fitted = Engines(bundle, replace(engines.ground, why=f"beside {device.backend}", degraded=False), device)
        try:
            for shape in shapes:
                self.prepare(fitted, shape)
                fitted.ready.add(layout_of(shape))
        except BaseException:
            device.thread.close(OPEN_S)
            raise
        return fitted

    def prepare(self, engines: Engines, shapes: Shapes) -> None:
        """Make the device ready for rows of these shapes; `Serving.admit` them then. Raises EngineError, EngineLost."""
        assert engines.device is not None
        self._ensure(self._supply(engines.bundle), engines.bundle, shapes)
        engines.device.thread.call(lambda engine: cast(Pipelined, engine).staging(shapes, self._options.max_batch))

    def refuse(self, bundle: Bundle, why: str) -> None:
        """Say that the device cannot serve."""
        self._events.emit("engine_refused", bundle=bundle.spec.name, version=bundle.spec.version,
                          backend=self.choice.name, why=why)

    def _judge(self, thread: EngineThread, bundle: Bundle, supply: Supply | None = None) -> None:
        """Hold an engine against the golden vectors. supply: keeps the report. Raises EngineError: what differs."""
        if bundle.golden is None:  # not from a file: made in memory, for a test
            return
        report = thread.call(lambda engine: compare(engine, bundle, decide, min(GATE_ROWS, self._options.max_batch)))
        if supply is not None:
            for shapes in golden_shapes(bundle):
                supply.note(shapes, report.to_json())
        if not report.ok:
            raise EngineError(f"{report.engine} does not say what the golden vectors say: {report.why()}")

    def _of_this_machine(self, bundle: Bundle) -> Supply:
        from engines.gpu.provide import GpuSupply

        return GpuSupply(self.choice.name, bundle, self._options)

    def _thread(self, factory: Callable[[], Engine], bundle: Bundle) -> EngineThread:
        thread = EngineThread(factory, self._options.max_batch, f"{bundle.spec.name}-gpu")
        thread.start(OPEN_S)
        return thread

    def _ensure(self, supply: Supply, bundle: Bundle, shapes: Shapes) -> None:
        why = supply.missing(shapes)
        if why:
            self._events.emit("engine_build", bundle=bundle.spec.name, backend=self.choice.name, why=why,
                              rows=dict(shapes))
            supply.ensure(shapes, stop=lambda: self.stopped)
