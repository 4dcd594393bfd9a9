"""The tree of settings: sections, keys, units, ranges, and why each default is what it is.

`Settings()` without arguments is the defaults, whatever the environment holds; `pipeline.ops.config` reads the sources.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.topics import Topic

_PREFIX = "kizashi."
DEFAULT_BUNDLE = "anomaly-mewma"


def _key(default: Any, unit: str, why: str, *, allowed: str = "", **limits: Any) -> Any:
    """Declare a key. unit: of the value, "" for none. allowed: the range in words where limits cannot say it."""
    return Field(default, description=why, json_schema_extra={"unit": unit, "allowed": allowed}, **limits)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("neither a word nor an ISO-8601 time") from None


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


_Version = Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$")]
_Instance = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]


class Broker(Section):
    bootstrap: str = _key(
        "127.0.0.1:9092", "", "first brokers to ask; the loopback, so that nothing is reached that was not named",
        allowed="HOST:PORT[,HOST:PORT...]", pattern=r"^[^\s,:]+:\d{1,5}(,[^\s,:]+:\d{1,5})*$",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT"] = _key(
        "PLAINTEXT", "", "what a broker on the same machine speaks; beyond the loopback use SSL or SASL_SSL"
    )
    ca_file: Path | None = _key(None, "", "PEM file of the authority that signed the broker; none: the system's store")
    cert_file: Path | None = _key(None, "", "PEM certificate of this client, for mutual TLS; with key_file")
    key_file: Path | None = _key(None, "", "PEM key of cert_file")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = _key(
        None, "", "how username and password are proved; needed by the SASL protocols"
    )
    username: str | None = _key(None, "", "of the SASL account")
    password: SecretStr | None = _key(None, "", "of the SASL account; better by variable than in a file")


class Topics(Section):
    prefix: str = _key(
        _PREFIX, "", "stands for the leading 'kizashi.' of every topic, so that a trial never touches a plant's topics",
        allowed="letters, digits, . _ -, ending with a dot, up to 150 characters", pattern=r"^[A-Za-z0-9._-]{0,149}\.$",
    )
    assessment: bool = _key(False, "", "publish the scores too, a record per asset and poll; for audit and plots")

    def name(self, topic: Topic | str) -> str:
        """Return the topic's name under this prefix."""
        name = topic if isinstance(topic, str) else topic.name
        return self.prefix + name.removeprefix(_PREFIX)


class Group(Section):
    id: str = _key(
        "kizashi", "", "consumer group; workers that share it share the partitions and the checkpoints",
        allowed="letters, digits, . _ -, up to 200 characters", pattern=r"^[A-Za-z0-9._-]{1,200}$",
    )
    instance_id: _Instance | None = _key(
        None, "", "static membership, unique per worker: a restarted worker has its partitions back in about 2 s",
        allowed="letters, digits, . _ -, up to 100 characters",
    )
    session_timeout_s: float = _key(
        10.0, "s", "a dead worker's partitions stand still this long; Faust's 60 would be a minute of silence",
        ge=6, le=300,
    )
    heartbeat_s: float = _key(3.0, "s", "a third of the session timeout: two may be lost before it ends", gt=0, le=100)


