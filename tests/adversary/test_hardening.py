"""What a stranger, a page or a tenant may read and set: metrics, time zones, click URLs, and secrets in logs."""

import asyncio
import json
import re
import socket
from pathlib import Path

import aiohttp
import pytest
from structlog.typing import EventDict

from gateway import log
from gateway.domain import ids
from gateway.service.access.secrets import new_key
from gateway.sim import Vendor
from tests.support.api import Api
from tests.support.bystander import Bystander
from tests.support.gateway_parts import APP_ORIGIN, Parts
from tests.support.worker_process import server_process, worker_process

INVENTED_HOSTS = 200


async def test_metrics_are_not_on_the_public_port(
    origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """A stranger cannot read the metrics of the tenants at the address that browsers use."""
    async with http.get(f"{origin}/metrics") as response:
        assert response.status == 404
    await bystander.check_alert()


async def test_server_has_metrics_on_a_separate_port(parts: Parts, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """The port of the setting METRICS_PORT serves the metrics, with the token, and nothing else."""
    port = free_port()
    async with server_process(parts, tmp_path, metrics_port=port, metrics_token="scrape"):
        url = f"http://127.0.0.1:{port}"
        async with http.get(f"{url}/metrics") as refused:
            assert refused.status == 401
        async with http.get(f"{url}/metrics", headers={"Authorization": "Bearer scrape"}) as scraped:
            assert "gateway_http_requests_total" in await scraped.text()
        async with http.get(f"{url}/v1/devices") as other:
            assert other.status == 404


async def test_invented_hosts_share_one_metric_label(parts: Parts, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """200 devices at 200 different hosts that a wildcard allows add one value of the label `host`, not 200."""
    port = free_port()
    settings = {"push_hosts": f"*.push.invalid,{','.join(parts.sim.origins.values())}"}
    async with server_process(parts, tmp_path, **settings) as (_, origin):
        for number in range(INVENTED_HOSTS):
            [subscriber] = parts.subscribe(Vendor.FCM, 1, share_keys=True)
            subscription = subscriber.to_json() | {"endpoint": f"https://h{number}.push.invalid/send/{number}"}
            await post(http, f"{origin}/v1/devices", parts, {"subscription": subscription})
        content = {"title": "Storm"}
        body = {"audience": {"everyone": True}, "content": content, "delivery": {"ttl": 60}}
        await post(http, f"{origin}/v1/notifications", parts, body)
        async with worker_process(parts, tmp_path, metrics_port=port, **settings):
            async with asyncio.timeout(60):
                while not (hosts := await scrape_hosts(http, port)):  # noqa: ASYNC110 - another process gives no event
                    await asyncio.sleep(0.1)
    assert "*.push.invalid" in hosts
    assert len(hosts) <= 6


async def test_unknown_time_zone_is_refused(api: Api) -> None:
    """A zone that does not exist is refused when a device registers, changes or is imported."""
    device = api.device(client={"timezone": "Mars/Phobos"})
    refused = await api.call("POST", "/v1/devices", device, key=api.publishable, origin=APP_ORIGIN)
    assert (refused.status, refused.pointers) == (422, ["/client/timezone"])
    registered = await api.register(client={"timezone": "Europe/Vienna"})
    change = {"client": {"timezone": "Etc/Unknown"}}
    refused = await api.call("PATCH", f"/v1/devices/{registered['id']}", change)
    assert (refused.status, refused.pointers) == (422, ["/client/timezone"])
    headers = {"Content-Type": "application/x-ndjson"}
    raw = b"".join(encode_line(api.device(client={"timezone": zone})) for zone in ("Asia/Tokyo", "Nowhere"))
    lines = await api.call_ok("POST", "/v1/devices/import", raw=raw, headers=headers)
    assert re.findall(r'"status":\s*"(\w+)"', lines) == ["created", "refused"]


@pytest.mark.parametrize(
    "url", ["https://bank.example@evil.example/login", "https://user:word@evil.example/", "http://a@b.example"]
)
async def test_click_url_with_userinfo_is_refused(api: Api, url: str) -> None:
    """`https://bank.example@evil.example` looks like a page of bank.example, but opens evil.example."""
    body = {"audience": {"everyone": True}, "content": {"title": "Sign in", "url": url}}
    refused = await api.call("POST", "/v1/notifications", body)
    assert (refused.status, refused.pointers) == (422, ["/content/url"])


async def test_rendered_click_url_with_userinfo_is_rejected(api: Api) -> None:
    """A template cannot render a click URL with user information either."""
    parts = api.parts
    await parts.register(parts.subscribe(Vendor.FCM, 1), attributes={"site": "https://bank.example@evil.example/"})
    body = {"audience": {"everyone": True}, "content": {"title": "x", "url": "{{ user.attributes.site }}"}}
    sent = await api.call_ok("POST", "/v1/notifications", body)
    id_ = ids.parse(ids.NOTIFICATION, sent["id"])
    assert id_ is not None
    async with parts.run_worker():
        assert (await parts.wait_until_done(id_)).rejected == 1


@pytest.mark.parametrize("prefix", ["ss", "is", "sk", "pk"])
def test_issued_secret_is_masked_in_any_text(prefix: str) -> None:
    """Session tokens and identity secrets are masked by their form, like API keys."""
    secret = new_key(prefix)
    event: EventDict = {"event": f"refused {secret}, retried", "url": f"/x?y={secret}", "list": [{"a": secret}]}
    assert secret[3:] not in str(log.mask(None, "", event))
    assert log.mask(None, "", {"event": "is_blocked_on_a_winner_that_is_not_decided"}) == {
        "event": "is_blocked_on_a_winner_that_is_not_decided"
    }


def free_port() -> int:
    """Return a port on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def encode_line(body: object) -> bytes:
    """Return the line of an NDJSON import with a registration."""
    return json.dumps(body).encode() + b"\n"


async def post(http: aiohttp.ClientSession, url: str, parts: Parts, body: object) -> None:
    """Send a request with the application's secret key; it must succeed."""
    headers = {"Authorization": f"Bearer {parts.application['secret_key']}"}
    async with http.post(url, json=body, headers=headers) as response:
        assert response.status < 300, await response.text()


async def scrape_hosts(http: aiohttp.ClientSession, port: int) -> set[str]:
    """Return the values of the label `host`; none before the worker has counted an attempt."""
    try:
        async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    except aiohttp.ClientConnectionError:
        return set()
    return set(re.findall(r'host="([^"]*)"', text)) if "gateway_attempts_total{" in text else set()
