"""Settings: precedence, every kind of fault, all faults at once, secrets."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.assembly import fallback_of, routes_of
from pipeline.errors import ConfigError
from pipeline.ops.config import Settings, load_settings
from pipeline.seating import Route as SeatingRoute
from schemas import topics


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kizashi.toml"
    path.write_text(text)
    return path


def faults(path: Path | None = None, flags: dict | None = None, environ: dict | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, flags or {}, environ or {})
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"{len(lines)} fault")
    return [line.strip() for line in lines]


def test_defaults_stand_when_nothing_is_given():
    assert load_settings(None, {}, {}) == Settings()


def test_default_settings_ignore_the_environment(monkeypatch):
    monkeypatch.setenv("KIZASHI_BATCH__MAX_SIZE", "7")
    assert Settings().batch.max_size == 256
    assert load_settings(None, {}).batch.max_size == 7


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path):
    path = write(tmp_path, "[batch]\nmax_size = 1\nmax_delay_ms = 1\nin_flight = 1\n")
    environ = {"KIZASHI_BATCH__MAX_DELAY_MS": "2", "KIZASHI_BATCH__IN_FLIGHT": "2"}
    batch = load_settings(path, {"batch.in_flight": 3, "batch.max_size": None}, environ).batch
    assert (batch.max_size, batch.max_delay_ms, batch.in_flight) == (1, 2.0, 3)


def test_environment_names_are_read_in_any_case_and_empty_ones_are_not_given():
    environ = {"kizashi_log__level": "DEBUG", "KIZASHI_GROUP__ID": ""}
    settings = load_settings(None, {}, environ)
    assert (settings.log.level, settings.group.id) == ("DEBUG", "kizashi")


def test_a_section_and_the_routes_may_come_as_json_in_one_variable():
    environ = {"KIZASHI_GROUP": '{"id": "line-1"}', "KIZASHI_ROUTES": '[{"bundle": "a", "match": {"site": "kyoto"}}]'}
    settings = load_settings(None, {}, environ)
    assert settings.group.id == "line-1"
    assert routes_of(settings) == [SeatingRoute("a", site="kyoto")]


def test_variables_that_are_no_settings_are_left_alone():
    assert load_settings(None, {}, {"KIZASHI_REQUIRE": "kafka", "PATH": "x"}) == Settings()


@pytest.mark.parametrize(("text", "wanted"), [
    ("[batch]\nmax_size = 0", "batch.max_size = 0 rows: out of range; allowed: a whole number from 1 to 4096 rows"),
    ("[batch]\nmax_size = 5000", "allowed: a whole number from 1 to 4096 rows. Change it, or leave it out for the "
                                 "default 256 rows"),
    ("[group]\nheartbeat_s = 0", "allowed: a number from above 0 to 100 s"),
    ("[worker]\nmax_assets = 2000000", "from 1 to 1000000 assets per partition"),
    ("[metrics]\nport = 'many'", "metrics.port = 'many': input should be a valid integer"),
    ("[metrics]\nenabled = 'perhaps'", "allowed: true or false"),
    ("[engine]\nname = 'cuda'", "engine.name = 'cuda': not one of the choices; allowed: 'auto', 'onnx_cpu', "
                               "'tensorrt', 'tensorrt_rtx', 'reference'"),
    ("[broker]\nbootstrap = 'plant'", "not of the wanted form; allowed: HOST:PORT[,HOST:PORT...]"),
    ("[topics]\nprefix = 'trial'", "topics.prefix = 'trial': not of the wanted form; allowed: letters, digits"),
    ("[worker]\nstart = 'yesterday'", "neither a word nor an ISO-8601 time; allowed: \"latest\", \"earliest\" or"),
    ("[worker]\nstart = '2026-11-01T06:00:00'", "the time has no zone"),
    ("[batch]\nmax_sise = 3", "batch.max_sise: unknown key; did you mean max_size?"),
    ("[brokker]\nbootstrap = 'a:1'", "brokker.bootstrap: unknown key; did you mean broker?"),
    ("[log]\ncolour = 1", "log.colour: unknown key; known are format, level"),
    ("batch = 5", "batch: must be a table of keys, is a whole number; write it as [batch]"),
    ("[[routes]]\nmatch = {}", "routes[0].bundle: is missing; set it to the name of the bundle"),
    ("[[routes]]\nbundle = 'a'\nmatch = {asset_klass = 'x'}", "routes[0].match.asset_klass: unknown key; did you mean"),
    ("routes = []", "routes = []: must be a list of at least one"),
    ("[group]\nheartbeat_s = 5", "group.heartbeat_s = 5 s: at most a third of group.session_timeout_s (10 s)"),
    ("[worker]\nmax_batch = 9000", "worker.max_batch = 9000 records: more than worker.max_inflight (8192 records)"),
    ("[broker]\ncert_file = 'a.pem'", "broker.cert_file: needs key_file beside it"),
    ("[broker]\nca_file = 'nowhere.pem'", "broker.ca_file = 'nowhere.pem': no such file"),
    ("[models]\ntrusted_keys = 3", "models.trusted_keys = 3: input should be a valid tuple; allowed: tables with id"),
    ("[[models.trusted_keys]]\nid = 'a'\nkey = 'rW'", "models.trusted_keys[0].key = 'rW': not of the wanted form"),
    ("[models]\nmin_version = {a = '1.0'}", "models.min_version.a = '1.0': not of the wanted form; allowed: versions"),
    ("[models]\nfolder = 'nowhere'", "models.folder = 'nowhere': no such folder"),
    ("[broker]\nsecurity_protocol = 'SASL_SSL'\nusername = 'u'\nsasl_mechanism = 'PLAIN'",
     "broker.password: is missing, security_protocol SASL_SSL needs it"),
])
def test_a_fault_names_source_value_unit_range_and_remedy(tmp_path, text, wanted):
    path = write(tmp_path, text)
    lines = faults(path)
    assert any(wanted in line for line in lines), lines
    assert all(line.startswith((f"{path}: ", "broker.")) for line in lines)


def test_a_fault_in_a_variable_names_the_variable():
    assert faults(environ={"KIZASHI_BATCH__MAX_SIZE": "x"})[0].startswith("KIZASHI_BATCH__MAX_SIZE = 'x' rows: ")
    assert faults(environ={"KIZASHI_BATCH__MAX_SISE": "1"})[0].startswith("KIZASHI_BATCH__MAX_SISE: unknown key; did")
    assert faults(environ={"KIZASHI_BATSH__MAX_SIZE": "1"}) == [
        "KIZASHI_BATSH__MAX_SIZE: unknown section; did you mean KIZASHI_BATCH__...?"
    ]


def test_a_variable_with_one_underscore_too_few_is_told_the_right_name():
    assert faults(environ={"KIZASHI_BROKER_BOOTSTRAP": "a:1"}) == [
        "KIZASHI_BROKER_BOOTSTRAP: unknown setting; did you mean KIZASHI_BROKER__BOOTSTRAP?"
    ]


def test_routes_that_are_no_json_are_reported_with_their_variable():
    assert faults(environ={"KIZASHI_ROUTES": "anomaly"})[0].startswith("KIZASHI_ROUTES = 'anomaly': must be a list")


def test_a_fault_in_a_flag_names_the_flag():
    assert faults(flags={"broker.bootstrap": "x"})[0].startswith("flag --broker: broker.bootstrap = 'x': ")
    assert faults(flags={"batch.in_flight": 0})[0].startswith("flag --set: batch.in_flight = 0 batches: ")


def test_all_faults_of_all_sources_are_listed_at_once(tmp_path):
    path = write(tmp_path, "[batch]\nmax_size = 0\ntypo = 1\n[group]\nheartbeat_s = 9\n[nowhere]\nx = 1\n")
    lines = faults(path, {"engine.threads": 0}, {"KIZASHI_METRICS__PORT": "-1", "KIZASHI_FOO__BAR": "1"})
    for part in ("max_size = 0", "typo", "heartbeat_s", "nowhere", "threads", "METRICS__PORT", "FOO__BAR"):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 7


def test_broken_toml_is_reported_with_its_line_and_beside_the_other_faults(tmp_path):
    path = write(tmp_path, "[batch\nmax_size = 1")
    lines = faults(path, environ={"KIZASHI_METRICS__PORT": "-1"})
    assert lines[0].startswith(f"{path}: is no valid TOML: ")
    assert "line 1" in lines[0]
    assert len(lines) == 2


def test_a_missing_file_says_so_and_what_to_do(tmp_path):
    path = tmp_path / "none.toml"
    assert faults(path) == [f"{path}: cannot be read (No such file or directory); name a readable TOML file with -c"]


def test_a_conflict_is_not_reported_when_one_of_its_keys_is_at_fault_already(tmp_path):
    path = write(tmp_path, "[group]\nsession_timeout_s = 1\nheartbeat_s = 5\n")
    assert len(faults(path)) == 1


def test_secrets_show_in_no_fault_and_no_repr(tmp_path):
    path = write(tmp_path, "[broker]\npassword = ['hunter2-secret']\n")
    assert "hunter2" not in "".join(faults(path))
    assert "hunter2" not in "".join(faults(environ={"KIZASHI_BROKER": '{"password": "hunter2-secret"'}))
    assert "hunter2" not in "".join(faults(environ={"KIZASHI_BROKER__PASSWORT": "hunter2-secret"}))
    settings = load_settings(None, {}, {"KIZASHI_BROKER__PASSWORD": "hunter2-secret"})
    assert settings.broker.password.get_secret_value() == "hunter2-secret"
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hunter2" not in text


def test_routes_match_by_class_site_and_channels(tmp_path):
    path = write(tmp_path, """
        [[routes]]
        match = {asset_class = "pump", site = "kyoto"}
        bundle = "a"
        [[routes]]
        match = {channels = ["rpm", "acc"]}
        bundle = "b"
    """)
    settings = load_settings(path, {}, {})
    assert routes_of(settings) == [SeatingRoute("a", "pump", "kyoto"), SeatingRoute("b", channels=("rpm", "acc"))]
    assert fallback_of(settings) == "anomaly-mewma"
    assert fallback_of(Settings()) is None  # its route matches everything


def test_the_prefix_stands_for_the_leading_kizashi_of_every_topic():
    settings = load_settings(None, {"topics.prefix": "kizashi.demo.7f3a."}, {})
    assert settings.topics.name(topics.TELEMETRY) == "kizashi.demo.7f3a.telemetry.v1"
    assert {Settings().topics.name(t) for t in topics.ALL} == {t.name for t in topics.ALL}


def test_the_start_may_be_a_time_with_a_zone():
    settings = load_settings(None, {"worker.start": "2026-11-01T07:00:00+01:00"}, {})
    assert settings.worker.start_ms == 1_793_512_800_000
    assert Settings().worker.start_ms is None


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Settings().batch.max_size = 3


def test_every_key_has_a_description_and_every_number_a_unit_and_a_range():
    for section, info in Settings.model_fields.items():
        model = info.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        for key, field in model.model_fields.items():
            assert field.description, f"{section}.{key}"
            assert field.validate_default is not True
            if field.annotation in (int, float):
                limits = {name for m in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
                assert len(limits) == 2, f"{section}.{key} has no range"
                if key != "port":
                    assert field.json_schema_extra["unit"], f"{section}.{key} has no unit"


def test_every_default_passes_its_own_validation():
    assert Settings(**Settings().model_dump()) == Settings()
