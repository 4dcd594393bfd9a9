"""Seal a bundle: write its manifest, and for a shipped one the pin that makes this package believe it."""

import hashlib
import tomllib
from pathlib import Path

from engines.archive import MANIFEST, SIGNATURE, read_files
from engines.manifest import FILES, Manifest, encode
from engines.spec import BundleError, read_spec
from engines.trust import PINS

_HEAD = "# SHA-256 of the manifests of the bundles in this folder; written by `python -m engines.recipes.NAME`.\n"


def write_manifest(folder: Path) -> bytes:
    """Write manifest.json for the files in `folder`, take an old signature away, and return the manifest's bytes.

    Raises BundleError when a file is missing or the passport is wrong.
    """
    files = read_files(folder)
    missing = [f"{name} is missing" for name in FILES if name not in files]
    if missing:
        raise BundleError(folder, missing)
    spec, faults = read_spec(files["model.toml"])
    if spec is None or faults:
        raise BundleError(folder, faults)
    raw = encode(Manifest.of(spec.name, spec.version, files))
    (folder / SIGNATURE).unlink(missing_ok=True)
    (folder / MANIFEST).write_bytes(raw)
    return raw


def seal(folder: Path, pins: Path = PINS) -> None:
    """Write the manifest of a shipped bundle and its pin."""
    raw = write_manifest(folder)
    known = tomllib.loads(pins.read_text("utf-8")) if pins.exists() else {}
    known[folder.name] = hashlib.sha256(raw).hexdigest()
    pins.write_text(_HEAD + "".join(f'{name} = "{pin}"\n' for name, pin in sorted(known.items())), "utf-8")
