"""Sources without a broker: the same stream of births and polls, whatever the format of the files."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.columns import Poll
from pipeline.errors import InputError
from pipeline.plant.capture import Record
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import load_map
from pipeline.plant.simulator import Plant
from pipeline.plant.source import POLL_RECORDS, Retired, Source, message_records
from schemas import AssetBirth
from schemas.codec import decode_frame, encode
from tests.plant import SKAB_COLUMNS, a_capture, records_of

PLANT = Plant(seed=5, assets=4, start_ns=1_700_000_000 * 10**9)
HEADER = f"datetime;{SKAB_COLUMNS}"


def a_skab_file(path: Path, rows: int, minute: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    body = [f"2026-01-01 00:{minute:02d}:{i:02d};{i};2;3;4;5;6;7;8" for i in range(rows)]
    path.write_text("\n".join([HEADER, *body]))
    return path


def values(poll: Poll) -> list[bytes | None]:
    return list(poll.values)


def test_source_yields_births_then_polls_of_one_partition_in_order(tmp_path: Path) -> None:
    records = records_of(PLANT, 700, partitions=2)
    items = list(Source((a_capture(tmp_path / "x.capture", records),)))
    assert [i for i in items if isinstance(i, AssetBirth)] == list(PLANT.births) == items[:4]
    polls = [i for i in items if isinstance(i, Poll)]
    for partition in (0, 1):
        own = [r for r in records if r.topic.endswith("telemetry.v1") and r.partition == partition]
        mine = [p for p in polls if p.partition == partition]
        assert [v for p in mine for v in values(p)] == [r.value for r in own]
        assert np.concatenate([p.offsets for p in mine]).tolist() == list(range(1400))
        assert np.concatenate([p.timestamps_ms for p in mine]).tolist() == [r.timestamp_ms for r in own]
        assert mine[-1].next_offset == 1400


def test_source_cuts_polls_where_a_worker_would(tmp_path: Path) -> None:
    items = list(Source((a_capture(tmp_path / "x.capture", records_of(PLANT, 700)),)))
    assert [len(p) for p in items if isinstance(p, Poll)] == [POLL_RECORDS, POLL_RECORDS, 2800 - 2 * POLL_RECORDS]


def test_source_yields_all_whole_records_before_it_reports_a_cut_capture(tmp_path: Path) -> None:
    path = a_capture(tmp_path / "x.capture", records_of(PLANT, 10))
    path.write_bytes(path.read_bytes()[:-7])
    polls: list[Poll] = []
    source = iter(Source((path,)))
    with pytest.raises(InputError, match="ends within a record"):
        while True:
            item = next(source)
            if isinstance(item, Poll):
                polls.append(item)
    assert sum(map(len, polls)) == 39


def test_source_reads_captures_under_any_prefix_and_counts_what_is_not_for_it(tmp_path: Path) -> None:
    birth = PLANT.births[0]
    records = [
        Record("trial.7.asset.v1", 0, 0, 0, birth.key, encode(birth)),
        Record("trial.7.asset.v1", 0, 1, 0, b"other|" + birth.birth_id.encode(), encode(birth)),
        Record("trial.7.telemetry.v1", 3, 7, 5, b"k", b"whatever"),
        Record("trial.7.alert.v1", 0, 0, 0, b"k", b"{}"),
        Record("trial.7.telemetry.v1", 3, 8, 6, b"k", None),
        Record("trial.7.asset.v1", 0, 2, 0, birth.key, None),
    ]
    source = Source((a_capture(tmp_path / "x.capture", records),))
    first, poll, last = list(source)
    assert first == birth
    assert isinstance(poll, Poll) and values(poll) == [b"whatever", None] and poll.offsets.tolist() == [7, 8]
    assert last == Retired(birth.asset, birth.birth_id)
    assert source.ignored.other_topics == {"trial.7.alert.v1": 1}
    assert len(source.ignored.bad_births) == 1 and "trial.7.asset.v1[0]@1" in source.ignored.bad_births[0]


def test_source_gives_csv_frames_the_time_of_their_last_sample(tmp_path: Path) -> None:
    files = (a_skab_file(tmp_path / "valve1" / "0.csv", 3), a_skab_file(tmp_path / "valve1" / "1.csv", 2, minute=5))
    items = list(Source(files, load_map(Path("skab"))))
    kinds = [i.asset if isinstance(i, AssetBirth) else len(i) for i in items if not isinstance(i, Retired)]
    assert kinds == ["skab/valve1/0", 3, "skab/valve1/1", 2]
    polls = [i for i in items if isinstance(i, Poll)]
    assert polls[1].offsets.tolist() == [3, 4]
    frame = decode_frame(polls[1].values[0] or b"")
    assert polls[1].timestamps_ms[0] * 10**6 == frame.t0_ns
    assert not frame.historical


def test_source_is_the_same_for_csv_and_for_the_capture_made_from_it(tmp_path: Path) -> None:
    files = (a_skab_file(tmp_path / "other" / "3.csv", 30), a_skab_file(tmp_path / "other" / "4.csv", 20, minute=5))
    csv_map = load_map(Path("skab"))
    path = a_capture(tmp_path / "x.capture", list(message_records(CsvHistory(csv_map).read(files))))

    def content(source: Source) -> list[object]:
        return [(i.offsets.tolist(), i.timestamps_ms.tolist(), values(i)) if isinstance(i, Poll) else i for i in source]

    assert content(Source(files, csv_map)) == content(Source((path,)))
    assert content(Source((path, files[0]), csv_map)) == content(Source((path,))) + content(Source(files[:1], csv_map))


def test_csv_without_a_map_is_refused_with_the_option_that_names_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0\.csv\.gz: .*--map"):
        Source((tmp_path / "0.csv.gz",))
