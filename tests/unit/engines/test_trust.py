"""Trust: pins, signatures, keys that expire, versions that are too old, and bundles that nobody vouches for."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engines import BundleError, load_bundle, shipped_bundles
from engines.archive import pack, read_files
from engines.bundle import available
from engines.manifest import Signature, decode_manifest, decode_signature, encode
from engines.sealing import sealed
from engines.trust import PublicKey, Trust, TrustPolicy, make_key, sign, version_key
from tests import models

PEM, PUBLIC = make_key()
NOW = datetime(2026, 11, 25, tzinfo=UTC)
SHIPPED = shipped_bundles()["anomaly-mewma"]


def signed(folder: Path, key_id: str = "k", pem: bytes = PEM) -> Path:
    """Write a bundle that `key_id` signed."""
    models.bundle(folder, models.dense())
    for name, data in sealed(folder, pem, key_id).items():
        (folder / name).write_bytes(data)
    return folder


def key(not_after: datetime | None = None, key_id: str = "k", public: bytes = PUBLIC) -> PublicKey:
    return PublicKey(key_id, public, not_after)


def fault(path: Path, policy: TrustPolicy) -> str:
    with pytest.raises(BundleError) as raised:
        load_bundle(path, policy)
    (only,) = raised.value.faults
    return only


def test_shipped_bundle_is_believed_by_everybody():
    assert load_bundle(SHIPPED).trust == Trust("pinned")
    assert load_bundle(SHIPPED, TrustPolicy((key(),))).trust == Trust("pinned")


def test_copy_of_a_shipped_bundle_is_believed_until_it_is_edited(tmp_path):
    copy = shutil.copytree(SHIPPED, tmp_path / "copy")
    (tmp_path / "copy.zip").write_bytes(pack(read_files(SHIPPED)))
    assert load_bundle(copy).trust == load_bundle(tmp_path / "copy.zip").trust == Trust("pinned")
    passport = copy / "model.toml"
    passport.write_text(passport.read_text().replace("smoothing = 0.12", "smoothing = 0.5"))
    assert "model.toml is not what the manifest says" in fault(copy, TrustPolicy())
    for name, data in sealed(copy).items():
        (copy / name).write_bytes(data)
    assert "is not trusted: it is not the shipped one, and nobody signed it; sign it" in fault(copy, TrustPolicy())
    edited = load_bundle(copy, TrustPolicy(allow_unsigned=True))
    assert (edited.trust.status, edited.spec.mewma.smoothing) == ("unsigned", 0.5)


def test_signed_bundle_is_believed_where_its_key_is(tmp_path):
    folder = signed(tmp_path)
    policy = TrustPolicy((key(key_id="other", public=bytes(32)), key()))
    assert load_bundle(folder, policy).trust == Trust("signed", "k")


@pytest.mark.parametrize(("policy", "text"), [
    (TrustPolicy(), "is not trusted: key 'k' is not in models.trusted_keys; sign it"),
    (TrustPolicy((key(key_id="other"),)), "key 'k' is not in models.trusted_keys"),
    (TrustPolicy((key(NOW),), now=NOW), "key 'k' expired at 2026-11-25 00:00:00+00:00"),
    (TrustPolicy((key(NOW.replace(tzinfo=None)),), now=NOW), "key 'k' expired at 2026-11-25 00:00:00"),
    (TrustPolicy((key(datetime(2020, 1, 1, tzinfo=UTC)),)), "key 'k' expired"),  # by the clock
])  # fmt: skip
def test_bundle_of_a_key_that_is_unknown_or_expired_is_as_if_unsigned(tmp_path, policy, text):
    folder = signed(tmp_path)
    assert text in fault(folder, policy)
    allowing = TrustPolicy(policy.keys, True, now=policy.now)
    assert load_bundle(folder, allowing).trust.status == "unsigned"
    assert load_bundle(folder, allowing).trust.why in fault(folder, policy)


def test_key_serves_until_its_last_moment(tmp_path):
    until = TrustPolicy((key(NOW),), now=NOW - timedelta(microseconds=1))
    assert load_bundle(signed(tmp_path), until).trust.status == "signed"


@pytest.mark.parametrize("allow", [False, True])
def test_wrong_signature_of_a_trusted_key_is_refused_even_where_unsigned_is_allowed(tmp_path, allow):
    folder = signed(tmp_path, pem=make_key()[0])
    assert "the signature of key 'k' is wrong" in fault(folder, TrustPolicy((key(),), allow))
    other = signed(tmp_path / "other")
    (other / "manifest.json").write_bytes(
        encode(decode_manifest((other / "manifest.json").read_bytes()).__class__.of(
            "made", "1.0.1", read_files(other))))
    assert "the signature of key 'k' is wrong" in fault(other, TrustPolicy((key(),), allow))


def test_trusted_key_that_is_no_key_believes_nothing(tmp_path):
    assert "is wrong" in fault(signed(tmp_path), TrustPolicy((key(public=b"short"),)))


@pytest.mark.parametrize("content", [
    b"", b"{}", b"null", b'{"key": "k", "signature": "00"}', b"\xff",
    encode(Signature("k", "0" * 128)).replace(b"\n", b" "), encode(Signature("k", "0" * 128))[:-1],
    encode(Signature("k", "0" * 128)).replace(b"}", b', "more": 1}'),
])  # fmt: skip
def test_signature_file_that_is_none_is_refused_even_where_unsigned_is_allowed(tmp_path, content):
    folder = signed(tmp_path)
    (folder / "manifest.sig").write_bytes(content)
    assert fault(folder, TrustPolicy((key(),), True)).startswith("manifest.sig: ")


def test_unsigned_bundle_needs_leave_and_says_so(tmp_path):
    folder = models.bundle(tmp_path, models.dense())
    assert "or set models.allow_unsigned = true" in fault(folder, TrustPolicy((key(),)))
    assert load_bundle(folder, TrustPolicy(allow_unsigned=True)).trust == Trust("unsigned", None, "nobody signed it")


@pytest.mark.parametrize(("least", "served"), [("1.0.0", True), ("0.9.99", True), ("1.0.1", False), ("1.10.0", False)])
def test_version_below_the_lowest_allowed_is_refused_whoever_signed_it(tmp_path, least, served):
    folder, policy = signed(tmp_path), TrustPolicy((key(),), min_version={"made": least, "other": "9.9.9"})
    if served:
        assert load_bundle(folder, policy).spec.version == "1.0.0"
    else:
        assert fault(folder, policy) == f"version 1.0.0 is below models.min_version = {least} of made"
    assert load_bundle(SHIPPED, TrustPolicy(min_version={"anomaly-mewma": "1.1.0"})).trust.status == "pinned"
    assert "below" in fault(SHIPPED, TrustPolicy(min_version={"anomaly-mewma": "1.1.1"}))


def test_versions_are_ordered_by_number():
    assert sorted(["1.10.0", "1.9.9", "0.20.0"], key=version_key) == ["0.20.0", "1.9.9", "1.10.0"]


def test_manifest_of_another_name_or_version_than_the_passport_is_refused(tmp_path):
    folder = models.bundle(tmp_path, models.dense())
    models.write(folder, {n: d for n, d in read_files(folder).items() if n != "manifest.json"}, "made", "1.0.1")
    assert fault(folder, models.UNSIGNED) == "model.toml is of made 1.0.0, manifest.json of made 1.0.1"


def test_signing_needs_an_ed25519_key_and_sound_contents(tmp_path):
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    with pytest.raises(ValueError, match="no private key in PEM"):
        sign(b"", b"no key", "k")
    curve = generate_private_key(SECP256R1()).private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    with pytest.raises(ValueError, match="not an Ed25519 key"):
        sign(b"", curve, "k")
    locked = load_pem_private_key(PEM, None).private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret"))
    with pytest.raises(ValueError, match="an encrypted one"):
        sign(b"", locked, "k")
    assert decode_signature(encode(sign(b"m", PEM, "k"))).key == "k"
    models.bundle(tmp_path, models.dense(), threshold=1e6)
    (tmp_path / "model.toml").write_text((tmp_path / "model.toml").read_text().replace("1000000.0", "1.0"))
    with pytest.raises(BundleError, match="rows have a score within 10% of the limit 1, at least 20% are wanted"):
        sealed(tmp_path, PEM, "k")
    (tmp_path / "golden.msgpack").unlink()
    with pytest.raises(BundleError, match=r"golden\.msgpack is missing"):
        sealed(tmp_path)


def test_what_is_there_is_listed_by_manifests_alone_and_marked_by_its_bytes(tmp_path):
    models.bundle(tmp_path / "b", models.dense(), version="1.2.3")
    (tmp_path / "a.zip").write_bytes(pack(read_files(models.bundle(tmp_path / ".hidden", models.dense()))))
    (tmp_path / "broken.zip").write_bytes(b"PK")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.toml").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    found = available(tmp_path)
    assert [(c.path.name, c.name, c.version, c.shipped, bool(c.fault)) for c in found] == [
        ("a.zip", "made", "1.0.0", False, False), ("b", "made", "1.2.3", False, False),
        ("broken.zip", "broken", "", False, True), ("c", "c", "", False, True),
        *((name, name, load_bundle(path).spec.version, True, False) for name, path in shipped_bundles().items())]
    assert [c.mark for c in available(tmp_path)] == [c.mark for c in found]
    model = tmp_path / "b" / "model.onnx"
    model.write_bytes(model.read_bytes())
    changed = [c.path.name for c, old in zip(available(tmp_path), found, strict=True) if c.mark != old.mark]
    assert changed == ["b"]
