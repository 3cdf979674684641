"""The messages of a notification, ready to be filled in for each device.

What says the same to many is made once: for every variant and language, and only once for all devices when no template
speaks of the user or the device. Then only the receipt token differs from device to device.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from gateway.content.localisation import all_layers, layers, localise
from gateway.content.templates import CompiledContent, has_markup
from gateway.domain import ids
from gateway.domain.bounded_cache import put
from gateway.domain.errors import PayloadTooLarge, TemplateFailed
from gateway.domain.notification import Notification, push_topic
from gateway.push.encryption import MAX_PAYLOAD
from gateway.push.payload import PayloadTemplate, compose
from gateway.service.access.secrets import Keyring

# Notifications whose messages are kept.
MAX_CACHED = 64
# A receipt may come this long after the message has expired: people open their laptops late.
RECEIPT_GRACE = timedelta(days=7)


# A template that has been stopped so often is not tried for anyone else: it would hold up the alerts behind it.
MAX_OVER_BUDGET = 3


class RenderedPayload(NamedTuple):
    """Rendered content without its receipt token, and the `Topic` header that folds repeats together."""

    template: PayloadTemplate
    topic: str


class RendererCache:
    """Keeps the messages of the latest notifications from job to job, already composed."""

    def __init__(self, vault: Keyring, public_url: str | None) -> None:
        self._vault = vault
        self.public_url = public_url
        self._messages: dict[UUID, NotificationRenderer] = {}

    def kept(self, notification_id: UUID) -> "NotificationRenderer | None":
        return self._messages.get(notification_id)

    def messages(self, notification: Notification, home: str | None) -> "NotificationRenderer":
        """Raises Invalid for templates that cannot be understood."""
        if (kept := self._messages.get(notification.id)) is not None:
            return kept
        made = NotificationRenderer(self._vault, self.public_url, notification, home)
        return put(self._messages, notification.id, made, MAX_CACHED)


class NotificationRenderer:
    """One notification's messages: `for_device` answers the plain text that one device gets, and its Topic.

    `home` is the web origin that a path in a rendered address belongs to.
    """

    def __init__(
        self, vault: Keyring, public_url: str | None, notification: Notification, home: str | None = None
    ) -> None:
        """Raises Invalid for templates that cannot be understood."""
        self._notification = notification
        self._vault = vault
        self.home = home
        self._receipts_url = f"{public_url}/v1/receipts" if public_url else None
        self._receipts_until = int((notification.delivery.expires_at + RECEIPT_GRACE).timestamp())
        self._contents = [merged(notification.content, v.content) for v in notification.policy.variants]
        self._contents = self._contents or [notification.content]
        self._greedy = 0
        self._same: RenderedPayload | None = None
        """What all devices get, once it is known that they get the same."""
        self._layers: dict[tuple[int, str | None], tuple[str, ...]] = {}
        self._composed: dict[tuple[int, tuple[str, ...]], RenderedPayload] = {}
        self._compiled: dict[tuple[int, tuple[str, ...]], CompiledContent] = {}
        if notification.templating is not None:
            for number, content in enumerate(self._contents):
                for applying in all_layers(content):
                    compiled = CompiledContent(localise(content, applying), strict=notification.templating.strict)
                    self._compiled[number, applying] = compiled

    @property
    def personal(self) -> bool:
        """Whether what is known of a device is needed to render for it."""
        return any(compiled.personal for compiled in self._compiled.values())

    def check_size(self) -> None:
        """Raises PayloadTooLarge when a message is larger than any push service takes, whatever is rendered into it."""
        for content in self._contents:
            for applying in all_layers(content):
                said = localise(content, applying)
                certain = {name: _certain(value) for name, value in said.items()}
                size = len(self._fill(self._compose(certain), UUID(int=0), None))
                if size > MAX_PAYLOAD:
                    raise PayloadTooLarge(size, MAX_PAYLOAD)

    def for_device(
        self, device_id: UUID, locale: str | None, variant: int | None, known: Mapping[str, Any]
    ) -> tuple[bytes, str]:
        """(plain text, Topic). `known` is what templates may say of user and device. Raises TemplateFailed."""
        composed = self._same or self._for(variant or 0, locale, known)
        return self._fill(composed, device_id, variant), composed.topic

    def rendered(self, locale: str | None, known: Mapping[str, Any], variant: int | None = None) -> dict[str, Any]:
        """The content as a device would be shown it. Raises TemplateFailed."""
        number = variant or 0
        return self._rendered((number, layers(self._contents[number], locale)), known)

    def _for(self, number: int, locale: str | None, known: Mapping[str, Any]) -> RenderedPayload:
        applying = self._layers.get((number, locale))
        if applying is None:
            applying = self._layers[number, locale] = layers(self._contents[number], locale)
        composed = self._composed.get((number, applying))
        if composed is not None:
            return composed
        composed = self._compose(self._rendered((number, applying), known))
        compiled = self._compiled.get((number, applying))
        if compiled is None or not compiled.personal:
            self._composed[number, applying] = composed
            if len(self._contents) == 1 and not self._notification.is_localized:
                self._same = composed
        return composed

    def _rendered(self, which: tuple[int, tuple[str, ...]], known: Mapping[str, Any]) -> dict[str, Any]:
        number, applying = which
        templating = self._notification.templating
        if templating is None:
            return localise(self._contents[number], applying)
        variables = {
            "user": {},
            "device": {},
            **known,
            "event": templating.event,
            "notification": {
                "id": ids.format_id(ids.NOTIFICATION, self._notification.id),
                "kind": self._notification.kind.value,
                "name": self._notification.name,
            },
        }
        if self._greedy >= MAX_OVER_BUDGET:
            raise TemplateFailed("the template took too much time or room for others")
        try:
            return self._compiled[which].render(variables)
        except TemplateFailed as failure:
            self._greedy += failure.over_budget
            raise

    def _compose(self, content: Mapping[str, Any]) -> RenderedPayload:
        notification = self._notification
        tag = notification.tag_for(content)
        template = compose(
            content,
            tag=tag,
            notification_id=ids.format_id(ids.NOTIFICATION, notification.id),
            receipts_url=self._receipts_url,
            default_url=self.home,
        )
        return RenderedPayload(template, push_topic(notification.application_id, tag))

    def _fill(self, composed: RenderedPayload, device_id: UUID, variant: int | None) -> bytes:
        notification_id = self._notification.id
        return composed.template.fill(
            self._vault.receipt_token(notification_id, device_id, variant, self._receipts_until)
        )


def merged(content: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """The content with what a variant says instead, also in each language that both speak."""
    locales = dict(content.get("locales") or {})
    for key, said in (variant.get("locales") or {}).items():
        locales[key] = locales.get(key, {}) | said
    return {**content, **variant, **({"locales": locales} if locales else {})}


def _certain(value: Any) -> Any:
    """What is sure to be sent of it: nothing of a template."""
    match value:
        case str():
            return "" if has_markup(value) else value
        case dict():
            return {name: _certain(inner) for name, inner in value.items()}
        case list():
            return [_certain(inner) for inner in value]
    return value
