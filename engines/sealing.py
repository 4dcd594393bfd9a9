"""Seal a bundle: check what is in it, and make its manifest and signature."""

from pathlib import Path

from engines.archive import MANIFEST, SIGNATURE, read_files
from engines.bundle import inspect
from engines.manifest import FILES, Manifest, encode
from engines.spec import BundleError
from engines.trust import sign


def sealed(path: Path, pem: bytes | None = None, key_id: str | None = None) -> dict[str, bytes]:
    """Return the files of the bundle at `path` with a new manifest, and signed if there is a key.

    Raises BundleError with all faults of the contents: a signature says that somebody looked. Raises ValueError when
    the key cannot sign.
    """
    files = {name: data for name, data in read_files(path).items() if name in FILES}
    missing = [f"{name} is missing" for name in FILES if name not in files]
    if missing:
        raise BundleError(path, missing)
    spec, _, faults = inspect(files)
    if spec is None or faults:
        raise BundleError(path, faults)
    files[MANIFEST] = encode(Manifest.of(spec.name, spec.version, files))
    if pem is not None:
        files[SIGNATURE] = encode(sign(files[MANIFEST], pem, key_id or ""))
    return files
