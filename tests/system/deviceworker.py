"""`kizashi` with a stand-in for a GPU: `python -m tests.system.deviceworker '{"lose_at": 50}' run -c ...`.

Everything is the product's but the plans, which are always there, and the engine, which is tests.devices.Device over
ONNX Runtime. The JSON holds what the device that serves does at last; the one that the gate judges does nothing of it.
"""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

from engines import Bundle, Engine, open_engine
from engines.select import Choice
from pipeline import app
from pipeline.cli.main import main
from pipeline.fitting import Fitter
from pipeline.ops.events import Events
from pipeline.ops.settings import Settings
from pipeline.serving import Shapes
from tests.devices import Device


class Supply:
    def __init__(self, bundle: Bundle, fate: dict[str, Any]) -> None:
        self._bundle, self._fate, self._opened = bundle, fate, 0

    def missing(self, shapes: Shapes) -> str:
        return ""

    def ensure(self, shapes: Shapes, *, stop: Callable[[], bool]) -> None: ...

    def note(self, shapes: Shapes, text: bytes) -> None: ...

    def open(self) -> Engine:
        self._opened += 1
        return Device(open_engine("onnx_cpu", self._bundle), exact=True, **(self._fate if self._opened > 1 else {}))


def fitter(fate: dict[str, Any], settings: Settings, events: Events) -> Fitter:
    return Fitter(settings, events, Choice("tensorrt", "on a stand-in"), lambda bundle: Supply(bundle, fate))


if __name__ == "__main__":
    app.Runtime = functools.partial(  # type: ignore[misc, assignment]
        app.Runtime, fitter=functools.partial(fitter, json.loads(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
