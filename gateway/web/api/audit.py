"""Administrative acts: which routes are one, what is noted of it, and how the notes are read.

A route is one unless it is named here as none, so that a new one is noted without anybody thinking of it.
"""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from gateway.domain import ids
from gateway.domain.errors import FieldError, ValidationError
from gateway.service.access import audit
from gateway.service.access.authentication import ADMIN, DEVICE, MANAGE, REGISTER
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body
from gateway.web.http.routing import Response, Route, Routes, TransactionalRequest
from gateway.web.schemas import responses

routes = Routes("applications")

# What is asked to be sent, and what happened, is a record of its own already.
RECORDED = {"/v1/notifications", "/v1/campaigns", "/v1/alerts", "/v1/topics/{topic}/publish", "/v1/events"}
CHANGES_NOTHING = {"/v1/audiences/preview", "/v1/templates/preview"}
SESSION = "/v1/session"
"""Signing in is noted where it is found out who it is; signing out changes nothing for anybody else."""
VERBS = {"POST": "create", "PATCH": "change", "PUT": "replace", "DELETE": "remove"}
PERSONAL = "user_id"


class AuditQuery(PageQuery):
    action: Annotated[str | None, Field(max_length=100, description="Only of this kind: `keys.remove`.")] = None
    application_id: Annotated[str | None, Field(max_length=100, description="For the operator: only of this one.")] = (
        None
    )


def act_of(route: Route) -> str | None:
    """What a route does as an administrative act: `keys.create`, `webhooks.rotate`. None when it is none."""
    if route.method == "GET" or not route.scopes or route.streams is not None:
        return None
    if {DEVICE, REGISTER} & set(route.scopes) or route.path in CHANGES_NOTHING or route.path == SESSION:
        return None
    if route.method == "POST" and route.path in RECORDED:
        return None
    words = [word for word in route.path.split("/")[2:] if "{" not in word]
    if route.method == "POST" and not route.creates and len(words) > 1:
        return f"{words[-2]}.{words[-1]}"
    return f"{words[-1]}.{VERBS[route.method]}"


async def note(route: Route, call: TransactionalRequest[Any, Any], answer: Response) -> None:
    """Note what was done, when it is an administrative act."""
    action = act_of(route)
    if action is None:
        return
    given = _given(action, call.body)
    if route.method == "PATCH" and not given:  # which changes nothing
        return
    named = dict(call.http.match_info)
    made = answer.body.get("id") if answer.status == 201 else None
    target = made or next((value for name, value in reversed(named.items()) if name != PERSONAL), None)
    application_id = call.principal.application_id or ids.parse(
        ids.APPLICATION, named.get("application_id") or str(target)
    )
    await audit.note(call.conn, audit.actor_of(call.principal), action, application_id, target, given)


def _given(action: str, body: Body | None) -> dict[str, Any]:
    """Only what is kept is made plain: a body may hold much."""
    if body is None:
        return {}
    said = body.model_fields_set
    return dict.fromkeys(said) | body.model_dump(mode="json", include=said & audit.visible_fields(action))


@routes.add(
    "GET", "/v1/audit", scopes=(ADMIN, MANAGE), query=AuditQuery, responses={200: responses.Page[responses.AuditEntry]}
)
async def listed(call: TransactionalRequest[None, AuditQuery]) -> Response:
    """List administrative acts, the newest first: who did what, on what, when. A key sees its own application's.

    `who` is `admin`, `command line`, or the id of a key. Of what an act was given `details` has the names; values are
    null where they could be a secret or a person.
    """
    asked = call.query
    items = await audit.page(
        call.conn,
        own=call.principal.application_id,
        application_id=_application(asked.application_id),
        action=asked.action,
        before=asked.after_id(),
        limit=asked.limit,
    )
    return page(items, asked.limit, ids.parse(ids.AUDIT, items[-1]["id"]) if items else None)


def _application(named: str | None) -> UUID | None:
    """Raises Invalid."""
    found = None if named is None else ids.parse(ids.APPLICATION, named)
    if named is not None and found is None:
        raise ValidationError([FieldError("/query/application_id", "is not the id of an application: app_...")])
    return found
