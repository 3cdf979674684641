"""When: local times made into instants, quiet hours, and recurring times, with summer time as people expect it.

A local time that a change of the clocks skips becomes the one as much later as was skipped (02:30 is then 03:30);
one that comes twice means the first (PEP 495, fold=0).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

DEVICE_ZONE = "device"
"""In place of a zone's name: each device's own."""

# No zone is further ahead or behind: Kiribati and Baker Island.
MAX_UTC_OFFSET, MIN_UTC_OFFSET = timedelta(hours=14), timedelta(hours=-12)


@cache
def find_zone(name: str) -> ZoneInfo | None:
    """The zone of an IANA name such as `Europe/Vienna`; None when there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # no such file, a directory, a name that is a path
        return None


def zone_or_utc(name: str | None) -> ZoneInfo:
    """A device's zone. UTC for what it never said, and for what is no zone."""
    return (find_zone(name) if name else None) or _UTC


def to_utc(local: datetime, zone: ZoneInfo) -> datetime:
    """The UTC instant at which clocks in that zone show this naive local time."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def earliest_instant(local: datetime) -> datetime:
    """When the first place on Earth shows this naive local time."""
    return local.replace(tzinfo=UTC) - MAX_UTC_OFFSET


def latest_instant(local: datetime) -> datetime:
    return local.replace(tzinfo=UTC) - MIN_UTC_OFFSET


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From one local time of day to another, past midnight when that is the earlier one.

    `timezone` is a zone's name, or `device` for each device's own.
    """

    start: time
    end: time
    timezone: str = DEVICE_ZONE

    def end_of_quiet(self, device_zone: str | None, now: datetime) -> datetime | None:
        """When the quiet hours that are on now end (UTC), None when it is not quiet."""
        of = zone_or_utc(device_zone if self.timezone == DEVICE_ZONE else self.timezone)
        local = now.astimezone(of)
        clock = local.time()
        if self.start <= self.end:
            quiet, days = self.start <= clock < self.end, 0
        else:
            quiet, days = clock >= self.start or clock < self.end, int(clock >= self.start)
        if not quiet:
            return None
        end = datetime.combine(local.date() + timedelta(days=days), self.end)
        first = to_utc(end, of)
        # Where the clocks are set back, the end may come twice, and the first time be over.
        return first if first > now else end.replace(tzinfo=of, fold=1).astimezone(UTC)

    def to_json(self) -> dict[str, Any]:
        return {"start": f"{self.start:%H:%M}", "end": f"{self.end:%H:%M}", "timezone": self.timezone}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "QuietHours":
        return cls(time.fromisoformat(values["start"]), time.fromisoformat(values["end"]), values["timezone"])


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A cron expression read on the clocks of a zone, or of each device (`device`).

    Changes of the clocks are Debian's cron's: what falls into a skipped hour comes right after it, and what falls
    into an hour that comes twice comes once, unless it comes every hour anyway.
    """

    cron: str
    timezone: str = "UTC"

    def find_error(self) -> str | None:
        """What is wrong with the expression; None when nothing is."""
        try:
            next(CronSim(self.cron, datetime.now(UTC)))
        except CronSimError as error:
            return f"is not a cron expression: {str(error).lower()}"
        except StopIteration:
            return "never comes"
        return None

    def next_occurrence(self, moment: datetime) -> "Occurrence | None":
        """The first occurrence that can be started after a moment; None when there is none."""
        try:
            if self.timezone == DEVICE_ZONE:
                local = next(CronSim(self.cron, moment.astimezone(UTC) + MAX_UTC_OFFSET)).replace(tzinfo=None)
                return Occurrence(earliest_instant(local), local)
            return Occurrence(next(CronSim(self.cron, moment.astimezone(zone_or_utc(self.timezone)))).astimezone(UTC))
        except StopIteration:
            return None

    def explain(self) -> str:
        return CronSim(self.cron, datetime.now(UTC)).explain()


@dataclass(frozen=True, slots=True)
class Occurrence:
    """`at` (UTC) is when it starts; `local_at` (naive) what each device's own clock is to show."""

    at: datetime
    local_at: datetime | None = None


_UTC = ZoneInfo("UTC")
