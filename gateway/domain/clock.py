"""The clock of all processes of the gateway: the database's time, regardless of the clock of this machine.

Due times are compared with the database's clock, so code that computes them must use the same clock. Otherwise a worker
whose clock is minutes ahead would delay an alert by those minutes. Between two synchronisations the time is computed
from the monotonic clock, so a step of the machine's clock has no effect. Before the first synchronisation, and in a
process without a database, the machine's clock is used.
"""

import time
from datetime import UTC, datetime

# Offset of the database's Unix time from this process's monotonic clock, in seconds.
_offset: float | None = None


def now() -> datetime:
    """Return the current time by the database's clock, in UTC."""
    return datetime.fromtimestamp(timestamp(), UTC)


def timestamp() -> float:
    """Return the current Unix time by the database's clock, in seconds."""
    return time.time() if _offset is None else time.monotonic() + _offset


def set_from_database(database_time: float, sent_at: float, received_at: float) -> float:
    """Set the clock from the database's Unix time.

    Args:
        database_time: the Unix time that the database returned.
        sent_at: the monotonic time before the query.
        received_at: the monotonic time after the query.

    Returns:
        The number of seconds by which the machine's clock is ahead of the database's.
    """
    global _offset  # noqa: PLW0603 - one clock per process
    _offset = database_time - (sent_at + received_at) / 2
    return time.time() - timestamp()


def reset() -> None:
    """Use the machine's clock again."""
    global _offset  # noqa: PLW0603 - one clock per process
    _offset = None
