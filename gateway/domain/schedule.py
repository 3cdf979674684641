"""Local times, quiet hours and recurrences, with daylight saving time.

A local time that does not exist because the clocks are set forward is moved by the length of the gap (02:30 becomes
03:30). A local time that occurs twice means the first occurrence (PEP 495, fold=0).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from gateway.domain.json_object import JsonObject

# Stands for the time zone of each device, in place of the name of a zone.
DEVICE_ZONE = "device"

# The extreme UTC offsets of the world's time zones: Kiribati and Baker Island.
MAX_UTC_OFFSET, MIN_UTC_OFFSET = timedelta(hours=14), timedelta(hours=-12)


@lru_cache(maxsize=2048)  # bounded, because pages and applications choose the names
def find_zone(name: str) -> ZoneInfo | None:
    """Return the time zone with an IANA name such as `Europe/Vienna`, or None."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # an unknown name, the name of a directory, or a path
        return None


def zone_or_utc(name: str | None) -> ZoneInfo:
    """Return the time zone with this name; UTC for None and for an unknown name."""
    return (find_zone(name) if name else None) or _UTC


def to_utc(local: datetime, zone: ZoneInfo) -> datetime:
    """Return the UTC time at which clocks in the zone show this naive local time."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def earliest_instant(local: datetime) -> datetime:
    """Return the UTC time at which the first time zone on Earth reaches this naive local time."""
    return local.replace(tzinfo=UTC) - MAX_UTC_OFFSET


def latest_instant(local: datetime) -> datetime:
    """Return the UTC time at which the last time zone on Earth reaches this naive local time."""
    return local.replace(tzinfo=UTC) - MIN_UTC_OFFSET


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A daily period in which nothing is sent, from one local time to another; it may span midnight.

    `timezone` is the name of a zone, or `device` for the zone of each device.
    """

    start: time
    end: time
    timezone: str = DEVICE_ZONE

    def end_of_quiet(self, device_zone: str | None, now: datetime) -> datetime | None:
        """Return when the current quiet hours end (UTC), or None outside of quiet hours."""
        zone = zone_or_utc(device_zone if self.timezone == DEVICE_ZONE else self.timezone)
        local = now.astimezone(zone)
        clock = local.time()
        if self.start <= self.end:
            quiet, days = self.start <= clock < self.end, 0
        else:
            quiet, days = clock >= self.start or clock < self.end, int(clock >= self.start)
        if not quiet:
            return None
        end = datetime.combine(local.date() + timedelta(days=days), self.end)
        first = to_utc(end, zone)
        # On the day when the clocks are set back, the end may occur twice. The first time may be in the past.
        return first if first > now else end.replace(tzinfo=zone, fold=1).astimezone(UTC)

    def to_json(self) -> JsonObject:
        """Return the quiet hours as JSON, for storage and for the API."""
        return {"start": f"{self.start:%H:%M}", "end": f"{self.end:%H:%M}", "timezone": self.timezone}

    @classmethod
    def from_json(cls, values: JsonObject) -> "QuietHours":
        """Return the quiet hours from the result of `to_json`."""
        return cls(time.fromisoformat(values["start"]), time.fromisoformat(values["end"]), values["timezone"])


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A cron expression in a time zone, or in the zone of each device (`device`).

    Changes to and from daylight saving time are handled as in Debian's cron. An occurrence in a skipped hour comes
    right after that hour. An occurrence in a repeated hour comes once, unless the expression recurs every hour.
    """

    cron: str
    timezone: str = "UTC"

    def find_error(self) -> str | None:
        """Return the error of the cron expression, or None if it is valid."""
        try:
            next(CronSim(self.cron, datetime.now(UTC)))
        except CronSimError as error:
            return f"is not a cron expression: {str(error).lower()}"
        except StopIteration:
            return "never occurs"
        return None

    def next_occurrence(self, moment: datetime) -> "Occurrence | None":
        """Return the first occurrence whose sending starts after `moment`, or None.

        With DEVICE_ZONE sending starts when the first time zone on Earth reaches the local time.
        """
        try:
            if self.timezone == DEVICE_ZONE:
                local = next(CronSim(self.cron, moment.astimezone(UTC) + MAX_UTC_OFFSET)).replace(tzinfo=None)
                return Occurrence(earliest_instant(local), local)
            return Occurrence(next(CronSim(self.cron, moment.astimezone(zone_or_utc(self.timezone)))).astimezone(UTC))
        except StopIteration:
            return None

    def explain(self) -> str:
        """Return a description of the cron expression in English."""
        return CronSim(self.cron, datetime.now(UTC)).explain()


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time of a recurrence.

    Sending starts at `at` (UTC). With `local_at` (naive), each device gets the message at that time in its time zone.
    """

    at: datetime
    local_at: datetime | None = None


_UTC = ZoneInfo("UTC")
