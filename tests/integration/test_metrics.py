"""The metrics of servers and workers, and the token that protects them."""

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from gateway.domain.notification import Kind
from gateway.sim import Vendor
from gateway.web.api import health
from tests.support.api import Api
from tests.support.worker_process import worker_process

TOKEN = "a metrics token for tests"
# Samples that a delivery increments; an empty label stands for the host.
SAMPLES = (
    ("gateway_attempts_total", {"host": "", "outcome": "accepted"}),
    ("gateway_attempt_seconds_count", {"host": ""}),
    ("gateway_attempt_seconds_bucket", {"host": "", "le": "+Inf"}),
    ("gateway_accept_to_send_seconds_count", {"lane": "urgent"}),
    ("gateway_deliveries_settled_total", {"outcome": "accepted"}),
    ("gateway_settle_batch_size_sum", {}),
    ("gateway_deliveries_planned_total", {"kind": "alert"}),
)


async def test_delivery_is_counted_by_host_outcome_and_lane(api: Api) -> None:
    """Each delivery is counted once in each metric."""
    parts, host = api.parts, api.parts.sim.origins[Vendor.FCM].partition("://")[2]
    await parts.register(parts.subscribe(Vendor.FCM, 30, share_keys=True))

    def read_samples() -> list[float]:
        return [
            REGISTRY.get_sample_value(name, {label: value or host for label, value in labels.items()}) or 0.0
            for name, labels in SAMPLES
        ]

    before = read_samples()
    async with parts.run_worker():
        sent = await parts.submit(Kind.ALERT)
        await parts.wait_until_done(sent.id)
        assert REGISTRY.get_sample_value("gateway_breaker_open", {"host": host}) == 0
        assert REGISTRY.get_sample_value("gateway_messages_in_flight_limit", {"host": host}) == 64
    assert [after - earlier for after, earlier in zip(read_samples(), before, strict=True)] == [30] * len(SAMPLES)
    # The worker has stopped, and the state of its hosts is not exported any more.
    assert REGISTRY.get_sample_value("gateway_breaker_open", {"host": host}) is None


@pytest.mark.parametrize(
    ("token", "credential", "status"),
    [
        (None, None, 200),
        (TOKEN, TOKEN, 200),
        (TOKEN, None, 401),
        (TOKEN, f"{TOKEN}2", 401),
    ],
)
async def test_metrics_require_the_token_if_set(token: str | None, credential: str | None, status: int) -> None:
    """With a metrics token, a request without it is refused; without a metrics token, none is needed."""
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    request = make_mocked_request("GET", "/metrics", headers=headers)
    handler = (await health.metrics_app(token).router.resolve(request)).handler
    response = await handler(request)
    assert response.status == status


async def test_requests_are_counted_by_known_labels(api: Api) -> None:
    """Requests are counted by route, and unknown methods and paths share one label."""
    await api.call("GET", "/v1/devices")
    await api.call("PROPFIND", "/v1/nothing/at/all")
    assert REGISTRY.get_sample_value("gateway_http_request_seconds_count", {"route": "/v1/devices"})
    labels = {"method": "other", "route": "none", "code": "404"}
    assert REGISTRY.get_sample_value("gateway_http_requests_total", labels)


async def test_worker_serves_metrics_on_its_metrics_port(api: Api, tmp_path: Path) -> None:
    """A worker serves its metrics and those of the queue on the port of the setting METRICS_PORT."""
    with socket.create_server(("127.0.0.1", 0)) as free_socket:
        port = free_socket.getsockname()[1]
    settings = {"metrics_port": port, "metrics_token": TOKEN}
    async with worker_process(api.parts, tmp_path, **settings) as worker, aiohttp.ClientSession() as http:
        await wait_until_answered(http, f"http://127.0.0.1:{port}/healthz")
        async with http.get(f"http://127.0.0.1:{port}/metrics") as refused:
            assert (refused.status, refused.headers["X-Content-Type-Options"]) == (401, "nosniff")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with asyncio.timeout(60):
            while True:
                async with http.get(f"http://127.0.0.1:{port}/metrics", headers=headers) as response:
                    text = await response.text()
                families = {family.name: family.samples for family in text_string_to_metric_families(text)}
                if families["gateway_queue_jobs"]:
                    break
                await asyncio.sleep(0.05)  # another process raises no event
        assert {sample.labels["lane"] for sample in families["gateway_queue_jobs"]} == {"urgent", "normal", "bulk"}
        assert {sample.labels["state"] for sample in families["gateway_database_connections"]} == {"in_use", "idle"}
        assert [sample.value for sample in families["gateway_database_connections_limit"]] == [6]
        assert families["gateway_maintenance_last_success_timestamp_seconds"]
        assert await worker.terminate() == 0


async def wait_until_answered(http: aiohttp.ClientSession, url: str) -> None:
    """Request a URL until it is answered with 200."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with http.get(url) as response:
                    assert response.status == 200
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)  # another process raises no event
