"""When a delivery is retried after a transient failure."""

import random
from datetime import datetime, timedelta

from gateway.domain.delivery import Expired, Retry

# The back-off after the first attempt; it doubles with each attempt up to MAX_DELAY.
FIRST_DELAY = timedelta(seconds=2)
MAX_DELAY = timedelta(hours=1)

# Number of attempts up to which a Retry-After is used unchanged. After more attempts, a Retry-After that is shorter
# than the back-off is raised to the back-off.
MAX_TRUSTED_RETRIES = 3

# Retries are jobs. Their due times are rounded up to this grid, so that the retries of one chunk share a job.
RETRY_GRID = timedelta(seconds=1)


def backoff(attempts: int) -> timedelta:
    """Return the delay after a number of attempts: exponential, times a random factor from 0.5 to 1.

    The random factor spreads the retries of messages that failed at the same time.
    """
    ceiling = min(FIRST_DELAY * float(2 ** min(attempts - 1, 20)), MAX_DELAY)
    return ceiling * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret


def next_attempt(retry: Retry, attempts: int, now: datetime, expires_at: datetime) -> datetime | Expired:
    """Return the time of the next attempt after `attempts` POSTs, or Expired if it would be after the expiry."""
    wait = backoff(attempts) if retry.after is None else retry.after
    if attempts > MAX_TRUSTED_RETRIES:  # the host may return `Retry-After: 0` every time
        wait = max(wait, backoff(attempts))
    due = _round_up(now + wait)
    if due >= expires_at:
        return Expired(f"{retry.cause}; the next attempt would be after the notification's expiry")
    return due


def defer(wait: timedelta, now: datetime, expires_at: datetime) -> datetime:
    """Return when a deferred delivery is due again: after `wait`, or half the time until its expiry if that is less."""
    return _round_up(now + min(wait, max(timedelta(0), expires_at - now) / 2))


def _round_up(due: datetime) -> datetime:
    seconds = RETRY_GRID.total_seconds()
    return datetime.fromtimestamp(-(-due.timestamp() // seconds) * seconds, tz=due.tzinfo)
