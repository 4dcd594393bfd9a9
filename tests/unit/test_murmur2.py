"""Partitions of keys: the same as Kafka's own clients choose."""

import pytest

from pipeline.broker import murmur2_partition

# Hashes from Kafka's own unit test of murmur2 (clients/.../common/utils/UtilsTest).
KAFKAS_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", KAFKAS_HASHES)
@pytest.mark.parametrize("partitions", [1, 4, 7, 2**31 - 1])
def test_murmur2_partition_is_the_one_of_kafkas_clients(key: bytes, partitions: int) -> None:
    assert murmur2_partition(key, partitions) == (KAFKAS_HASHES[key] & 0x7FFFFFFF) % partitions
