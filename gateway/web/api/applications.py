"""Applications and their API keys and VAPID keys, managed by the operator."""

from typing import Annotated, Literal, cast

from pydantic import Field, StringConstraints

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.domain.errors import NotFound
from gateway.service import views
from gateway.service.access import applications
from gateway.service.access.authentication import ADMIN, MANAGE, READ, REGISTER, SEND
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, Octets, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses

routes = Routes("applications")

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Origins = Annotated[
    list[Annotated[str, StringConstraints(max_length=300)]],
    Field(
        max_length=100, description="Web origins that may use the publishable key: for example https://app.example.org"
    ),
]
Subject = Annotated[
    str, Field(description="A contact for push services: a mailto: or https: URL (RFC 8292 section 2.1).")
]


class NewApplication(Body):
    """A new application."""

    model_config = example(
        name="Weather", subject="mailto:ops@example.org", allowed_origins=["https://www.example.org"]
    )

    name: Name
    subject: Subject
    allowed_origins: Origins = Field(default_factory=list)
    vapid_private_key: Annotated[
        Octets | None,
        Field(
            description="An existing VAPID key, 32 octets, so that browsers keep their subscriptions. "
            "Generated when omitted."
        ),
    ] = None


class ApplicationChange(Body):
    """Changed fields of an application. Omitted fields do not change."""

    model_config = example(allowed_origins=["https://www.example.org", "https://m.example.org"])

    name: Name | None = None
    subject: Subject | None = None
    allowed_origins: Origins | None = None
    require_identity: Annotated[
        bool | None,
        Field(description="Whether `user_id` requires a proof (`user_hash`); true creates a new identity secret."),
    ] = None


class NewKey(Body):
    """A new API key."""

    model_config = example(name="back end", scopes=["send", "read"])

    name: Name
    scopes: Annotated[
        list[Literal["send", "read", "manage", "register"]],
        Field(min_length=1, max_length=4, description="`register` alone creates a publishable key."),
    ]


@routes.add(
    "POST",
    "/v1/applications",
    scopes=(ADMIN,),
    body=NewApplication,
    creates=True,
    audit="applications.create",
    responses={201: views.CreatedApplication},
)
async def create_application(request: TransactionalRequest[NewApplication]) -> Response:
    """Create an application with its keys. The response contains the keys, which are not shown again."""
    application = request.body
    created = await applications.create(
        request.conn,
        request.context.keyring,
        application.name,
        application.subject,
        application.allowed_origins,
        application.vapid_private_key,
    )
    return Response(created, 201, {"Location": f"/v1/applications/{created['id']}"})


@routes.add(
    "GET",
    "/v1/applications",
    scopes=(ADMIN,),
    query=PageQuery,
    work=LIST,
    responses={200: responses.Page[views.ListedApplication]},
)
async def list_applications(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List applications, oldest first."""
    limit = request.query.limit
    items = await applications.list_page(request.conn, after=request.query.after_id(), limit=limit)
    last_id = ids.parse(ids.APPLICATION, items[-1]["id"]) if items else None
    return page(items, limit, last_id)


@routes.add("GET", "/v1/applications/{application_id}", scopes=(ADMIN, READ), responses={200: views.Application})
async def get_application(request: TransactionalRequest) -> Response:
    """Get an application. A secret key can only get its own application."""
    id_ = request.id(ids.APPLICATION, "application_id")
    if request.principal.application_id not in (None, id_):  # None for the operator, who may get any application
        raise NotFound(f"there is no application {ids.format_id(ids.APPLICATION, id_)}")
    return Response(await applications.get(request.conn, id_))


@routes.add(
    "PATCH",
    "/v1/applications/{application_id}",
    scopes=(ADMIN,),
    body=ApplicationChange,
    audit="applications.change",
    responses={200: views.Application},
)
async def change_application(request: TransactionalRequest[ApplicationChange]) -> Response:
    """Change an application. Omitted fields do not change."""
    changed = cast("applications.ApplicationChange", request.body.model_dump(exclude_none=True))
    id_ = request.id(ids.APPLICATION, "application_id")
    return Response(await applications.change(request.conn, request.context.keyring, id_, changed))


@routes.add(
    "POST",
    "/v1/applications/{application_id}/keys",
    scopes=(ADMIN,),
    body=NewKey,
    creates=True,
    audit="keys.create",
    responses={201: views.CreatedKey},
)
async def create_key(request: TransactionalRequest[NewKey]) -> Response:
    """Create an API key. The response contains the key, which is not shown again."""
    id_ = request.id(ids.APPLICATION, "application_id")
    scopes = [scope for scope in (SEND, READ, MANAGE, REGISTER) if scope in request.body.scopes]
    return Response(await applications.add_key(request.conn, id_, request.body.name, scopes), 201)


@routes.add(
    "DELETE",
    "/v1/applications/{application_id}/keys/{key_id}",
    scopes=(ADMIN,),
    audit="keys.remove",
    responses={204: None},
)
async def remove_key(request: TransactionalRequest) -> Response:
    """Remove an API key. Requests with the key are refused from now on."""
    id_ = request.id(ids.APPLICATION, "application_id")
    await applications.remove_key(request.conn, id_, request.id(ids.KEY, "key_id"))
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/applications/{application_id}/vapid/rotate",
    scopes=(ADMIN,),
    audit="vapid.rotate",
    responses={200: views.VapidKey},
)
async def rotate_vapid_key(request: TransactionalRequest) -> Response:
    """Create a new VAPID key for new subscriptions.

    Existing devices keep their older key until they register again.
    """
    id_ = request.id(ids.APPLICATION, "application_id")
    return Response(
        {"vapid_public_key": await applications.rotate_vapid_key(request.conn, request.context.keyring, id_)}
    )


@routes.add(
    "GET", "/v1/vapid-public-key", scopes=(REGISTER, READ, MANAGE), browser=True, responses={200: views.VapidKey}
)
async def get_vapid_public_key(request: TransactionalRequest) -> Response:
    """Get the VAPID public key for new subscriptions (`applicationServerKey` of PushManager.subscribe)."""
    return Response({"vapid_public_key": await applications.get_vapid_public_key(request.conn, request.application_id)})