class Worker(Section):
    start: str = _key(
        "latest", "", "where a group without a checkpoint begins; latest, so that a first start floods nobody",
        allowed='"latest", "earliest" or a time with its zone, as 2026-11-01T06:00:00Z',
    )
    drain_s: float = _key(10.0, "s", "budget of an orderly stop; a third of what Kubernetes grants", ge=1, le=300)
    stale_alert_s: float = _key(
        300.0, "s", "alerts older than this are published but annunciate nothing: nobody can act on them",
        ge=1, le=86_400,
    )
    max_future_s: float = _key(
        60.0, "s", "a frame further ahead of its record's time has a broken clock; NTP keeps devices far below",
        ge=0, le=86_400,
    )
    silent_after_s: float = _key(
        60.0, "s", "an asset without frames for this long is silent; gateways that send once a minute need more",
        ge=1, le=604_800,
    )
    max_assets: int = _key(
        20_000, "assets per partition", "bounds memory: about 6 KiB an asset, 120 MiB a full partition",
        ge=1, le=1_000_000,
    )
    max_batch: int = _key(
        2048, "records per event", "a whole fetch of one partition (1 MiB, 1,700 frames of W1) at a time",
        ge=1, le=16_384,
    )
    max_inflight: int = _key(
        8192, "unacknowledged records per partition", "four full events: the loop never waits, memory stays bounded",
        ge=1, le=262_144,
    )
    fetch_max_wait_ms: int = _key(
        10, "ms", "longest a broker holds a fetch that found less than fetch_min_bytes; bounds latency",
        ge=1, le=5000,
    )
    fetch_min_bytes: int = _key(
        16_384, "bytes", "what a fetch waits for: at 5,000 frames/s two fifths less CPU for 2 ms of median latency",
        ge=1, le=16_777_216,
    )
    watchdog_s: float = _key(
        60.0, "s", "lag without progress for this long ends the worker with exit code 1; a rebalance lasts far less",
        ge=5, le=3600,
    )
    max_pending_alerts: int = _key(
        10_000, "alerts", "unacknowledged alerts that stop admission: about 10 MB, minutes of a plant-wide flood",
        ge=1, le=1_000_000,
    )

    @field_validator("start")
    @classmethod
    def _start_is_a_place(cls, value: str) -> str:
        if value not in ("latest", "earliest") and _time(value).tzinfo is None:
            raise ValueError("the time has no zone")
        return value

    @property
    def start_ms(self) -> int | None:
        """Return the start time, Unix ms, or None when `start` is a word."""
        return None if self.start in ("latest", "earliest") else int(_time(self.start).timestamp() * 1000)


class Batch(Section):
    max_size: int = _key(
        256, "rows", "rows per inference; a row costs 0.4 us at 128 to 256 rows, 0.6 at 64, 0.8 at 1024 (one thread)",
        ge=1, le=4096,
    )
    max_delay_ms: float = _key(
        5.0, "ms", "longest a row waits for company; an eighth of the p99 budget of 40 ms", ge=0, le=5000
    )
    in_flight: int = _key(
        3, "batches", "one computes, one waits, one is filled: the engine's thread is never idle", ge=1, le=64
    )


class Engine(Section):
    name: Literal["auto", "onnx_cpu", "tensorrt", "tensorrt_rtx", "reference"] = _key(
        "onnx_cpu", "", "auto takes a GPU where there is one; reference is the slow NumPy oracle"
    )
    threads: int = _key(1, "threads", "one per worker: scale by workers, which share nothing", ge=1, le=64)
    precision: Literal["f32", "f16"] = _key("f32", "", "of TensorRT; f16 serves only where no decision changes by it")
    cache: Path | None = _key(
        None, "", "folder of built engines and their key, owner only; none: kizashi below the user's state folder"
    )
    deadline_s: float = _key(
        10.0, "s", "a batch that takes longer hangs: another engine takes over; the slowest model takes 0.1",
        gt=0, le=600,
    )
    restart_after_s: float = _key(
        300.0, "s", "a worker that lost its GPU serves on the CPU this long, then ends to start anew; 0: never",
        ge=0, le=86_400,
    )
    build_timeout_s: float = _key(600.0, "s", "longest build of an engine; ours take seconds", ge=1, le=7200)
    build_memory_mb: int = _key(4096, "MiB", "most that a build may hold; ours take 0.3 GiB", ge=256, le=262_144)


class Checkpoint(Section):
    interval_s: float = _key(
        5.0, "s", "what a crash makes the next worker do again; writes halve when it doubles", ge=0.1, le=3600
    )
    every_frames: int = _key(0, "frames", "checkpoint by count too; 0: by time only", ge=0, le=100_000_000)
    write_budget_mb_s: float = _key(
        2.0, "MB/s", "the interval stretches so that state writes stay below it: spares an edge device's flash",
        gt=0, le=1000,
    )


