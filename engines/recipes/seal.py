"""Seal a shipped bundle: write its manifest, and the pin that makes this package believe it."""

import hashlib
import tomllib
from pathlib import Path

from engines.archive import GOLDEN, MANIFEST, MODEL, SIGNATURE
from engines.golden import Golden, encode
from engines.manifest import decode_manifest
from engines.sealing import sealed
from engines.trust import PINS

_HEAD = "# SHA-256 of the manifests of the bundles in this folder; written by `python -m engines.recipes.NAME`.\n"


def seal(folder: Path, pins: Path = PINS) -> None:
    """Write manifest.json for the files in `folder`, take an old signature away, and write the pin.

    Raises BundleError with everything that is wrong with the contents.
    """
    raw = sealed(folder)[MANIFEST]
    (folder / SIGNATURE).unlink(missing_ok=True)
    (folder / MANIFEST).write_bytes(raw)
    known = tomllib.loads(pins.read_text("utf-8")) if pins.exists() else {}
    known[decode_manifest(raw).name] = hashlib.sha256(raw).hexdigest()
    pins.write_text(_HEAD + "".join(f'{name} = "{pin}"\n' for name, pin in sorted(known.items())), "utf-8")


def ship(folder: Path, model: bytes, golden: Golden, pins: Path = PINS) -> None:
    """Write model, golden vectors, manifest and pin of the bundle in `folder`, beside its model.toml."""
    (folder / MODEL).write_bytes(model)
    (folder / GOLDEN).write_bytes(encode(golden))
    seal(folder, pins)
