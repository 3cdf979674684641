"""The clock of the installation: the database's time, regardless of the clock of this machine.

Due times are compared with the database clock, so code that computes them must use the same clock: a worker whose clock
was minutes ahead would otherwise delay an alert by as much. Between two synchronisations the monotonic clock counts on,
so a step of the machine's clock has no effect. Before the first synchronisation, and without a database, the machine's
clock is used.
"""

import time
from datetime import UTC, datetime

# Offset of the database's Unix time from this process's monotonic clock, in seconds.
_offset: float | None = None


def now() -> datetime:
    """Return the current time (UTC)."""
    return datetime.fromtimestamp(timestamp(), UTC)


def timestamp() -> float:
    """Return the current Unix time in seconds."""
    return time.time() if _offset is None else time.monotonic() + _offset


def set_from_database(database_time: float, sent_at: float, received_at: float) -> float:
    """Set the clock from the database's Unix time, which it returned between two times of the monotonic clock.

    Returns:
        The number of seconds that the machine's clock is ahead of the database's.
    """
    global _offset  # noqa: PLW0603 - one clock per process
    _offset = database_time - (sent_at + received_at) / 2
    return time.time() - timestamp()


def reset() -> None:
    """Use the machine's clock again."""
    global _offset  # noqa: PLW0603 - one clock per process
    _offset = None
