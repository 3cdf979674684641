"""Hostile templates and alert documents of one application delay no alert of another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gateway.sim import Vendor
from tests.support.alerts import CAP, star_document
from tests.support.bystander import Bystander
from tests.support.gateway_parts import Parts
from tests.support.hostile_templates import HOSTILE_RENDERINGS, HOSTILE_SOURCES

# Concurrent attacks. They are few, and each pauses after a request: the test is of the input, not of the load.
CONCURRENCY = 2
PAUSE_S = 0.1


@asynccontextmanager
async def attack_repeatedly(
    http: aiohttp.ClientSession, url: str, key: str, *bodies: Any, raw: bytes | None = None
) -> AsyncIterator[list[int]]:
    """POST the bodies to `url` again and again until the context ends; yield the list of the responses' statuses.

    The bodies are JSON values, or with `raw` one CAP document.
    """
    statuses: list[int] = []

    async def attack() -> None:
        headers = {"Authorization": f"Bearer {key}"} | ({} if raw is None else {"Content-Type": CAP})
        while True:
            for body in bodies or (None,):
                async with http.post(url, headers=headers, json=body, data=raw) as response:
                    await response.read()
                    statuses.append(response.status)
                await asyncio.sleep(PAUSE_S)

    attacks = [asyncio.create_task(attack()) for _ in range(CONCURRENCY)]
    try:
        yield statuses
    finally:
        for task in attacks:
            task.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)


@pytest.mark.parametrize("sources", [HOSTILE_SOURCES, HOSTILE_RENDERINGS], ids=["sources", "renderings"])
async def test_hostile_template_delays_no_alert(
    parts: Parts, bystander: Bystander, origin: str, http: aiohttp.ClientSession, sources: dict[str, str]
) -> None:
    """The attacker previews templates whose cost python-liquid does not bound."""
    event = {"n": 500_000_000, "numbers": list(range(1000)), "text": "a" * 4000}
    bodies = [{"content": {"title": "t", "data": {"x": source}}, "event": event} for source in sources.values()]
    key = parts.application["secret_key"]
    async with attack_repeatedly(http, f"{origin}/v1/templates/preview", key, *bodies) as statuses:
        await bystander.check_alert()
    assert set(statuses) <= {200, 422, 429}


async def test_hostile_campaign_delays_no_alert(
    parts: Parts, bystander: Bystander, origin: str, http: aiohttp.ClientSession
) -> None:
    """The attacker sends a campaign to 300 devices, whose template uses the allowed time for each of them."""
    await parts.register(parts.subscribe(Vendor.FCM, 300))
    loops = "{% for i in (1..1000) %}{% if user.attributes contains i %}{% endif %}{% endfor %}" * 2
    content = {"title": "t {{ user.id }}", "body": loops}
    body = {"name": "hostile", "content": content, "audience": {"everyone": True}}
    headers = {"Authorization": f"Bearer {parts.application['secret_key']}"}
    async with http.post(f"{origin}/v1/campaigns", headers=headers, json=body) as response:
        assert response.status == 201, await response.text()
    await bystander.check_alert()


@pytest.mark.parametrize(("polygons", "corners"), [(1, 60), (7, 100), (300, 100)])
async def test_hostile_document_delays_no_alert(
    parts: Parts, bystander: Bystander, origin: str, http: aiohttp.ClientSession, polygons: int, corners: int
) -> None:
    """The attacker sends documents of star polygons with a secret key of the attacking application."""
    document = star_document(polygons, corners)
    async with attack_repeatedly(
        http, f"{origin}/v1/alerts", parts.application["secret_key"], raw=document
    ) as statuses:
        await bystander.check_alert()
    assert set(statuses) <= {200, 201, 422, 429}
