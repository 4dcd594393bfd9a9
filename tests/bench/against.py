"""Against: W1 of this checkout and of another one, interleaved on one broker: is a change slower than what it replaced?

    OTHER=DIR [ENGINE=onnx] [N=400000] python -m tests.bench.against

OTHER: a checkout of the other build; both run in this environment. Rounds alternate in order, the first is a warm-up.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.bench import report, rig
from tests.bench.report import Bar, Run


def measure(checkout: Path, address: str) -> Run:
    """Run W1 of a checkout once and return the figures of its RESULT line."""
    environment = {"N": "400000", "ENGINE": "onnx", **os.environ, "BROKER": address}
    done = subprocess.run([sys.executable, "-m", "tests.bench.w1"], cwd=checkout, env=environment, capture_output=True,
                          text=True, timeout=600, check=False)
    found = report.parse(done.stdout)
    if found is None:
        raise RuntimeError(f"W1 of {checkout} printed no RESULT line:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return found[1]


def main() -> int:
    """Print each round and the medians of the ratios, ours / the other's."""
    if not os.environ.get("OTHER"):
        print("skipped: set OTHER to a checkout of the build to compare with")
        return 0
    other = Path(os.environ["OTHER"]).resolve()
    rates, costs = [], []
    with rig.broker() as address:
        for i in range(rig.rounds(8) + 1):
            order = [("ours", rig.ROOT), ("theirs", other)][:: 1 if i % 2 else -1]
            runs = {name: measure(checkout, address) for name, checkout in order}
            rate = runs["ours"]["frames_per_s"] / runs["theirs"]["frames_per_s"]
            cost = runs["ours"]["cpu_us"] / runs["theirs"]["cpu_us"]
            print(f"round {i}: {runs['ours']['frames_per_s']:.0f} and {runs['theirs']['frames_per_s']:.0f} frames/s, "
                  f"{rate:.3f} x the rate, {cost:.3f} x the CPU{'' if i else ' (warm-up)'}", flush=True)
            if i:
                rates.append(rate)
                costs.append(cost)
    return report.judge([  # 3 % is what two runs of one build differ by
        Bar("W1, rate against the other build", report.median(rates), "x", 0.97, 1.0, spread=report.span(rates)),
        Bar("W1, CPU a frame against the other build", report.median(costs), "x", 1.03, 1.0, lower=True,
            spread=report.span(costs))])


if __name__ == "__main__":
    sys.exit(main())
