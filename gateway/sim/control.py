"""The sim's own HTTP side, under `/_sim`, for those who cannot call it in Python.

Every origin serves it. A body that is not understood is answered 422 with pydantic's list of faults.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gateway.sim import base64url
from gateway.sim.behaviour import DEMO, Rule
from gateway.sim.keys import Undecryptable, load_point
from gateway.sim.messages import Message
from gateway.sim.profiles import Vendor
from gateway.sim.subscribers import Subscriber

if TYPE_CHECKING:
    from gateway.sim.service import Sim


Model = TypeVar("Model", bound=BaseModel)


class NewSubscribers(BaseModel):
    model_config = ConfigDict(extra="forbid")

    vendor: Vendor
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    vapid_public_key: str | None = None
    share_keys: bool = False

    @field_validator("vapid_public_key")
    @classmethod
    def _on_the_curve(cls, text: str | None) -> str | None:
        if text is not None:
            load_point(base64url.decode(text))
        return text


class NewBehaviour(BaseModel):
    model_config = ConfigDict(extra="forbid")

    preset: Literal["demo"] | None = None
    rules: tuple[Rule, ...] = ()
    seed: int = 0


def add_routes(application: web.Application, sim: "Sim") -> None:
    """GET /_sim, /_sim/subscribers, /_sim/counters, /_sim/messages; POST and DELETE /_sim/subscribers;
    PUT /_sim/behaviour."""

    async def origins(request: web.Request) -> web.Response:
        return web.json_response({"origins": sim.origins, "websocket": sim.websocket_url})

    async def subscribe(request: web.Request) -> web.Response:
        wanted = await _read(request, NewSubscribers)
        vapid = None if wanted.vapid_public_key is None else base64url.decode(wanted.vapid_public_key)
        added = sim.subscribe_many(wanted.vendor, wanted.count, vapid, share_keys=wanted.share_keys)
        return web.json_response([subscriber.to_json() for subscriber in added], status=201)

    async def subscribers(request: web.Request) -> web.Response:
        return web.json_response([_described(subscriber) for subscriber in sim.subscribers])

    async def unsubscribe(request: web.Request) -> web.Response:
        subscriber = sim.subscribers.at(request.query.get("endpoint", ""))
        if subscriber is None:
            raise web.HTTPNotFound(text="no subscription has this endpoint\n")
        sim.unsubscribe(subscriber)
        return web.Response(status=204)

    async def behave(request: web.Request) -> web.Response:
        wanted = await _read(request, NewBehaviour)
        sim.behave(*(DEMO if wanted.preset == "demo" else ()), *wanted.rules, seed=wanted.seed)
        return web.json_response({"rules": len(sim.behaviour.rules), "seed": sim.behaviour.seed})

    async def counters(request: web.Request) -> web.Response:
        return web.json_response({"counters": sim.counters, "accepted": sim.messages.total})

    async def messages(request: web.Request) -> web.Response:
        endpoint = request.query.get("endpoint")
        found = sim.messages if endpoint is None else sim.messages.to(endpoint)
        return web.json_response([_shown(message) for message in found])

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


async def _read(request: web.Request, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        faults = error.json(include_url=False, include_context=False)
        raise web.HTTPUnprocessableEntity(text=faults, content_type="application/json") from error


def _described(subscriber: Subscriber) -> dict[str, Any]:
    return {
        "endpoint": subscriber.endpoint,
        "vendor": subscriber.vendor,
        "simulated": subscriber.keys is not None,
        "gone": subscriber.gone,
        "messages": len(subscriber.messages),
    }


def _shown(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = {
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
        return shown | {"payload": message.payload.decode(errors="replace")}
    except Undecryptable as error:
        return shown | {"payload": None, "undecryptable": str(error)}
