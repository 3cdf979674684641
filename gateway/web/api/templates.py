"""Templates: content saved under a name, in versions, and looked at before it is sent."""

from typing import Annotated, Any

from pydantic import Field

from gateway.domain import device, ids
from gateway.domain.errors import FieldError, ValidationError
from gateway.records import devices
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.notifications import templates
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, Query, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Content, Label, Locale, Rendered

routes = Routes("templates")

Strict = Annotated[bool, Field(description="A variable that is not known fails the message.")]


class NewTemplate(Body):
    model_config = example(
        name="Welcome",
        content={
            "title": "Hi {{ user.attributes.first_name | default: 'there' }}",
            "url": "/welcome?plan={{ user.attributes.plan }}",
            "locales": {"de": {"title": "Hallo {{ user.attributes.first_name }}"}},
        },
    )

    name: Label
    content: Content
    strict: Strict = False


class TemplateChange(Body):
    """What is left out stays. Other content or another `strict` is another version."""

    model_config = example(content={"title": "Welcome, {{ user.attributes.first_name }}"})

    name: Label | None = None
    content: Content | None = None
    strict: Strict | None = None


class Version(Query):
    version: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="The newest when left out.")] = None


class Preview(Rendered):
    """`locale` in place of the device's own."""

    model_config = example(content={"title": "Hi {{ user.attributes.first_name }}"}, locale="de-AT")

    device_id: str | None = None
    locale: Locale | None = None


@routes.add(
    "POST",
    "/v1/templates",
    scopes=(MANAGE,),
    body=NewTemplate,
    creates=True,
    conflicts=True,
    audit="templates.create",
    responses={201: responses.Template},
)
async def create(call: TransactionalRequest[NewTemplate]) -> Response:
    """Save content. Notifications and campaigns name it as `"template": {"id": "tpl_..."}`."""
    new = call.body
    made = await templates.create(call.conn, call.application_id, new.name, new.content.value(), new.strict)
    return Response(made, 201, {"Location": f"/v1/templates/{made['id']}"})


@routes.add(
    "GET",
    "/v1/templates",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    responses={200: responses.Page[responses.Template]},
)
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the templates with their newest versions, the newest template first."""
    limit = call.query.limit
    items = await templates.list_page(call.conn, call.application_id, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.TEMPLATE, items[-1]["id"]) if items else None)


@routes.add(
    "GET",
    "/v1/templates/{template_id}",
    scopes=(READ, SEND, MANAGE),
    query=Version,
    responses={200: responses.Template},
)
async def show(call: TransactionalRequest[None, Version]) -> Response:
    """Show a template: its newest version, or another."""
    id_ = call.id(ids.TEMPLATE, "template_id")
    return Response(await templates.get(call.conn, call.application_id, id_, call.query.version))


@routes.add(
    "PATCH",
    "/v1/templates/{template_id}",
    scopes=(MANAGE,),
    body=TemplateChange,
    conflicts=True,
    audit="templates.change",
    responses={200: responses.Template},
)
async def change(call: TransactionalRequest[TemplateChange]) -> Response:
    """Change a template. What was accepted with it keeps the version it was accepted with."""
    id_, said = call.id(ids.TEMPLATE, "template_id"), call.body
    content = None if said.content is None else said.content.value()
    return Response(
        await templates.change(call.conn, call.application_id, id_, name=said.name, content=content, strict=said.strict)
    )


@routes.add("DELETE", "/v1/templates/{template_id}", scopes=(MANAGE,), audit="templates.remove", responses={204: None})
async def remove(call: TransactionalRequest) -> Response:
    """Remove a template with its versions. What was accepted with it is still sent."""
    await templates.remove(call.conn, call.application_id, call.id(ids.TEMPLATE, "template_id"))
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/templates/preview",
    scopes=(SEND, READ, MANAGE),
    body=Preview,
    responses={200: responses.NotificationContent},
)
async def preview(call: TransactionalRequest[Preview]) -> Response:
    """Render content or a saved template as a device would be shown it. Nothing is sent."""
    said = call.body
    content, strict = await said.resolve_content(call.conn, call.application_id)
    shown = await templates.preview(
        call.conn,
        call.context,
        call.application_id,
        content,
        strict=strict,
        event=said.event,
        device=await _device(call),
        locale=said.locale,
    )
    return Response(shown)


async def _device(call: TransactionalRequest[Any, Any]) -> device.Device | None:
    """Raises Invalid when it is not there."""
    if call.body.device_id is None:
        return None
    id_ = ids.parse(ids.DEVICE, call.body.device_id)
    found = None if id_ is None else await devices.get(call.conn, id_)
    if found is None or found.application_id != call.application_id:
        raise ValidationError([FieldError("/device_id", "there is no such device")])
    return found
