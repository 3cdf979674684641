"""The push service put together: four origins, one handler for all POSTs.

Each vendor listens on a port of its own, because a sender tells push services apart by origin: its VAPID
audience, its breaker and its connection pool all hang on it.
"""

import asyncio
import itertools
import secrets
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from gateway.sim import control, request_validation
from gateway.sim.behaviour import Behaviour, Rule
from gateway.sim.browser import Firefoxes
from gateway.sim.keys import Keys
from gateway.sim.messages import Message, MessageLog, MessageSubscription
from gateway.sim.profiles import PROFILES, Profile, SimFault, SimResponse, Vendor
from gateway.sim.subscribers import Subscriber, Subscribers
from gateway.sim.vapid import Verifier

RESET = 0
"""The counters' status for a connection that was torn down without an answer."""

_LEGACY_HEADERS = {"Encryption": "encryption", "Crypto-Key": "crypto_key"}
_LINGER_0 = struct.pack("ii", 1, 0)


class Sim:
    """A local push service.

    `port` 0 takes four free ports, else the vendors listen on `port`, `port + 1` ... in `Vendor`'s order.
    `keep` is how many messages stay readable (None: all). `state_file` keeps subscriptions, not messages, over
    a restart. `clock` gives seconds since 1970 and decides what has expired. `origins` are those by which senders
    know it, when something stands between.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        *,
        state_file: Path | None = None,
        keep: int | None = 10_000,
        clock: Callable[[], float] = time.time,
        origins: Mapping[Vendor, str] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.counters: dict[Vendor, Counter[int]] = {vendor: Counter() for vendor in Vendor}
        self.messages = MessageLog(keep)
        self.behaviour = Behaviour()
        self.ports: dict[Vendor, int] = {}
        self.origins: dict[Vendor, str] = {}
        self.subscribers: Subscribers
        self.firefoxes: Firefoxes
        self._ssl_context = ssl_context
        self._state_file = state_file
        self._clock = clock
        self._known_as = origins or {}
        self._watch = MessageSubscription()
        self._runners: list[web.AppRunner] = []
        self._ids = (f"{secrets.token_hex(8)}{number:08x}" for number in itertools.count())

    async def start(self) -> Self:
        """Raises OSError when a port is taken."""
        listening: dict[Vendor, socket.socket] = {}
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            for index, vendor in enumerate(Vendor):
                wanted = self.port + index if self.port else 0
                listening[vendor] = socket.create_server((self.host, wanted), family=family, backlog=1024)
        except OSError:
            for bound in listening.values():
                bound.close()
            raise
        scheme = "https" if self._ssl_context else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.ports = {vendor: bound.getsockname()[1] for vendor, bound in listening.items()}
        listens_at = {vendor: f"{scheme}://{host}:{number}" for vendor, number in self.ports.items()}
        self.origins.update(listens_at | dict(self._known_as))
        self.subscribers = Subscribers(self.messages, self.origins, self._state_file)
        self.firefoxes = Firefoxes(self.subscribers, self._watch, self._clock)
        for vendor, bound in listening.items():
            runner = web.AppRunner(self._application(PROFILES[vendor]), access_log=None, shutdown_timeout=1)
            self._runners.append(runner)
            await runner.setup()
            await web.SockSite(runner, bound, ssl_context=self._ssl_context, backlog=1024).start()
        return self

    async def stop(self) -> None:
        await self.firefoxes.disconnect()
        while self._runners:
            await self._runners.pop().cleanup()
        self.subscribers.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def websocket_url(self) -> str:
        """Firefox's `dom.push.serverURL`."""
        return self.origins[Vendor.MOZILLA].replace("http", "ws", 1) + "/"

    def subscribe(self, vendor: Vendor, vapid_public_key: bytes | None = None, keys: Keys | None = None) -> Subscriber:
        """A new simulated device; its own keys unless it is to share some (making a pair costs about 30 µs)."""
        [subscriber] = self.subscribers.add(vendor, vapid_public_key, [keys or Keys.generate()])
        return subscriber

    def subscribe_many(
        self, vendor: Vendor, count: int, vapid_public_key: bytes | None = None, *, share_keys: bool = False
    ) -> list[Subscriber]:
        """Many new devices; `share_keys` gives them one key pair, for those that are only counted."""
        keys = [Keys.generate()] * count if share_keys else [Keys.generate() for _ in range(count)]
        return self.subscribers.add(vendor, vapid_public_key, keys)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """The user took the permission away: from now on the endpoint answers as gone."""
        self.subscribers.remove(subscriber)

    def behave(self, *rules: Rule, seed: int = 0) -> None:
        """Follow these rules and no others; none at all is good behaviour."""
        self.behaviour = Behaviour(rules, seed)

    def clear(self) -> None:
        """Forget messages and counts; subscriptions and rules stay."""
        self.messages.clear()
        for counter in self.counters.values():
            counter.clear()

    async def wait_for(
        self, true: Callable[[], bool] | None = None, *, count: int | None = None, timeout: float = 30
    ) -> None:
        """Until so many messages were accepted since the last clear, or until `true` says so; else TimeoutError.

        `true` is asked again after every change: a message, a browser that came, registered, left or acknowledged.
        """
        if (true is None) == (count is None):
            raise TypeError("give a count or a condition")
        try:
            await self._watch.until(true or (lambda: self.messages.total >= (count or 0)), timeout)
        except TimeoutError:
            waited_for = "a condition" if count is None else f"{count} messages"
            raise TimeoutError(
                f"waited {timeout} s for {waited_for}; {self.messages.total} messages were accepted"
            ) from None

    def _application(self, profile: Profile) -> web.Application:
        application = web.Application()
        control.add_routes(application, self)
        if profile.vendor is Vendor.MOZILLA:
            application.router.add_get("/", self.firefoxes.serve)
        verifier = Verifier(
            self.origins[profile.vendor], self._clock, real_subject=profile.looks_for(SimFault.BAD_SUBJECT)
        )

        async def take(request: web.Request) -> web.StreamResponse:
            answer = await self._take(profile, verifier, request)
            if answer is None:
                self.counters[profile.vendor][RESET] += 1
                return _reset(request)
            self.counters[profile.vendor][answer.status] += 1
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body.encode())

        application.router.add_post(profile.path.partition("?")[0], take)
        application.router.add_post("/{elsewhere:.*}", take)
        return application

    async def _take(self, profile: Profile, verifier: Verifier, request: web.Request) -> SimResponse | None:
        """The answer to one POST; None to tear the connection down."""
        body = await request.read()
        token = request.match_info.get("token") or request.query.get("token", "")
        subscriber = self.subscribers.get(token)
        if subscriber is None or subscriber.vendor is not profile.vendor:
            return profile.refuse(SimFault.UNKNOWN)
        if subscriber.gone:
            return profile.refuse(SimFault.GONE)
        rule = self.behaviour.next(profile.vendor, subscriber.endpoint, token)
        if rule is not None:
            if rule.delay_ms:
                await asyncio.sleep(rule.delay_ms / 1000)  # a slow answer is what the rule asks for
            if rule.reset:
                return None
            if rule.status is not None and rule.status >= 300:
                return self._scripted(profile, rule, rule.status)
        asked = request_validation.read(profile, request.headers, len(body))
        if isinstance(asked, SimFault):
            return profile.refuse(asked)
        fault = verifier.fault(request.headers.get("Authorization"), subscriber.vapid_public_key)
        if fault is not None:
            return profile.refuse(fault)
        message = self._message(subscriber, asked._replace(ttl=profile.grant(asked.ttl)), request, body)
        status = 201
        if rule is not None and rule.status is not None:
            status = rule.status
        else:
            await self._accept(subscriber, message)
        location = f"{self.origins[profile.vendor]}/m/{message.id}"
        return SimResponse(status, {"Location": location, "TTL": str(message.ttl), **profile.accepted(message.id)})

    def _scripted(self, profile: Profile, rule: Rule, status: int) -> SimResponse:
        answer = profile.answer(status, rule.reason)
        if rule.retry_after is not None:
            answer.headers["Retry-After"] = str(rule.retry_after)
        if status < 400:
            # A sender that followed it would be counted here as one 404.
            answer.headers["Location"] = f"{self.origins[profile.vendor]}/elsewhere"
        return answer

    def _message(
        self, subscriber: Subscriber, asked: request_validation.RequestHeaders, request: web.Request, body: bytes
    ) -> Message:
        headers = request.headers
        return Message(
            id=next(self._ids),
            vendor=subscriber.vendor,
            endpoint=subscriber.endpoint,
            received_at=datetime.fromtimestamp(self._clock(), UTC),
            ttl=asked.ttl,
            urgency=asked.urgency,
            topic=asked.topic,
            content_type=headers.get("Content-Type"),
            encoding=headers.get("Content-Encoding") if body else None,
            body=body,
            keys=subscriber.keys,
            extra={name: headers[header] for header, name in _LEGACY_HEADERS.items() if header in headers},
        )

    async def _accept(self, subscriber: Subscriber, message: Message) -> None:
        self.messages.append(message)
        if subscriber.channel is None:
            message.delivered = True
        else:
            await self.firefoxes.deliver(subscriber.channel, message)
        self._watch.changed()


def _reset(request: web.Request) -> web.Response:
    """Abort the connection; with SO_LINGER at 0 the peer sees a reset and not an end."""
    if request.transport is not None:
        bare = request.transport.get_extra_info("socket")
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        request.transport.abort()
    return web.Response()
