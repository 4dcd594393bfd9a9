"""What one row shape needs on the device: a plan, and per slot and bucket a context, and a graph where capture works.

Everything here is made once, when the first asset of that shape appears; a batch only replays it. A context keeps its
shape and its addresses for ever, because a graph pins both; the contexts of one slot never run at the same time (they
share its stream), so they share one block of scratch memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engines.base import Array, EngineError, TensorSpec
from engines.gpu.driver import Buffer, Driver, Pinned
from engines.gpu.faults import CudaError
from engines.gpu.memory import Block, Path, Pool, StagingSet
from engines.gpu.plan import PlanTensor

#: TensorRT wants scratch memory at multiples of 256 bytes; cudaMalloc gives that.
_MIN_SCRATCH = 256


class PlanContext(Protocol):
    """An execution context of a plan (`engines.gpu.flavour`)."""

    def set_memory(self, ptr: int, size: int) -> None:
        """Give it the scratch memory to work in."""

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Fix the shape of an input."""

    def set_address(self, name: str, ptr: int) -> None:
        """Say where the device finds an input or puts an output."""

    def capturable(self, stream_handle: int) -> bool:
        """Say whether what it puts on this stream may be captured."""

    def enqueue(self, stream_handle: int) -> None:
        """Put the work on a stream. Raises EngineError, EngineLost."""

    def close(self) -> None:
        """Free it."""


class PlanEngine(Protocol):
    """A plan in memory."""

    @property
    def tensors(self) -> tuple[PlanTensor, ...]: ...

    @property
    def device_memory_bytes(self) -> int: ...

    def context(self) -> Any:
        """Make a `PlanContext`."""

    def close(self) -> None:
        """Free it."""


@dataclass(slots=True)
class Run:
    """One bucket in one slot. graphs: per staging set where the engine reads it in place, else one under key -1."""

    context: PlanContext
    graphs: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Slot:
    """What one batch in flight occupies. sources, targets: addresses of inputs and outputs for the device."""

    stream: Any
    handle: int
    event: Any
    own: StagingSet
    inputs: int
    outputs: int
    results: dict[str, Array]
    pieces: dict[int, list[tuple[int, Array]]]
    runs: dict[int, Run] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lane:
    """A stream with its event, for slot number i of every layout: batches of one lane follow each other."""

    stream: Any
    handle: int
    event: Any


#: Key of the graph of a slot whose inputs are copied to the device: the staging set does not matter.
COPIED = -1


@dataclass(slots=True)
class Layout:
    """All that serves one row shape. uncaptured: why graphs are not replayed. undo: frees what was taken, in order."""

    shapes: tuple[tuple[int, ...], ...]
    plan: PlanEngine
    inputs: Block
    outputs: Block
    slots: list[Slot]
    pool: Pool
    sets: list[StagingSet]
    uncaptured: str | None = None
    undo: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        """Free everything, the last made first."""
        while self.undo:
            self.undo.pop()()
        self.slots.clear()
        self.sets.clear()


