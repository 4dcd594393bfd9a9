"""Fixtures that talk to a broker: Apache Kafka once per session, librdkafka's own broker once per test."""

import asyncio
import inspect
import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import HealthCheck, settings

from tests.kafka import KafkaBroker, why_not

# As pipeline.cli.main sets it before it imports typer: a test may import typer first, and help would look otherwise.
os.environ.setdefault("TYPER_USE_RICH", "0")

# A machine that is busy with brokers is slow at times: that is no fault of a property. In CI Hypothesis is also
# derandomised (its own profile there, which stays the parent).
settings.register_profile("steady", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

#: What must not be skipped here, e.g. KIZASHI_REQUIRE=kafka: its absence is then a failure.
REQUIRED = set(os.environ.get("KIZASHI_REQUIRE", "").replace(",", " ").split())
#: Of the limit of a test: a coroutine that hangs shows where, before the test is ended.
_COROUTINE_SHARE = 2 / 3


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine; it is ended from within, because Faust's tasks outlive an interrupted loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None

    mark = pyfuncitem.get_closest_marker("timeout")
    limit_s = float(mark.args[0] if mark else pyfuncitem.config.getini("timeout"))

    async def bounded() -> None:
        async with asyncio.timeout(_COROUTINE_SHARE * limit_s):
            names = inspect.signature(pyfuncitem.obj).parameters
            await pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})

    asyncio.run(bounded())
    return True


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep records of models and built engines, also of the workers that tests start, out of the user's folder."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def _need_kafka() -> None:
    reason = why_not()
    if reason and "kafka" in REQUIRED:
        pytest.fail(f"KIZASHI_REQUIRE=kafka, but Kafka cannot run: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"NOT TESTED against Apache Kafka: {reason}")


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaBroker]:
    """The session's Apache Kafka; shared, so a test that stops or kills one takes `own_kafka`."""
    _need_kafka()
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture
def own_kafka() -> Iterator[KafkaBroker]:
    """An Apache Kafka of the test's own, to be stopped, killed and frozen."""
    _need_kafka()
    with KafkaBroker() as broker:
        yield broker


MakeTopics = Callable[..., str]


@pytest.fixture
def make_topics(kafka: KafkaBroker) -> MakeTopics:
    """Return make(name, partitions=4, **settings) -> the name of a fresh topic on the session's Kafka.

    Settings are the broker's, with `_` for `.`: make("state", 1, cleanup_policy="compact"). exact: the name as it is.
    """
    admin = AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})

    def make(name: str, partitions: int = 4, *, exact: bool = False, **settings: str | int) -> str:
        fresh = name if exact else f"{name}-{uuid.uuid4().hex[:8]}"
        config = {key.replace("_", "."): str(value) for key, value in settings.items()}
        admin.create_topics([NewTopic(fresh, partitions, 1, config=config)])[fresh].result(20)
        return fresh

    return make


@pytest.fixture
def mock_broker() -> Iterator[str]:
    """Address of librdkafka's own broker, in this process; it ends with the test."""
    owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(owner.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    del owner
