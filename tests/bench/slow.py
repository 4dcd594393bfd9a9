"""Slow degradation on simulated machines: false alarms of healthy ones, how grown a defect is when it is warned of.

KIZASHI_BATTERY: folder with NASA's cells; with it, how much the choices of `battery-fade` matter.
"""

import os
import sys
from pathlib import Path

import numpy as np

from engines.recipes import fade_model
from pipeline.ops.settings import Settings
from pipeline.plant import battery, slowsim
from pipeline.plant.evaluate.cells import end_of
from pipeline.plant.evaluate.stream import assessed, patient, routed
from pipeline.plant.evaluate.watched import Watched
from tests.bench import rig

BEARINGS, SNAPSHOTS, HEALTHY = (4, 300, 150) if rig.QUICK else (24, 720, 240)
SERIES, DAYS = (4, 30) if rig.QUICK else (24, 98)


def vibration() -> None:
    """Print false alarms of healthy bearings, and when growing defects are warned of."""
    settings = routed(Settings(), "vibration-snapshots", "vibration-health")
    false, warned, late, grown = 0, 0, 0, []
    for seed in range(BEARINGS):
        healthy = _told(settings, slowsim.bearing_messages("b", slowsim.bearing(seed, SNAPSHOTS).snapshots), SNAPSHOTS)
        false += len(healthy.raises())
        worn = slowsim.bearing(seed, SNAPSHOTS, HEALTHY)
        told = _told(settings, slowsim.bearing_messages("b", worn.snapshots), SNAPSHOTS)
        raised = [i for i in told.raises() if i >= worn.since]
        if raised:
            std = worn.snapshots.std(axis=1)
            grown.append(float(np.median(std[raised[0] - 4 : raised[0] + 1]) / np.median(std[:90])))
            warned += raised[0] <= SNAPSHOTS - 61
        late += not raised
    hours = BEARINGS * SNAPSHOTS / 360
    print(f"{BEARINGS} healthy bearings, {hours:.0f} h: {false} false alarms")
    print(f"{BEARINGS} growing defects: {warned} warned 10 min or more before the end, {late} never; vibration when "
          f"warned, times its baseline: median {np.median(grown):.2f}, largest {max(grown):.2f}")


def level() -> None:
    """Print false raises a month of healthy series, and how many of a shift over two days are found."""
    settings = routed(patient(Settings()), "slow-process", "slow-level")
    for memory_h in (4.0, 12.0, 24.0):
        false, found, months = 0, 0, 0.0
        for seed in range(SERIES):
            x = slowsim.slow(seed, DAYS, memory_h)
            false += len(_told(settings, slowsim.slow_messages("s", x), len(x)).raises())
            months += (DAYS - 7) / 30
            shifted = x.copy()
            begin = (DAYS - 10) * 288
            shifted[begin : begin + 576] -= 4.0
            told = _told(settings, slowsim.slow_messages("s", shifted), len(x))
            found += any(begin <= i < begin + 576 for i in told.raises())
        print(f"{SERIES} slow series that forget in {memory_h:g} h, {months:.0f} months: {false / months:.2f} false "
              f"raises a month; a shift of 4 deviations for two days: {found} found")


def fade(data: Path) -> None:
    """Print how the errors of `battery-fade` depend on what was chosen: leave one cell out, from cycle 80."""
    cells = [battery.read(path).rows().astype(float) for path in battery.files(data)]
    print(f"{'rest':>5} {'window':>6} {'prior':>5}   end of life off by [cycles]")
    for rest in (0.45, 0.5, 0.55):
        for window in (48, 64, 80):
            for prior in (80.0, 160.0, 320.0):
                fade_model.REST, fade_model.WINDOW, fade_model.OWN = rest, window, window / (window + prior)
                off = []
                for k, cell in enumerate(cells):
                    rate = fade_model.rate_of([*cells[:k], *cells[k + 1 :]])
                    end = end_of(cell[:, 0], cell[:, 1] * battery.RATED_AH)
                    if end is not None:
                        off.append(80 + fade_model.life(cell[:80], rate)[-1] - end)
                each = ", ".join(f"{o:+.1f}" for o in off)
                print(f"{rest:5.2f} {window:6d} {prior:5.0f}   {np.mean(np.abs(off)):.1f}  ({each})")


def _told(settings: Settings, messages: object, frames: int) -> Watched:
    told = Watched(frames)
    for a in assessed(settings, messages):  # type: ignore[arg-type]
        told.take(a)
    return told


def main() -> int:
    """Print all."""
    vibration()
    level()
    if "KIZASHI_BATTERY" in os.environ:
        fade(Path(os.environ["KIZASHI_BATTERY"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
