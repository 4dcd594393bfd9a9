"""The model book: which version of each bundle serves here, which served, and who went back to an older one and why.

One JSON file below `models.state`, owner only. It stops a version from coming back unnoticed when a newer one has
served, unless a rollback says so. What cannot be read or written is told and stops nothing.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from engines.base import EngineError
from engines.bundle import Bundle, BundleError, Candidate, available, load_bundle
from engines.fields import Version
from engines.trust import TrustPolicy, version_key
from pipeline.errors import ModelError
from pipeline.ops.settings import Settings

FILE, LOCK = "models.json", "models.lock"
#: Who goes back where an engine broke in service and no person did.
ITSELF = "kizashi"
# A rollback takes 200 bytes, ten thousand of them are a mistake: the file is read whole.
_MAX_BYTES = 4 << 20
#: Opens the engines of a bundle; True: it comes from the folder and never served here. Raises EngineError.
Start = Callable[[Bundle, bool], None]


class Rollback(Struct, frozen=True, rename={"from_": "from"}):
    """Somebody went back: versions above `to` up to `from` do not serve again."""

    name: str
    from_: Version
    to: Version
    when: datetime
    who: str
    why: str


class Record(Struct, frozen=True, omit_defaults=True):
    """The book. active: bundle -> version that serves. highest: bundle -> highest version that ever did.

    before: bundle -> version that the active one, or one since the last upgrade, took over from.
    """

    active: dict[str, Version] = {}
    highest: dict[str, Version] = {}
    before: dict[str, Version] = {}
    rollbacks: tuple[Rollback, ...] = ()
    fault: str = ""

    def floor(self, name: str) -> str:
        """Return the lowest version of a bundle that may serve."""
        back = self.rollback(name)
        return back.to if back else self.highest.get(name, "0.0.0")

    def rollback(self, name: str) -> Rollback | None:
        """Return the last rollback of a bundle, unless a version above it has served since."""
        last = next((r for r in reversed(self.rollbacks) if r.name == name), None)
        if last is None or version_key(self.highest.get(name, "0.0.0")) > version_key(last.from_):
            return None
        return last

    def refuses(self, name: str, version: str) -> str:
        """Say why a version may not serve; empty if it may."""
        back = self.rollback(name)
        if back and version_key(back.to) < version_key(version) <= version_key(back.from_):
            return f"{version} was rolled back to {back.to} by {back.who} at {back.when:%Y-%m-%d %H:%M}: {back.why}"
        if version_key(version) < version_key(self.floor(name)):
            return (f"{version} is below {self.floor(name)}, which served here; "
                    f"`kizashi models rollback {name} --to {version} --why TEXT` allows it")
        return ""


def folder_of(settings: Settings) -> Path:
    """Return the folder of the book. Raises ModelError where the user has no home and none is configured."""
    if settings.models.state is not None:
        return settings.models.state
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "kizashi"
    except RuntimeError as error:
        raise ModelError(f"the record of models has no place: {error}. Set models.state to a folder") from error


def read_record(settings: Settings) -> Record:
    """Read the book; an empty one whose `fault` says why when it cannot be read, and when there is none yet."""
    try:
        path = folder_of(settings) / FILE
        return _read(path)
    except FileNotFoundError:
        return Record()
    except ModelError as error:
        return Record(fault=str(error))
    except (OSError, ValueError) as error:
        return Record(fault=f"the record {path} cannot be read: {error}. Older versions are not refused until it is "
                      "mended or moved away")


def candidates(settings: Settings) -> list[Candidate]:
    """List the bundles of models.folder and the shipped ones. Raises ModelError when the folder cannot be read."""
    try:
        return available(settings.models.folder)
    except OSError as error:
        raise ModelError(f"models.folder {settings.models.folder} cannot be read: {error.strerror or error}") from error


def ranked(name: str, offers: Iterable[Candidate], record: Record) -> list[Candidate]:
    """Return the candidates of a name that may serve, best first: the highest version; of one version, the folder's."""
    may = [c for c in offers if c.name == name and not c.fault and not record.refuses(name, c.version)]
    return sorted(may, key=lambda c: version_key(c.version), reverse=True)  # stable: the folder is listed first


