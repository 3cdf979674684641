"""`gateway doctor`: the level and the advice of each finding."""

import time

import pytest

from gateway.cli import doctor
from gateway.cli.doctor import Finding, compare_clock, run_checks
from gateway.records.postgres import clock_sync
from gateway.sim import Vendor
from tests.support.gateway_parts import MASTER_KEY, Parts


@pytest.fixture
def parts(parts: Parts, own_clock: None, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """A gateway, with the environment variables that the command reads."""
    monkeypatch.setenv("GATEWAY_DATABASE_URL", parts.url)
    monkeypatch.setenv("GATEWAY_MASTER_KEY", MASTER_KEY.decode())
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", "an admin token")
    monkeypatch.setenv("GATEWAY_PUSH_HOSTS", ",".join(parts.sim.origins.values()))
    monkeypatch.setattr(doctor, "VENDORS", {})  # tests connect to no real push service
    return parts


def problem_levels(findings: list[Finding]) -> dict[str, str]:
    """Return the level of each finding that is not ok, by check, after asserting that each has an advice."""
    problems = [finding for finding in findings if finding.level != "ok"]
    assert all(finding.advice for finding in problems), problems
    return {finding.check: finding.level for finding in problems}


async def test_doctor_reports_each_fault_with_advice(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy installation has only findings with the level ok; each fault is an error with advice."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    findings = await run_checks(None, offline=False)
    assert problem_levels(findings) == {}, findings
    assert [finding.check for finding in findings].count("push service") == 4

    await parts.submit()
    async with parts.engine.begin() as conn:
        for statement in (
            "UPDATE applications SET subject = 'mailto:ops@localhost'",
            "UPDATE jobs SET run_at = now() - interval '3 hours'",
            "UPDATE devices SET host = '127.0.0.1:1'",
        ):
            await conn.exec_driver_sql(statement)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 7200)
    findings = await run_checks(None, offline=False)
    expected = dict.fromkeys(("clock", "VAPID subject", "queue", "push service"), "error")
    assert problem_levels(findings) == expected, findings
    [unreachable] = [
        finding.message for finding in findings if finding.check == "push service" and finding.level == "error"
    ]
    assert unreachable.startswith("127.0.0.1:1 cannot be reached")
    assert [compare_clock(seconds).level for seconds in (-1, 60, -9000)] == ["ok", "warning", "error"]
    assert "1 due, the oldest for 3 h" in next(finding.message for finding in findings if finding.check == "queue")


async def test_doctor_reports_risks_as_warnings(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions that may lead to a fault are warnings."""

    async def offset_clock(*_: object) -> float:
        return -60.0

    async with parts.engine.begin() as conn:
        await conn.exec_driver_sql("DELETE FROM devices")
        [today, *_] = (await conn.exec_driver_sql("SELECT to_char(now() AT TIME ZONE 'utc' + '1 d', 'YYYYMMDD')")).one()
        await conn.exec_driver_sql(f"DROP TABLE deliveries_{today}")
    monkeypatch.setattr(clock_sync, "sync_clock", offset_clock)
    monkeypatch.setenv("GATEWAY_PUSH_HOSTS", "http://127.0.0.1:1")
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "http://push.example.org")
    findings = await run_checks(None, offline=False)
    assert problem_levels(findings) == dict.fromkeys(
        ("public url", "clock", "maintenance", "push service"), "warning"
    ), findings
