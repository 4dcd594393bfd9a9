"""Settings printed as TOML."""

from pipeline.ops.config import Settings, load_settings
from pipeline.ops.document import as_toml


def load(tmp_path, text):
    path = tmp_path / "printed.toml"
    path.write_text(text)
    return load_settings(path, {}, {})


def test_what_is_printed_loads_back_as_the_same_settings(tmp_path):
    assert load(tmp_path, as_toml(Settings())) == Settings()
    changed = load_settings(None, {
        "group.instance_id": "line-1", "worker.start": "2026-11-01T06:00:00Z", "models.folder": str(tmp_path),
        "routes": [{"match": {"site": 'kyoto "north"'}, "bundle": "a"}, {"bundle": "b"}], "topics.assessment": True,
        "models.min_version": {"anomaly-mewma": "1.0.0", "b": "2.0.0"}, "models.trusted_keys": [
            {"id": "a", "key": f"{'A' * 43}=", "not_after": "2028-01-01T00:00:00Z"},
            {"id": "b", "key": f"{'B' * 43}="}],
    }, {})
    assert load(tmp_path, as_toml(changed)) == changed


def test_every_key_is_there_with_its_reason_and_range():
    text = as_toml(Settings())
    prose = " ".join(line.lstrip("# ") for line in text.splitlines())
    for section, info in Settings.model_fields.items():
        for key, field in getattr(info.annotation, "model_fields", {}).items():
            assert f"{key} = " in text, f"{section}.{key}"
            assert field.description[1:] in prose, f"{section}.{key}"
    assert "# Allowed: a whole number from 1 to 4096 rows.\nmax_size = 256\n" in text


def test_secrets_are_masked():
    settings = load_settings(None, {}, {"KIZASHI_BROKER__PASSWORD": "hunter2-secret"})
    text = as_toml(settings)
    assert "hunter2" not in text
    assert '# password = "**********"' in text
