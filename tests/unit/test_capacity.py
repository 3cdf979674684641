"""How many machines a fleet takes, and that the arithmetic holds in a simulation of it."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import capacity
from ops.capacity import COSTS, RULES, Fleet, most_of_one_application, per_worker, plan, row_held_s, whole

TEN_MILLION = Fleet(devices=10_000_000, messages_per_day=20_000_000, peak_minute=1_000_000)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    devices = draw(st.integers(1, 10**10))
    peak = draw(st.integers(0, 10**9))
    return Fleet(devices, draw(st.integers(peak, peak * 1440)), peak, draw(st.floats(0.1, 10_000)))


@settings(deadline=None)
@given(fleets(), st.floats(1, 1000))
def test_more_devices_never_need_fewer_workers(fleet: Fleet, times: float) -> None:
    few, many = plan(fleet), plan(replace(fleet, devices=int(fleet.devices * times)))
    assert many.workers >= few.workers
    assert many.servers >= few.servers
    assert many.postgres_servers >= few.postgres_servers
    assert many.devices_on_disk >= few.devices_on_disk


@settings(deadline=None)
@given(fleets(), st.integers(1, 100))
def test_more_messages_never_need_less(fleet: Fleet, times: int) -> None:
    more = replace(fleet, messages_per_day=fleet.messages_per_day * times, peak_minute=fleet.peak_minute * times)
    few, many = plan(fleet), plan(more)
    assert many.workers >= few.workers
    assert many.worker_cores >= few.worker_cores
    assert many.log_on_disk >= few.log_on_disk
    assert many.wal >= few.wal
    assert many.bandwidth_out >= few.bandwidth_out
    assert many.log_store >= few.log_store


@settings(deadline=None)
@given(fleets(), st.floats(1, 100))
def test_slower_push_services_never_need_fewer_workers(fleet: Fleet, times: float) -> None:
    assert plan(replace(fleet, answer_ms=fleet.answer_ms * times)).workers >= plan(fleet).workers


@given(st.floats(1, 1000), st.floats(1, 10))
def test_more_workers_never_settle_less_of_one_application(workers: float, times: float) -> None:
    few, many = most_of_one_application(workers), most_of_one_application(workers * times)
    assert many >= few * (1 - 1e-9)
    assert many <= RULES["job"].value / row_held_s(0)


def test_ten_million_devices_are_these_machines() -> None:
    """16,667 deliveries a second, of which a worker sends 1 s / 241 us at six tenths: 2,490."""
    found = plan(TEN_MILLION)
    assert (found.workers, found.worker_cores) == (7, 7)
    assert found.bound_by == "its processor"
    assert (found.queue, found.relays, found.nats_servers) == ("Postgres", 0, 0)
    assert found.devices_on_disk == 11e9
    assert found.log_on_disk == pytest.approx(20e6 * 90 * (434 + 0.01 * 282 + 0.32 * 180))
    assert not found.log_store


def test_slow_push_services_leave_a_worker_bound_by_what_it_may_have_in_flight() -> None:
    found = plan(replace(TEN_MILLION, answer_ms=1000))
    assert per_worker(1000)[1] == 1024
    assert found.bound_by == "what it may have in flight"
    assert found.workers > found.worker_cores


def test_a_billion_devices_are_more_than_one_postgres() -> None:
    found = plan(Fleet(10**9, 2 * 10**9, 10**8))
    assert found.queue == "NATS"
    assert found.relays > 0
    assert found.postgres_servers > 1
    assert found.log_store
    assert found.first_limit.used > 1


def test_nothing_to_send_still_has_two_of_everything() -> None:
    found = plan(Fleet(1, 0, 0))
    assert (found.workers, found.servers, found.postgres_servers) == (2, 2, 1)


def test_limits_come_nearest_first() -> None:
    used = [limit.used for limit in plan(TEN_MILLION).limits]
    assert used == sorted(used, reverse=True)


def test_every_figure_has_a_source() -> None:
    assert all(figure.source and figure.words for figure in (*COSTS.values(), *RULES.values()))


@pytest.mark.parametrize(
    ("words", "number"), [("10M", 10_000_000), ("1.5B", 1_500_000_000), ("2,000", 2000), ("2_000", 2000), ("7k", 7000)]
)
def test_large_numbers_are_read_as_people_write_them(words: str, number: int) -> None:
    assert whole(words) == number


GIVEN = ["--devices", "10M", "--messages-per-day", "20M", "--peak-minute", "1M"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "ten", *GIVEN[2:]], "'ten' is no number"),
        (["--devices", "", *GIVEN[2:]], "'' is no number"),
        (["--devices", "1.5", *GIVEN[2:]], "'1.5' is no number"),
        (["--devices", "0", *GIVEN[2:]], "there must be a device"),
        (GIVEN[:4], "--peak-minute"),
        ([*GIVEN, "--anser-ms", "5"], "--anser-ms"),
        ([*GIVEN, "--answer-ms", "nan"], "take some time"),
        ([*GIVEN, "--retention-days", "0"], "a day at least"),
        ([*GIVEN, "--registrations-per-second=-1"], "fewer than none"),
        ([*GIVEN[:4], "--peak-minute", "30M"], "more messages than the whole day"),
        ([*GIVEN[:4], "--peak-minute", "1k"], "fewer messages than the average"),
    ],
)
def test_a_mistake_is_told_in_a_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        capacity.main(words)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 2
    assert "Traceback" not in told


def test_help_names_every_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        capacity.main(["--help"])
    told = capsys.readouterr().out
    for name in ("--devices", "--messages-per-day", "--peak-minute", "--answer-ms", "--retention-days", "--figures"):
        assert name in told


def test_json_says_what_the_tables_say(capsys: pytest.CaptureFixture[str]) -> None:
    capacity.main([*GIVEN, "--json"])
    told = json.loads(capsys.readouterr().out)
    found = plan(TEN_MILLION)
    assert told["plan"]["workers"] == found.workers
    assert told["first_limit"] == found.first_limit.name
    capacity.main(GIVEN)
    assert f"{found.workers} processes" in capsys.readouterr().out


def test_the_simulation_agrees_below_the_knee(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few seconds of a small fleet, the same every time, come within a tenth of the arithmetic."""
    monkeypatch.syspath_prepend(Path(capacity.__file__).parent / "bench")  # benches are scripts
    fleet = importlib.import_module("fleet")
    found = fleet.Fleet(fleet.Setting(workers=4, alert_every_s=5.0, seconds=15.0)).run()
    assert found.rate == pytest.approx(found.model, rel=0.1)
    assert found.alert_p50_ms < 100
