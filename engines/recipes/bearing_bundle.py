"""Write the folder of a `bearing-order` bundle: graph, golden vectors and passport.

`kizashi train bearing-order --data DIR --out BUNDLE` makes one from recordings; the shipped one is of seed 0.
"""

from collections.abc import Mapping
from pathlib import Path

from engines.archive import GOLDEN, MODEL, PASSPORT
from engines.base import Array
from engines.golden import Golden, GoldenCase, encode
from engines.recipes.bearing_front import RATE_HZ, WINDOW
from engines.recipes.bearing_head import CLASSES, Head, model

#: Highest rate of an asset: a slot's ring has room for one second of it.
MAX_RATE_HZ = 51_200

_PASSPORT = """\
name = "bearing-order"
version = "1.0.0"
kind = "order"
rule = "bearing"
threshold = 0.5        # the score is the chance that the bearing is not healthy

[outputs]
score = "score"

[outputs.mode]
probabilities = "probabilities"
labels = {labels}
normal = "normal"

[outputs.unknown]
name = "doubt"
reasons = ["no class is clear"]

[outputs.line]
name = "line"

[order]
rate_hz = {rate}.0
size = {window}         # one second: 0.5 Hz bins resolve the cage of a slow machine
hop = {hop}           # half of it: the window's own taper gives every sample to one row whole, and no row is missed
speed_change = 0.02    # of the speed, within a window: from there on lines smear over more than is searched

[judge]
on = [3, 5]            # three of five half seconds: a knock, or a load that passes, is over by then
off = 10
deadband = 0.1
severity = [1.0, 1.4, 1.8, 1.98]   # 50, 70, 90, 99 %

[match]
min_rate_hz = {rate}.0
max_rate_hz = {max_rate}.0

[[inputs]]
name = "samples"
dtype = "f4"
shape = [{window}]
unit = "1"
meaning = "one second of acceleration at 12 kHz, of any scale"

[[inputs]]
name = "lines_hz"
dtype = "f4"
shape = [5]
unit = "Hz"
meaning = "turns of the shaft, the cage and a ball, passes of outer and inner race a second; zeros: not known"

# Scales are found among 25 steps of 0.1 %; two that are equally good may change places with the last bits.
[golden.tolerance]
probabilities = {{ abs = 2e-3, rel = 0.0 }}
score = {{ abs = 2e-3, rel = 0.0 }}
doubt = {{ abs = 1e-2, rel = 1e-2 }}
severity = {{ abs = 0.2, rel = 1e-2 }}
line = {{ abs = 0.2, rel = 0.025 }}
lines = {{ abs = 0.2, rel = 0.025 }}

[budget]
latency_ms = 1500.0    # 256 rows; a row alone takes 2 ms
memory_mb = 96.0
model_kb = 600
rows_at_once = 16      # a row takes 1.3 MB on its way through the bands

[card]
purpose = '''{purpose}'''
protocol = '''{protocol}'''
figures = '''{figures}'''
limits = '''{limits}'''
failures = '''{failures}'''

[card.trained_on]
{trained_on}
"""


def passport(card: Mapping[str, str], trained_on: Mapping[str, str]) -> str:
    """Return the text of model.toml. card: purpose, protocol, figures, limits, failures. trained_on: see `Card`."""
    labels = "[" + ", ".join(f'"{name}"' for name in CLASSES) + "]"
    hashes = "\n".join(f'"{name}" = "{digest}"' for name, digest in sorted(trained_on.items()))
    return _PASSPORT.format(labels=labels, rate=RATE_HZ, window=WINDOW, hop=WINDOW // 2, max_rate=MAX_RATE_HZ,
                            trained_on=hashes, **card)  # fmt: skip


def write(folder: Path, head: Head, rows: tuple[Mapping[str, Array], Mapping[str, Array]], card: Mapping[str, str],
          trained_on: Mapping[str, str]) -> None:  # fmt: skip
    """Write model.onnx, golden.msgpack and model.toml into `folder`. rows: inputs and outputs of the golden vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(model(head))
    (folder / GOLDEN).write_bytes(encode(Golden((GoldenCase("simulated", *rows),))))
    (folder / PASSPORT).write_text(passport(card, trained_on), "utf-8")