@dataclass(slots=True)
class Maker:
    """Makes layouts. buckets: ascending. sets: staging sets to lend; budget_bytes: of page-locked memory in all."""

    driver: Driver
    path: Path
    lanes: Sequence[Lane]
    buckets: Sequence[int]
    sets: int
    budget_bytes: int
    pinned_bytes: int = 0
    making: Layout | None = None

    def layout(self, specs: Sequence[TensorSpec], shapes: tuple[tuple[int, ...], ...], plan: PlanEngine) -> Layout:
        """Allocate for `plan`, run every bucket once and capture it. After any error `undo` takes it back."""
        rows = self.buckets[-1]
        inputs = Block.of([(s.name, s.dtype, shape) for s, shape in zip(specs, shapes, strict=True)], rows)
        outputs = Block.of([(t.name, t.dtype, _row(t)) for t in plan.tensors if not t.is_input], rows)
        layout = Layout(shapes, plan, inputs, outputs, [], Pool(), [])
        layout.undo.append(plan.close)
        self.making = layout
        for lane in self.lanes:
            layout.slots.append(self._slot(layout, lane))
        for index in range(len(self.lanes), len(self.lanes) + self.sets):
            if self.pinned_bytes + inputs.nbytes > self.budget_bytes:
                break
            layout.pool.free.append(self._set(layout, index))
        self._warm(layout)
        self.making = None
        return layout

    def undo(self) -> None:
        """Free what a layout that could not be finished has taken. Not after a sticky error: frees fail then."""
        if self.making is not None:
            self.making.close()
        self.making = None

    def _slot(self, layout: Layout, lane: Lane) -> Slot:
        own, path = self._set(layout, len(layout.slots)), self.path
        results = self._pinned(layout, layout.outputs.nbytes, mapped=not path.copy_out)
        device_in = self._buffer(layout, layout.inputs.nbytes).address if path.copy_in else own.memory.device_address
        device_out = self._buffer(layout, layout.outputs.nbytes).address if path.copy_out else results.device_address
        size = max(layout.plan.device_memory_bytes, _MIN_SCRATCH)
        scratch = self._buffer(layout, size)
        slot = Slot(
            lane.stream, lane.handle, lane.event, own, device_in, device_out, layout.outputs.views(results.array),
            {n: [(device_out + a, results.array[a:b]) for a, b in layout.outputs.pieces(n)] for n in self.buckets},
        )  # fmt: skip
        for bucket in self.buckets:
            context = layout.plan.context()
            layout.undo.append(context.close)
            context.set_memory(scratch.address, size)
            for part in layout.inputs.parts:
                context.set_shape(part.name, (bucket, *part.shape))
                context.set_address(part.name, device_in + part.offset)
            for part in layout.outputs.parts:
                context.set_address(part.name, device_out + part.offset)
            slot.runs[bucket] = Run(context)
        return slot

    def _warm(self, layout: Layout) -> None:
        """Run each context once, which TensorRT wants before a capture, then capture."""
        graphs = self.driver.graphs
        refusals: tuple[type[Exception], ...] = (*self.driver.errors, CudaError, EngineError)
        for slot in layout.slots:
            for run in slot.runs.values():
                run.context.enqueue(slot.handle)
                self._wait(slot)
                keys = [COPIED] if self.path.copy_in else [s.index for s in layout.sets]
                for key in keys if layout.uncaptured is None else ():
                    if key != COPIED:
                        point(run.context, layout.inputs, layout.sets[key])
                    try:
                        run.graphs[key] = graph = self._captured(slot, run.context)
                    except refusals as error:
                        # Some builds of TensorRT and some nets cannot be captured: they serve by enqueueing.
                        layout.uncaptured = str(error)
                        break
                    layout.undo.append(lambda graph=graph: graphs.destroy(graph))  # type: ignore[misc]  # bound now
                    graphs.check(graphs.launch(graph, slot.handle), "cuGraphLaunch")
                    self._wait(slot)

    def _captured(self, slot: Slot, context: PlanContext) -> int:
        graphs = self.driver.graphs
        if not context.capturable(slot.handle):
            raise EngineError("the library says that this plan cannot be captured")
        graphs.begin(slot.handle)
        try:
            context.enqueue(slot.handle)
        except BaseException:
            graphs.abandon(slot.handle)
            raise
        return graphs.end(slot.handle)

    def _wait(self, slot: Slot) -> None:
        slot.event.record(slot.stream)
        slot.event.synchronize()

    def _set(self, layout: Layout, index: int) -> StagingSet:
        memory = self._pinned(layout, layout.inputs.nbytes, mapped=not self.path.copy_in, keep=True)
        made = StagingSet.of(index, memory, layout.inputs, self.buckets)
        self.pinned_bytes += layout.inputs.nbytes
        layout.sets.append(made)
        layout.undo.append(lambda: self._put_away(made))
        return made

    def _put_away(self, made: StagingSet) -> None:
        """Free a set, or leave it to those who still hold its arrays."""
        self.pinned_bytes -= len(made.memory.array)
        loan = made.loan
        if loan is not None and loan() is not None:
            self.driver.orphan(made.memory, loan)
        else:
            self.driver.free(made.memory)

    def _pinned(self, layout: Layout, nbytes: int, mapped: bool, keep: bool = False) -> Pinned:
        memory = self.driver.pinned(nbytes, mapped)
        if not keep:
            layout.undo.append(lambda: self.driver.free(memory))
        return memory

    def _buffer(self, layout: Layout, nbytes: int) -> Buffer:
        memory = self.driver.buffer(nbytes)
        layout.undo.append(lambda: self.driver.free(memory))
        return memory


def point(context: PlanContext, block: Block, staged: StagingSet) -> None:
    """Let `context` read its inputs in place, from mapped memory."""
    for part in block.parts:
        context.set_address(part.name, staged.memory.device_address + part.offset)


def agree(specs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], plan: PlanEngine,
          shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise EngineError unless the plan takes and gives what the model does."""
    wanted = {s.name: (s.dtype, shapes[s.name]) for s in specs}
    found = {t.name: (t.dtype, tuple(t.shape[1:])) for t in plan.tensors if t.is_input}
    if wanted != found:
        raise EngineError(f"the plan takes {found}, the model wants {wanted}")
    have = {t.name: t.dtype for t in plan.tensors if not t.is_input}
    missing = [f"{o.name} {o.dtype}" for o in outputs if have.get(o.name) != o.dtype]
    if missing:
        raise EngineError(f"the plan gives {have}, the model wants {', '.join(missing)}")


def _row(tensor: PlanTensor) -> tuple[int, ...]:
    """Return the shape of one row of an output, which must be known before anything runs."""
    if not tensor.shape or tensor.shape[0] >= 0 or any(d < 0 for d in tensor.shape[1:]):
        raise EngineError(
            f"output {tensor} of the plan: the first dimension must be the batch, and the others fixed by the inputs"
        )
    return tuple(tensor.shape[1:])
