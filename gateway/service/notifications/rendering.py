"""Render the payload of a notification for each device.

Devices share rendered payloads if possible. If no template refers to the user or the device, there is one payload for
each variant and language, in which only the receipt token differs between devices.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from gateway.content.localisation import all_layers, localise, matching_layers
from gateway.content.templates import CompiledContent, ParsedTexts, has_markup
from gateway.domain import ids
from gateway.domain.bounded_cache import put
from gateway.domain.errors import PayloadTooLarge
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Notification, push_topic
from gateway.push.encryption import MAX_PAYLOAD
from gateway.push.payload import PayloadTemplate, compose
from gateway.service.access.secrets import Keyring

# Maximum number of notifications whose renderers are cached.
MAX_CACHED = 64
# Receipts are accepted for this long after the expiry of the notification, since devices may be offline.
RECEIPT_GRACE = timedelta(days=7)


class RenderedPayload(NamedTuple):
    """Rendered content without its receipt token, and the value of the `Topic` header (RFC 8030 section 5.4)."""

    template: PayloadTemplate
    topic: str


class RendererCache:
    """Caches the renderers of the latest notifications, since a notification has many jobs."""

    def __init__(self, keyring: Keyring, public_url: str | None) -> None:
        """Create an empty cache; the arguments are those of `NotificationRenderer`."""
        self._keyring = keyring
        self.public_url = public_url
        self._renderers: dict[UUID, NotificationRenderer] = {}

    def get_cached(self, notification_id: UUID) -> "NotificationRenderer | None":
        """Return the renderer of a notification if it is cached."""
        return self._renderers.get(notification_id)

    def get(self, notification: Notification, default_origin: str | None) -> "NotificationRenderer":
        """Return the renderer of a notification, from the cache if possible.

        Raises:
            ValidationError: a template is malformed.
        """
        if (cached := self._renderers.get(notification.id)) is not None:
            return cached
        renderer = NotificationRenderer(self._keyring, self.public_url, notification, default_origin)
        return put(self._renderers, notification.id, renderer, MAX_CACHED)


class NotificationRenderer:
    """Renders the payloads of one notification."""

    def __init__(
        self, keyring: Keyring, public_url: str | None, notification: Notification, default_origin: str | None = None
    ) -> None:
        """Compile the templates of a notification.

        Args:
            keyring: issues the receipt tokens.
            public_url: the URL of the gateway, to which browsers send receipts; None disables receipts.
            notification: the notification.
            default_origin: the web origin against which a path in a rendered URL is resolved.

        Raises:
            ValidationError: a template is malformed.
        """
        self._notification = notification
        self._keyring = keyring
        self.default_origin = default_origin
        self._receipts_url = f"{public_url}/v1/receipts" if public_url else None
        self._receipts_until = int((notification.delivery.expires_at + RECEIPT_GRACE).timestamp())
        self._contents = [merge_variant(notification.content, v.content) for v in notification.policy.variants]
        self._contents = self._contents or [notification.content]
        # The payload for all devices, if they share one.
        self._common_payload: RenderedPayload | None = None
        # The language layers of a locale, by variant number and locale.
        self._layers: dict[tuple[int, str | None], tuple[str, ...]] = {}
        # By variant number and language layers: payloads that devices share, and compiled templates.
        self._payloads: dict[tuple[int, tuple[str, ...]], RenderedPayload] = {}
        self._compiled: dict[tuple[int, tuple[str, ...]], CompiledContent] = {}
        if notification.templating is not None:
            parsed = ParsedTexts()
            for number, content in enumerate(self._contents):
                for layer in all_layers(content):
                    self._compiled[number, layer] = CompiledContent(
                        localise(content, layer), strict=notification.templating.strict, parsed=parsed
                    )

    @property
    def is_personal(self) -> bool:
        """Return whether a template refers to the user or the device."""
        return any(compiled.personal for compiled in self._compiled.values())

    def check_size(self) -> None:
        """Check the minimum size of every payload, which is its size with all templates rendered to empty texts.

        Raises:
            PayloadTooLarge: a payload is too large for a push message, whatever its templates are rendered to.
        """
        for content in self._contents:
            for layer in all_layers(content):
                localized = localise(content, layer)
                literal = {name: _without_templates(value) for name, value in localized.items()}
                size = len(self._fill(self._compose(literal), UUID(int=0), None))
                if size > MAX_PAYLOAD:
                    raise PayloadTooLarge(size, MAX_PAYLOAD)

    def render_payload(
        self, device_id: UUID, locale: str | None, variant: int | None, template_context: Mapping[str, Any]
    ) -> tuple[bytes, str]:
        """Return the payload for a device, and the value of its `Topic` header.

        `template_context` has the template variables `user` and `device`.

        Raises:
            TemplateFailed: a template cannot be rendered.
        """
        rendered = self._common_payload or self._payload_for(variant or 0, locale, template_context)
        return self._fill(rendered, device_id, variant), rendered.topic

    def render_content(
        self, locale: str | None, template_context: Mapping[str, Any], variant: int | None = None
    ) -> JsonObject:
        """Return the content that a device displays.

        Raises:
            TemplateFailed: a template cannot be rendered.
        """
        number = variant or 0
        return self._render((number, matching_layers(self._contents[number], locale)), template_context)

    def _payload_for(self, number: int, locale: str | None, template_context: Mapping[str, Any]) -> RenderedPayload:
        """Return the rendered payload of a variant for a locale, which devices share if no template is personal."""
        layer = self._layers.get((number, locale))
        if layer is None:
            layer = self._layers[number, locale] = matching_layers(self._contents[number], locale)
        rendered = self._payloads.get((number, layer))
        if rendered is not None:
            return rendered
        rendered = self._compose(self._render((number, layer), template_context))
        compiled = self._compiled.get((number, layer))
        if compiled is None or not compiled.personal:
            self._payloads[number, layer] = rendered
            if len(self._contents) == 1 and not self._notification.is_localized:
                self._common_payload = rendered
        return rendered

    def _render(self, content_key: tuple[int, tuple[str, ...]], template_context: Mapping[str, Any]) -> JsonObject:
        number, layer = content_key
        templating = self._notification.templating
        if templating is None:
            return localise(self._contents[number], layer)
        return self._compiled[content_key].render(template_variables(self._notification, template_context))

    def _compose(self, content: Mapping[str, Any]) -> RenderedPayload:
        """Build the payload of rendered content, without the receipt token."""
        notification = self._notification
        tag = notification.tag_for(content)
        template = compose(
            content,
            tag=tag,
            notification_id=ids.format_id(ids.NOTIFICATION, notification.id),
            receipts_url=self._receipts_url,
            default_url=self.default_origin,
        )
        return RenderedPayload(template, push_topic(notification.application_id, tag))

    def _fill(self, rendered: RenderedPayload, device_id: UUID, variant: int | None) -> bytes:
        notification_id = self._notification.id
        return rendered.template.fill(
            self._keyring.issue_receipt_token(notification_id, device_id, variant, self._receipts_until)
        )


def template_variables(notification: Notification, template_context: Mapping[str, Any]) -> JsonObject:
    """Return the template variables of a notification; `template_context` has the variables `user` and `device`."""
    return {
        "user": {},
        "device": {},
        **template_context,
        "event": {} if notification.templating is None else notification.templating.event,
        "notification": {
            "id": ids.format_id(ids.NOTIFICATION, notification.id),
            "kind": notification.kind.value,
            "name": notification.name,
        },
    }


def merge_variant(content: Mapping[str, Any], variant: Mapping[str, Any]) -> JsonObject:
    """Return the content with its fields replaced by those of a variant, also within each language."""
    locales = dict(content.get("locales") or {})
    for key, localized in (variant.get("locales") or {}).items():
        locales[key] = locales.get(key, {}) | localized
    return {**content, **variant, **({"locales": locales} if locales else {})}


def _without_templates(value: Any) -> Any:
    """Return a value in which every text with template markup is replaced by an empty text."""
    match value:
        case str():
            return "" if has_markup(value) else value
        case dict():
            return {name: _without_templates(inner) for name, inner in value.items()}
        case list():
            return [_without_templates(inner) for inner in value]
    return value
