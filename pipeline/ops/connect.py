"""From the settings of the broker to what the clients take."""

from pipeline.broker import BrokerConfig
from pipeline.ops.settings import Settings

#: Addresses that leave no machine, so that a connection in clear text shows nothing to anybody else.
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")


def broker_config(settings: Settings, client_id: str = "kizashi") -> BrokerConfig:
    """Return how to reach the broker. client_id: what the broker's own logs call us."""
    broker = settings.broker
    return BrokerConfig(
        bootstrap=broker.bootstrap,
        security_protocol=broker.security_protocol,
        ssl_ca=broker.ca_file,
        ssl_cert=broker.cert_file,
        ssl_key=broker.key_file,
        sasl_mechanism=broker.sasl_mechanism,
        sasl_username=broker.username,
        sasl_password=None if broker.password is None else broker.password.get_secret_value(),
        client_id=client_id,
    )


def clear_text_beyond_loopback(settings: Settings) -> bool:
    """Tell whether frames and alerts cross a network unencrypted."""
    hosts = settings.broker.bootstrap.split(",")
    return settings.broker.security_protocol.endswith("PLAINTEXT") and not all(h.startswith(_LOOPBACK) for h in hosts)
