"""A motor with a bearing at either end, from one table: two maps make an asset of each, and each is judged alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from engines.orders import KNOWN
from pipeline.cli.main import main
from pipeline.errors import InputError
from pipeline.plant import bearingsim
from pipeline.plant.csvmap import load_map

RATE, RPM = 12_800, 1790.0  # 78125 ns a sample: whole, so the table's times are exact
MAP = """
[time]
column = "t"
format = "unix_ns"
[asset]
file = '(?P<motor>[^/]+)\\.csv'
name = "line1/{{motor}}-{end}"
[birth]
asset_class = "motor"
site = "osaka"
rate_hz = 12800.0
samples_per_frame = 1280
nominal_rpm = 1790.0
[[channel]]
column = "{end}"
name = "acc"
quantity = "acceleration"
unit = "m/s2"
[[component]]
name = "bearing_{end}"
kind = "bearing {kind}"
"""


def a_map(folder: Path, end: str, kind: str) -> Path:
    path = folder / f"{end}.toml"
    path.write_text(MAP.format(end=end, kind=kind))
    return path


def test_each_bearing_is_an_asset_of_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    ends = {"de": ("6205-2RS", "normal"), "nde": ("6203-2RS", "outer")}
    heard = [bearingsim.vibration(rng, bearingsim.Machine(
        KNOWN[kind], RPM, ((3100.0, 0.03, 1.0),), 0.3, (0.4, 0.3, 0.2), strength=6.0, jitter=0.003), fault, RATE, 5.0)
        for kind, fault in ends.values()]
    times = 1_760_000_000 * 10**9 + np.arange(len(heard[0])) * (10**9 // RATE)
    table = tmp_path / "motor-07.csv"
    table.write_text("t,de,nde\n" + "".join(f"{t},{a:.5f},{b:.5f}\n" for t, a, b in zip(times, *heard, strict=True)))
    captures = []
    for end, (kind, _) in ends.items():
        captures.append(str(tmp_path / f"{end}.capture"))
        assert main(["import", "csv", str(table), "--map", str(a_map(tmp_path, end, kind)), "--to", captures[-1]]) == 0
    routes = 'routes=[{match = {asset_class = "motor"}, bundle = "bearing-order"}]'
    assert main(["replay", *captures, "--set", routes, "--out", str(tmp_path / "out")]) == 0
    alerts = [json.loads(line) for line in (tmp_path / "out" / "alerts.jsonl").read_text().splitlines()]
    assert {(a["asset"], a["component"], a["mode"]) for a in alerts} == {("line1/motor-07-nde", "bearing_nde", "outer")}


def test_a_component_that_the_map_spells_wrong_is_refused(tmp_path: Path) -> None:
    path = a_map(tmp_path, "de", "6205-2RS")
    path.write_text(path.read_text() + 'chanel = "acc"\n')
    with pytest.raises(InputError, match=r"unknown field `chanel` - at `\$\.component"):
        load_map(path)
    path.write_text(path.read_text().replace("chanel", "channel").replace('"acc"\n', '"bcc"\n', 2))
    assert load_map(path).component[0].channel == "bcc"
    path.write_text(path.read_text().replace('name = "bcc"', 'name = "acc"'))
    with pytest.raises(InputError, match="channel bcc is none of acc"):
        load_map(path)
