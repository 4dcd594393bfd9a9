"""Times for people: ISO 8601 in UTC with all nine digits, so that nothing is lost."""

from datetime import UTC, datetime

_NS_PER_S = 1_000_000_000


def utc(t_ns: int) -> str:
    """Write Unix nanoseconds as 2026-01-31T12:00:00.123456789Z."""
    seconds, rest = divmod(t_ns, _NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
