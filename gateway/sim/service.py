"""The simulated push service: four origins, one handler for all POST requests.

Each vendor has its own port, because the VAPID audience, the circuit breaker and the connection pool of a sender depend
on the origin of the push service.
"""

import asyncio
import itertools
import secrets
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from gateway.sim import control, request_validation
from gateway.sim.behaviour import Behaviour, Limit, Rule
from gateway.sim.browser import FirefoxConnections
from gateway.sim.keys import DeviceKeys
from gateway.sim.messages import Message, MessageLog, MessageSubscription
from gateway.sim.profiles import PROFILES, Profile, SimFault, SimResponse, Vendor
from gateway.sim.subscribers import Subscriber, Subscribers
from gateway.sim.vapid import VapidVerifier

# The key in the counters for connections that were reset without a response.
RESET = 0

_LEGACY_HEADERS = {"Encryption": "encryption", "Crypto-Key": "crypto_key"}
_LINGER_0 = struct.pack("ii", 1, 0)


class Sim:
    """A local push service.

    Args:
        host: address to listen on.
        port: first of four consecutive ports, in `Vendor`'s order; 0 selects four free ones.
        ssl_context: serve https.
        state_file: stores the subscriptions, but not the messages, for the next start.
        max_messages: number of messages to store; None for all.
        clock: returns Unix time in seconds; expiry times are compared with it.
        origins: the origins that senders use, by vendor, if a proxy is in front of the simulator.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        *,
        state_file: Path | None = None,
        max_messages: int | None = 10_000,
        clock: Callable[[], float] = time.time,
        origins: Mapping[Vendor, str] | None = None,
    ) -> None:
        """Create the simulator without listening yet."""
        self.host = host
        self.port = port
        self.counters: dict[Vendor, Counter[int]] = {vendor: Counter() for vendor in Vendor}
        self.messages = MessageLog(max_messages)
        self.behaviour = Behaviour()
        self.ports: dict[Vendor, int] = {}
        self.origins: dict[Vendor, str] = {}
        self.subscribers: Subscribers
        self.firefoxes: FirefoxConnections
        self._ssl_context = ssl_context
        self._state_file = state_file
        self._clock = clock
        self._public_origins = origins or {}
        self._message_subscription = MessageSubscription()
        self._runners: list[web.AppRunner] = []
        self._ids = (f"{secrets.token_hex(8)}{number:08x}" for number in itertools.count())

    async def start(self) -> Self:
        """Listen on all ports.

        Raises:
            OSError: a port is in use.
        """
        listening: dict[Vendor, socket.socket] = {}
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            for index, vendor in enumerate(Vendor):
                port_number = self.port + index if self.port else 0
                listening[vendor] = socket.create_server((self.host, port_number), family=family, backlog=1024)
        except OSError:
            for bound in listening.values():
                bound.close()
            raise
        scheme = "https" if self._ssl_context else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.ports = {vendor: bound.getsockname()[1] for vendor, bound in listening.items()}
        listens_at = {vendor: f"{scheme}://{host}:{number}" for vendor, number in self.ports.items()}
        self.origins.update(listens_at | dict(self._public_origins))
        self.subscribers = Subscribers(self.messages, self.origins, self._state_file)
        self.firefoxes = FirefoxConnections(self.subscribers, self._message_subscription, self._clock)
        for vendor, bound in listening.items():
            runner = web.AppRunner(self._create_application(PROFILES[vendor]), access_log=None, shutdown_timeout=1)
            self._runners.append(runner)
            await runner.setup()
            await web.SockSite(runner, bound, ssl_context=self._ssl_context, backlog=1024).start()
        return self

    async def stop(self) -> None:
        """Close all connections and ports."""
        await self.firefoxes.disconnect()
        while self._runners:
            await self._runners.pop().cleanup()
        self.subscribers.close()

    async def __aenter__(self) -> Self:
        """Start the simulator."""
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the simulator."""
        await self.stop()

    @property
    def websocket_url(self) -> str:
        """Return the value for Firefox's `dom.push.serverURL`."""
        return self.origins[Vendor.MOZILLA].replace("http", "ws", 1) + "/"

    def subscribe(
        self, vendor: Vendor, vapid_public_key: bytes | None = None, keys: DeviceKeys | None = None
    ) -> Subscriber:
        """Create a simulated device, with new keys unless `keys` are given."""
        [subscriber] = self.subscribers.add(vendor, vapid_public_key, [keys or DeviceKeys.generate()])
        return subscriber

    def subscribe_many(
        self, vendor: Vendor, count: int, vapid_public_key: bytes | None = None, *, share_keys: bool = False
    ) -> list[Subscriber]:
        """Create simulated devices. `share_keys` gives all the same keys, which is faster."""
        keys = [DeviceKeys.generate()] * count if share_keys else [DeviceKeys.generate() for _ in range(count)]
        return self.subscribers.add(vendor, vapid_public_key, keys)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscription, as when the user revokes the permission: its endpoint is gone."""
        self.subscribers.remove(subscriber)

    def behave(self, *rules: Rule, seed: int = 0, limits: Sequence[Limit] = ()) -> None:
        """Replace the rules for scripted errors and the limits on senders."""
        self.behaviour = Behaviour(rules, seed, limits)

    def clear(self) -> None:
        """Remove messages and counters; subscriptions and rules stay."""
        self.messages.clear()
        for counter in self.counters.values():
            counter.clear()

    async def wait_for(
        self, condition: Callable[[], bool] | None = None, *, count: int | None = None, timeout: float = 30
    ) -> None:
        """Wait for a number of messages since the last clear, or for a condition.

        The condition is checked after each change: a message, or a browser that connects, registers, disconnects or
        acknowledges.

        Raises:
            TimeoutError: not within `timeout` seconds.
        """
        if (condition is None) == (count is None):
            raise TypeError("give a count or a condition")
        try:
            await self._message_subscription.wait_until(
                condition or (lambda: self.messages.total >= (count or 0)), timeout
            )
        except TimeoutError:
            waited_for = "a condition" if count is None else f"{count} messages"
            raise TimeoutError(
                f"waited {timeout} s for {waited_for}; {self.messages.total} messages were accepted"
            ) from None

    def _create_application(self, profile: Profile) -> web.Application:
        application = web.Application()
        control.add_routes(application, self)
        if profile.vendor is Vendor.MOZILLA:
            application.router.add_get("/", self.firefoxes.serve)
        verifier = VapidVerifier(
            self.origins[profile.vendor], self._clock, checks_subject=profile.checks_for(SimFault.BAD_SUBJECT)
        )

        async def respond(request: web.Request) -> web.StreamResponse:
            response = await self.handle_post(profile, verifier, request)
            if response is None:
                self.counters[profile.vendor][RESET] += 1
                return _reset(request)
            self.counters[profile.vendor][response.status] += 1
            return web.Response(
                status=response.status, reason=response.phrase, headers=response.headers, body=response.body.encode()
            )

        application.router.add_post(profile.path.partition("?")[0], respond)
        application.router.add_post("/{elsewhere:.*}", respond)
        return application

    async def handle_post(self, profile: Profile, verifier: VapidVerifier, request: web.Request) -> SimResponse | None:
        """Return the response to one POST, or None to reset the connection; a subclass may record it."""
        body = await request.read()
        token = request.match_info.get("token") or request.query.get("token", "")
        subscriber = self.subscribers.get(token)
        if subscriber is None or subscriber.vendor is not profile.vendor:
            return profile.refuse(SimFault.UNKNOWN)
        if subscriber.gone:
            return profile.refuse(SimFault.GONE)
        rule = self.behaviour.select_rule(profile.vendor, subscriber.endpoint, token)
        if rule is not None:
            if rule.delay_ms:
                await asyncio.sleep(rule.delay_ms / 1000)  # the scripted delay
            if rule.reset:
                return None
            if rule.status is not None and rule.status >= 300:
                return self._scripted_response(profile, rule, rule.status)
        headers = request_validation.validate_headers(profile, request.headers, len(body))
        if isinstance(headers, SimFault):
            return profile.refuse(headers)
        fault = verifier.find_fault(request.headers.get("Authorization"), subscriber.vapid_public_key)
        if fault is not None:
            return profile.refuse(fault)
        if self.behaviour.limits:
            site = verifier.site_of(request.headers.get("Authorization"))
            limit = self.behaviour.find_exceeded_limit(profile.vendor, site, time.monotonic())
            if limit is not None:
                return self._limited_response(profile, limit)
        message = self._create_message(subscriber, headers._replace(ttl=profile.limit_ttl(headers.ttl)), request, body)
        status = 201
        if rule is not None and rule.status is not None:
            status = rule.status
        else:
            await self._accept(subscriber, message)
        location = f"{self.origins[profile.vendor]}/m/{message.id}"
        return SimResponse(
            status, {"Location": location, "TTL": str(message.ttl), **profile.accepted_headers(message.id)}
        )

    def _scripted_response(self, profile: Profile, rule: Rule, status: int) -> SimResponse:
        response = profile.respond(status, rule.reason)
        if rule.retry_after is not None:
            response.headers["Retry-After"] = str(rule.retry_after)
        if status < 400:
            # A sender that follows the redirect gets a 404 there, which the counters show.
            response.headers["Location"] = f"{self.origins[profile.vendor]}/elsewhere"
        return response

    def _limited_response(self, profile: Profile, limit: Limit) -> SimResponse:
        response = profile.respond(limit.status)
        if limit.retry_after is not None:
            response.headers["Retry-After"] = str(limit.retry_after)
        return response

    def _create_message(
        self, subscriber: Subscriber, headers: request_validation.RequestHeaders, request: web.Request, body: bytes
    ) -> Message:
        request_headers = request.headers
        return Message(
            id=next(self._ids),
            vendor=subscriber.vendor,
            endpoint=subscriber.endpoint,
            received_at=datetime.fromtimestamp(self._clock(), UTC),
            ttl=headers.ttl,
            urgency=headers.urgency,
            topic=headers.topic,
            content_type=request_headers.get("Content-Type"),
            encoding=request_headers.get("Content-Encoding") if body else None,
            body=body,
            keys=subscriber.keys,
            extra={
                name: request_headers[header] for header, name in _LEGACY_HEADERS.items() if header in request_headers
            },
        )

    async def _accept(self, subscriber: Subscriber, message: Message) -> None:
        self.messages.append(message)
        if subscriber.channel is None:
            message.delivered = True
        else:
            await self.firefoxes.deliver(subscriber.channel, message)
        self._message_subscription.notify()


def _reset(request: web.Request) -> web.Response:
    """Reset the connection: with SO_LINGER at 0 the peer receives RST instead of FIN."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        request.transport.abort()
    return web.Response()
