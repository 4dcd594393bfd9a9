"""Orders of a rolling bearing: how often per turn of the shaft each of its elements meets a defect."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, radians
from types import MappingProxyType

import numpy as np

from engines.base import Array

# The order of the model's input `lines_hz`: what turns, from slow to fast for most bearings.
LINES = ("shaft", "ftf", "bsf", "bpfo", "bpfi")
# A second holds 15 passes of an outer race's defect: fewer are no comb. Envelopes are read up to 700 Hz, and one tooth
# alone is no comb either.
SLOW_HZ, FAST_HZ = 15.0, 700.0


@dataclass(frozen=True, slots=True)
class Orders:
    """Events per shaft revolution; the outer ring stands still.

    bpfo, bpfi: passes of a defect of the outer, inner race. bsf: turns of a ball about itself; a defect of a ball meets
    a race twice a turn. ftf: turns of the cage.
    """

    bpfo: float
    bpfi: float
    bsf: float
    ftf: float

    def faults(self) -> list[str]:
        """Return what cannot be true of any bearing with a fixed outer ring, one line each."""
        found = []
        if not all(np.isfinite(v) and v > 0 for v in (self.bpfo, self.bpfi, self.bsf, self.ftf)):
            return [f"orders must be finite and positive, they are {self}"]
        if not 0.2 < self.ftf < 0.5:  # (1 - d/D cos a) / 2 with d/D up to 0.6
            found.append(f"ftf {self.ftf:g} is outside 0.2-0.5 (the cage turns at somewhat less than half the speed)")
        if self.bpfi <= self.bpfo:
            found.append(f"bpfi {self.bpfi:g} is not above bpfo {self.bpfo:g}: were they swapped?")
        # bpfo + bpfi is the number of balls, bpfo / ftf too; a catalogue rounds to three digits.
        if abs(self.bpfo + self.bpfi - self.bpfo / self.ftf) > 0.1 * self.bpfo / self.ftf:
            found.append(f"bpfo + bpfi = {self.bpfo + self.bpfi:g} and bpfo / ftf = {self.bpfo / self.ftf:g} differ: "
                         "both are the number of rolling elements")
        # (1 - g^2) / 2g with g = d/D cos a, less with a contact angle; tables often give the passes of a ball's defect.
        g = 1.0 - 2.0 * self.ftf
        if not found and self.bsf > 1.25 * (1.0 - g * g) / (2.0 * g):
            found.append(f"bsf {self.bsf:g} is more than a ball can turn, {(1.0 - g * g) / (2.0 * g):.3g}: is it the "
                         "passes of its defect? Give the turns of a ball about itself, half of them")
        return found

    def lines_hz(self, rpm: float) -> Array:
        """Return the model's input at this speed: (5,) float32, Hz, in the order of LINES."""
        return np.array([1.0, self.ftf, self.bsf, self.bpfo, self.bpfi], np.float32) * np.float32(rpm / 60.0)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Rolling elements, their diameter over the pitch diameter, and the contact angle in degrees."""

    elements: int
    ratio: float
    angle_deg: float = 0.0

    def orders(self) -> Orders:
        """Return the kinematic orders (no slip; a textbook's formulas, e.g. Randall and Antoni 2011)."""
        g = self.ratio * cos(radians(self.angle_deg))
        ftf = (1.0 - g) / 2.0
        return Orders(self.elements * ftf, self.elements * (1.0 - ftf), (1.0 - g * g) / (2.0 * self.ratio), ftf)


# The maker's figures, as the bearing data centre of Case Western Reserve University lists them. It gives the ball's as
# twice the spin (4.7135, 3.9874): here it is the spin.
KNOWN: Mapping[str, Orders] = MappingProxyType({
    "6205-2RS": Orders(bpfo=3.5848, bpfi=5.4152, bsf=2.3568, ftf=0.39828),
    "6203-2RS": Orders(bpfo=3.0530, bpfi=4.9469, bsf=1.9937, ftf=0.3817),
})
