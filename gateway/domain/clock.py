"""What time it is for the whole installation: the database's time, whatever this machine's own clock says.

What is due is compared with the database's clock, so who says when something is due must have the same: a worker whose
clock was minutes ahead would put off an alert by as much. Between two looks the monotonic clock counts on, and a step
of the machine's clock changes nothing. Until the first look, and without a database, the machine's clock has to do.
"""

import time
from datetime import UTC, datetime

_ahead: float | None = None
"""By how much the database's time is ahead of our monotonic clock, in seconds."""


def now() -> datetime:
    return datetime.fromtimestamp(timestamp(), UTC)


def timestamp() -> float:
    """Since 1970."""
    return time.time() if _ahead is None else time.monotonic() + _ahead


def set_from_database(database_time: float, sent_at: float, received_at: float) -> float:
    """The database said `told` seconds since 1970 between two times of our monotonic clock.

    Answers with the seconds that the machine's own clock is ahead of it.
    """
    global _ahead  # noqa: PLW0603 - a process has one time
    _ahead = database_time - (sent_at + received_at) / 2
    return time.time() - timestamp()


def reset() -> None:
    """The machine's own clock again."""
    global _ahead  # noqa: PLW0603 - as above
    _ahead = None
