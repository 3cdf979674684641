"""Renders a notification as Declarative Web Push JSON (W3C Push API, 'declarative push message').

Safari displays the message without a script; in other browsers the service worker reads the same JSON. The JSON is
rendered once per notification. Only the receipt token differs between devices, so it is placed at the end, and each
message is the common beginning, the token and the common end.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

_TEXTS = ("body", "icon", "image", "badge")


@dataclass(frozen=True, slots=True)
class PayloadTemplate:
    """A rendered notification without its receipt token."""

    prefix: bytes
    suffix: bytes

    @property
    def size(self) -> int:
        """Return the length in octets without the receipt token."""
        return len(self.prefix) + len(self.suffix)

    def fill(self, receipt: str) -> bytes:
        """Return the plain text for one device.

        `receipt` is ASCII text without characters that JSON must escape, such as base64url.
        """
        return self.prefix + receipt.encode("ascii") + self.suffix


def compose(
    content: Mapping[str, Any],
    *,
    tag: str,
    notification_id: str,
    receipts_url: str | None,
    default_url: str | None = None,
) -> PayloadTemplate:
    """Render validated content.

    Args:
        content: the fields of Content in the API: title, body, url, icon, image, badge, actions, data, silent,
            require_interaction, app_badge. A missing or relative `url` is resolved against `default_url`.
        tag: the tag of the notification; a browser replaces a displayed notification that has the same tag.
        notification_id: becomes `data.gateway.id`, which the service worker reads.
        receipts_url: absolute URL of POST /v1/receipts, or None; becomes `data.gateway.receipts`.
        default_url: the absolute URL against which a relative `url` is resolved.
    """
    navigate = urljoin(default_url or "", content.get("url") or "")
    notification: dict[str, Any] = {"title": content["title"], "navigate": navigate, "tag": tag}
    notification |= {name: content[name] for name in _TEXTS if content.get(name)}
    if content.get("silent"):
        notification["silent"] = True
    if content.get("require_interaction"):
        notification["requireInteraction"] = True
    if actions := content.get("actions"):
        notification["actions"] = [_action(action, navigate) for action in actions]
    gateway = {"id": notification_id, "receipts": receipts_url, "receipt": ""}
    data = {name: value for name, value in (content.get("data") or {}).items() if name != "gateway"}
    notification["data"] = data | {"gateway": gateway}
    message: dict[str, Any] = {"web_push": 8030, "mutable": True}
    if content.get("app_badge") is not None:
        message["app_badge"] = content["app_badge"]
    message["notification"] = notification
    rendered = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    suffix = '"}}}}'
    # A lone surrogate may occur in a JSON request (as an escape), but not in UTF-8.
    return PayloadTemplate(rendered.removesuffix(suffix).encode("utf-8", "replace"), suffix.encode())


def _action(action: Mapping[str, Any], navigate: str) -> dict[str, Any]:
    url = action.get("url")
    item = {
        "action": action["action"],
        "title": action["title"],
        "navigate": urljoin(navigate, url) if url else navigate,
    }
    return item | ({"icon": action["icon"]} if action.get("icon") else {})
