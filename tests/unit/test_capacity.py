"""The capacity model of `ops/capacity`, and its agreement with the simulation of `ops/bench/fleet`."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import capacity
from ops.capacity import COSTS, RULES, Fleet, max_rate_of_application, parse_count, per_worker, plan, row_lock_s

TEN_MILLION = Fleet(devices=10_000_000, messages_per_day=20_000_000, peak_minute=1_000_000)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Generate fleets whose peak minute fits in their day."""
    devices = draw(st.integers(1, 10**10))
    peak = draw(st.integers(0, 10**9))
    return Fleet(devices, draw(st.integers(peak, peak * 1440)), peak, draw(st.floats(0.1, 10_000)))


@given(fleets(), st.floats(1, 1000))
def test_more_devices_never_need_fewer_processes(fleet: Fleet, times: float) -> None:
    """The model is monotonic in the number of devices."""
    smaller, larger = plan(fleet), plan(replace(fleet, devices=int(fleet.devices * times)))
    assert larger.workers >= smaller.workers
    assert larger.servers >= smaller.servers
    assert larger.postgres_servers >= smaller.postgres_servers
    assert larger.devices_on_disk >= smaller.devices_on_disk


@given(fleets(), st.integers(1, 100))
def test_more_messages_never_need_fewer_resources(fleet: Fleet, times: int) -> None:
    """The model is monotonic in the number of messages."""
    larger_fleet = replace(
        fleet, messages_per_day=fleet.messages_per_day * times, peak_minute=fleet.peak_minute * times
    )
    smaller, larger = plan(fleet), plan(larger_fleet)
    assert larger.workers >= smaller.workers
    assert larger.worker_cores >= smaller.worker_cores
    assert larger.log_on_disk >= smaller.log_on_disk
    assert larger.wal >= smaller.wal
    assert larger.bandwidth_out >= smaller.bandwidth_out
    assert larger.log_store >= smaller.log_store


@given(fleets(), st.floats(1, 100))
def test_slower_push_services_never_need_fewer_workers(fleet: Fleet, times: float) -> None:
    """The model is monotonic in the response time of push services."""
    assert plan(replace(fleet, answer_ms=fleet.answer_ms * times)).workers >= plan(fleet).workers


@given(st.floats(1, 1000), st.floats(1, 10))
def test_more_workers_never_settle_less_of_an_application(workers: float, times: float) -> None:
    """An application's maximum rate grows with the workers, up to the limit that the lock on its row sets."""
    smaller, larger = max_rate_of_application(workers), max_rate_of_application(workers * times)
    assert larger >= smaller * (1 - 1e-9)
    assert larger <= RULES["job"].value / row_lock_s(0)


def test_ten_million_devices_need_seven_workers() -> None:
    """The peak is 16,667 deliveries per second; a worker at 60 % use sends 2,490 per second (241 us each)."""
    fleet_plan = plan(TEN_MILLION)
    assert (fleet_plan.workers, fleet_plan.worker_cores) == (7, 7)
    assert fleet_plan.bound_by == "its processor"
    assert (fleet_plan.queue, fleet_plan.relays, fleet_plan.nats_servers) == ("Postgres", 0, 0)
    assert fleet_plan.devices_on_disk == 11e9
    assert fleet_plan.log_on_disk == pytest.approx(20e6 * 90 * (434 + 0.01 * 282 + 0.32 * 180))
    assert not fleet_plan.log_store


def test_slow_push_services_limit_workers_by_in_flight() -> None:
    """At a response time of one second a worker is limited by its messages in flight, not by its processor."""
    fleet_plan = plan(replace(TEN_MILLION, answer_ms=1000))
    assert per_worker(1000)[1] == 1024
    assert fleet_plan.bound_by == "its messages in flight"
    assert fleet_plan.workers > fleet_plan.worker_cores


def test_billion_devices_need_several_postgres_and_nats() -> None:
    """The plan has NATS with relays, several Postgres servers and a separate store for the delivery log."""
    fleet_plan = plan(Fleet(10**9, 2 * 10**9, 10**8))
    assert fleet_plan.queue == "NATS"
    assert fleet_plan.relays > 0
    assert fleet_plan.postgres_servers > 1
    assert fleet_plan.log_store
    assert fleet_plan.first_limit.used > 1


