"""Every name of Faust, mode and aiokafka that pipeline.transport relies on and that no documentation promises.

A failure here after an update means: read what the override in pipeline/transport answers, then adapt it. The same
checks and a real delivery run on Faust without its compiled modules, as on Linux arm64, for which there is no wheel.
"""

import asyncio
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import faust
import pytest

from pipeline.transport import BatchConsumer, BatchTopic
from tests.broker.worker import running

ROOT = Path(__file__).resolve().parent.parent.parent

FETCHER = "aiokafka.consumer.fetcher"
CONSUMER = "faust.transport.consumer:Consumer"
THREAD = "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread"

#: "module:attribute path" -> the parameters that we pass or receive by name or position; None: not a function.
NAMES: dict[str, list[str] | None] = {
    f"{FETCHER}:FetchResult.check_assignment": ["self", "tp"],
    f"{FETCHER}:FetchResult.has_more": ["self"],
    f"{FETCHER}:FetchResult.getall": ["self", "max_records"],
    f"{FETCHER}:FetchResult._update_position": ["self"],
    f"{FETCHER}:FetchError.check_raise": ["self"],
    f"{FETCHER}:PartitionRecords._consumer_record": ["self", "tp", "record"],
    f"{FETCHER}:PartitionRecords._unpack_records": ["self"],
    f"{FETCHER}:Fetcher._create_fetch_waiter": ["self"],
    f"{FETCHER}:Fetcher._notify": ["self", "future"],
    f"{FETCHER}:Fetcher.seek_to": ["self", "tp", "offset"],
    f"{FETCHER}:Fetcher.request_offset_reset": ["self", "tps", "strategy"],
    f"{FETCHER}:Fetcher.fetched_records": ["self", "partitions", "timeout", "max_records"],
    "aiokafka.consumer.subscription_state:SubscriptionState.fetch_context": ["self"],
    "aiokafka.consumer.subscription_state:SubscriptionState.reassignment_in_progress": None,
    "aiokafka.consumer.subscription_state:SubscriptionState.wait_for_assignment": ["self"],
    "aiokafka.consumer.subscription_state:SubscriptionState.is_assigned": ["self", "tp"],
    "aiokafka.consumer.group_coordinator:GroupCoordinator._send_req": ["self", "request"],
    "aiokafka.consumer.group_coordinator:GroupCoordinator.fetch_committed_offsets": ["self", "partitions"],
    "aiokafka.client:AIOKafkaClient.add_topic": ["self", "topic"],
    "aiokafka.client:AIOKafkaClient.force_metadata_update": ["self"],
    "aiokafka.client:AIOKafkaClient.close": ["self"],
    "aiokafka.partitioner:murmur2": ["data"],
    "faust.transport.drivers:TRANSPORTS.aliases": None,
    "faust.transport.drivers.aiokafka:DEFAULT_GENERATION_ID": None,
    "faust.transport.drivers.aiokafka:Consumer._new_consumer_thread": ["self"],
    "faust.transport.drivers.aiokafka:Consumer._to_message": ["self", "tp", "record"],
    f"{THREAD}.__init__": ["self", "consumer", "kwargs"],
    f"{THREAD}._create_worker_consumer": ["self", "transport"],
    f"{THREAD}._ensure_consumer": ["self"],
    f"{THREAD}._fetch_records": ["self", "consumer", "active_partitions", "timeout", "max_records"],
    f"{THREAD}.call_thread": ["self", "fun", "args", "kwargs"],
    f"{THREAD}.on_start": ["self"],
    f"{THREAD}.on_thread_stop": ["self"],
    f"{THREAD}.seek_to_committed": ["self"],
    f"{CONSUMER}._wait_next_records": ["self", "timeout"],
    f"{CONSUMER}._get_active_partitions": ["self"],
    f"{CONSUMER}.on_buffer_full": ["self", "tp"],
    f"{CONSUMER}.on_buffer_drop": ["self", "tp"],
    f"{CONSUMER}.force_commit": ["self", "topics", "start_new_transaction"],
    f"{CONSUMER}.on_partitions_assigned": ["self", "assigned", "generation_id"],
    f"{CONSUMER}.on_partitions_revoked": ["self", "revoked"],
    f"{CONSUMER}.pause_partitions": ["self", "tps"],
    f"{CONSUMER}.resume_partitions": ["self", "tps"],
    f"{CONSUMER}.perform_seek": ["self"],
    f"{CONSUMER}.stop_flow": ["self"],
    f"{CONSUMER}.resume_flow": ["self"],
    f"{CONSUMER}.crash": ["self", "reason"],
    f"{CONSUMER}.wait_first": ["self", "coros", "timeout"],
    f"{CONSUMER}.add_future": ["self", "coro"],
    "faust.transport.consumer:ensure_TP": ["tp"],
    "faust.topics:Topic._compile_decode": ["self"],
    "faust.topics:Topic._clone_args": ["self"],
    "faust.app.base:App.create_event": ["self", "key", "value", "headers", "message"],
    "faust.app.base:App._stop_consumer": ["self"],
    "faust.tables.manager:TableManager.on_start": ["self"],
    "faust.tables.recovery:Recovery._resume_streams": ["self", "generation_id"],
    "faust.types.tuples:ConsumerMessage.acked": None,
    "mode.threads:ServiceThread._gather_remaining_tasks": ["self"],
}

