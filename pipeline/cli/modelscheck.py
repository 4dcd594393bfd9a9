"""`kizashi models check`: all that can be said of a bundle on this machine, without a broker, a GPU or the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines import Bundle
    from engines.measure import BucketTimes
    from engines.parity import ParityReport
    from pipeline.ops.settings import Settings

_LABEL = 12
_MIB = 1 << 20


@dataclass(slots=True)
class Check:
    """Lines to print and what is wrong, of one bundle."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def say(self, label: str, *texts: str) -> None:
        for text in texts or ("",):
            self.lines.append(f"  {label:<{_LABEL}} {text}".rstrip())
            label = ""

    def fault(self, label: str, *texts: str) -> None:
        self.faults += texts
        if texts:
            self.say(label, *(f"FAULT: {text}" for text in texts))


def check(path: Path, settings: "Settings", rounds: int) -> Check:
    """Check the bundle at `path` and every engine that this machine has on it. rounds: batches per bucket, 0: none.

    A model that nobody vouches for is read, never run.
    """
    from engines.archive import read_files
    from engines.bundle import BundleError, load_bundle
    from pipeline.assembly import trust_policy

    found, policy, believed = Check([str(path)]), trust_policy(settings), True
    try:
        files = read_files(path)
    except BundleError as error:
        found.fault("bundle", *error.faults)
        return found
    try:
        bundle = load_bundle(path, policy, files)
    except BundleError as error:
        found.fault("bundle", *error.faults)
        believed = False
        try:  # if only nobody vouches for it, its contents can be told all the same
            bundle = load_bundle(path, replace(policy, allow_unsigned=True, min_version={}), files)
        except BundleError as more:
            found.fault("", *(text for text in more.faults if text not in error.faults))
            return found
    found.lines[0] = f"{bundle.spec.name} {bundle.spec.version}  {path}"
    _contents(found, bundle, files)
    if believed:
        _engines(found, bundle, files, settings, rounds)
    else:
        found.say("engines", "not run: a model that may not serve here is read, not run")
    return found


def _contents(found: Check, bundle: "Bundle", files: Mapping[str, bytes]) -> None:
    """Tell what the files say; they are those that `bundle` was loaded from."""
    from engines.archive import GOLDEN, MANIFEST, MODEL
    from engines.golden import NEAR
    from engines.manifest import decode_manifest
    from engines.wire import read_model

    facts = read_model(files[MODEL])
    manifest = decode_manifest(files[MANIFEST])
    trust = bundle.trust
    words = {"pinned": "as shipped (pinned in this package)", "signed": f"signed by key {trust.key_id!r}",
             "unsigned": f"UNSIGNED: {trust.why}"}
    found.say("trust", words[trust.status])
    found.say("files", *(f"{name:<15} {entry.size:>12,} B  sha256 {entry.sha256[:16]}"
                         for name, entry in sorted(manifest.files.items())))
    said = {t.name: f"  [{t.unit}]  {t.meaning}" for t in bundle.spec.inputs}
    said |= {name: f"  [{of.unit}]  {of.meaning}" for name, of in bundle.spec.outputs.described().items()}
    for side, tensors in (("inputs", facts.inputs), ("outputs", facts.outputs)):
        found.say(side, *(f"{t.name} {t.dtype}{_dims(t.dims)}{said.get(t.name, '')}" for t in tensors))
    found.say("graph", f"{facts.nodes} nodes, opset {facts.opset}")
    assert bundle.golden is not None
    scores = [abs(float(score) - bundle.spec.threshold) for case in bundle.golden.cases
              for score in case.outputs[bundle.spec.outputs.score].reshape(-1)]
    near = sum(distance <= NEAR * bundle.spec.threshold for distance in scores)
    found.say("golden", f"{bundle.golden.rows} rows in {len(bundle.golden.cases)} cases, "
                        f"{sum(len(c.starts) for c in bundle.golden.cases)} sequences; {near} within {NEAR:.0%} of the "
                        f"limit ({len(files[GOLDEN]):,} B)")


def _dims(dims: tuple[int | str | None, ...]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in dims)}]"


def _engines(found: Check, bundle: "Bundle", files: Mapping[str, bytes], settings: "Settings", rounds: int) -> None:
    from importlib.util import find_spec

    from engines.select import backends

    for backend in backends():
        if not backend.ok:
            found.say(backend.name, f"not on this machine: {backend.why}")
            continue
        _engine(found, bundle, files, settings, backend.name, rounds)
    if find_spec("onnx"):
        _engine(found, bundle, files, settings, "reference", 0)
    else:
        found.say("reference", "not on this machine: package onnx is missing")


def _engine(found: Check, bundle: "Bundle", files: Mapping[str, bytes], settings: "Settings", name: str,
            rounds: int) -> None:
    from pipeline.cli.modelsengine import try_engine

    answer = try_engine(name, bundle, files, settings, rounds)
    report = answer.report
    # It knows the operators that models here have needed, and not all of what they can do: no fault of the model.
    if name == "reference" and (report is None or (report.faults and not report.differing)):
        found.say(name, f"cannot check this model: {report.why() if report else answer.error}")
        return
    if report is None:
        found.fault(name, answer.error)
        return
    _parity(found, name, report)
    if answer.times:
        _table(found, answer.times)
        _budget(found, bundle, answer.times, answer.used, name)


def _parity(found: Check, name: str, report: "ParityReport") -> None:
    if not report.ok:
        found.fault(name, f"parity: {report.why()}")
        return
    worst = ", ".join(f"{output} {share:.1%}" for output, share in sorted(report.worst.items()))
    near = f"; {len(report.near)} rows too near to the limit to count" if report.near else ""
    found.say(name, f"parity ok on {report.rows} rows, no decision changes; farthest, of the tolerance: {worst}{near}")


def _table(found: Check, times: "Sequence[BucketTimes]") -> None:
    rows = [("rows", [f"{t.rows}" for t in times]), ("p50 us", [f"{t.total.p50:.0f}" for t in times]),
            ("p99 us", [f"{t.total.p99:.0f}" for t in times])]
    found.say("", *(f"{label:<7}" + "".join(f"{value:>8}" for value in values) for label, values in rows))


def _budget(found: Check, bundle: "Bundle", times: "Sequence[BucketTimes]", used: int, name: str) -> None:
    # The budget is for a CPU: what a driver holds in a process is a matter of the GPU.
    from pipeline.cli.modelsengine import FULL_BATCH

    budget, p99 = bundle.spec.budget, next((t.total.p99 / 1000 for t in times if t.rows == FULL_BATCH), None)
    asked: Mapping[str, tuple[float | None, float | None, str]] = {
        f"p99 of {FULL_BATCH} rows": (p99, budget.latency_ms if name == "onnx_cpu" else None, "ms"),
        "memory": (used / _MIB, budget.memory_mb if name == "onnx_cpu" else None, "MiB"),
    }
    said = []
    for what, (value, limit, unit) in asked.items():
        if value is None:
            continue
        said.append(f"{what} {value:.3g} {unit}" + (f" of {limit:g}" if limit is not None else ""))
        if limit is not None and value > limit:
            found.fault("", f"{what}: {value:.3g} {unit}, the budget is {limit:g} {unit}")
    found.say("", "; ".join(said))
