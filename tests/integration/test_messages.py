"""Rendering: once for all devices with the same content, and once per device for personal content."""

from typing import Any

import pytest

from gateway.domain.device import ClientDetails
from gateway.domain.notification import Templating
from gateway.service.notifications import rendering
from gateway.sim import Vendor
from tests.support.gateway_parts import Parts

LANGUAGES = {"title": "Storm", "locales": {"de": {"title": "Sturm"}, "fr": {"title": "Orage"}}}


@pytest.mark.parametrize(
    ("content", "templating", "renderings"),
    [
        ({"title": "Storm"}, None, 1),
        ({"title": "{{ event.name }} {{ notification.kind }}"}, Templating(event={"name": "Storm"}), 1),
        (LANGUAGES, None, 2),  # no device has the locale fr
        ({"title": "{{ device.id }}"}, Templating(), 700),
    ],
    ids=["static", "event variables only", "languages", "personal"],
)
async def test_equal_content_is_rendered_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, content: Any, templating: Templating | None, renderings: int
) -> None:
    """Content is rendered once for all devices that get the same text."""
    await parts.register(parts.subscribe(Vendor.FCM, 350, share_keys=True))
    german = ClientDetails(locale="de-AT")
    await parts.register(parts.subscribe(Vendor.FCM, 350, share_keys=True), client=german)
    sent = await parts.submit(content=content, templating=templating)
    count = 0
    compose = rendering.compose

    def counting_compose(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return compose(*args, **kwargs)

    monkeypatch.setattr(rendering, "compose", counting_compose)
    async with parts.run_worker():
        assert (await parts.wait_until_done(sent.id)).accepted == 700
    assert count == renderings
