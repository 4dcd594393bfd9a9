"""When a producer asks whether it may write."""

from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.produce import ProduceRequest

from pipeline.broker import produce


class Client:
    """A client whose connecting and sending the test hears."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.reached = True

    async def ready(self, node_id: int) -> bool:
        self.steps.append("ready")
        return self.reached

    async def send(self, node_id: int, request: Any) -> None:
        self.steps.append("send")


async def test_the_lease_is_asked_for_on_an_open_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce, "_MAY_WRITE_S", 0.0)
    client, answers = Client(), [False, True]

    def may_write() -> bool:
        client.steps.append("asked")
        return answers.pop(0)

    produce._only_while(client, may_write)
    request = ProduceRequest.__new__(ProduceRequest)
    await client.send(1, request)
    assert client.steps == ["ready", "asked", "ready", "asked", "send"]
    client.steps, client.reached = [], False
    with pytest.raises(NodeNotReadyError):
        await client.send(1, request)
    assert client.steps == ["ready"]
    await client.send(1, "metadata")
    assert client.steps == ["ready", "send"]
