"""Workers as processes on Apache Kafka, each test with topics of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.bed import Bed
from tests.kafka import KafkaBroker

MakeBed = Callable[..., Bed]


@pytest.fixture
def beds(tmp_path: Path) -> Iterator[MakeBed]:
    """Return make(broker, partitions=4, **settings) -> a Bed with its topics; its workers end with the test."""
    made: list[Bed] = []

    def make(broker: KafkaBroker, **options: Any) -> Bed:
        folder = tmp_path / f"bed-{len(made)}"
        folder.mkdir()
        made.append(Bed(broker.address, folder, **options))
        made[-1].create_topics()
        return made[-1]

    yield make
    for bed in made:
        bed.close()
