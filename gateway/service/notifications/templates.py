"""Templates: content saved under a name, in versions.

A change makes a new version and loses none. What is accepted with a template takes the version of that moment with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select

from gateway.content.localisation import all_layers, localise
from gateway.content.templates import CompiledContent, has_markup
from gateway.domain import clock, ids
from gateway.domain.device import Device
from gateway.domain.errors import FieldError, NotFound, ValidationError, pointer_step
from gateway.domain.notification import DeliveryOptions, Kind, Lane, Notification, Status, Templating, Urgency
from gateway.records.postgres import named_resources
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import template_versions as versions
from gateway.records.postgres.schema import templates as table
from gateway.records.recipients import load_template_context
from gateway.service.context import Context
from gateway.service.notifications.rendering import NotificationRenderer


def templating_of(content: dict[str, Any], strict: bool, event: dict[str, Any] | None) -> Templating | None:
    """How the content is to be rendered; None when there is nothing in it to render."""
    return Templating(strict, event or {}) if has_markup(content) else None


def check(content: dict[str, Any], pointer: str = "/content") -> None:
    """Raises Invalid with the fault of every template in it, in any language."""
    faults: dict[FieldError, None] = {}
    for applying in all_layers(content):
        try:
            CompiledContent(localise(content, applying), strict=False, pointer=pointer)
        except ValidationError as error:
            inside = f"{pointer}/locales{pointer_step(applying[-1])}" if applying else pointer
            faults |= dict.fromkeys(
                fault if not applying else FieldError(fault.pointer.replace(pointer, inside, 1), fault.detail)
                for fault in error.errors
            )
    if faults:
        raise ValidationError(list(faults))


async def resolve(
    conn: Connection, application_id: UUID, template_id: UUID, version: int | None
) -> tuple[dict[str, Any], bool]:
    """(content, strict) of a version, the newest when none is named. Raises NotFound."""
    row = await named_resources.find(conn, table, application_id, template_id)
    held = await _version(conn, row, row.version if version is None else version)
    return held.content, held.strict


async def create(
    conn: Connection, application_id: UUID, name: str, content: dict[str, Any], strict: bool
) -> dict[str, Any]:
    """Raises Invalid and Conflict."""
    check(content)
    row = await named_resources.add(conn, table, application_id=application_id, name=name, version=1)
    await _add_version(conn, row.id, 1, content, strict)
    return await show(conn, row)


async def change(
    conn: Connection,
    application_id: UUID,
    id_: UUID,
    *,
    name: str | None,
    content: dict[str, Any] | None,
    strict: bool | None,
) -> dict[str, Any]:
    """None leaves it as it was; other content is another version. Raises NotFound, Invalid and Conflict."""
    row = await named_resources.find(conn, table, application_id, id_, lock=True)
    values: dict[str, Any] = {}
    if name is not None:
        values["name"] = name
    if content is not None or strict is not None:
        held = await _version(conn, row, row.version)
        content = held.content if content is None else content
        check(content)
        values["version"] = row.version + 1
        await _add_version(conn, id_, row.version + 1, content, held.strict if strict is None else strict)
    return await show(conn, await named_resources.change(conn, table, id_, **values))


async def remove(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """What was accepted with it is not concerned. Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_)
    await named_resources.remove(conn, table, id_)


async def get(conn: Connection, application_id: UUID, id_: UUID, version: int | None = None) -> dict[str, Any]:
    """With the content of a version, the newest when none is named. Raises NotFound."""
    return await show(conn, await named_resources.find(conn, table, application_id, id_), version)


async def list_page(
    conn: Connection, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    rows = await named_resources.list_page(conn, table, application_id, before=before, limit=limit)
    return [await show(conn, row) for row in rows]


async def show(conn: Connection, row: Row[Any], version: int | None = None) -> dict[str, Any]:
    """With the content of a version, the newest when none is named. Raises NotFound."""
    held = await _version(conn, row, row.version if version is None else version)
    return {
        "id": ids.format_id(ids.TEMPLATE, row.id),
        "name": row.name,
        "version": held.version,
        "newest_version": row.version,
        "content": held.content,
        "strict": held.strict,
        "created_at": row.created_at,
        "updated_at": held.created_at,
    }


async def preview(
    conn: Connection,
    context: Context,
    application_id: UUID,
    content: dict[str, Any],
    *,
    strict: bool,
    event: dict[str, Any] | None,
    device: Device | None,
    locale: str | None,
) -> dict[str, Any]:
    """The content as a device would be shown it, and how many octets that is. Raises Invalid and TemplateFailed."""
    check(content)
    now = clock.now()
    as_if = Notification(
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
    )
    messages = NotificationRenderer(
        context.keyring, context.public_url, replace(as_if, templating=Templating(strict, event or {}))
    )
    known = (await load_template_context(conn, [device.id]))[device.id] if device is not None else {}
    locale = locale or (device.client.locale if device is not None else None)
    payload, _ = messages.for_device(device.id if device else as_if.id, locale, None, known)
    return {"content": messages.rendered(locale, known), "octets": len(payload)}


async def _version(conn: Connection, row: Row[Any], version: int) -> Row[Any]:
    """Raises NotFound."""
    query = select(versions).where(versions.c.template_id == row.id, versions.c.version == version)
    held = (await conn.execute(query)).first()
    if held is None:
        raise NotFound(f"the template has no version {version}; the newest is {row.version}")
    return held


async def _add_version(conn: Connection, id_: UUID, version: int, content: dict[str, Any], strict: bool) -> None:
    values = {"template_id": id_, "version": version, "content": content, "strict": strict}
    await conn.execute(insert(versions).values(**values))