def test_idle_fleet_has_two_workers_and_two_servers() -> None:
    """There are two workers and two servers, so that one of each may fail, and one Postgres server."""
    fleet_plan = plan(Fleet(1, 0, 0))
    assert (fleet_plan.workers, fleet_plan.servers, fleet_plan.postgres_servers) == (2, 2, 1)


def test_limits_are_sorted_by_utilisation() -> None:
    """The limit with the highest utilisation comes first."""
    utilisations = [limit.used for limit in plan(TEN_MILLION).limits]
    assert utilisations == sorted(utilisations, reverse=True)


def test_every_figure_has_a_source() -> None:
    """Each figure of the model names its benchmark or its reason."""
    assert all(figure.source and figure.description for figure in (*COSTS.values(), *RULES.values()))


@pytest.mark.parametrize(
    ("value", "number"), [("10M", 10_000_000), ("1.5B", 1_500_000_000), ("2,000", 2000), ("2_000", 2000), ("7k", 7000)]
)
def test_counts_accept_separators_and_suffixes(value: str, number: int) -> None:
    """A count may have commas or underscores, and the suffix k, M or B."""
    assert parse_count(value) == number


REQUIRED_OPTIONS = ["--devices", "10M", "--messages-per-day", "20M", "--peak-minute", "1M"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "ten", *REQUIRED_OPTIONS[2:]], "'ten' is not an integer"),
        (["--devices", "", *REQUIRED_OPTIONS[2:]], "'' is not an integer"),
        (["--devices", "1.5", *REQUIRED_OPTIONS[2:]], "'1.5' is not an integer"),
        (["--devices", "0", *REQUIRED_OPTIONS[2:]], "devices must be at least 1"),
        (REQUIRED_OPTIONS[:4], "--peak-minute"),
        ([*REQUIRED_OPTIONS, "--anser-ms", "5"], "--anser-ms"),
        ([*REQUIRED_OPTIONS, "--answer-ms", "nan"], "must be a positive number"),
        ([*REQUIRED_OPTIONS, "--retention-days", "0"], "at least 1 day"),
        ([*REQUIRED_OPTIONS, "--registrations-per-second=-1"], "must not be negative"),
        ([*REQUIRED_OPTIONS[:4], "--peak-minute", "30M"], "more messages than the whole day"),
        ([*REQUIRED_OPTIONS[:4], "--peak-minute", "1k"], "fewer messages than the average"),
    ],
)
def test_invalid_option_prints_one_line_and_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A usage error is one line with a hint to --help, without a traceback."""
    with pytest.raises(SystemExit) as exit_info:
        capacity.main(arguments)
    assert exit_info.value.code == 2
    error_output = capsys.readouterr().err
    assert message in error_output
    assert len(error_output.splitlines()) == 2
    assert "Traceback" not in error_output


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """The output of --help has the name of each option."""
    with pytest.raises(SystemExit):
        capacity.main(["--help"])
    output = capsys.readouterr().out
    for name in ("--devices", "--messages-per-day", "--peak-minute", "--answer-ms", "--retention-days", "--figures"):
        assert name in output


def test_json_and_tables_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """The output of --json and the tables have the same number of workers."""
    capacity.main([*REQUIRED_OPTIONS, "--json"])
    output = json.loads(capsys.readouterr().out)
    fleet_plan = plan(TEN_MILLION)
    assert output["plan"]["workers"] == fleet_plan.workers
    assert output["first_limit"] == fleet_plan.first_limit.name
    capacity.main(REQUIRED_OPTIONS)
    assert f"{fleet_plan.workers} processes" in capsys.readouterr().out


def test_simulation_agrees_with_the_model_below_the_knee(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate of a simulated fleet of four workers differs by at most 10 % from the rate of the model."""
    monkeypatch.syspath_prepend(Path(capacity.__file__).parent / "bench")  # benches are scripts
    fleet = importlib.import_module("fleet")
    result = fleet.Fleet(fleet.Setting(workers=4, alert_every_s=5.0, seconds=15.0)).run()
    assert result.rate == pytest.approx(result.model, rel=0.1)
    assert result.alert_p50_ms < 100
