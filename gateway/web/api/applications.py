"""Applications and their keys: the operator's side."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gateway.domain import ids
from gateway.domain.errors import NotFound
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
    Field(max_length=100, description="Web origins that may use the publishable key: https://app.example.org"),
]
Subject = Annotated[str, Field(description="Where push services reach you: mailto: or https: (RFC 8292, section 2.1).")]


class NewApplication(Body):
    model_config = example(
        name="Weather", subject="mailto:ops@example.org", allowed_origins=["https://www.example.org"]
    )

    name: Name
    subject: Subject
    allowed_origins: Origins = Field(default_factory=list)
    vapid_private_key: Annotated[
        Octets | None,
        Field(
            description="The key of before, so that browsers need not subscribe anew: 32 octets. Made when left out."
        ),
    ] = None


class ApplicationChange(Body):
    model_config = example(allowed_origins=["https://www.example.org", "https://m.example.org"])

    name: Name | None = None
    subject: Subject | None = None
    allowed_origins: Origins | None = None
    require_identity: Annotated[
        bool | None, Field(description="Demand a proof (`user_hash`) for every `user_id`; true makes a new secret.")
    ] = None


class NewKey(Body):
    model_config = example(name="back end", scopes=["send", "read"])

    name: Name
    scopes: Annotated[
        list[Literal["send", "read", "manage", "register"]],
        Field(min_length=1, max_length=4, description="`register` alone makes a publishable key."),
    ]


@routes.add(
    "POST",
    "/v1/applications",
    scopes=(ADMIN,),
    body=NewApplication,
    creates=True,
    audit="applications.create",
    responses={201: responses.CreatedApplication},
)
async def create(call: TransactionalRequest[NewApplication]) -> Response:
    """Create an application with its keys, which are shown this once."""
    new = call.body
    made = await applications.create(
        call.conn, call.context.keyring, new.name, new.subject, new.allowed_origins, new.vapid_private_key
    )
    return Response(made, 201, {"Location": f"/v1/applications/{made['id']}"})


@routes.add(
    "GET",
    "/v1/applications",
    scopes=(ADMIN,),
    query=PageQuery,
    responses={200: responses.Page[responses.ListedApplication]},
)
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the applications, the oldest first."""
    limit = call.query.limit
    items = await applications.page(call.conn, after=call.query.after_id(), limit=limit)
    last = ids.parse(ids.APPLICATION, items[-1]["id"]) if items else None
    return page(items, limit, last)


@routes.add("GET", "/v1/applications/{application_id}", scopes=(ADMIN, READ), responses={200: responses.Application})
async def show(call: TransactionalRequest) -> Response:
    """Show an application; a secret key may see its own."""
    id_ = call.id(ids.APPLICATION, "application_id")
    if call.principal.application_id not in (None, id_):
        raise NotFound(f"there is no application {ids.format_id(ids.APPLICATION, id_)}")
    return Response(await applications.get(call.conn, id_))


@routes.add(
    "PATCH",
    "/v1/applications/{application_id}",
    scopes=(ADMIN,),
    body=ApplicationChange,
    audit="applications.change",
    responses={200: responses.Application},
)
async def change(call: TransactionalRequest[ApplicationChange]) -> Response:
    """Change an application. What is left out stays as it is."""
    values: dict[str, Any] = call.body.model_dump(exclude_none=True)
    id_ = call.id(ids.APPLICATION, "application_id")
    return Response(await applications.change(call.conn, call.context.keyring, id_, values))


@routes.add(
    "POST",
    "/v1/applications/{application_id}/keys",
    scopes=(ADMIN,),
    body=NewKey,
    creates=True,
    audit="keys.create",
    responses={201: responses.CreatedKey},
)
async def add_key(call: TransactionalRequest[NewKey]) -> Response:
    """Make another API key; it is shown this once."""
    id_ = call.id(ids.APPLICATION, "application_id")
    scopes = [scope for scope in (SEND, READ, MANAGE, REGISTER) if scope in call.body.scopes]
    return Response(await applications.add_key(call.conn, id_, call.body.name, scopes), 201)


@routes.add(
    "DELETE",
    "/v1/applications/{application_id}/keys/{key_id}",
    scopes=(ADMIN,),
    audit="keys.remove",
    responses={204: None},
)
async def remove_key(call: TransactionalRequest) -> Response:
    """Remove an API key: the next request with it is refused."""
    id_ = call.id(ids.APPLICATION, "application_id")
    await applications.remove_key(call.conn, id_, call.id(ids.KEY, "key_id"))
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/applications/{application_id}/vapid/rotate",
    scopes=(ADMIN,),
    audit="vapid.rotate",
    responses={200: responses.VapidKey},
)
async def rotate_vapid(call: TransactionalRequest) -> Response:
    """Make a new VAPID key, with which browsers subscribe from now on.

    Devices with an older one are sent to with that one, and move when they next register.
    """
    id_ = call.id(ids.APPLICATION, "application_id")
    return Response({"vapid_public_key": await applications.rotate_vapid_key(call.conn, call.context.keyring, id_)})


@routes.add(
    "GET", "/v1/vapid-public-key", scopes=(REGISTER, READ, MANAGE), browser=True, responses={200: responses.VapidKey}
)
async def vapid_public_key(call: TransactionalRequest) -> Response:
    """The key a page subscribes with (PushManager.subscribe, `applicationServerKey`)."""
    return Response({"vapid_public_key": await applications.vapid_public_key(call.conn, call.application_id)})
