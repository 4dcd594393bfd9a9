"""Run every benchmark, or those named: `python -m tests.bench [NAME ...]`.

Each runs in a process of its own: what one leaves behind (threads, arenas, a frozen collector) is not measured by the
next. Ends with one line per benchmark; exit 1 if any failed.
"""

import subprocess
import sys
import time
from pathlib import Path

from tests.bench.catalogue import benchmarks


def main(wanted: list[str]) -> int:
    """Run the benchmarks of `wanted` (all if empty) one after the other; return the exit code."""
    known = benchmarks()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    results = []
    for name in wanted or known:
        print(f"\n== {name}: {known[name]}", flush=True)
        began = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], cwd=Path(__file__).parents[2]).returncode
        results.append((name, code, time.perf_counter() - began))
    print()
    for name, code, took_s in results:
        print(f"{name:20s} {'ok' if code == 0 else f'FAILED (exit {code})':20s} {took_s:7.1f} s")
    return int(any(code for _, code, _ in results))


sys.exit(main(sys.argv[1:]))
