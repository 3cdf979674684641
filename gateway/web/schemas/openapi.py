"""Generate the OpenAPI 3.1 document from the routes and their request and response models."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from gateway import __version__
from gateway.domain.audience import DETAILS, MAX_LEAVES
from gateway.domain.comparison import MAX_VALUES, OPERATORS
from gateway.domain.errors import GatewayError
from gateway.domain.json_object import JsonObject
from gateway.service.access.authentication import ADMIN, DEVICE, REGISTER
from gateway.web.http.routing import Route

REF = "#/components/schemas/{model}"


def _error_codes(base: type[GatewayError] = GatewayError) -> dict[str, str]:
    """Return the status and title of every error by its `code`."""
    codes = {} if base is GatewayError else {base.code: f"{base.status}: {base.title}"}
    for error in base.__subclasses__():
        codes |= _error_codes(error)
    return dict(sorted(codes.items()))


# The schema of an error response.
PROBLEM = {
    "type": "object",
    "description": "An error (RFC 9457). `code` is stable. `errors` lists all errors of the input, by JSON pointer.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"enum": list(_error_codes()), "x-enum-descriptions": _error_codes()},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}

_TEXTS = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_VALUES},
    ]
}
_SCALAR = {"type": ["string", "number", "boolean"]}


def _leaf(name: str, schema: JsonObject, **operands: Any) -> JsonObject:
    return {
        "type": "object",
        "required": [name],
        "properties": {name: schema, **operands},
        "additionalProperties": False,
    }


_OPERANDS: JsonObject = dict.fromkeys(OPERATORS, _SCALAR) | {
    "in": {"type": "array", "items": _SCALAR, "minItems": 1, "maxItems": MAX_VALUES},
    "exists": {"type": "boolean"},
}
_BRANCHES = {"type": "array", "items": {"$ref": "#/components/schemas/Audience"}, "minItems": 1}

# The schema of an audience.
AUDIENCE = {
    "description": f"The recipients: a condition, or `all`, `any` or `not` of others. At most {MAX_LEAVES} conditions.",
    "oneOf": [
        _leaf("everyone", {"const": True}),
        _leaf("topic", {"type": "string"}),
        _leaf("zone", _TEXTS | {"description": "Codes of areas. A device in any of them matches."}),
        _leaf("user_id", _TEXTS),
        _leaf("device_id", _TEXTS),
        _leaf(
            "notified",
            _TEXTS | {"description": "Ids of notifications. A device to which one of them was sent matches."},
        ),
        _leaf("segment", {"type": "string", "description": "Id of a segment."}),
        *(_leaf(name, _TEXTS) for name in DETAILS),
        _leaf(
            "last_seen",
            {
                "type": "object",
                "properties": {name: {"type": "string", "format": "date-time"} for name in ("after", "before")},
                "additionalProperties": False,
                "minProperties": 1,
            },
        ),
        _leaf("attribute", {"type": "string"}, **_OPERANDS),
        _leaf("within", {"type": "object", "description": "A GeoJSON Polygon or MultiPolygon (RFC 7946)."}),
        _leaf(
            "near",
            {
                "type": "object",
                "required": ["lat", "lon", "radius_m"],
                "properties": {name: {"type": "number"} for name in ("lat", "lon", "radius_m")},
                "additionalProperties": False,
            },
        ),
        _leaf("all", _BRANCHES),
        _leaf("any", _BRANCHES),
        _leaf("not", {"$ref": "#/components/schemas/Audience"}),
    ],
}

# The security scheme for each scope; the other scopes need a secret key.
_SECURITY = {ADMIN: "admin", DEVICE: "device", REGISTER: "publishable"}
_SCHEMES = {
    "admin": "The operator's admin token.",
    "secret": "A secret key, sk_..., with a scope of the operation.",
    "publishable": "A publishable key, pk_..., from one of the application's allowed origins.",
    "device": "A device token, dt_..., for its own device.",
}
# The security scheme of the console session.
_SESSION = {
    "type": "apiKey",
    "in": "cookie",
    "name": "__Host-gateway",
    "description": "The console session of a secret key: see `/v1/session`.",
}
# Descriptions of the error responses, by status.
_ERRORS = {
    400: "The body is malformed",
    401: "The credential is missing or invalid",
    403: "The credential lacks the scope",
    404: "Not found",
    409: "The state of the resource does not allow this",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The content type is not supported",
    422: "The input is invalid",
    426: "A WebSocket upgrade is required",
    429: "Too many requests",
    500: "Internal error",
    503: "The gateway is temporarily unavailable",
}


def document(routes: Iterable[Route]) -> JsonObject:
    """Return the OpenAPI document of the routes."""
    routes = list(routes)
    schemas = _Schemas(routes)
    paths: dict[str, JsonObject] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Web Push gateway",
            "version": __version__,
            "description": "Register browsers, send campaigns and alerts, and follow every delivery.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions | {"Problem": PROBLEM, "Audience": AUDIENCE},
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": text} for name, text in _SCHEMES.items()
            }
            | {"session": _SESSION},
        },
    }


class _Schemas:
    """The JSON schemas of all request and response models, each defined once."""

    def __init__(self, routes: list[Route]) -> None:
        types: dict[tuple[Any, JsonSchemaMode], None] = {}
        for route in routes:
            if route.body is not None:
                types[route.body, "validation"] = None
            types |= {(view, "serialization"): None for view in route.responses.values() if view not in (None, str)}
        inputs = [(type_, mode, TypeAdapter(type_)) for type_, mode in types]
        self._schemas, document = TypeAdapter.json_schemas(inputs, ref_template=REF)
        self.definitions: JsonObject = document.get("$defs", {})

    def request(self, model: Any) -> Any:
        return self._schemas[model, "validation"]

    def response(self, view: Any) -> Any:
        return self._schemas[view, "serialization"]


def _operation(route: Route, schemas: _Schemas) -> JsonObject:
    """Return the operation object of a route."""
    summary, _, rest = (route.handler.__doc__ or "").partition("\n")
    statuses = dict(route.responses)
    operation: JsonObject = {
        "operationId": _operation_id(route),
        "tags": [route.tag],
        "summary": summary.strip(),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _path_parameters(route.path)
            ),
            *_query_parameters(route),
        ],
        "responses": {str(status): _response(route, schemas, status, view) for status, view in statuses.items()}
        | {
            str(status): _problem(description)
            for status, description in _error_responses(route).items()
            if status not in statuses
        },
    }
    if rest.strip():
        operation["description"] = " ".join(rest.split())
    if route.scopes:
        schemes = [_SECURITY.get(scope, "secret") for scope in route.scopes]
        schemes += ["session"] if "secret" in schemes else []
        operation["security"] = [{scheme: []} for scheme in dict.fromkeys(schemes)]
        operation["description"] = f"{operation.get('description', '')} Needs: {', '.join(route.scopes)}.".strip()
    else:
        operation["security"] = []
    if route.creates:
        operation["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "description": "Repeating a request with the same key within 24 hours returns the first response.",
            }
        )
    if route.body is not None:
        content: JsonObject = {"application/json": {"schema": schemas.request(route.body)}}
        for name, media_type in route.media_types.items():
            content[name] = {"schema": {"type": "string", "description": media_type.description}}
        operation["requestBody"] = {"required": True, "content": content}
    elif _takes_stream(route):
        # The body is not required, since a stream may have no lines.
        operation["requestBody"] = {"required": False, "content": {route.streams: {"schema": {"type": "string"}}}}
    return operation


def _operation_id(route: Route) -> str:
    """Return the id of the operation, which is derived from method and path: `post_v1_devices`."""
    return re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")


def _path_parameters(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _query_parameters(route: Route) -> list[JsonObject]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema()
    definitions = schema.get("$defs", {})
    return [
        {"name": name, "in": "query", "schema": _inline(parameter, definitions), "required": False}
        for name, parameter in schema["properties"].items()
    ]


def _inline(schema: Any, definitions: JsonObject) -> Any:
    """Replace the references in the schema of a query parameter by their definitions."""
    match schema:
        case {"$ref": str(ref), **siblings}:
            return _inline(definitions[ref.rpartition("/")[2]], definitions) | siblings
        case dict():
            return {name: _inline(value, definitions) for name, value in schema.items()}
        case list():
            return [_inline(value, definitions) for value in schema]
        case _:
            return schema


def _response(route: Route, schemas: _Schemas, status: int, view: Any) -> JsonObject:
    descriptions = {
        101: "Switching protocols",
        200: "OK",
        201: "Created",
        204: "No content",
        503: "Not ready",
    }
    response: JsonObject = {"description": descriptions[status]}
    if view is str:
        response["content"] = {route.streams or "text/plain": {"schema": {"type": "string"}}}
    elif view is not None:
        response["content"] = {"application/json": {"schema": schemas.response(view)}}
    return response


def _error_responses(route: Route) -> dict[int, str]:
    """Return the descriptions of the errors with which a route may respond, by status."""
    statuses = [426, 500, 503] if 101 in route.responses else [500, 503]
    if route.scopes or route.path == "/v1/session":
        statuses += [401, 403]
    if "{" in route.path:
        statuses += [404]
    if route.conflicts:
        statuses += [409]
    if route.path.startswith("/v1/"):
        statuses += [429]
    if route.body is not None:
        statuses += [400, 408, 413]
    if route.body is not None or _takes_stream(route):
        statuses += [415]
    if route.body is not None or route.query is not None:
        statuses += [422]
    return {status: _ERRORS[status] for status in sorted(set(statuses))}


def _takes_stream(route: Route) -> bool:
    return route.method == "POST" and route.streams is not None


def _problem(description: str) -> JsonObject:
    reference = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": reference}}}
