"""CWRU's bearing rig: every recording an asset of its own; which defect, which line, or why not, for every window."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.orders import KNOWN, Orders
from pipeline.advise import line_text
from pipeline.errors import InputError
from pipeline.plant import cwru
from pipeline.plant.cwru import Recording
from pipeline.plant.evaluate import Options, svg
from pipeline.plant.evaluate.bearings import HEADER, LABELS, Compared, Judged, Truth
from pipeline.plant.evaluate.given import SHOWN, Given
from pipeline.plant.evaluate.predictions import write_table
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.stream import Message, assessed, routed
from pipeline.plant.evaluate.table import Kind, Table
from pipeline.resample import ratio

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings

BUNDLE = "bearing-order"
_COLUMNS = ("", "balanced", "false alarms %", "AUROC", "answered %", "right of those %", "Brier", "log loss",
            "ECE", "windows")
#: Balanced accuracy and AUROC of defects on bearings left out by diameter, measured for this project's design.
_ANCHORS = (("raw network, random windows (leaky)", 1.00, None), ("raw network, bearings left out", 0.54, None),
            ("order features, logistic regression, bearings left out", 0.82, 0.90))  # fmt: skip
_NOTE = ("balanced: mean recall of normal, inner, ball, outer; where the answer was \"unknown\" the largest "
         "probability counts. 95 % interval over bearings, drawn within their class. Brier: squared error of the four "
         "probabilities, summed (uniform: 0.75); log loss: uniform 1.386; ECE: expected calibration error of the "
         "largest, 10 bins; over all "
         "windows. A recording was trained on where file or counts are those of the bundle's card; a part of one, "
         "or one at another rate, is not recognised")


def evaluate(data: Path, out: Path, settings: "Settings", options: Options) -> Report:
    """Write pred.csv, a line a window: recording, start, pred (N, B, IR, OR or U), prob_*, and what speaks for it.

    Geometry: `options.bearing`, `options.orders` (BPFI, BPFO, BSF, FTF), or the drive end's 6205-2RS. Figures are given
    where index.csv has labels, and these are read after the predictions were written. Raises InputError.
    """
    bearing, orders = geometry(options)
    settings = routed(settings, cwru.ASSET_CLASS, BUNDLE)
    lost = dict[str, str]()
    recordings = cwru.read(data, labels=False, skipped=lost)
    report = Report("CWRU bearings", f"kizashi evaluate cwru --data {data} --out OUT" + _flags(options))
    report.summary += [f"left out: {why}" for why in lost.values()]
    report.facts.append(("geometry", f"orders {orders}" if orders else f"bearing {bearing}, {KNOWN[bearing]}"))
    if options.protocol == "cv":
        from pipeline.plant.evaluate.cwrucv import cross_validated

        return cross_validated(data, out, settings, options, report)
    trained_on, refused = _trained_on(settings), list[str]()
    given = Given(trained_on, {f"{r.name}.npz": r.sha256 for r in recordings})
    seen = {r.name for r in recordings if given.seen(r.sha256) or given.seen(r.content)}
    done: list[str] = []

    def watched() -> Iterable[Recording]:
        for r in recordings:
            options.progress(len(done) / len(recordings), r.name)
            done.append(r.name)
            yield r

    rows = judge(settings, recordings, cwru.frames(watched(), bearing, orders), refused.append)
    heard = {row.recording for row in rows}
    lost |= {r.name: _windowless(r, refused) for r in recordings if r.name not in heard}
    silent = (Judged(name, 0, 0.0, 0, why, (0.25,) * 4, (0.0,) * 4) for name, why in lost.items())
    report.files.append(write(out, [*rows, *silent]))
    report.facts += [("seeds", "none: nothing is drawn"), *(
        (f"{r.name}.npz", r.sha256[:SHOWN] + (", trained on: left out of the headline" if r.name in seen else ""))
        for r in recordings)]
    report.summary += sorted(set(refused))
    unlabelled = dict[str, str]()
    truth = truths(cwru.read(data, skipped=unlabelled))
    report.summary += [why for name, why in unlabelled.items() if name not in lost]
    describe(report, rows, truth, seen, lost)
    return report


def _windowless(recording: Recording, refused: Sequence[str]) -> str:
    """Say why a recording has no window."""
    seconds = len(recording.raw) / recording.rate_hz
    if seconds < 1.0:
        return f"it has {seconds:.2f} s, a window takes a second"
    return "; ".join(sorted(set(refused))) or "no window of it was judged"


def geometry(options: Options) -> tuple[str, Orders | None]:
    """Return the designation and, where they were given, the orders. Raises InputError."""
    if options.bearing is not None and options.orders is not None:
        raise InputError("--bearing and --orders: one of them says the geometry")
    name = options.bearing or cwru.BEARING
    if name not in KNOWN:
        raise InputError(f"--bearing {name}: known are {', '.join(KNOWN)}; give --orders BPFI,BPFO,BSF,FTF")
    if options.orders is None:
        return name, None
    if len(options.orders) != 4:
        raise InputError(f"--orders has {len(options.orders)} numbers; BPFI,BPFO,BSF,FTF are wanted")
    bpfi, bpfo, bsf, ftf = options.orders
    orders = Orders(bpfo=bpfo, bpfi=bpfi, bsf=bsf, ftf=ftf)
    if faults := orders.faults():
        raise InputError("--orders: " + "; ".join(faults))
    return name, orders


def _flags(options: Options) -> str:
    said = "" if options.bearing is None else f" --bearing {options.bearing}"
    if options.orders is not None:
        said += " --orders " + ",".join(f"{v:g}" for v in options.orders)
    return said + (f" --protocol cv --seeds {options.seeds}" if options.protocol == "cv" else "")


def _trained_on(settings: "Settings") -> Mapping[str, str]:
    from pipeline.assembly import bundles_of

    return {name: text for b in bundles_of(settings).values() for name, text in b.spec.card.trained_on.items()}


def judge(
    settings: "Settings", recordings: Sequence[Recording], messages: Iterable[Message],
    refused: Callable[[str], None] = lambda line: None, model: bytes | None = None,
) -> list[Judged]:  # fmt: skip
    """Take recordings through the flow; return their windows in the order of the recordings.

    messages: of them, by `cwru.frames`. model: weights to be used in place of the bundle's.
    """
    by_asset = {cwru.asset_of(r.name): r for r in recordings}
    found: dict[str, list[Judged]] = {r.name: [] for r in recordings}
    births = dict[str, int]()

    def noted() -> Iterable[Message]:
        from schemas import AssetBirth

        for message in messages:
            if isinstance(message, AssetBirth):
                births[message.asset] = message.start_ns
            yield message

    models = None if model is None else {BUNDLE: model}
    for a in assessed(settings, noted(), refused=refused, models=models):
        said, r = a.answers, by_asset[a.asset]
        if said is None or said.probabilities is None or said.labels is None:
            raise InputError(f"{a.model} names no defect: route {cwru.ASSET_CLASS} to {BUNDLE}")
        size = ceil(cwru.RATE_HZ / ratio(r.rate_hz, cwru.RATE_HZ))  # of a window, a second
        places = [said.labels.index(label) for label in LABELS]
        for k, t_end in enumerate(a.t_end):
            last = round((t_end - births[a.asset]) * r.rate_hz / 1e9)
            found[r.name].append(Judged(
                r.name, last + 1 - size, a.score[k], a.state[k], said.unknown[k] if said.unknown else "",
                tuple(said.probabilities[k][p] for p in places), said.line[k] if said.line else (0.0,) * 4))
    return [row for rows in found.values() for row in rows]


def write(out: Path, rows: Sequence[Judged]) -> Path:
    """Write pred.csv and return where."""
    write_table(out / "pred.csv", HEADER, (r.cells() for r in rows))
    return out / "pred.csv"


def truths(recordings: Sequence[Recording]) -> dict[str, Truth]:
    """Return what the labelled recordings are of."""
    return {r.name: Truth(r.label, r.bearing) for r in recordings if r.label is not None and r.bearing is not None}


def describe(report: Report, rows: Sequence[Judged], truth: Mapping[str, Truth], seen: set[str],
             lost: Mapping[str, str]) -> None:
    """Add tables and pictures. seen: recordings that the bundle was trained on, no part of the headline. lost: why a
    file has no window; it has a line in pred.csv all the same, and no part of any figure.
    """
    fresh = Compared([r for r in rows if r.recording not in seen], truth)
    known = Compared([r for r in rows if r.recording in seen], truth)
    table = Table("CWRU, four classes", _COLUMNS, note=_NOTE, digits=3)
    if fresh.rows:
        headline(table, "recordings that the bundle has not seen", fresh)
        report.summary.append(f"balanced accuracy {fresh.balanced_interval().text(3)}, false alarms "
                              f"{100 * fresh.false_alarms():.1f} %, AUROC {fresh.auroc():.3f}")
    elif known.rows:
        report.summary.append("the bundle was trained on every recording with a window and a label here: no headline. "
                              "--protocol cv trains without each bearing and scores that one")
    else:
        report.summary.append(("no window of a recording with a label" if truth else "no labels")
                              + ": predictions were written, nothing could be scored")
    if known.rows:
        headline(table, "recordings that the bundle was trained on", known, "left out")
    if truth:
        beside(table)
        report.sections.append(Section("Beside what is published", tables=[table]))
    for name, compared in (("bearings that the bundle has not seen", fresh), ("bearings trained on", known)):
        if compared.rows:
            report.sections.append(Section(name.capitalize(), tables=[per_bearing(name, compared)], pictures=[
                svg.confusion(f"Windows of {name}", (*LABELS, "unknown"), square(compared.confusion()))]))
    report.sections.append(Section("Recordings", tables=[per_recording(rows, truth, seen, lost)]))


def headline(table: Table, name: str, compared: Compared, kind: Kind = "ours") -> None:
    """Add a line of the table of figures."""
    table.add(name, compared.balanced_interval(), f"{100 * compared.false_alarms():.1f}", compared.auroc(),
              f"{100 * compared.answered():.0f}", f"{100 * compared.right_of_answered():.1f}", compared.brier(),
              compared.log_loss(), compared.calibration_error(), len(compared.rows), kind=kind)


def beside(table: Table) -> None:
    """Add what costs nothing, what others have reached, and the bars."""
    table.add("always normal", 0.25, "0.0", 0.5, "100", *[None] * 5, kind="baseline")
    table.add("always inner", 0.25, "100.0", 0.5, "100", *[None] * 5, kind="baseline")
    for name, balanced, auroc in _ANCHORS:
        table.add(name, balanced, None, auroc, *[None] * 6, kind="anchor")
    table.add("bar", ">= 0.80", "<= 5", ">= 0.92", *[None] * 6, kind="bar")


def square(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return counts with a row for what is never true, "unknown", so that the picture is square."""
    return np.vstack([counts, np.zeros((1, counts.shape[1]), np.int64)])


