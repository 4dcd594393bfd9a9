"""How to reach a broker, and what its client's errors mean."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)

from pipeline.errors import BrokerError, ConfigError, Retryable


class Unsupported(BrokerError):
    """This broker does not offer the call; the message names it."""


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How to reach a broker. bootstrap: "host:port,host:port". Passwords never show in repr.

    request_timeout_s: longest wait for one answer before the connection is given up.
    """

    bootstrap: str
    security_protocol: str = "PLAINTEXT"  # PLAINTEXT | SSL | SASL_PLAINTEXT | SASL_SSL
    ssl_ca: Path | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    sasl_mechanism: str | None = None  # PLAIN | SCRAM-SHA-256 | SCRAM-SHA-512
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    client_id: str = "kizashi"
    request_timeout_s: float = 10.0

    def ssl_context(self) -> ssl.SSLContext | None:
        """Build the TLS context, or None for a plain connection. Raises ConfigError naming the file at fault."""
        if self.security_protocol not in ("SSL", "SASL_SSL"):
            return None
        step = f"authority {self.ssl_ca}"
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca)
            if self.ssl_cert is not None:
                step = f"certificate {self.ssl_cert} with key {self.ssl_key}"
                context.load_cert_chain(self.ssl_cert, self.ssl_key)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"broker TLS: cannot load {step}: {exc}. PEM files are needed.") from exc
        return context

    def client_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments that aiokafka's consumer, producer and admin client share."""
        kwargs: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","), "client_id": self.client_id,
            "request_timeout_ms": int(self.request_timeout_s * 1000), "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context(),
        }
        if self.sasl_mechanism is not None:
            kwargs |= {"sasl_mechanism": self.sasl_mechanism, "sasl_plain_username": self.sasl_username,
                       "sasl_plain_password": self.sasl_password}
        return kwargs


@contextmanager
def reaching(cfg: BrokerConfig, what: str) -> Iterator[None]:
    """Translate the client's errors: waiting mends it, this broker lacks it, or a person must act."""
    try:
        yield
    except (IncompatibleBrokerVersion, UnsupportedVersionError) as exc:
        raise Unsupported(f"{cfg.bootstrap} does not offer what is needed to {what}: {exc}") from exc
    except (KafkaConnectionError, OSError, TimeoutError) as exc:
        raise Retryable(f"cannot {what} at {cfg.bootstrap}: {exc!r}") from exc
    except UnknownTopicOrPartitionError as exc:
        reason = f"cannot {what} at {cfg.bootstrap}: it does not exist. Create it: kizashi topics apply."
        raise BrokerError(reason) from exc
    except KafkaError as exc:
        if exc.retriable:
            raise Retryable(f"cannot {what} at {cfg.bootstrap}: {exc!r}") from exc
        remedy = " Give the account the right to." if "Authorization" in type(exc).__name__ else ""
        raise BrokerError(f"cannot {what} at {cfg.bootstrap}: {exc!r}.{remedy}") from exc
