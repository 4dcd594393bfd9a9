"""structlog, without the library for coloured tracebacks that it imports where it finds it."""

import sys

# No log needs rich, which costs every worker 4 MiB and 0.09 s of its start. Import structlog from here, always.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

__all__ = ["structlog"]
