"""A made-up fleet of engines for the tests of rul-ewma: two regimes or one, sensors that bend before the end."""

import numpy as np

from engines.recipes.rul_ewma import Recipe
from engines.recipes.rul_state import SENSORS, History
from engines.recipes.rul_train import Net

REGIMES = np.array([[0.0, 0.0, 100.0], [20.0, 0.7, 100.0], [42.0, 0.84, 100.0]])
#: Seconds, not minutes: enough to learn that the sensors tell the end.
QUICK = Recipe(Net(members=2, hidden=(8,), steps=600, batch=128, rate=1e-2), folds=3)


def fleet(engines: int = 18, seed: int = 0, regimes: int = 3, group: str = "made") -> list[History]:
    """Engines of 120 to 220 cycles; wear begins at random, a third of the sensors falls, a third rises."""
    rng = np.random.default_rng(seed)
    level = np.random.default_rng(99).uniform(10, 1000, (3, len(SENSORS)))  # of every fleet
    direction = np.resize([1.0, -1.0, 0.2], len(SENSORS))
    made = []
    for i in range(engines):
        life = int(rng.integers(120, 220))
        left = np.arange(life)[::-1]
        wear = np.clip(1 - left / rng.uniform(90, 130), 0, None) ** 1.5
        regime = rng.integers(0, regimes, life)
        settings = REGIMES[regime] + rng.normal(size=(life, 3)) * [2e-3, 2e-4, 0]
        noise = rng.normal(size=(life, len(SENSORS)))
        sensors = level[regime] * (1 + 0.002 * (4 * wear[:, None] * direction + noise))
        rows = np.column_stack([np.arange(1.0, life + 1), settings, sensors])
        made.append(History(f"{group}/{i}", rows, group, 0.0))
    return made
