"""When a delivery that met a passing fault is tried again."""

import random
from datetime import datetime, timedelta

from gateway.domain.delivery import Expired, Retry

FIRST_DELAY = timedelta(seconds=2)
MAX_DELAY = timedelta(hours=1)

# For so many tries the push service's own wish is followed to the letter.
MAX_TRUSTED_RETRIES = 3

# Retries are jobs: coming due on a common grid, those of one chunk share a row.
RETRY_GRID = timedelta(seconds=1)


def backoff(attempts: int) -> timedelta:
    """Exponential from FIRST_DELAY with full jitter over its upper half, so that a crowd spreads out."""
    ceiling = min(FIRST_DELAY * float(2 ** min(attempts - 1, 20)), MAX_DELAY)
    return ceiling * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret


def next_attempt(retry: Retry, attempts: int, now: datetime, expires_at: datetime) -> datetime | Expired:
    """When to try again after `tries` POSTs, or Expired when that would be past the notification's expiry."""
    wait = backoff(attempts) if retry.after is None else retry.after
    if attempts > MAX_TRUSTED_RETRIES:  # a host that keeps saying 'at once' is not hammered until the expiry
        wait = max(wait, backoff(attempts))
    due = _on_grid(now + wait)
    if due >= expires_at:
        return Expired(f"{retry.cause}; the next try would come after the notification's expiry")
    return due


def defer(wait: timedelta, now: datetime, expires_at: datetime) -> datetime:
    """When what was not tried now is looked at again: never later than at half of the time it has left."""
    return _on_grid(now + min(wait, max(timedelta(0), expires_at - now) / 2))


def _on_grid(due: datetime) -> datetime:
    seconds = RETRY_GRID.total_seconds()
    return datetime.fromtimestamp(-(-due.timestamp() // seconds) * seconds, tz=due.tzinfo)
