"""Statistics of recent deliveries: exact for time steps with few deliveries, estimated for steps with many."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from gateway.domain import clock
from gateway.records.delivery_log import statistics
from gateway.service.reporting.breakers import ApplicationLimit
from gateway.sim import Rule, Vendor
from tests.support.api import ADMIN, Api


@dataclass
class OpenBreaker:
    """A worker that sends nothing to a push service, which also limits every application."""

    push_service: str

    def open_breakers(self, application_id: UUID) -> set[str]:
        return {self.push_service}

    def limits(self, application_id: UUID) -> list[ApplicationLimit]:
        return [ApplicationLimit(self.push_service, 2.5, 60)]


async def test_statistics_count_steps_services_and_lanes(api: Api) -> None:
    """Statistics are counted by step, push service and lane, for one application."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 8))
    api.parts.sim.behave(Rule(status=410, share=0.4))
    sent = await api.parts.submit()
    async with api.parts.run_worker():
        await api.parts.wait_until_done(sent.id)
    await api.parts.submit(start_at=clock.now() + timedelta(hours=1))
    stats = await api.call_ok("GET", "/v1/stats")
    assert len(stats["steps"]) == 60
    assert not stats["estimated"]
    assert sum(step["settled"] for step in stats["steps"]) == 8
    [service] = stats["push_services"]
    gone = len((await api.call_ok("GET", "/v1/deliveries?outcome=gone"))["items"])
    assert (service["outcomes"]["accepted"], service["outcomes"]["gone"]) == (8 - gone, gone)
    steps = [step for step in stats["steps"] if step["accept_ms"]]
    assert bool(steps) is (gone < 8)
    assert all(0 <= step[name]["p50"] <= step[name]["p95"] for step in steps for name in ("accept_ms", "answer_ms"))
    assert {lane["lane"]: lane["later"] for lane in stats["queue"]} == {"urgent": 0, "normal": 0, "bulk": 1}

    other = await api.call_ok(
        "POST", "/v1/applications", {"name": "Other", "subject": "mailto:o@example.org"}, key=ADMIN
    )
    with api.parts.context.breakers.add_source(OpenBreaker(service["push_service"])):
        [reported] = (await api.call_ok("GET", "/v1/stats"))["push_services"]
    assert (reported["breaker"], reported["limit"]["per_second"]) == ("open", 2.5)
    assert reported["limit"]["held_until"]
    [reported] = (await api.call_ok("GET", "/v1/stats"))["push_services"]
    assert (reported["breaker"], reported["limit"]) == ("closed", None)

    empty = await api.call_ok("GET", "/v1/stats?by=hour", key=other["secret_key"])
    assert (empty["push_services"], sum(lane["later"] for lane in empty["queue"])) == ([], 0)
    assert (await api.call("GET", "/v1/stats", key=api.publishable)).status == 403
    assert (await api.call("GET", "/v1/stats?since=2026-01-01T00:00:00Z")).pointers == ["/query/since"]


async def test_large_step_is_counted_and_its_mix_estimated(api: Api) -> None:
    """The deliveries of a large step are counted by log positions, and its outcomes are estimated from a sample."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, statistics.SAMPLE_SIZE + 60, share_keys=True))
    api.parts.sim.behave(Rule(status=410, share=0.3))
    sent = await api.parts.submit()
    async with api.parts.run_worker():
        await api.parts.wait_until_done(sent.id)
    stats = await api.call_ok("GET", "/v1/stats?by=day")
    assert stats["estimated"]
    assert sum(step["settled"] for step in stats["steps"]) == statistics.SAMPLE_SIZE + 60
    [service] = stats["push_services"]
    assert sum(service["outcomes"].values()) == statistics.SAMPLE_SIZE + 60
    assert service["outcomes"]["accepted"]
