"""The audit log: record administrative actions, and list the recorded actions.

Each route names its own action (`audit="keys.create"`), so an action keeps its name if the path of an endpoint changes.
A route without a name is not audited. Such a route creates a record that is a trace by itself (a notification, an
event), concerns one device only, or changes nothing.
"""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.domain.errors import FieldError, ValidationError
from gateway.domain.json_object import JsonObject
from gateway.service import views
from gateway.service.access import audit
from gateway.service.access.authentication import ADMIN, MANAGE
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body
from gateway.web.http.routing import Response, Route, Routes, TransactionalRequest
from gateway.web.schemas import responses

routes = Routes("applications")

# The path parameter with the id of a user, which must not be stored in the audit log.
USER_PARAMETER = "user_id"


class AuditQuery(PageQuery):
    """Filters of the audit log."""

    action: Annotated[str | None, Field(max_length=100, description="Only this action: `keys.remove`.")] = None
    application_id: Annotated[
        str | None, Field(max_length=100, description="Only this application; for the operator.")
    ] = None


async def record(route: Route, request: TransactionalRequest[Any, Any], response: Response) -> None:
    """Store an audit entry for a request, if its route is audited and the request changed something.

    A PATCH without fields changes nothing.
    """
    if route.audit is None:
        return
    fields = _visible_fields(route.audit, request.body)
    if route.method == "PATCH" and not fields:
        return
    parameters = dict(request.http.match_info)
    created = response.body.get("id") if response.status == 201 else None
    target = created or next((value for name, value in reversed(parameters.items()) if name != USER_PARAMETER), None)
    application_id = request.principal.application_id or ids.parse(
        ids.APPLICATION, parameters.get("application_id") or str(target)
    )
    await audit.add_entry(request.conn, audit.actor_of(request.principal), route.audit, application_id, target, fields)


def _visible_fields(action: str, body: Body | None) -> JsonObject:
    """Return the fields of a body by name: with the value if the audit log stores it, otherwise with None.

    Only the stored values are serialized, since other values may be large.
    """
    if body is None:
        return {}
    names = body.model_fields_set
    return dict.fromkeys(names) | body.model_dump(mode="json", include=names & audit.visible_fields(action))


@routes.add(
    "GET",
    "/v1/audit",
    scopes=(ADMIN, MANAGE),
    query=AuditQuery,
    work=LIST,
    responses={200: responses.Page[views.AuditEntry]},
)
async def list_actions(request: TransactionalRequest[None, AuditQuery]) -> Response:
    """List administrative actions, newest first. With an API key, only actions of its application are listed.

    `actor` is `admin`, `command line`, or the id of an API key. `details` has the fields of the request. A value is
    null if it may be a secret or personal data.
    """
    query = request.query
    items = await audit.list_page(
        request.conn,
        caller_application_id=request.principal.application_id,
        application_id=_parse_application_id(query.application_id),
        action=query.action,
        before=query.after_id(),
        limit=query.limit,
    )
    return page(items, query.limit, ids.parse(ids.AUDIT, items[-1]["id"]) if items else None)


def _parse_application_id(text: str | None) -> UUID | None:
    """Return the application id of the query.

    Raises:
        ValidationError: the text is not an application id.
    """
    id_ = None if text is None else ids.parse(ids.APPLICATION, text)
    if text is not None and id_ is None:
        raise ValidationError([FieldError("/query/application_id", "is not the id of an application: app_...")])
    return id_