def load_best(
    name: str, offers: Sequence[Candidate], record: Record, policy: TrustPolicy, refused: list[str] | None = None,
    *, resume: bool = False, start: Start | None = None,
) -> Bundle:
    """Load the best candidate that is in order. refused: gets why better ones were passed over.

    resume: the version that served last comes first, so that a restart repeats what a crash cut off with the model
    that did it; newer ones take over by a swap. start: one for which it raises EngineError is passed over too.
    When none is in order, those that Kizashi itself rolled back are tried: what broke is better than nothing.
    Raises ModelError with the faults of all, and why others may not serve, when none of these is in order either.
    """
    faults = [f"bundle {c.path}: {c.fault}" for c in offers if c.name == name and c.fault]
    order = [(c, record) for c in ranked(name, offers, record)]
    if resume:
        order.sort(key=lambda of: of[0].version != record.active.get(name))
    people = msgspec.structs.replace(record, rollbacks=tuple(r for r in record.rollbacks if r.who != ITSELF))
    order += [(c, people) for c in ranked(name, offers, people) if record.refuses(name, c.version)]
    for candidate, rules in order:
        try:
            bundle = load_bundle(candidate.path, policy)
            if bundle.spec.name != name or rules.refuses(name, bundle.spec.version):
                raise BundleError(candidate.path, ["its manifest changed while it was read"])
            if start is not None:
                start(bundle, not candidate.shipped and candidate.version != record.active.get(name))
        except (BundleError, EngineError) as error:
            faults.append(str(error) if isinstance(error, BundleError) else f"bundle {candidate.path}: {error}")
            continue
        if refused is not None:
            refused += faults
            if rules is people and (why := record.refuses(name, bundle.spec.version)):
                refused.append(f"{why}. It serves all the same: no other version of {name} can")
        return bundle
    if not faults:
        raise ModelError(_nothing(name, offers, record))
    raise ModelError("; ".join([*faults, *_refusals(name, offers, record)]))


def record_active(settings: Settings, name: str, version: str) -> str:
    """Note that a version serves. Returns what is wrong with the book, empty if nothing: never an error."""
    try:
        with _writing(settings) as (path, record):
            highest = max(record.highest.get(name, version), version, key=version_key)
            was = record.active.get(name)
            upgrade = {name: was} if was is not None and version_key(was) < version_key(version) else {}
            new = msgspec.structs.replace(record, active={**record.active, name: version},
                                          highest={**record.highest, name: highest},
                                          before={**record.before, **upgrade})
            if new != record:
                _write(path, new)
    except (OSError, ModelError) as error:
        return f"the record of what serves was not written: {error}"
    return record.fault


def record_rollback(settings: Settings, rollback: Rollback) -> None:
    """Note a rollback; its own version serves from the next look at the folder on. Raises ModelError."""
    try:
        with _writing(settings) as (path, record):
            if record.fault:
                raise ModelError(record.fault)
            _write(path, msgspec.structs.replace(record, rollbacks=(*record.rollbacks, rollback)))
    except OSError as error:
        raise ModelError(f"the rollback was not recorded: {error}") from error


def fall_back(settings: Settings, name: str, version: str, policy: TrustPolicy, now: datetime, why: str,
              ) -> str:
    """Roll a version that broke in service back to the one before it; it is the next start's.

    Returns that one; "" where there is none, or none in order: what broke is then better than nothing. Raises
    ModelError.
    """
    record = read_record(settings)
    to = next((v for v in (record.active.get(name), record.before.get(name))  # active: its swap is not noted yet
               if v is not None and version_key(v) < version_key(version)), None)
    if record.refuses(name, version):  # told before
        return ""
    for candidate in candidates(settings):
        if (candidate.name, candidate.version) != (name, to):
            continue
        with suppress(BundleError):
            load_bundle(candidate.path, policy)
            was = max(version, record.highest.get(name, version), key=version_key)
            record_rollback(settings, Rollback(name, was, candidate.version, now, ITSELF, why))
            return candidate.version
    return ""


def _refusals(name: str, offers: Iterable[Candidate], record: Record) -> list[str]:
    return list(filter(None, (record.refuses(name, c.version) for c in offers if c.name == name and not c.fault)))


def _nothing(name: str, offers: Sequence[Candidate], record: Record) -> str:
    why = _refusals(name, offers, record)
    if why:
        return f"no version of bundle {name!r} may serve: {'; '.join(why)}"
    names = sorted({c.name for c in offers})
    return f"there is no bundle {name!r}, there are {', '.join(names) or 'none'}. Put it into models.folder"


def _read(path: Path) -> Record:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is over {_MAX_BYTES} bytes")
    return msgspec.json.decode(data, type=Record)


@contextmanager
def _writing(settings: Settings) -> Iterator[tuple[Path, Record]]:
    """Hold the lock between workers of one machine. A book that cannot be read is set aside, and the record says so."""
    folder = folder_of(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / FILE
        record = read_record(settings)
        if record.fault:
            aside = path.with_suffix(".bad")
            path.replace(aside)
            record = Record(fault=f"{record.fault}; it lies in {aside} now")
        yield path, record


def _write(path: Path, record: Record) -> None:
    """Replace the file at once: a crash leaves the old one or the new one."""
    data = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(record, fault="")), indent=2)
    handle, name = tempfile.mkstemp(prefix=FILE, dir=path.parent)  # 0600
    try:
        with open(handle, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
