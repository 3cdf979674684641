"""Mozilla's push WebSocket protocol for Firefox, as autopush implements it.

A browser sends `hello` and registers channels. It receives `notification` frames and acknowledges them. A message that
is not acknowledged is stored until its TTL expires, and sent again on the next connection (RFC 8030 section 5.2). A
later message with the same Topic replaces an earlier one (section 5.4).
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
# The code with which autopush closes the first connection of a browser that has opened a second one.
_CONNECTED_AGAIN = 4774


class _StoredMessage(NamedTuple):
    """An unacknowledged message. `expires_at` is exact Unix time, because a message's datetime is rounded."""

    message: Message
    channel: Channel
    expires_at: float


class BadFrame(ValueError):
    """The browser sent an invalid frame; its connection is closed."""


class FirefoxConnections:
    """All connected browsers and their unacknowledged messages. `clock` returns Unix time in seconds."""

    def __init__(self, subscribers: Subscribers, subscription: MessageSubscription, clock: Callable[[], float]) -> None:
        """Start without connected browsers."""
        self._subscribers = subscribers
        self._subscription = subscription
        self._clock = clock
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._waiting: defaultdict[str, dict[str, _StoredMessage]] = defaultdict(dict)

    @property
    def connected(self) -> frozenset[str]:
        """Return the `uaid` of each connected browser."""
        return frozenset(self._sockets)

    def waiting(self, uaid: str) -> list[Message]:
        """Return the unacknowledged messages of a browser, oldest first."""
        return [stored.message for stored in self._waiting[uaid].values()]

    async def disconnect(self) -> None:
        """Close all connections; browsers reconnect by themselves."""
        for socket in list(self._sockets.values()):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def deliver(self, channel: Channel, message: Message) -> None:
        """Send a message if the browser is connected, otherwise store it for its TTL."""
        waiting = self._waiting[channel.uaid]
        if message.topic is not None:
            replaced = [
                id_
                for id_, stored in waiting.items()
                if (stored.channel, stored.message.topic) == (channel, message.topic)
            ]
            for id_ in replaced:
                del waiting[id_]
        is_connected = channel.uaid in self._sockets
        if is_connected or message.ttl > 0:
            waiting[message.id] = _StoredMessage(message, channel, self._clock() + message.ttl)
        if is_connected:
            await self._send(self._sockets[channel.uaid], message, channel)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Handle the WebSocket of one browser."""
        socket = web.WebSocketResponse(protocols=("push-notification",))
        await socket.prepare(request)
        uaid: str | None = None
        try:
            async for frame in socket:
                message = _parse_frame(frame.data if frame.type is WSMsgType.TEXT else None)
                if uaid is None:
                    uaid = await self._handle_hello(socket, message)
                else:
                    await self._handle_frame(socket, uaid, message)
        except BadFrame:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION)
        except ConnectionError:
            pass  # the browser disconnected; unacknowledged messages stay stored
        finally:
            if uaid is not None and self._sockets.get(uaid) is socket:
                del self._sockets[uaid]
                self._subscription.notify()
        return socket

    async def _handle_hello(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> str:
        if message.get("messageType") != "hello":
            raise BadFrame("the first frame must be hello")
        uaid = message.get("uaid")
        if not isinstance(uaid, str) or not (uaid in self._waiting or self._subscribers.has_browser(uaid)):
            uaid = uuid4().hex
        await socket.send_json(
            {"messageType": "hello", "uaid": uaid, "status": _OK, "use_webpush": True, "broadcasts": {}}
        )
        previous = self._sockets.get(uaid)
        self._sockets[uaid] = socket
        self._subscription.notify()
        now, waiting = self._clock(), self._waiting[uaid]
        for id_ in [id_ for id_, stored in waiting.items() if stored.expires_at <= now]:
            del waiting[id_]
        for stored in list(waiting.values()):
            await self._send(socket, stored.message, stored.channel)
        if previous is not None:
            await previous.close(code=_CONNECTED_AGAIN)
        return uaid

    async def _handle_frame(self, socket: web.WebSocketResponse, uaid: str, message: dict[str, Any]) -> None:
        match message:
            case {"messageType": "register", "channelID": str(channel_id)}:
                await socket.send_json(self._handle_register(Channel(uaid, channel_id), message.get("key")))
            case {"messageType": "unregister", "channelID": str(channel_id)}:
                subscriber = self._subscribers.find_by_channel(Channel(uaid, channel_id))
                if subscriber is not None:
                    self._subscribers.remove(subscriber)
                await socket.send_json({"messageType": "unregister", "channelID": channel_id, "status": _OK})
            case {"messageType": "ack", "updates": list(updates)}:
                self._acknowledge(uaid, updates)
            case {"messageType": "nack", "version": str(version)}:
                self._acknowledge(uaid, [{"version": version, "code": message.get("code")}])
            case {"messageType": "broadcast_subscribe"}:
                pass
            case {"messageType": "ping"}:
                await socket.send_str("{}")
            case _ if not message:
                await socket.send_str("{}")
            case _:
                raise BadFrame(f"{message.get('messageType')!r} is not a valid frame type")

    def _handle_register(self, channel: Channel, key: object) -> dict[str, Any]:
        answer = {"messageType": "register", "channelID": channel.channel_id}
        try:
            UUID(channel.channel_id)
            vapid = base64url.decode(key) if isinstance(key, str) and key else None
            subscriber = self._find_or_register(channel, vapid)
        except ValueError as error:
            return answer | {"status": _BAD_REQUEST, "error": str(error)}
        self._subscription.notify()
        return answer | {"status": _OK, "pushEndpoint": subscriber.endpoint}

    def _find_or_register(self, channel: Channel, vapid: bytes | None) -> Subscriber:
        """Return the subscription of a channel. A channel that registers again with another key gets a new one."""
        previous = self._subscribers.find_by_channel(channel)
        if previous is not None:
            if previous.vapid_public_key == vapid:
                return previous
            self._subscribers.remove(previous)
        [subscriber] = self._subscribers.add(Vendor.MOZILLA, vapid, channel=channel)
        return subscriber

    def _acknowledge(self, uaid: str, updates: list[Any]) -> None:
        for update in updates:
            if not isinstance(update, dict):
                raise BadFrame("an update must be an object")
            stored = self._waiting[uaid].pop(str(update.get("version")), None)
            if stored is not None:
                stored.message.ack = update.get("code", 100)
        self._subscription.notify()

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


def _parse_frame(text: str | None) -> dict[str, Any]:
    try:
        message = json.loads(text or "")
    except ValueError as error:
        raise BadFrame("a frame must be JSON text") from error
    if not isinstance(message, dict):
        raise BadFrame("a frame must be a JSON object")
    return message
