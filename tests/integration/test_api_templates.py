"""Templates and languages over HTTP, up to the content that each device receives."""

from typing import Any

import pytest

from gateway.sim import Subscriber, Vendor
from tests.support.api import Api
from tests.support.gateway_parts import APP_ORIGIN

GREETING = {
    "title": "Hi {{ user.attributes.first_name | default: 'there' }}",
    "body": "{{ event.name }} on {{ device.platform }}",
    "url": "/find?q={{ user.attributes.plan }}",
    "locales": {"de": {"title": "Hallo {{ user.attributes.first_name }}"}, "de-AT": {"title": "Servus"}},
}


async def register_subscriber(api: Api, **details: Any) -> Subscriber:
    """Register an FCM device with the secret key; `details` are fields of the request body."""
    [subscriber] = api.parts.subscribe(Vendor.FCM, 1)
    await api.call_ok("POST", "/v1/devices", {"subscription": subscriber.to_json(), **details})
    return subscriber


async def deliver(api: Api, sent: Any) -> Any:
    """Run a worker until the notification has settled, and return the notification."""
    id_ = await api.parts.scalar("SELECT id FROM notifications ORDER BY id DESC LIMIT 1")
    async with api.parts.run_worker():
        await api.parts.wait_until_done(id_)
    return await api.call_ok("GET", f"/v1/notifications/{sent['id']}")


def received_notification(subscriber: Subscriber) -> Any:
    """Return the notification of the only message that the subscriber received."""
    [message] = subscriber.messages
    return message.json()["notification"]


async def test_each_device_gets_its_own_text_and_language(api: Api) -> None:
    """Each device receives the template rendered with its values and in its language."""
    ada = await register_subscriber(api, attributes={"first_name": "Ada", "plan": "a&b"}, client={"platform": "ios"})
    german = await register_subscriber(api, attributes={"first_name": "Max"}, client={"locale": "de-CH"})
    austrian = await register_subscriber(api, client={"locale": "de-at"})
    sent = await api.call_ok(
        "POST",
        "/v1/notifications",
        {"content": GREETING, "audience": {"everyone": True}, "event": {"name": "Sale"}},
    )
    assert (await deliver(api, sent))["progress"]["accepted"] == 3
    assert [received_notification(subscriber)["title"] for subscriber in (ada, german, austrian)] == [
        "Hi Ada",
        "Hallo Max",
        "Servus",
    ]
    assert received_notification(ada)["body"] == "Sale on ios"
    assert received_notification(ada)["navigate"] == f"{APP_ORIGIN}/find?q=a%26b"
    assert received_notification(austrian)["navigate"] == f"{APP_ORIGIN}/find?q="


async def test_url_may_be_a_value_and_paths_use_app_origin(api: Api) -> None:
    """A URL may be one template value; a path is resolved against the application's origin."""
    subscriber = await register_subscriber(api, attributes={"link": "/orders/7"})
    content = {"title": "Order", "url": "{{ user.attributes.link }}", "tag": "order-{{ event.id }}"}
    request = {"content": content, "audience": {"everyone": True}, "event": {"id": 7}}
    await deliver(api, await api.call_ok("POST", "/v1/notifications", request))
    assert (received_notification(subscriber)["navigate"], received_notification(subscriber)["tag"]) == (
        f"{APP_ORIGIN}/orders/7",
        "order-7",
    )


async def test_device_with_unsendable_values_is_rejected_alone(api: Api) -> None:
    """A device whose values make its message invalid is rejected; other devices are not affected."""
    for link in ("https://shop.example/a", "javascript:alert(1)", "x" * 3000):
        await api.register(attributes={"link": link[:1000], "long": "y" * 1000})
    content = {
        "title": "t",
        "url": "{{ user.attributes.link }}",
        "body": "{% if user.attributes.link contains 'shop' %}{{ user.attributes.long }}{% endif %}",
    }
    sent = await api.call_ok("POST", "/v1/notifications", {"content": content, "audience": {"everyone": True}})
    done = await deliver(api, sent)
    assert (done["progress"]["accepted"], done["progress"]["rejected"]) == (1, 2)
    rejected = (await api.call_ok("GET", "/v1/deliveries?outcome=rejected"))["items"]
    assert all(row["cause"].startswith("url: must be an absolute") for row in rejected)
    assert all(row["attempts"] == 0 for row in rejected)


