"""Talk to a broker without a group: read and follow compacted topics, produce, inspect and create topics.

A failure that waiting can mend raises Retryable; what it cannot (authorisation, a missing topic) raises BrokerError. A
broker that lacks an admin call (librdkafka's mock cluster has no CreateTopics, DescribeConfigs, DeleteTopics) raises
Unsupported: callers skip the check with a log line.
"""

from pipeline.broker.admin import (
    NewTopic,
    TopicInfo,
    create_topics,
    delete_topics,
    describe_topics,
    offset_ranges,
    offsets_for_time,
    partition_count,
)
from pipeline.broker.config import BrokerConfig, Unsupported
from pipeline.broker.produce import Overtaken, make_producer, murmur2_partition
from pipeline.broker.read import Follower, read_compacted

__all__ = [
    "BrokerConfig", "Follower", "NewTopic", "Overtaken", "TopicInfo", "Unsupported", "create_topics", "delete_topics",
    "describe_topics", "make_producer", "murmur2_partition",
    "offset_ranges", "offsets_for_time", "partition_count", "read_compacted",
]
