"""How good is `pca-t2q`: false alarms of healthy plants, faults and the sensors named, SKAB's anomaly-free run.

python -m tests.bench.pca [--skab FILE]        (FILE: anomaly-free.csv or .csv.gz of the SKAB data)
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engines.bundle import JudgeSpec
from engines.recipes.pca_model import Fitted, Plan, fit, states
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import load_map
from pipeline.plant.evaluate.skabcv import alarms
from pipeline.plant.process import NAMES, PERIOD_S, SET_POINTS, Kind, ProcessFault, run
from pipeline.plant.series import series

SENSORS = tuple(n for n in NAMES if n not in SET_POINTS)
PLAN = Plan(SENSORS, SET_POINTS, ("outlet_flow", 4.0))
ORDER = [NAMES.index(n) for n in PLAN.channels]
JUDGE = JudgeSpec(on=(8, 10), off=25, deadband=0.1)
FAULTS: tuple[tuple[Kind, str, float, tuple[str, ...]], ...] = (
    *(("bias", name, 6.0, (name,)) for name in (
        "feed_flow", "feed_valve", "outlet_flow", "outlet_temp", "tank_temp", "pump_current")),
    ("bias", "feed_temp", 10.0, ("feed_temp",)), ("bias", "heater_power", 8.0, ("heater_power",)),
    ("bias", "level", 8.0, ("level",)), ("fouling", "", 0.1, ("heater_power",)),
    ("leak", "", 0.08, ("outlet_flow", "outlet_valve")), ("valve_wear", "", 0.1, ("outlet_valve",)),
    ("pump_wear", "", 0.05, ("pump_current",)),
)  # fmt: skip


def judged(said: dict[str, np.ndarray], judge: JudgeSpec = JUDGE) -> np.ndarray:
    """Return whether an alert is active, row by row; what is unknown is not judged, and changes nothing."""
    known = said["unknown"] == 0
    state = np.concatenate([[False], alarms(said["score"][known], judge)])
    return np.asarray(state[np.cumsum(known)])


def rises(state: np.ndarray) -> np.ndarray:
    return np.diff(np.concatenate([[False], state]).astype(int)) == 1


def simulated() -> Iterator[str]:
    """Say how the monitor does on the simulated tank."""
    made = fit([run(seed, 10_000, stops=1)[:, ORDER] for seed in (1, 2)], PLAN)
    yield (f"simulated tank: {made.rows} rows, {made.at_rest} at rest, {len(made.model.variances)} components "
          f"({made.share:.0%}), held-out rows over {100 * (made.held_out >= 1).mean():.2f} %")
    alarms, hours = 0, 0.0
    for seed in range(101, 121):
        said = made.model.answers(states(run(seed, 10_000, stops=2)[:, ORDER]))
        alarms += rises(judged(said)).sum()
        hours += (said["unknown"] == 0).sum() * PERIOD_S / 3600
    yield f"20 healthy plants, 2 stops, a set point moves every 40 minutes: {alarms} false alarms in {hours:.0f} h"
    yield f"{'fault, 8 plants each':36s} found  median delay, samples  right sensor"
    for kind, channel, size, names in FAULTS:
        delays, right = [], 0
        for seed in range(201, 209):
            said = made.model.answers(states(run(seed, 4000, [ProcessFault(kind, 2000, size, channel)])[:, ORDER]))
            found = np.flatnonzero(judged(said)[2000:])
            if len(found):
                delays.append(found[0])
                mean = said["contributions"][2000 + found[0]:2100 + found[0]].mean(axis=0)
                right += PLAN.channels[mean.argmax()] in names
        middle = f"{np.median(delays):22.0f}" if delays else f"{'-':>22s}"
        yield f"  {kind + ' ' + channel:26s} {size:7.2f} {len(delays):3d}/8 {middle} {right:7d}/{len(delays)}"


def skab(path: Path) -> Iterator[str]:
    """Say how often it alarms on a run without a fault."""
    ((birth, rows),) = series(CsvHistory(load_map(Path("skab"))).read([path])).values()
    yield f"SKAB, anomaly-free run, {len(rows)} rows: trained on the first part, false alarms on the rest"
    steady = [i for i, c in enumerate(birth.channels) if c.quantity != "temperature"]
    for what, kept in (("all channels", list(range(rows.shape[1]))), ("without temperatures", steady)):
        for cut in (4700, 6500):
            made: Fitted = fit([rows[:cut, kept]], Plan(tuple(birth.channels[i].name for i in kept)))
            said = {k: v[cut:] for k, v in made.model.answers(states(rows[:, kept])).items()}
            state = judged(said)
            yield (f"  {what:20s} first {cut} rows: {100 * state.mean():4.1f} % of rows, {rises(state).sum()} alarms "
                   f"in {len(state) / 3600:.1f} h; {len(made.model.variances)} components ({made.share:.0%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skab", type=Path)
    given = parser.parse_args()
    for line in (*simulated(), *(skab(given.skab) if given.skab else ())):
        print(line, flush=True)


if __name__ == "__main__":
    main()
