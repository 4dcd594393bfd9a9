"""`kizashi calibrate` on Apache Kafka: the event is acknowledged beside the asset's frames, or says why not."""

import pytest

from pipeline.broker import murmur2_partition
from schemas import AssetBirth
from schemas.codec import decode_event, encode
from tests.broker.test_cli_read import PARTITIONS, Stage, stage

pytestmark = pytest.mark.timeout(90)
__all__ = ["stage"]


def announce(stage: Stage, *assets: str) -> list[AssetBirth]:
    births = [AssetBirth.make(
        asset=asset, start_ns=1, rate_hz=20.0, samples_per_frame=2, asset_class="pump", site="kyoto",
        channels=[{"name": "flow", "quantity": "flow", "unit": "m3/h"}]) for asset in assets]
    stage.send("asset.v1", *((b.key, encode(b)) for b in births))
    return births


def test_the_event_is_in_the_log_under_the_assets_key_when_the_command_ends(stage: Stage) -> None:
    announce(stage, "pump-1", "pump-2")
    where = murmur2_partition(b"pump-2", PARTITIONS)
    topic = f"{stage.prefix}telemetry.v1"
    said = [stage.kizashi("calibrate", "pump-2", "--reason", "new bearing", "--who", "sato", *more)
            for more in (("--replaced",), ())]
    assert said == [(0, [f"{what} of pump-2 -> {topic}[{where}]@{at}"], "")
                    for at, what in enumerate(("part_replaced", "recalibrate"))]
    first, second = (decode_event(r.value) for r in stage.records("telemetry.v1"))
    assert (first.asset, first.event, first.who, first.why) == ("pump-2", "part_replaced", "sato", "new bearing")
    assert second.event == "recalibrate" and second.t_ns > first.t_ns
    assert {(r.key, r.partition) for r in stage.records("telemetry.v1")} == {(b"pump-2", where)}


def test_an_asset_that_nobody_has_announced_or_that_is_retired_is_refused_with_near_names(stage: Stage) -> None:
    gone = announce(stage, "line1/pump-07", "line1/pump-08")[1]
    stage.send("asset.v1", (gone.key, None))
    for name in ("line1/pump-7", "line1/pump-08"):
        code, lines, err = stage.kizashi("calibrate", name)
        assert code == 5 and not lines
        assert f"no birth of asset '{name}'" in err and "Did you mean line1/pump-07?" in err
    assert not stage.records("telemetry.v1")


def test_a_reason_that_no_worker_would_take_is_refused_before_anything_is_sent(stage: Stage) -> None:
    code, _, err = stage.kizashi("calibrate", "pump-1", "--reason", "x" * 501)
    assert code == 2 and "Invalid value for --reason" in err and "length <= 500" in err
