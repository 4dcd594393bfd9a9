"""The demo's broker: librdkafka's own mock cluster, inside this process, speaking Kafka's protocol on the loopback.

It is a test double and no Kafka: memory only, and gone with the process. Only this file knows which broker the demo
has; the worker and everybody else get an address. Tried from other processes with aiokafka 0.14 and faust-streaming
0.15.3 on confluent-kafka 2.16.1:

works   idempotent and plain producers, murmur2 by key, headers, tombstones, record timestamps as produced;
        groups (the first join takes 3 s: its rebalance delay), commits and committed offsets, also by Faust;
        beginning and end offsets; a topic comes into being with 4 partitions when a producer or a group names it.
        A read below the oldest record is reset to the oldest or newest, as `auto_offset_reset` says.
fails   CreateTopics, DescribeConfigs, DeleteTopics, ListGroups, DeleteGroups: not offered (aiokafka's admin client
        ends in AttributeError or IncompatibleBrokerVersion). `create` below makes topics all the same.
        Offsets by time: the answer is "none" for every time. Acknowledgements carry a made-up timestamp, 1234 ms.
        Nothing is compacted; of each partition only the newest 5 MiB or 100,000 records are kept.
"""

from collections.abc import Iterable
from typing import Self

from pipeline.errors import BrokerError

#: The mock answers within milliseconds; this is for a machine that is busy starting everything else.
_ANSWER_S = 10.0


class DemoBroker:
    """A broker as long as the context lasts. address: "host:port" on the loopback."""

    address: str

    def __enter__(self) -> Self:
        try:
            from confluent_kafka import KafkaException, Producer
        except ImportError as error:
            raise BrokerError(
                "the demo's own broker comes with the extra `demo`: pip install 'kizashi[demo]'; or name a broker with "
                "--broker HOST:PORT"
            ) from error
        # log_level 3: librdkafka otherwise greets on stderr that its mock cluster is on.
        self._owner = Producer({"test.mock.num.brokers": 1, "log_level": 3})
        try:
            brokers = self._owner.list_topics(timeout=_ANSWER_S).brokers.values()
        except KafkaException as error:
            raise BrokerError(f"the demo's own broker does not answer within {_ANSWER_S:g} s: {error}") from error
        self.address = ",".join(f"{b.host}:{b.port}" for b in brokers)
        return self

    def __exit__(self, *error: object) -> None:
        del self._owner  # the cluster lives as long as the client that owns it

    def create(self, topics: Iterable[str]) -> None:
        """Create topics, with 4 partitions each; those that exist stay."""
        for topic in topics:
            self._owner.list_topics(topic, timeout=_ANSWER_S)