class TrustedKey(Section):
    """A public key whose signatures on bundles are believed."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$", description="name of the key, as in the signature",
        json_schema_extra={"unit": "", "allowed": "letters, digits, . _ -, up to 64 characters"},
    )
    key: str = Field(
        pattern=r"^[A-Za-z0-9+/]{43}=$", description="public Ed25519 key, 32 bytes in base64",
        json_schema_extra={"unit": "", "allowed": "32 bytes in base64, as `kizashi models keygen` prints them"},
    )
    not_after: datetime | None = _key(None, "", "signatures are refused from then on; none: never",
                                      allowed="a time with its zone")


class Models(Section):
    folder: Path | None = _key(None, "", "folder of bundles (folders or .zip) searched before the shipped ones")
    trusted_keys: tuple[TrustedKey, ...] = _key(
        (), "", "whose bundles are believed, beside the shipped; `kizashi models keygen` makes a pair",
        allowed="tables with id, key and not_after, as that prints them",
    )
    allow_unsigned: bool = _key(False, "", "serve bundles that nobody signed; for trials, it warns each time")
    min_version: dict[str, _Version] = _key(
        {}, "", "bundle -> lowest version that may serve: older ones have faults",
        allowed='versions by bundle, as {"anomaly-mewma" = "1.2.3"}',
    )
    fallback: str | None = _key(
        DEFAULT_BUNDLE, "", "bundle of assets that no route matches, an event says so; none: a dead letter each frame",
        allowed="name of a bundle",
    )
    poll_s: float = _key(
        5.0, "s", "how often the folder is looked at for new bundles; 0: only at the start", ge=0, le=3600
    )
    stuck_s: float = _key(
        3600.0, "s", "longest that a swap waits for assets to become warm before it warns; most calibrate in minutes",
        ge=1, le=2_592_000,
    )
    trial_memory_mb: int = _key(
        1024, "MiB", "memory that a bundle from the folder may take while it is tried in a process of its own",
        ge=64, le=1_048_576,
    )
    state: Path | None = _key(
        None, "", "folder of the record of what serves and of rollbacks; none: kizashi below the user's state folder"
    )


class Match(Section):
    """What a route wants of an asset; None matches everything."""

    asset_class: str | None = _key(None, "", "as in the asset's birth; none: every class")
    site: str | None = _key(None, "", "as in the asset's birth; none: every site")
    channels: tuple[str, ...] = _key((), "", "names of channels that the asset must have; none: any",
                                     allowed="names of channels")


class Route(Section):
    match: Match = _key(Match(), "", "which assets")
    bundle: str = Field(
        min_length=1, description="name of the bundle that serves them",
        json_schema_extra={"unit": "", "allowed": "name of a bundle"},
    )


class Metrics(Section):
    enabled: bool = _key(True, "", "serve /metrics, /live and /ready")
    host: str = _key(
        "127.0.0.1", "", "loopback: nothing is offered to the network unless asked", allowed="host or address"
    )
    port: int = _key(
        9464, "", "customary for exporters that are libraries; 0: any free one, which the log names", ge=0, le=65_535
    )


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _key("INFO", "", "INFO is a few lines a minute")
    format: Literal["json", "console"] = _key("json", "", "json for machines, console for people")


class Settings(BaseSettings):
    """All settings. Frozen; `load_settings` makes one from file, environment and flags."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="KIZASHI_", env_nested_delimiter="__", env_ignore_empty=True
    )

    broker: Broker = Broker()
    topics: Topics = Topics()
    group: Group = Group()
    worker: Worker = Worker()
    batch: Batch = Batch()
    engine: Engine = Engine()
    checkpoint: Checkpoint = Checkpoint()
    models: Models = Models()
    routes: tuple[Route, ...] = Field(default=(Route(bundle=DEFAULT_BUNDLE),), min_length=1)
    metrics: Metrics = Metrics()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Sources are read by `load_settings` alone, which knows where each value came from.
        return (init_settings,)
