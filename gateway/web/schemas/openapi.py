"""The OpenAPI 3.1 document, made from the routes and the models that read their requests."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from gateway import __version__
from gateway.domain.audience import DETAILS, MAX_LEAVES
from gateway.domain.comparison import MAX_VALUES, OPERATORS
from gateway.domain.errors import GatewayError
from gateway.service.access.authentication import ADMIN, DEVICE, REGISTER
from gateway.web.http.routing import Route

REF = "#/components/schemas/{model}"


def _codes(refusal: type[GatewayError] = GatewayError) -> dict[str, str]:
    """Every `code` with its title."""
    found = {} if refusal is GatewayError else {refusal.code: f"{refusal.status}: {refusal.title}"}
    for below in refusal.__subclasses__():
        found |= _codes(below)
    return dict(sorted(found.items()))


PROBLEM = {
    "type": "object",
    "description": "RFC 9457. `code` is stable; `errors` names every fault of the input by its JSON pointer.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"enum": list(_codes()), "x-enum-descriptions": _codes()},
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


def _leaf(name: str, schema: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name],
        "properties": {name: schema, **beside},
        "additionalProperties": False,
    }


_OPERANDS: dict[str, Any] = dict.fromkeys(OPERATORS, _SCALAR) | {
    "in": {"type": "array", "items": _SCALAR, "minItems": 1, "maxItems": MAX_VALUES},
    "exists": {"type": "boolean"},
}
_BRANCHES = {"type": "array", "items": {"$ref": "#/components/schemas/Audience"}, "minItems": 1}

AUDIENCE = {
    "description": f"Who: one leaf, or one of `all`, `any`, `not` over others. At most {MAX_LEAVES} leaves.",
    "oneOf": [
        _leaf("everyone", {"const": True}),
        _leaf("topic", {"type": "string"}),
        _leaf("zone", _TEXTS | {"description": "Codes of named areas; a device in any of them matches."}),
        _leaf("user_id", _TEXTS),
        _leaf("device_id", _TEXTS),
        _leaf("notified", _TEXTS | {"description": "Those for whom one of these notifications was accepted."}),
        _leaf("segment", {"type": "string", "description": "A saved audience, by its id."}),
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

_SECURITY = {ADMIN: "admin", DEVICE: "device", REGISTER: "publishable"}
_SCHEMES = {
    "admin": "The operator's token.",
    "secret": "A secret key, sk_..., with the scope the operation names.",
    "publishable": "A publishable key, pk_..., from one of the application's allowed origins.",
    "device": "A device token, dt_..., for this one device.",
}
_SESSION = {
    "type": "apiKey",
    "in": "cookie",
    "name": "__Host-gateway",
    "description": "The console's session, which stands for the secret key it was signed in with: see `/v1/session`.",
}
_REFUSALS = {
    400: "The body could not be read",
    401: "The credential is missing or unknown",
    403: "The credential may not do this",
    404: "Nothing is here",
    409: "The state does not allow this",
    408: "The body took too long to come",
    413: "The body is too large",
    415: "The content type is not understood",
    422: "The input is not valid",
    426: "This address speaks WebSocket",
    429: "Too many requests",
    500: "The gateway met a fault of its own",
    503: "The gateway cannot do this right now",
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    routes = list(routes)
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Web Push gateway",
            "version": __version__,
            "description": "Register browsers, send campaigns and alerts, watch every delivery.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions | {"Problem": PROBLEM, "Audience": AUDIENCE},
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": said} for name, said in _SCHEMES.items()
            }
            | {"session": _SESSION},
        },
    }


class _Schemas:
    """One JSON schema for each model and shape, however often it is referred to."""

    def __init__(self, routes: list[Route]) -> None:
        types: dict[tuple[Any, JsonSchemaMode], None] = {}
        for route in routes:
            if route.body is not None:
                types[route.body, "validation"] = None
            types |= {(shape, "serialization"): None for shape in route.responses.values() if shape not in (None, str)}
        inputs = [(type_, mode, TypeAdapter(type_)) for type_, mode in types]
        self._found, said = TypeAdapter.json_schemas(inputs, ref_template=REF)
        self.definitions: dict[str, Any] = said.get("$defs", {})

    def body(self, model: Any) -> Any:
        return self._found[model, "validation"]

    def answer(self, shape: Any) -> Any:
        return self._found[shape, "serialization"]


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    summary, _, rest = (route.handler.__doc__ or "").partition("\n")
    statuses = dict(route.responses)
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "tags": [route.tag],
        "summary": summary.strip(),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _names(route.path)
            ),
            *_query(route),
        ],
        "responses": {str(status): _response(route, schemas, status, shape) for status, shape in statuses.items()}
        | {str(status): _problem(said) for status, said in _refusals(route).items() if status not in statuses},
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
                "description": "The same key and request within 24 hours give the first answer again.",
            }
        )
    if route.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": schemas.body(route.body)}}
        for kind, medium in route.media_types.items():
            content[kind] = {"schema": {"type": "string", "description": medium.description}}
        operation["requestBody"] = {"required": True, "content": content}
    elif _takes_stream(route):
        # A stream without a line is one that is done at once.
        operation["requestBody"] = {"required": False, "content": {route.streams: {"schema": {"type": "string"}}}}
    return operation


def _operation_id(route: Route) -> str:
    """From the address, since it is what makes an operation unique: `post_v1_devices`."""
    return re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")


def _names(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _query(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema()
    definitions = schema.get("$defs", {})
    return [
        {"name": name, "in": "query", "schema": _inlined(said, definitions), "required": False}
        for name, said in schema["properties"].items()
    ]


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Query parameters are few and flat: their references are written out."""
    match schema:
        case {"$ref": str(ref), **beside}:
            return _inlined(definitions[ref.rpartition("/")[2]], definitions) | beside
        case dict():
            return {name: _inlined(value, definitions) for name, value in schema.items()}
        case list():
            return [_inlined(value, definitions) for value in schema]
        case _:
            return schema


def _response(route: Route, schemas: _Schemas, status: int, shape: Any) -> dict[str, Any]:
    words = {
        101: "Switching protocols",
        200: "Done",
        201: "Created",
        204: "Done; nothing more is to be said",
        503: "Not now",
    }
    said: dict[str, Any] = {"description": words[status]}
    if shape is str:
        said["content"] = {route.streams or "text/plain": {"schema": {"type": "string"}}}
    elif shape is not None:
        said["content"] = {"application/json": {"schema": schemas.answer(shape)}}
    return said


def _refusals(route: Route) -> dict[int, str]:
    statuses = [426, 500, 503] if 101 in route.responses else [500, 503]
    if route.scopes or route.path == "/v1/session":
        statuses += [401, 403]
    if route.path == "/metrics":
        statuses += [401]
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
    return {status: _REFUSALS[status] for status in sorted(set(statuses))}


def _takes_stream(route: Route) -> bool:
    return route.method == "POST" and route.streams is not None


def _problem(said: str) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/Problem"}
    return {"description": said, "content": {"application/problem+json": {"schema": reference}}}
