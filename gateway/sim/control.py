"""HTTP control API of the simulator, under `/_sim` on every origin, for programs in other languages.

The response to an invalid body is 422 with pydantic's list of errors.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gateway.sim import base64url
from gateway.sim.behaviour import DEMO, SITE_LIMIT, Limit, Rule
from gateway.sim.keys import Undecryptable, load_point
from gateway.sim.messages import Message
from gateway.sim.profiles import Vendor
from gateway.sim.subscribers import Subscriber

if TYPE_CHECKING:
    from gateway.sim.service import Sim


Model = TypeVar("Model", bound=BaseModel)


class NewSubscribers(BaseModel):
    """Body of POST /_sim/subscribers."""

    model_config = ConfigDict(extra="forbid")

    vendor: Vendor
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    vapid_public_key: str | None = None
    share_keys: bool = False

    @field_validator("vapid_public_key")
    @classmethod
    def _validate_point(cls, text: str | None) -> str | None:
        if text is not None:
            load_point(base64url.decode(text))
        return text


class NewBehaviour(BaseModel):
    """Body of PUT /_sim/behaviour."""

    model_config = ConfigDict(extra="forbid")

    preset: Literal["demo", "site_limit"] | None = None
    rules: tuple[Rule, ...] = ()
    limits: tuple[Limit, ...] = ()
    seed: int = 0


def add_routes(application: web.Application, sim: "Sim") -> None:
    """Add the control API to an application.

    GET /_sim, /_sim/subscribers, /_sim/counters, /_sim/messages; POST and DELETE /_sim/subscribers; PUT
    /_sim/behaviour.
    """

    async def origins(request: web.Request) -> web.Response:
        return web.json_response({"origins": sim.origins, "websocket": sim.websocket_url})

    async def subscribe(request: web.Request) -> web.Response:
        body = await _parse_body(request, NewSubscribers)
        vapid = None if body.vapid_public_key is None else base64url.decode(body.vapid_public_key)
        added = sim.subscribe_many(body.vendor, body.count, vapid, share_keys=body.share_keys)
        return web.json_response([subscriber.to_json() for subscriber in added], status=201)

    async def subscribers(request: web.Request) -> web.Response:
        return web.json_response([_subscriber_to_json(subscriber) for subscriber in sim.subscribers])

    async def unsubscribe(request: web.Request) -> web.Response:
        subscriber = sim.subscribers.find_by_endpoint(request.query.get("endpoint", ""))
        if subscriber is None:
            raise web.HTTPNotFound(text="no subscription has this endpoint\n")
        sim.unsubscribe(subscriber)
        return web.Response(status=204)

    async def behave(request: web.Request) -> web.Response:
        body = await _parse_body(request, NewBehaviour)
        rules = (*(DEMO if body.preset == "demo" else ()), *body.rules)
        limits = (*((SITE_LIMIT,) if body.preset == "site_limit" else ()), *body.limits)
        sim.behave(*rules, seed=body.seed, limits=limits)
        return web.json_response({"rules": len(sim.behaviour.rules), "seed": sim.behaviour.seed})

    async def counters(request: web.Request) -> web.Response:
        return web.json_response({"counters": sim.counters, "accepted": sim.messages.total})

    async def messages(request: web.Request) -> web.Response:
        endpoint = request.query.get("endpoint")
        selected = sim.messages if endpoint is None else sim.messages.find_by_endpoint(endpoint)
        return web.json_response([_message_to_json(message) for message in selected])

    routes: list[tuple[str, str, Callable[[web.Request], Any]]] = [
        ("GET", "", origins),
        ("GET", "/subscribers", subscribers),
        ("POST", "/subscribers", subscribe),
        ("DELETE", "/subscribers", unsubscribe),
        ("PUT", "/behaviour", behave),
        ("GET", "/counters", counters),
        ("GET", "/messages", messages),
    ]
    for method, path, handler in routes:
        application.router.add_route(method, f"/_sim{path}", handler)


async def _parse_body(request: web.Request, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        errors = error.json(include_url=False, include_context=False)
        raise web.HTTPUnprocessableEntity(text=errors, content_type="application/json") from error


def _subscriber_to_json(subscriber: Subscriber) -> dict[str, Any]:
    return {
        "endpoint": subscriber.endpoint,
        "vendor": subscriber.vendor,
        "simulated": subscriber.keys is not None,
        "gone": subscriber.gone,
        "messages": len(subscriber.messages),
    }


def _message_to_json(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": message.id,
        "vendor": message.vendor,
        "endpoint": message.endpoint,
        "received_at": message.received_at.isoformat(),
        "ttl": message.ttl,
        "urgency": message.urgency,
        "topic": message.topic,
        "delivered": message.delivered,
        "ack": message.ack,
    }
    try:
        return fields | {"payload": message.payload.decode(errors="replace")}
    except Undecryptable as error:
        return fields | {"payload": None, "undecryptable": str(error)}