#: Attributes that objects get at run time, by the path from a running BatchConsumer.
ATTRIBUTES = {
    "": ["callback", "_read_offset", "_buffered_partitions", "flow_active", "suspend_flow", "transport", "app"],
    "_thread": ["thread_loop", "parent_loop", "_consumer", "consumer", "transport"],
    "_thread._consumer": ["_fetcher", "_client", "_coordinator", "_closed", "_fetch_max_wait_ms",
                          "_fetch_min_bytes", "_max_poll_interval_ms"],
    "_thread._consumer._coordinator": ["generation", "member_id", "_group_instance_id"],
    "_thread._consumer._client": ["cluster"],
    "_thread._consumer._fetcher": ["_records", "_closed", "_subscriptions", "_wait_consume_future", "_fetch_waiters",
                                   "_default_reset_strategy"],
    "app": ["_consumer", "consumer_generation_id", "crash_reason", "crashed", "flow_control", "on_before_shutdown",
            "rebalancing", "should_stop"],
    "app.flow_control": ["clear", "suspend"],
    "app.tables": ["sleep"],
}


def _find(path: str) -> Any:
    module, _, names = path.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("path", NAMES)
def test_private_name_exists_with_the_parameters_that_we_rely_on(path: str) -> None:
    found, parameters = _find(path), NAMES[path]
    if parameters is not None:
        assert list(inspect.signature(found).parameters) == parameters


def test_requests_keep_the_member_id_where_we_look() -> None:
    from aiokafka.protocol.group import JoinGroupRequest, JoinGroupRequest_v5

    join = JoinGroupRequest("g", 1, 1, "", "instance", "consumer", [])
    assert (join._member_id, join._group_instance_id) == ("", "instance")
    join._member_id = "m"
    assert join.build(JoinGroupRequest_v5).member_id == "m"  # what is sent is built when it is sent


def test_fetched_records_have_the_iterator_and_position_that_we_take_from() -> None:
    from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
    from aiokafka.record.memory_records import MemoryRecords

    parsed = PartitionRecords("tp", MemoryRecords(b""), None, 7, None, None, True, 0)
    assert list(parsed._records_iterator) == [] and parsed.next_fetch_offset == 7
    result = FetchResult("tp", assignment=None, partition_records=parsed, backoff=0)
    assert result._partition_records is parsed


def test_messages_take_what_we_pass_and_both_ack_routes_set_acked() -> None:
    parameters = list(inspect.signature(_find("faust.types.tuples:ConsumerMessage")).parameters)
    assert parameters[:12] == ["topic", "partition", "offset", "timestamp", "timestamp_type", "headers", "key", "value",
                               "checksum", "serialized_key_size", "serialized_value_size", "tp"]
    assert "message.acked = True" in inspect.getsource(_find(f"{CONSUMER}.ack"))
    assert "acks_enabled_for" in inspect.getsource(_find(f"{CONSUMER}.ack"))


def test_topics_without_acks_stay_out_of_fausts_books() -> None:
    async def main() -> None:  # in a loop: Faust asks for the current one, and Python >= 3.12 makes none by itself
        app = faust.App("g", broker="kafka+batch://127.0.0.1:1", web_enabled=False)
        topic = BatchTopic(app, topics=["t"], max_batch=7)
        assert topic.acks is False
        assert topic.clone(is_iterator=True).max_batch == 7

    asyncio.run(main())
    assert "channel.acks" in inspect.getsource(_find("faust.transport.conductor:Conductor._update_indices"))


async def test_a_running_consumer_has_the_attributes_that_we_use(mock_broker: str) -> None:
    async with running(mock_broker, "frames") as worker:
        consumer = worker.consumer
        assert type(consumer) is BatchConsumer
        for path, names in ATTRIBUTES.items():
            found = consumer
            for step in filter(None, path.split(".")):
                found = getattr(found, step)
            assert [name for name in names if not hasattr(found, name)] == [], path
        assert consumer._thread._consumer._fetch_max_wait_ms == consumer.transport.options.fetch_max_wait_ms
        assert consumer._thread._consumer._fetch_min_bytes == consumer.transport.options.fetch_min_bytes


def _pure_faust() -> Path:
    """Return a folder with Faust as its sdist installs it without a compiler: the installed files less the .so."""
    installed = Path(faust.__file__).parent
    target = ROOT / ".build" / "faust-pure" / faust.__version__
    if not target.exists():
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(installed, fresh / "faust", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
        try:
            fresh.rename(target)
        except OSError:  # another test process was first
            shutil.rmtree(fresh)
    return target


if "KIZASHI_PURE_FAUST" not in os.environ:

    def test_the_transport_works_on_faust_without_compiled_modules() -> None:
        tests = ["tests/contract/test_private_names.py", "tests/unit/test_record_batch.py",
                 "tests/broker/test_transport.py::test_batches_flow_from_librdkafkas_mock_broker_too"]
        path = os.pathsep.join([str(_pure_faust()), str(ROOT)])
        inner = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], cwd=ROOT, timeout=100,
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "KIZASHI_PURE_FAUST": "1"},
        )
        assert inner.returncode == 0, inner.stdout[-4000:] + inner.stderr[-2000:]

else:

    def test_the_inner_run_has_no_compiled_modules() -> None:
        assert "faust-pure" in faust.__file__
        assert _find("faust.transport.conductor:ConductorHandler") is None
        with pytest.raises(ImportError):
            importlib.import_module("faust._cython.streams")
