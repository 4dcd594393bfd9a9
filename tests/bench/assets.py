"""Many assets: throughput of W1 null with 10,000 assets against 200, frames and polls alike.

Interleaved rounds, second half of the run (the seating of newcomers lies in the first), medians over ROUNDS (5).
"""

import sys

from tests.bench import report, rig, workload
from tests.bench.report import Bar, Run

COUNTS = (200, 2_000 if rig.QUICK else 10_000)
FRAMES = 100_000 if rig.QUICK else 1_500_000


def main() -> int:
    """Print the ratio and its bar."""
    runs: dict[int, list[Run]] = {count: [] for count in COUNTS}
    with rig.broker() as address:
        prefixes = {}
        for count in COUNTS:
            prefixes[count] = workload.fresh_prefix()
            workload.create(address, prefixes[count], count)
            rig.run_child("tests.bench.workload", address, prefixes[count], FRAMES, count)
        for i in range(rig.rounds()):
            for count, prefix in prefixes.items():
                env = {"BROKER": address, "PREFIX": prefix, "N": FRAMES, "ENGINE": "null", "THRESH": ""}
                found = report.parse(out := rig.run_child("tests.bench.w1", env=env))
                assert found is not None, out
                runs[count].append(found[1])
                print(f"round {i + 1} {count} assets: {found[1]['second_half_per_s']:.0f} frames/s, "
                      f"{found[1]['second_half_cpu_us']:.2f} us, {found[1]['rss_mb']:.0f} MB", flush=True)
        for prefix in prefixes.values():
            workload.remove(address, prefix)
    each = report.ratios(runs[COUNTS[1]], runs[COUNTS[0]])
    return report.judge([Bar(f"{COUNTS[1]:,} assets against {COUNTS[0]}", report.median(each), "x", 0.7, 0.9,
                             spread=report.span(each))])


if __name__ == "__main__":
    sys.exit(main())