def per_bearing(name: str, compared: Compared) -> Table:
    """Return the table of bearings: how many windows were named right, and what the others were called."""
    table = Table(name, ("bearing", "windows", "right %", "answered %", "right of those %", "called"), digits=0)
    for bearing in np.unique(compared.bearing):
        mine = compared.bearing == bearing
        label, said, known = compared.label[mine][0], compared.said[mine], compared.known[mine]
        wrong = {c: int((said == c).sum()) for c in LABELS if c != label and (said == c).any()}
        table.add(str(bearing), int(mine.sum()), 100 * float((said == label).mean()), 100 * float(known.mean()),
                  100 * float((said == label)[known].mean()) if known.any() else None,
                  ", ".join(f"{c} {n}" for c, n in wrong.items()) or "-")  # fmt: skip
    return table


def per_recording(rows: Sequence[Judged], truth: Mapping[str, Truth], seen: set[str],
                  lost: Mapping[str, str]) -> Table:
    """Return the table of recordings: vote, alarm, and the line that was found in the window of the largest score."""
    table = Table("Per recording", ("recording", "true", "most windows say", "windows", "unknown %", "alarm", "line",
                                    "most often unknown because"), digits=0, private=True)  # fmt: skip
    for name in dict.fromkeys(r.recording for r in rows):
        mine = [r for r in rows if r.recording == name]
        votes = [r.forced for r in mine]
        vote = max(LABELS, key=votes.count)
        why = [r.unknown for r in mine if r.unknown]
        best = max((r for r in mine if r.forced == vote), key=lambda r: r.score)
        line = line_text(*best.line) if any(best.line) else None
        table.add(name, truth[name].label if name in truth else None, vote, len(mine), 100 * len(why) / len(mine),
                  "yes" if any(r.state == 2 for r in mine) else "no", line if vote != "normal" else None,
                  max(set(why), key=why.count) if why else None, kind="left out" if name in seen else "ours")
    for name, reason in lost.items():
        label = truth[name].label if name in truth else None
        table.add(name, label, None, 0, None, "no", None, reason, kind="left out")
    return table


def shifted(recording: Recording, start: int, stop: int, name: str) -> Recording:
    """Return a part of a recording, at its own rate."""
    return replace(recording, name=name, raw=recording.raw[start:stop])
