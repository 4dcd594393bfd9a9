"""`kizashi` that leaves itself behind when told: `python -m tests.chaos.stall FLAG run -c ...`.

While the file FLAG is there it stops itself (SIGSTOP) with an alert that it raised on its way: queued, not yet written.
A worker that goes on beside its successor can have nothing worse to say.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from aiokafka.producer.sender import Sender

from pipeline.cli.main import main
from pipeline.publish import Publisher
from schemas import Alert


def arm(flag: Path) -> None:
    queue, write, armed = Publisher.send_alert, Sender._send_produce_req, False

    def send_alert(self: Publisher, alert: Alert, *rest: Any, **options: Any) -> None:
        nonlocal armed
        armed = armed or (alert.state == "raised" and flag.exists())
        queue(self, alert, *rest, **options)

    async def send_produce_req(self: Sender, node_id: int, batches: dict[Any, Any]) -> None:
        nonlocal armed
        if armed and any(tp.topic.endswith("alert.state.v1") for tp in batches):
            armed = False
            flag.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        await write(self, node_id, batches)

    Publisher.send_alert, Sender._send_produce_req = send_alert, send_produce_req  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
