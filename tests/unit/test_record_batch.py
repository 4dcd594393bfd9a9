"""Record batches and transports without a broker."""

from types import SimpleNamespace

import faust
import pytest

from pipeline.errors import ConfigError
from pipeline.partitions import TP, RecordBatch
from pipeline.transport import BatchTransport, bind
from tests.broker.worker import Owner


def test_record_batch_stands_alone_without_kafka() -> None:
    record = SimpleNamespace(offset=7, timestamp=1, key=b"k", value=b"v", headers=())
    batch = RecordBatch(TP("frames", 0), [record], 7, 8)
    assert len(batch) == 1
    batch.ack()
    batch.ack()


def test_partition_equals_fausts_and_aiokafkas() -> None:
    from aiokafka.structs import TopicPartition
    from faust.types.tuples import TP as FaustTP

    assert {TP("t", 1): "found"}[FaustTP("t", 1)] == {TP("t", 1): "found"}[TopicPartition("t", 1)] == "found"


def _app(**settings: object) -> faust.App:
    return faust.App("g", **{"broker": "kafka+batch://127.0.0.1:1", "web_enabled": False, **settings})


def test_bind_attaches_the_owner_to_the_transport() -> None:
    app, owner = _app(), Owner()
    bind(app, owner)
    assert isinstance(app.transport, BatchTransport) and app.transport.owner is owner


def test_bind_refuses_an_app_whose_broker_url_does_not_select_the_transport() -> None:
    with pytest.raises(ConfigError, match=r"kafka\+batch://"):
        bind(_app(broker="kafka://127.0.0.1:1"), Owner())


def test_bind_refuses_exactly_once() -> None:
    with pytest.raises(ConfigError, match="exactly_once.*at_least_once"):
        bind(_app(processing_guarantee="exactly_once"), Owner())
