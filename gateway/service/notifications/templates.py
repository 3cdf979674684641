"""Templates: content stored under a name, in versions.

Changing the content creates a new version; earlier versions stay. A notification stores a copy of the version that was
the newest when the notification was accepted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from gateway.content.localisation import localise, matching_layers
from gateway.content.templates import check_templates, has_markup, render_content
from gateway.domain import clock, ids
from gateway.domain.device import Device
from gateway.domain.errors import FieldError, NotFound, ValidationError
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import DeliveryOptions, Kind, Lane, Notification, Status, Templating, Urgency
from gateway.records import devices
from gateway.records import templates as records
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import templates as table
from gateway.records.recipients import load_template_context
from gateway.service import views
from gateway.service.context import Context
from gateway.service.named_resources import NamedResource
from gateway.service.notifications.rendering import NotificationRenderer, template_variables

# Limit of the CPU time for compiling or rendering the templates of one notification in a helper process. They need
# hundredths of a second at most.
HELPER_CPU_S = 1.0


@dataclass(frozen=True, slots=True)
class InlineContent:
    """Content in a request. With `strict`, a message fails if a template refers to an unknown variable."""

    content: JsonObject
    strict: bool = False


@dataclass(frozen=True, slots=True)
class TemplateReference:
    """A reference to a saved template by its public id. A `version` of None stands for the newest version."""

    id: str
    version: int | None = None


ContentSource = InlineContent | TemplateReference


def templating_of(content: JsonObject, strict: bool, event: JsonObject | None) -> Templating | None:
    """Return the options for rendering the content, or None if it contains no template markup."""
    return Templating(strict, event or {}) if has_markup(content) else None


async def check_in_helper(context: Context, application_id: UUID, content: JsonObject) -> None:
    """Compile every template in the content in a helper process.

    Raises:
        ValidationError: a template is malformed; the error lists each of them.
        WorkLimitExceeded: compiling takes too much CPU time or memory.
        RateLimited: too many templates of the application are being compiled.
    """
    if has_markup(content):
        await context.helpers.run(application_id, HELPER_CPU_S, check_templates, content)


async def resolve_content(conn: Connection, application_id: UUID, source: ContentSource) -> InlineContent:
    """Return the content of a source; for a reference, the content of the saved template.

    Raises:
        ValidationError: the template or its version does not exist.
    """
    if isinstance(source, InlineContent):
        return source
    id_ = ids.parse(ids.TEMPLATE, source.id)
    try:
        if id_ is None:
            raise NotFound("is not a template's id; it would begin with tpl_")
        row = await _templates.find(conn, application_id, id_)
        stored = await _load_version(conn, row, source.version)
    except NotFound as error:
        raise ValidationError([FieldError("/template", error.detail)]) from None
    return InlineContent(stored.content, stored.strict)


async def create(
    conn: Connection, context: Context, application_id: UUID, name: str, content: JsonObject, strict: bool
) -> views.Template:
    """Store content as version 1 of a new template.

    Raises:
        ValidationError: the content is not a valid template.
        Conflict: the application has a template of this name.
    """
    await check_in_helper(context, application_id, content)
    row = await _templates.insert(conn, application_id, {"name": name, "version": 1})
    await records.add_version(conn, row.id, 1, content, strict)
    return await _templates.view(conn, row)


async def update(
    conn: Connection,
    context: Context,
    application_id: UUID,
    id_: UUID,
    *,
    name: str | None,
    content: JsonObject | None,
    strict: bool | None,
) -> views.Template:
    """Change a template; None leaves a field unchanged. Changing `content` or `strict` creates a new version.

    Raises:
        NotFound: the application has no such template.
        ValidationError: the content is not a valid template.
        Conflict: another template has the new name.
    """
    row = await _templates.find(conn, application_id, id_, lock=True)
    columns: dict[str, Any] = {} if name is None else {"name": name}
    if content is not None or strict is not None:
        current = await _load_version(conn, row)
        content = current.content if content is None else content
        await check_in_helper(context, application_id, content)
        columns["version"] = row.version + 1
        await records.add_version(conn, id_, row.version + 1, content, current.strict if strict is None else strict)
    return await _templates.view(conn, await _templates.save(conn, id_, columns))


async def get(conn: Connection, application_id: UUID, id_: UUID, version: int | None = None) -> views.Template:
    """Return a template with the content of a version, by default of the newest.

    Raises:
        NotFound: there is no such template or version.
    """
    row = await _templates.find(conn, application_id, id_)
    return to_view(row, await _load_version(conn, row, version))


def to_view(row: Row[Any], version: Row[Any]) -> views.Template:
    """Return the view of a template with one of its versions."""
    return {
        "id": ids.format_id(ids.TEMPLATE, row.id),
        "name": row.name,
        "version": version.version,
        "newest_version": row.version,
        "content": version.content,
        "strict": version.strict,
        "created_at": row.created_at,
        "updated_at": version.created_at,
    }


async def preview(
    conn: Connection,
    context: Context,
    application_id: UUID,
    source: ContentSource,
    *,
    event: JsonObject | None,
    device_id: str | None,
    locale: str | None,
) -> views.NotificationContent:
    """Render content as a device would display it, without sending it.

    Args:
        conn: the connection.
        context: the dependencies of the service layer.
        application_id: the application of the template and the device.
        source: the content, or a reference to a saved template.
        event: the value of the template variable `event`.
        device_id: the device for the template variables `user` and `device`; without a device they are empty.
        locale: the language to render in; by default that of the device.

    Raises:
        ValidationError: a template is malformed, or the saved template or the device does not exist.
        TemplateFailed: a template cannot be rendered.
    """
    resolved = await resolve_content(conn, application_id, source)
    content, strict = resolved.content, resolved.strict
    device = None if device_id is None else await _find_device(conn, application_id, device_id)
    await check_in_helper(context, application_id, content)
    now = clock.now()
    notification = Notification(
        id=ids.new_id(),
        application_id=application_id,
        kind=Kind.DIRECT,
        name=None,
        status=Status.SCHEDULED,
        day=None,
        content=content,
        audience=None,
        delivery=DeliveryOptions(Lane.NORMAL, Urgency.NORMAL, now - now, now),
        details={},
        start_at=now,
        created_at=now,
        templating=Templating(strict, event or {}),
    )
    template_context = (await load_template_context(conn, [device.id]))[device.id] if device is not None else {}
    locale = locale or (device.client.locale if device is not None else None)
    rendered = localise(content, matching_layers(content, locale))
    if has_markup(content):
        variables = template_variables(notification, template_context)
        rendered = await context.helpers.run(application_id, HELPER_CPU_S, render_content, rendered, strict, variables)
    literal = replace(notification, content=rendered, templating=None)
    renderer = NotificationRenderer(context.keyring, context.public_url, literal)
    payload, _ = renderer.render_payload(device.id if device else notification.id, None, None, {})
    return {"content": rendered, "octets": len(payload)}


async def _find_device(conn: Connection, application_id: UUID, device_id: str) -> Device:
    id_ = ids.parse(ids.DEVICE, device_id)
    device = None if id_ is None else await devices.get(conn, id_)
    if device is None or device.application_id != application_id:
        raise ValidationError([FieldError("/device_id", "there is no such device")])
    return device


async def _load_version(conn: Connection, row: Row[Any], version: int | None = None) -> Row[Any]:
    version = row.version if version is None else version
    stored = (await records.load_versions(conn, [(row.id, version)])).get((row.id, version))
    if stored is None:
        raise NotFound(f"the template has no version {version}; the newest is {row.version}")
    return stored


async def _to_views(conn: Connection, rows: Sequence[Row[Any]]) -> list[views.Template]:
    versions = await records.load_versions(conn, [(row.id, row.version) for row in rows])
    return [to_view(row, versions[row.id, row.version]) for row in rows]


_templates = NamedResource(table, _to_views)
list_page, delete = _templates.list_page, _templates.delete
