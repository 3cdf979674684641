"""Templates: content that is stored under a name, in versions; and previews of rendered content."""

from typing import Annotated

from pydantic import Field

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.service import views
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.notifications import templates
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, Query, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Content, ContentOrTemplate, EventData, Label, Locale

routes = Routes("templates")

Strict = Annotated[bool, Field(description="Whether a message with an unknown variable fails.")]


class NewTemplate(Body):
    """A new template."""

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
    """Changed fields of a template. Omitted fields do not change. Changing `content` or `strict` creates a version."""

    model_config = example(content={"title": "Welcome, {{ user.attributes.first_name }}"})

    name: Label | None = None
    content: Content | None = None
    strict: Strict | None = None


class VersionQuery(Query):
    """A version of a template."""

    version: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="Defaults to the newest.")] = None


class TemplatePreview(ContentOrTemplate):
    """Content to render for a device. `locale` overrides the device's locale."""

    model_config = example(content={"title": "Hi {{ user.attributes.first_name }}"}, locale="de-AT")

    event: EventData = None
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
    responses={201: views.Template},
)
async def create_template(request: TransactionalRequest[NewTemplate]) -> Response:
    """Create a template. Notifications refer to it as `"template": {"id": "tpl_..."}`."""
    template = request.body
    created = await templates.create(
        request.conn, request.context, request.application_id, template.name, template.content.value(), template.strict
    )
    return Response(created, 201, {"Location": f"/v1/templates/{created['id']}"})


@routes.add(
    "GET",
    "/v1/templates",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    work=LIST,
    responses={200: responses.Page[views.Template]},
)
async def list_templates(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List templates with their newest versions, newest template first."""
    query = request.query
    return bounded_page(
        await templates.list_page(request.conn, request.application_id, before=query.after_id(), limit=query.limit)
    )


@routes.add(
    "GET",
    "/v1/templates/{template_id}",
    scopes=(READ, SEND, MANAGE),
    query=VersionQuery,
    responses={200: views.Template},
)
async def get_template(request: TransactionalRequest[None, VersionQuery]) -> Response:
    """Get a template with the content of a version, by default of the newest."""
    id_ = request.id(ids.TEMPLATE, "template_id")
    return Response(await templates.get(request.conn, request.application_id, id_, request.query.version))


@routes.add(
    "PATCH",
    "/v1/templates/{template_id}",
    scopes=(MANAGE,),
    body=TemplateChange,
    conflicts=True,
    audit="templates.change",
    responses={200: views.Template},
)
async def change_template(request: TransactionalRequest[TemplateChange]) -> Response:
    """Change a template. Notifications that are already accepted keep their version."""
    id_, patch = request.id(ids.TEMPLATE, "template_id"), request.body
    content = None if patch.content is None else patch.content.value()
    return Response(
        await templates.update(
            request.conn,
            request.context,
            request.application_id,
            id_,
            name=patch.name,
            content=content,
            strict=patch.strict,
        )
    )


@routes.add("DELETE", "/v1/templates/{template_id}", scopes=(MANAGE,), audit="templates.remove", responses={204: None})
async def remove_template(request: TransactionalRequest) -> Response:
    """Remove a template with its versions. Notifications that are already accepted are still sent."""
    await templates.delete(request.conn, request.application_id, request.id(ids.TEMPLATE, "template_id"))
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/templates/preview",
    scopes=(SEND, READ, MANAGE),
    body=TemplatePreview,
    responses={200: views.NotificationContent},
)
async def preview_template(request: TransactionalRequest[TemplatePreview]) -> Response:
    """Render content or a template as a device would receive it. Nothing is sent."""
    body = request.body
    view = await templates.preview(
        request.conn,
        request.context,
        request.application_id,
        body.content_source(),
        event=body.event,
        device_id=body.device_id,
        locale=body.locale,
    )
    return Response(view)
