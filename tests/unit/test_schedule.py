"""Local times, quiet hours and recurrences across changes to and from daylight saving time."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.schedule import (
    DEVICE_ZONE,
    QuietHours,
    Recurrence,
    earliest_instant,
    find_zone,
    latest_instant,
    to_utc,
    zone_or_utc,
)

ZONES = (
    "Europe/Vienna",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Etc/GMT+12",
    "UTC",
)
zones = st.sampled_from(ZONES)
FIRST, LAST = datetime.fromisoformat("2024-01-01"), datetime.fromisoformat("2030-01-01")
local_datetimes = st.datetimes(FIRST, LAST)
clock_times = st.times().map(lambda t: t.replace(second=0, microsecond=0))


@pytest.mark.parametrize(
    ("local", "name", "utc"),
    [
        ("2026-12-01T09:00", "Europe/Vienna", "2026-12-01T08:00"),
        ("2026-07-01T09:00", "Europe/Vienna", "2026-07-01T07:00"),
        ("2026-03-29T02:30", "Europe/Vienna", "2026-03-29T01:30"),  # 02:30 is skipped and becomes 03:30
        ("2026-10-25T02:30", "Europe/Vienna", "2026-10-25T00:30"),  # 02:30 occurs twice; the first one is used
        ("2026-11-01T01:30", "America/New_York", "2026-11-01T05:30"),
        ("2026-03-08T02:30", "America/New_York", "2026-03-08T07:30"),
        ("2026-10-04T02:15", "Australia/Lord_Howe", "2026-10-03T15:45"),
    ],
)
def test_local_time_is_converted_in_its_zone(local: str, name: str, utc: str) -> None:
    """A local time that the change to summer time skips is moved forward; of a repeated time, the first is used."""
    assert to_utc(datetime.fromisoformat(local), zone_or_utc(name)) == datetime.fromisoformat(f"{utc}+00:00")


@given(local_datetimes, zones)
def test_conversion_round_trips_except_for_skipped_times(local: datetime, name: str) -> None:
    """A skipped local time is converted to a time up to an hour later, a repeated local time to its first instant."""
    local = local.replace(microsecond=0)
    moment = to_utc(local, zone_or_utc(name))
    converted = moment.astimezone(ZoneInfo(name)).replace(tzinfo=None)
    assert converted == local or timedelta(0) < converted - local <= timedelta(hours=1)
    earlier = (moment - timedelta(hours=3)).astimezone(ZoneInfo(name)).replace(tzinfo=None)
    assert earlier < local  # the local time did not occur in the three hours before


@given(local_datetimes, zones)
def test_earliest_and_latest_instants_bound_all_zones(local: datetime, name: str) -> None:
    """In every zone a local time is between its earliest instant and an hour after its latest (for skipped times)."""
    assert earliest_instant(local) <= to_utc(local, zone_or_utc(name)) <= latest_instant(local) + timedelta(hours=1)


@pytest.mark.parametrize("name", ["Mars/Phobos", "", "../../etc/passwd", "/etc/localtime", "Europe", "x" * 300, "a\0b"])
def test_invalid_zone_is_none_and_falls_back_to_utc(name: str) -> None:
    """Paths and unknown names are not zones: `find_zone` returns None, and `zone_or_utc` UTC."""
    assert find_zone(name) is None
    assert zone_or_utc(name) is zone_or_utc("UTC")


def test_device_without_a_zone_is_in_utc() -> None:
    """A device that has not sent its zone has None."""
    assert zone_or_utc(None) is zone_or_utc("UTC")


@given(clock_times, clock_times, st.datetimes(FIRST, LAST, timezones=st.just(UTC)), zones)
def test_quiet_hours_end_exactly(start: time, end: time, now: datetime, name: str) -> None:
    """A time is quiet from start (inclusive) to end (exclusive), also across midnight."""
    quiet = QuietHours(start, end, name)
    until = quiet.end_of_quiet(None, now)
    local_time = now.astimezone(ZoneInfo(name)).time()
    inside = start <= local_time < end if start <= end else local_time >= start or local_time < end
    assert (until is not None) == inside
    if until is not None:
        assert now < until <= now + timedelta(hours=25)
        after = until.astimezone(ZoneInfo(name))
        # The end is exact, or up to an hour later if its local time is skipped.
        late_s = (datetime.combine(after.date(), after.time()) - datetime.combine(after.date(), end)).total_seconds()
        assert 0 <= late_s % 86_400 <= 3600


def test_quiet_hours_use_the_device_s_zone() -> None:
    """The same instant is quiet for a device in Vienna and not for a device in New York."""
    quiet, now = QuietHours(time(22), time(8), DEVICE_ZONE), datetime(2026, 11, 24, 22, 30, tzinfo=UTC)
    assert quiet.end_of_quiet("Europe/Vienna", now) == datetime(2026, 11, 25, 7, tzinfo=UTC)
    assert quiet.end_of_quiet("America/New_York", now) is None
    assert quiet.end_of_quiet(None, now) == datetime(2026, 11, 25, 8, tzinfo=UTC)


def test_quiet_hours_ending_in_a_repeated_hour_end_later() -> None:
    """02:30 occurs twice in that night; the quiet hours end at the first 02:30 after the current time."""
    quiet = QuietHours(time(22), time(2, 30), "Europe/Vienna")
    first = datetime(2026, 10, 25, 0, 10, tzinfo=UTC)  # 02:10, for the first time
    second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 again
    assert quiet.end_of_quiet(None, first) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert quiet.end_of_quiet(None, second) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "name", "after", "times"),
    [
        ("30 2 * * *", "Europe/Vienna", "2026-03-28T12:00", ["03-29T01:00", "03-30T00:30"]),  # 02:30 is skipped
        ("30 2 * * *", "Europe/Vienna", "2026-10-24T12:00", ["10-25T00:30", "10-26T01:30"]),  # 02:30 comes twice
        ("*/30 * * * *", "Europe/Vienna", "2026-10-25T00:05", ["10-25T00:30", "10-25T01:00", "10-25T01:30"]),
        ("0 9 * * 1-5", "America/New_York", "2026-10-30T20:00", ["11-02T14:00", "11-03T14:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29T00:00"]),
    ],
)
def test_recurrence_follows_the_clocks_of_its_zone(cron: str, name: str, after: str, times: list[str]) -> None:
    """A skipped time occurs an hour later, and a repeated time occurs once."""
    moment = datetime.fromisoformat(f"{after}+00:00")
    for expected in times:
        occurrence = Recurrence(cron, name).next_occurrence(moment)
        assert occurrence is not None
        year = "" if expected.startswith("2028") else "2026-"
        assert occurrence.at == datetime.fromisoformat(f"{year}{expected}+00:00")
        moment = occurrence.at


@given(st.datetimes(FIRST, LAST, timezones=st.just(UTC)), zones, st.integers(0, 59), st.integers(0, 23))
def test_daily_recurrence_occurs_once_a_day(start: datetime, name: str, minute: int, hour: int) -> None:
    """Five consecutive occurrences are on five days, also when the clock_times change."""
    daily, moment, days = Recurrence(f"{minute} {hour} * * *", name), start, []
    for _ in range(5):
        occurrence = daily.next_occurrence(moment)
        assert occurrence is not None
        assert occurrence.at > moment
        days.append(occurrence.at.astimezone(ZoneInfo(name)).date())
        moment = occurrence.at
    assert len(set(days)) == 5


@given(st.datetimes(FIRST, LAST, timezones=st.just(UTC)))
def test_device_time_recurrence_starts_in_the_first_zone(now: datetime) -> None:
    """An occurrence at 9:00 of the devices' local time starts when it is 9:00 in the easternmost zone."""
    occurrence = Recurrence("0 9 * * *", DEVICE_ZONE).next_occurrence(now)
    assert occurrence is not None
    assert occurrence.local_at is not None
    assert occurrence.local_at.time() == time(9)
    assert now < occurrence.at == earliest_instant(occurrence.local_at) <= now + timedelta(days=1)


@pytest.mark.parametrize("cron", ["", "x", "60 * * * *", "0 0 30 2 *", "* * * *", "0 9 * * MON#9", "0 0 31 4 *"])
def test_invalid_or_impossible_cron_has_an_error(cron: str) -> None:
    """Cron expressions that are malformed, or whose day never occurs, have an error."""
    assert Recurrence(cron).find_error() is not None
