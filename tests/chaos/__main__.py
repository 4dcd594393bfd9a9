"""Kill workers on Apache Kafka and judge what is left.

    python -m tests.chaos --kills 20 [--seed N] [--rate 1000] [--assets 12] [--broker HOST:PORT]
    python -m tests.chaos --storm 120

A third of the kills come anywhere, a third in the middle of a checkpoint, a sixth hit the successor too while it comes
up, a sixth leave a zombie behind (SIGSTOP for longer than the session timeout, then SIGCONT). Exit code 0 only if
nothing was lost, invented or changed and every kill repeated at most D records.
"""

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.bed import Bed
from tests.chaos.kills import Drill, Way
from tests.chaos.oracle import judge
from tests.chaos.producer import Plant
from tests.chaos.storm import storm
from tests.kafka import KafkaBroker, why_not

WAYS: tuple[Way, ...] = ("anywhere", "checkpoint", "twice", "zombie", "anywhere", "checkpoint")


#: Rounds: not a multiple of an episode, so that events come everywhere in one; seconds apart at the usual rate.
EVENTS_EVERY = 290


def main() -> int:
    parse = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").split("\n")[0])
    parse.add_argument("--kills", type=int, default=20)
    parse.add_argument("--storm", type=float, default=0.0, help="seconds of workers coming and going, instead of kills")
    parse.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parse.add_argument("--rate", type=float, default=1000.0, help="frames/s")
    parse.add_argument("--assets", type=int, default=12)
    parse.add_argument("--broker", help="HOST:PORT of a broker that is up; else Apache Kafka is started")
    asked = parse.parse_args()
    if not asked.broker and (reason := why_not()):
        print(f"chaos needs Apache Kafka: {reason}", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-chaos-")))
        address = asked.broker or stack.enter_context(KafkaBroker()).address
        bed = Bed(address, folder, partitions=8 if asked.storm else 4)
        stack.callback(bed.close)
        bed.create_topics()
        return blow(bed, asked) if asked.storm else drill(bed, asked)


def blow(bed: Bed, asked: argparse.Namespace) -> int:
    """Run a storm and print its summary."""
    plant = Plant(bed, seed=asked.seed, rate=asked.rate, assets=asked.assets, events_every=EVENTS_EVERY)
    verdict, done = storm(bed, plant, asked.storm, random.Random(asked.seed))
    print(f"seed {asked.seed}: {verdict.frames} frames, {dict(done)}, {len(bed.workers)} workers; "
          f"{verdict.expected} alerts expected, {verdict.lost} lost, {verdict.invented} invented, "
          f"{verdict.duplicates} duplicates; {'good' if not verdict.faults else 'BAD'}")
    for fault in verdict.faults[:20]:
        print(f"  {fault}")
    return int(bool(verdict.faults))


def drill(bed: Bed, asked: argparse.Namespace) -> int:
    """Run the kills, print one line each and the summary."""
    began = time.monotonic()
    plant = Plant(bed, seed=asked.seed, rate=asked.rate, assets=asked.assets, events_every=EVENTS_EVERY)
    run = Drill(bed, plant, random.Random(asked.seed))
    run.start()
    for number in range(asked.kills):
        kill = run.hurt(WAYS[number % len(WAYS)])
        print(f"{number + 1:3d}  {kill.way:10s}  repeated {kill.repeated:5d}  restored after {kill.recovery_s:5.1f} s"
              f"{'  checkpoint half-written' if kill.half else ''}", flush=True)
    run.finish()
    verdict = judge(bed)
    took = sorted(kill.recovery_s for kill in run.kills) or [0.0]
    worst = max((kill.repeated for kill in run.kills), default=0)
    good = not verdict.faults and worst <= run.bound
    print(f"""
seed                  {asked.seed} (kills and frames)
frames                {verdict.frames} acknowledged at {asked.rate:g}/s, {time.monotonic() - began:.0f} s
kills                 {len(run.kills)}, of these {sum(k.half for k in run.kills)} in a half-written checkpoint, \
{sum(k.way == 'zombie' for k in run.kills)} zombies
alerts expected       {verdict.expected} (id and revision)
lost                  {verdict.lost}
invented              {verdict.invented}
changed or misplaced  {len(verdict.faults) - verdict.lost - verdict.invented}
duplicates            {verdict.duplicates}, every one with the same bytes
repeated per kill     at most {worst}, bound D = {run.bound} records
restored after        p50 {took[len(took) // 2]:.1f} s, p95 {took[min(len(took) - 1, round(len(took) * 0.95))]:.1f} s \
(session timeout {bed.settings.group.session_timeout_s:g} s)
verdict               {'good' if good else 'BAD'}""")
    for fault in verdict.faults[:20]:
        print(f"  {fault}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
