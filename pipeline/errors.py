"""The error tree.

KizashiError
    Rejected          bad input: it ends in the dead-letter topic, the rest goes on
    Retryable         infrastructure: hold, back off, try again
    Fatal             the worker cannot go on: exit, let the supervisor restart or a person act
        ConfigError       exit 2
        BrokerError       exit 3
        ModelError        exit 4
        InputError        exit 5: a file or data set given on the command line

The class decides the handling. Every message says what, where, limit and value with unit, and what to do.
"""


class KizashiError(Exception):
    """Base of all errors that Kizashi raises on purpose."""


# A decoder's error repeats the value that it refuses: one of a megabyte would make a dead letter that no broker takes,
# and the partition would wait for ever to be rid of it. Our own texts stay below 300 characters.
MAX_DETAIL = 1000


class Rejected(KizashiError):
    """Bad input. `reason` is a code of `schemas.topics.REASONS`; `detail` is cut to MAX_DETAIL characters."""

    def __init__(self, reason: str, detail: str) -> None:
        if len(detail) > MAX_DETAIL:
            detail = f"{detail[:MAX_DETAIL // 2]} [...] {detail[-MAX_DETAIL // 2:]}"  # the end says what to do
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Retryable(KizashiError):
    """Infrastructure is away; nothing is lost while we hold."""


class Fatal(KizashiError):
    """The process must end with `exit_code`."""

    exit_code = 1


class ConfigError(Fatal):
    """The configuration is wrong; the message lists every fault at once."""

    exit_code = 2


class BrokerError(Fatal):
    """The broker, a topic or a setting of it makes work impossible; the message names the remedy."""

    exit_code = 3


class ModelError(Fatal):
    """A bundle or engine cannot serve."""

    exit_code = 4


class InputError(Fatal):
    """A file given on the command line cannot be read as what it should be."""

    exit_code = 5