async def test_expensive_template_is_rejected_for_everyone(api: Api) -> None:
    """Loops that are too long are not begun, for any device."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 300))
    inner = "{% assign x = user.id | append: 'a' %}"
    expensive = "{% for i in (1..1000) %}" + inner * 30 + "{% endfor %}"
    sent = await api.call_ok(
        "POST", "/v1/notifications", {"content": {"title": "t", "body": expensive}, "audience": {"everyone": True}}
    )
    done = await deliver(api, sent)
    assert done["progress"]["rejected"] == 300
    causes = {row["cause"] for row in (await api.call_ok("GET", "/v1/deliveries?limit=1000"))["items"]}
    assert causes == {"body: has loops that are too long"}


async def test_oversized_rendering_rejects_only_that_device(api: Api) -> None:
    """A device whose rendered message is too large is rejected; other devices are not affected."""
    await api.register(attributes={"long": "y" * 1000})
    await api.register()
    content = {"title": "t", "body": "{{ user.attributes.long }}" * 4}
    sent = await api.call_ok("POST", "/v1/notifications", {"content": content, "audience": {"everyone": True}})
    done = await deliver(api, sent)
    assert (done["progress"]["accepted"], done["progress"]["rejected"]) == (1, 1)


async def test_template_too_large_in_any_language_is_refused(api: Api) -> None:
    """A template that is too large in one of its languages is refused."""
    before = await api.rows()
    for content in (
        {"title": "{{ user.id }}", "body": "x" * 4000},
        {"title": "t", "locales": {"de": {"body": "x" * 4000}}},
    ):
        response = await api.call("POST", "/v1/notifications", {"content": content, "audience": {"everyone": True}})
        assert (response.status, response.body["code"]) == (422, "payload_too_large")
    assert await api.rows() == before


async def test_strict_template_fails_on_unknown_variables(api: Api) -> None:
    """A message of a strict template is rejected for a device that lacks a variable of the template."""
    await register_subscriber(api, attributes={"first_name": "Ada"})
    await register_subscriber(api)
    request = {
        "content": {"title": "{{ user.attributes.first_name }}"},
        "audience": {"everyone": True},
        "strict": True,
    }
    done = await deliver(api, await api.call_ok("POST", "/v1/notifications", request))
    assert (done["progress"]["accepted"], done["progress"]["rejected"]) == (1, 1)
    [row] = (await api.call_ok("GET", "/v1/deliveries?outcome=rejected"))["items"]
    assert "first_name" in row["cause"]


async def test_alert_text_is_not_rendered(api: Api) -> None:
    """The text of an alert is never interpreted as a template."""
    subscriber = await register_subscriber(api)
    alert = {"event": "{{ user.id }}", "description": "{% include 'x' %}", "audience": {"everyone": True}}
    await deliver(api, await api.call_ok("POST", "/v1/alerts", alert))
    assert (received_notification(subscriber)["title"], received_notification(subscriber)["body"]) == (
        "{{ user.id }}",
        "{% include 'x' %}",
    )


async def test_variants_are_localised(api: Api) -> None:
    """A variant may replace a text of a translation."""
    devices = [await register_subscriber(api, client={"locale": "de"}) for _ in range(20)]
    request = {
        "name": "n",
        "content": {"title": "Sale", "body": "b", "locales": {"de": {"title": "Angebot", "body": "B"}}},
        "audience": {"everyone": True},
        "variants": [
            {"name": "a", "content": {}},
            {"name": "b", "content": {"locales": {"de": {"title": "Nur {{ device.locale }}"}}}},
        ],
    }
    await deliver(api, await api.call_ok("POST", "/v1/campaigns", request))
    assert {
        (received_notification(subscriber)["title"], received_notification(subscriber)["body"])
        for subscriber in devices
    } == {("Angebot", "B"), ("Nur de", "B")}


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        ({"title": "{{ user."}, "/content/title"),
        ({"title": "{{ customer.name }}"}, "/content/title"),
        ({"title": "t", "locales": {"de": {"body": "{% x %}"}}}, "/content/locales/de/body"),
        ({"title": "t", "locales": {"nonsense!": {"body": "x"}}}, "/content/locales/nonsense!"),
        ({"title": "t", "locales": {"de": {"url": "javascript:1"}}}, "/content/locales/de/url"),
        ({"title": "t", "actions": [{"action": "a", "title": "{% if %}"}]}, "/content/actions/0/title"),
    ],
)
async def test_bad_templates_are_reported(api: Api, content: Any, pointer: str) -> None:
    """Invalid templates are reported by their JSON pointer on every route."""
    before = await api.rows()
    for path, body in (
        ("/v1/notifications", {"audience": {"everyone": True}}),
        ("/v1/campaigns", {"name": "n", "audience": {"everyone": True}}),
        ("/v1/templates", {"name": "n"}),
        ("/v1/templates/preview", {}),
    ):
        response = await api.call("POST", path, body | {"content": content})
        assert (response.status, response.pointers) == (422, [pointer]), (path, response.body)
    assert await api.rows() == before


async def test_template_keeps_versions_for_accepted_sends(api: Api) -> None:
    """Each change of a template is a new version; a notification uses the version at the time of its request."""
    subscriber = await register_subscriber(api, attributes={"first_name": "Ada"})
    template = await api.call_ok("POST", "/v1/templates", {"name": "hi", "content": {"title": "Hi {{ user.id }}"}})
    path = f"/v1/templates/{template['id']}"
    request = {"template": {"id": template["id"]}, "audience": {"everyone": True}}
    sent = await api.call_ok("POST", "/v1/notifications", request)
    changed = await api.call_ok("PATCH", path, {"content": {"title": "Ho {{ user.attributes.first_name }}"}})
    assert (template["version"], changed["version"]) == (1, 2)
    assert (await api.call_ok("GET", path))["content"] == changed["content"]
    assert (await api.call_ok("GET", f"{path}?version=1"))["content"] == template["content"]
    assert (await api.call("GET", f"{path}?version=3")).status == 404
    assert (await api.call_ok("GET", "/v1/templates"))["items"][0]["version"] == 2
    await deliver(api, sent)
    assert received_notification(subscriber)["title"] == "Hi "
    for reference, title in (({"id": template["id"]}, "Ho Ada"), ({"id": template["id"], "version": 1}, "Hi ")):
        preview_request = {"template": reference, "device_id": await get_device_id(api)}
        preview = await api.call_ok("POST", "/v1/templates/preview", preview_request)
        assert preview["content"]["title"] == title
    renamed = await api.call_ok("PATCH", path, {"name": "ho", "strict": True})
    assert (renamed["name"], renamed["version"], renamed["strict"]) == ("ho", 3, True)
    assert (await api.call("DELETE", path)).status == 204
    response = await api.call("POST", "/v1/notifications", request)
    assert (response.status, response.pointers) == (422, ["/template"])


async def get_device_id(api: Api) -> str:
    """Return the id of the only device."""
    return str((await api.call_ok("GET", "/v1/devices"))["items"][0]["id"])


async def test_preview_renders_for_a_device(api: Api) -> None:
    """A preview renders the content for a device, a language or no device."""
    await register_subscriber(
        api, user_id="u-1", attributes={"first_name": "Ada"}, client={"locale": "de-AT", "platform": "ios"}
    )
    request = {"content": GREETING, "event": {"name": "Sale"}, "device_id": await get_device_id(api)}
    preview = await api.call_ok("POST", "/v1/templates/preview", request)
    assert preview["content"]["title"] == "Servus"
    assert preview["content"]["body"] == "Sale on ios"
    assert 100 < preview["octets"] < 3993
    english = await api.call_ok("POST", "/v1/templates/preview", request | {"locale": "en"})
    assert english["content"]["title"] == "Hi Ada"
    anonymous = await api.call_ok("POST", "/v1/templates/preview", {"content": GREETING})
    assert anonymous["content"]["title"] == "Hi there"
    failed = await api.call("POST", "/v1/templates/preview", {"content": {"title": "{{ event.x }}"}, "strict": True})
    assert (failed.status, failed.body["code"]) == (422, "template_failed")
    response = await api.call("POST", "/v1/templates/preview", request | {"device_id": "dev_nonsense"})
    assert (response.status, response.pointers) == (422, ["/device_id"])


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({}, "/content"),
        ({"content": None}, "/content"),
        ({"content": {"title": "t"}, "template": {"id": f"tpl_{'0' * 32}"}}, "/content"),
        ({"template": {"id": f"tpl_{'0' * 32}"}}, "/template"),
        ({"template": {"id": "nonsense"}}, "/template"),
        ({"template": {"id": f"tpl_{'0' * 32}", "version": 0}}, "/template/version"),
    ],
)
async def test_content_and_template_exclude_each_other(api: Api, change: Any, pointer: str) -> None:
    """A request with both content and a template, or with neither, is refused."""
    response = await api.call("POST", "/v1/notifications", {"audience": {"everyone": True}} | change)
    assert (response.status, response.pointers) == (422, [pointer]), response.body
