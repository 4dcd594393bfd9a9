"""A storm: workers of one group come, go, die and freeze at random while frames arrive.

    python -m tests.chaos --storm 120 [--seed N] [--rate 1000] [--assets 24]
"""

import random
import time
from collections import Counter

from tests.chaos.bed import Bed, Worker, eventually
from tests.chaos.oracle import Verdict, judge
from tests.chaos.producer import Plant

MOST = 4
ACTS = ("start", "start", "stop", "kill", "freeze")


def storm(bed: Bed, plant: Plant, seconds: float, rng: random.Random) -> tuple[Verdict, Counter[str]]:
    """Let the storm blow, end with one worker, judge. Returns the verdict and how often each thing was done."""
    plant.announce()
    workers = [bed.worker()]
    workers[0].owns(bed.partitions)
    plant.start()
    done: Counter[str] = Counter()
    frozen: list[tuple[float, Worker]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.2, 3.0))
        for item in [f for f in frozen if f[0] < time.monotonic()]:
            frozen.remove(item)
            item[1].resume()
        act = rng.choice(ACTS)
        if act == "start" and len(workers) < MOST:
            workers.append(bed.worker())
        elif len(workers) > 1:
            worker = workers.pop(rng.randrange(len(workers)))
            if act == "stop":
                worker.process.terminate()
            elif act == "kill":
                worker.kill()
            elif act == "freeze":  # for less or more than the session timeout; then it must find its way or end
                worker.pause()
                frozen.append((time.monotonic() + rng.uniform(1.0, 12.0), worker))
        else:
            continue
        done[act] += 1
    for _, worker in frozen:
        worker.resume()
    keep = workers.pop()
    for worker in bed.workers:
        if worker is not keep and worker.process.poll() is None:
            worker.process.terminate()
    for worker in bed.workers:
        if worker is not keep:
            code = worker.process.wait(60)
            early = code == -15 and not worker.events("worker_started")  # before it minds signals
            assert early or code in (0, 3, -9), f"a worker ended with {code}:\n{worker.tail()}"
    eventually(lambda: len(keep.owned()) == bed.partitions, 90, keep.tail)
    plant.stop()
    bed.caught_up(120)
    assert keep.stop() == 0, keep.tail()
    return judge(bed), done
