"""The message for browsers: Declarative Web Push JSON, with the fields of the gateway in `data.gateway`."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.push.payload import PayloadTemplate, compose

RECEIPTS_URL = "https://push.example.com/v1/receipts"
CONTENT = {
    "title": "Stürmische Böen ⛈",
    "body": "Bleiben Sie drinnen.",
    "url": "https://app.example.com/alerts/7",
    "icon": "https://app.example.com/icon.png",
    "image": "https://app.example.com/map.png",
    "badge": "https://app.example.com/badge.png",
    "actions": [
        {"action": "open", "title": "Map", "url": "https://app.example.com/map"},
        {"action": "later", "title": "Later"},
    ],
    "data": {"alert": 7, "gateway": {"receipt": "forged"}},
    "silent": True,
    "require_interaction": True,
    "app_badge": 0,
    "locales": {"en": {"title": "Storm"}},
}


def build_template(content: dict[str, Any], **changes: Any) -> PayloadTemplate:
    return compose(content, **{"tag": "t", "notification_id": "ntf_1", "receipts_url": RECEIPTS_URL, **changes})


def rendered_message(content: dict[str, Any], receipt: str = "rt", **changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(build_template(content, **changes).fill(receipt))
    return message


def test_content_fields_map_to_declarative_message() -> None:
    """Every field of the content is in the message, in the form of Declarative Web Push."""
    assert rendered_message(CONTENT) == {
        "web_push": 8030,
        "mutable": True,
        "app_badge": 0,
        "notification": {
            "title": "Stürmische Böen ⛈",
            "body": "Bleiben Sie drinnen.",
            "navigate": "https://app.example.com/alerts/7",
            "tag": "t",
            "icon": "https://app.example.com/icon.png",
            "image": "https://app.example.com/map.png",
            "badge": "https://app.example.com/badge.png",
            "silent": True,
            "requireInteraction": True,
            "actions": [
                {"action": "open", "title": "Map", "navigate": "https://app.example.com/map"},
                {"action": "later", "title": "Later", "navigate": "https://app.example.com/alerts/7"},
            ],
            "data": {"alert": 7, "gateway": {"id": "ntf_1", "receipts": RECEIPTS_URL, "receipt": "rt"}},
        },
    }


def test_absent_fields_are_omitted() -> None:
    """A field that is missing, null or false is not in the message."""
    assert rendered_message(
        {"title": "Hi", "body": None, "silent": False, "app_badge": None}, default_url="https://a.example"
    ) == {
        "web_push": 8030,
        "mutable": True,
        "notification": {
            "title": "Hi",
            "navigate": "https://a.example",
            "tag": "t",
            "data": {"gateway": {"id": "ntf_1", "receipts": RECEIPTS_URL, "receipt": "rt"}},
        },
    }


@pytest.mark.parametrize(
    ("url", "navigate"),
    [
        (None, "https://app.example.com/"),
        ("/offers?x=1", "https://app.example.com/offers?x=1"),
        ("https://other.example/", "https://other.example/"),
    ],
)
def test_navigate_is_absolute(url: str | None, navigate: str) -> None:
    """A relative URL is resolved against the default URL of the application."""
    message = rendered_message({"title": "Hi", "url": url}, default_url="https://app.example.com/")
    assert message["notification"]["navigate"] == navigate


def test_receipts_is_null_without_public_url() -> None:
    """Without a public URL of the gateway, the service worker sends no receipts."""
    assert rendered_message({"title": "Hi"}, receipts_url=None)["notification"]["data"]["gateway"]["receipts"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.text(min_size=1), st.dictionaries(st.text(), JSON, max_size=4), st.from_regex(r"[A-Za-z0-9_.-]*", fullmatch=True)
)
def test_receipt_is_inserted_into_any_content(title: str, data: dict[str, Any], receipt: str) -> None:
    """The receipt is the only field that `fill` changes, whatever the title and data are."""
    template = build_template({"title": title, "data": data})
    payload = template.fill(receipt)
    assert len(payload) == template.size + len(receipt)
    notification = json.loads(payload)["notification"]
    assert notification["title"] == title
    assert notification["data"].pop("gateway")["receipt"] == receipt
    assert notification["data"] == {name: value for name, value in data.items() if name != "gateway"}


def test_text_is_utf_8_without_escapes() -> None:
    """Characters outside ASCII are encoded as UTF-8, which takes fewer octets than JSON escapes."""
    assert "⛈".encode() in build_template(CONTENT).prefix


def test_lone_surrogate_becomes_question_mark() -> None:
    """A lone surrogate, which UTF-8 cannot encode, is replaced, so that the message can be sent."""
    assert rendered_message({"title": "a\ud800b"})["notification"]["title"] == "a?b"


def find_faults(message: dict[str, Any]) -> Iterator[str]:
    """Yield the paths of the values for which Safari would not display the message without a service worker.

    WebKit's explainer requires a title, a URL for the notification and for each action, a badge that is an unsigned
    64-bit integer, and the right type of each member. The member names are those of W3C's Push API. The rules for
    `dir` and for contradictions are those by which WHATWG's Notifications standard raises a TypeError.
    """
    if message.get("web_push") != 8030:
        yield "not declarative"
    if not isinstance(message.get("mutable", False), bool):
        yield "mutable"
    badge = message.get("app_badge", 0)
    if type(badge) is not int or not 0 <= badge < 2**64:
        yield "app_badge"
    notification = message["notification"]
    for path, part in [
        ("", notification),
        *((f"actions/{n}/", action) for n, action in enumerate(notification.get("actions", []))),
    ]:
        for name in {"title", "action"} if path else {"title"}:
            if not isinstance(part.get(name), str) or not part[name]:
                yield path + name
        url = urlsplit(part.get("navigate") or "")
        if url.scheme not in {"http", "https"} or not url.netloc:
            yield f"{path}navigate"
    for type_, names in {
        str: ("body", "tag", "lang", "icon", "image", "badge"),
        bool: ("silent", "requireInteraction"),
    }.items():
        yield from (name for name in names if name in notification and type(notification[name]) is not type_)
    if notification.get("dir", "auto") not in {"auto", "ltr", "rtl"}:
        yield "dir"
    if (notification.get("silent") and notification.get("vibrate")) or (
        notification.get("renotify") and not notification.get("tag")
    ):
        yield "contradiction"


URL = st.sampled_from([None, "/", "/map?x=1#here", "https://other.example/a", "../up", "?q"])
TEXT = st.text(min_size=1, max_size=20)
ACTION = st.fixed_dictionaries({"action": TEXT, "title": TEXT}, optional={"url": URL, "icon": URL})


@given(
    st.fixed_dictionaries(
        {"title": TEXT},
        optional={name: st.none() | st.text(max_size=20) for name in ("body", "tag")}
        | dict.fromkeys(("url", "icon", "image", "badge"), URL)
        | {name: st.none() | st.booleans() for name in ("silent", "require_interaction")}
        | {"app_badge": st.none() | st.integers(0, 2**53), "actions": st.lists(ACTION, max_size=3)},
    )
)
def test_message_is_valid_declarative_push(content: dict[str, Any]) -> None:
    """The message of any content meets the specification."""
    assert list(find_faults(rendered_message(content, default_url="https://app.example.com"))) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"title": ""}, "title"),
        ({"navigate": "/alerts/7"}, "navigate"),
        ({"actions": [{"action": "a", "title": "A"}]}, "actions/0/navigate"),
        ({"icon": None}, "icon"),
        ({"silent": "true"}, "silent"),
    ],
)
def test_find_faults_reports_an_invalid_message(change: dict[str, Any], fault: str) -> None:
    """`find_faults`, with which this module checks messages, reports each kind of fault."""
    message = rendered_message(CONTENT)
    message["notification"] |= change
    assert list(find_faults(message)) == [fault]
