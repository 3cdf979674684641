"""Firefox's side: Mozilla's push WebSocket protocol, as autopush speaks it.

A browser says `hello`, registers channels and gets `notification` frames, which it acknowledges. What it
has not acknowledged is kept until its TTL runs out and sent again when it comes back (RFC 8030 section 5.2);
a later message with the same Topic takes an earlier one's place (section 5.4).
"""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from aiohttp import WSCloseCode, WSMsgType, web

from gateway.sim import base64url
from gateway.sim.messages import Message, MessageSubscription
from gateway.sim.profiles import Vendor
from gateway.sim.subscribers import Channel, Subscriber, Subscribers

_OK, _BAD_REQUEST = 200, 400
# autopush's own code for a browser that has connected a second time.
_CONNECTED_AGAIN = 4774


class _Waiting(NamedTuple):
    """`expires_at` is the clock's own number: a message's datetime is rounded, and may lie just after it."""

    message: Message
    channel: Channel
    expires_at: float


class BadFrame(ValueError):
    """The browser said something that the protocol does not know; it is hung up on."""


class Firefoxes:
    """All connected browsers, and what they have not acknowledged. `clock` gives seconds since 1970."""

    def __init__(self, subscribers: Subscribers, watch: MessageSubscription, clock: Callable[[], float]) -> None:
        self._subscribers = subscribers
        self._watch = watch
        self._clock = clock
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._waiting: defaultdict[str, dict[str, _Waiting]] = defaultdict(dict)

    @property
    def connected(self) -> frozenset[str]:
        """The `uaid` of each."""
        return frozenset(self._sockets)

    def waiting(self, uaid: str) -> list[Message]:
        """What it has not acknowledged, oldest first."""
        return [kept.message for kept in self._waiting[uaid].values()]

    async def disconnect(self) -> None:
        """Hang up on everyone; browsers come back by themselves."""
        for socket in list(self._sockets.values()):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def deliver(self, channel: Channel, message: Message) -> None:
        """Send it now if the browser is there, else keep it for as long as its TTL says."""
        waiting = self._waiting[channel.uaid]
        if message.topic is not None:
            replaced = [
                id_ for id_, kept in waiting.items() if (kept.channel, kept.message.topic) == (channel, message.topic)
            ]
            for id_ in replaced:
                del waiting[id_]
        present = channel.uaid in self._sockets
        if present or message.ttl > 0:
            waiting[message.id] = _Waiting(message, channel, self._clock() + message.ttl)
        if present:
            await self._send(self._sockets[channel.uaid], message, channel)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("push-notification",))
        await socket.prepare(request)
        uaid: str | None = None
        try:
            async for frame in socket:
                said = _parse(frame.data if frame.type is WSMsgType.TEXT else None)
                if uaid is None:
                    uaid = await self._hello(socket, said)
                else:
                    await self._answer(socket, uaid, said)
        except BadFrame:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION)
        except ConnectionError:
            pass  # it left in the middle of an answer; what it has not acknowledged waits for it
        finally:
            if uaid is not None and self._sockets.get(uaid) is socket:
                del self._sockets[uaid]
                self._watch.changed()
        return socket

    async def _hello(self, socket: web.WebSocketResponse, said: dict[str, Any]) -> str:
        if said.get("messageType") != "hello":
            raise BadFrame("the first word must be hello")
        uaid = said.get("uaid")
        if not isinstance(uaid, str) or not (uaid in self._waiting or self._subscribers.knows_browser(uaid)):
            uaid = uuid4().hex
        await socket.send_json(
            {"messageType": "hello", "uaid": uaid, "status": _OK, "use_webpush": True, "broadcasts": {}}
        )
        before = self._sockets.get(uaid)
        self._sockets[uaid] = socket
        self._watch.changed()
        now, waiting = self._clock(), self._waiting[uaid]
        for id_ in [id_ for id_, kept in waiting.items() if kept.expires_at <= now]:
            del waiting[id_]
        for kept in list(waiting.values()):
            await self._send(socket, kept.message, kept.channel)
        if before is not None:
            await before.close(code=_CONNECTED_AGAIN)
        return uaid

    async def _answer(self, socket: web.WebSocketResponse, uaid: str, said: dict[str, Any]) -> None:
        match said:
            case {"messageType": "register", "channelID": str(channel_id)}:
                await socket.send_json(self._register(Channel(uaid, channel_id), said.get("key")))
            case {"messageType": "unregister", "channelID": str(channel_id)}:
                subscriber = self._subscribers.on(Channel(uaid, channel_id))
                if subscriber is not None:
                    self._subscribers.remove(subscriber)
                await socket.send_json({"messageType": "unregister", "channelID": channel_id, "status": _OK})
            case {"messageType": "ack", "updates": list(updates)}:
                self._acknowledge(uaid, updates)
            case {"messageType": "nack", "version": str(version)}:
                self._acknowledge(uaid, [{"version": version, "code": said.get("code")}])
            case {"messageType": "broadcast_subscribe"}:
                pass
            case {"messageType": "ping"}:
                await socket.send_str("{}")
            case _ if not said:
                await socket.send_str("{}")
            case _:
                raise BadFrame(f"{said.get('messageType')!r} is not a frame that a browser may send")

    def _register(self, channel: Channel, key: object) -> dict[str, Any]:
        answer = {"messageType": "register", "channelID": channel.channel_id}
        try:
            UUID(channel.channel_id)
            vapid = base64url.decode(key) if isinstance(key, str) and key else None
            subscriber = self._registered(channel, vapid)
        except ValueError as error:
            return answer | {"status": _BAD_REQUEST, "error": str(error)}
        self._watch.changed()
        return answer | {"status": _OK, "pushEndpoint": subscriber.endpoint}

    def _registered(self, channel: Channel, vapid: bytes | None) -> Subscriber:
        """Registering the same channel with the same key again is the same subscription."""
        before = self._subscribers.on(channel)
        if before is not None:
            if before.vapid_public_key == vapid:
                return before
            self._subscribers.remove(before)
        [subscriber] = self._subscribers.add(Vendor.MOZILLA, vapid, channel=channel)
        return subscriber

    def _acknowledge(self, uaid: str, updates: list[Any]) -> None:
        for update in updates:
            if not isinstance(update, dict):
                raise BadFrame("an update is an object")
            kept = self._waiting[uaid].pop(str(update.get("version")), None)
            if kept is not None:
                kept.message.ack = update.get("code", 100)
        self._watch.changed()

    async def _send(self, socket: web.WebSocketResponse, message: Message, channel: Channel) -> None:
        frame: dict[str, Any] = {
            "messageType": "notification",
            "channelID": channel.channel_id,
            "version": message.id,
            "ttl": message.ttl,
        }
        if message.body:
            frame["data"] = base64url.encode(message.body)
            frame["headers"] = {"encoding": message.encoding, **message.extra}
        message.delivered = True
        try:
            await socket.send_json(frame)
        except ConnectionError:
            message.delivered = False


def _parse(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text or "")
    except ValueError as error:
        raise BadFrame("a frame is JSON text") from error
    if not isinstance(said, dict):
        raise BadFrame("a frame is a JSON object")
    return said
