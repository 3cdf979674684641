"""What was accepted: the last messages, readable as the device would read them, and waiting for more."""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.sim.keys import Keys, Undecryptable
from gateway.sim.profiles import Vendor


@dataclass(slots=True, eq=False)
class Message:
    """One accepted push message. `ttl` is the granted one, in seconds; `encoding` is None for an empty body.

    `delivered` says whether it went out to the device; `ack` is what a Firefox then said of it: 100 shown,
    101 could not decrypt, 102 not delivered to the worker.
    """

    id: str
    vendor: Vendor
    endpoint: str
    received_at: datetime
    ttl: int
    urgency: str
    topic: str | None
    content_type: str | None
    encoding: str | None
    body: bytes
    keys: Keys | None = field(repr=False)
    extra: dict[str, str] = field(default_factory=dict)
    delivered: bool = False
    ack: int | None = None
    _payload: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The plain text, decrypted at the first look; raises Undecryptable."""
        if self._payload is None:
            self._payload = self._decrypt()
        return self._payload

    @property
    def text(self) -> str:
        return self.payload.decode()

    def json(self) -> Any:
        return json.loads(self.payload)

    def _decrypt(self) -> bytes:
        if not self.body:
            return b""
        if self.keys is None:
            raise Undecryptable("only the browser has its private key")
        if self.encoding != "aes128gcm":
            raise Undecryptable(f"{self.encoding} is read by real browsers only")
        return self.keys.decrypt(self.body)


class MessageLog:
    """The last `keep` messages, oldest first; None keeps them all. `total` counts all since the last clear."""

    def __init__(self, keep: int | None) -> None:
        self.keep = keep
        self.total = 0
        self._all: deque[Message] = deque()
        self._by_endpoint: defaultdict[str, deque[Message]] = defaultdict(deque)

    def append(self, message: Message) -> None:
        self.total += 1
        self._all.append(message)
        self._by_endpoint[message.endpoint].append(message)
        if self.keep is not None and len(self._all) > self.keep:
            oldest = self._all.popleft()
            same = self._by_endpoint[oldest.endpoint]
            same.popleft()
            if not same:
                del self._by_endpoint[oldest.endpoint]

    def to(self, endpoint: str) -> list[Message]:
        return list(self._by_endpoint.get(endpoint, ()))

    def clear(self) -> None:
        self.total = 0
        self._all.clear()
        self._by_endpoint.clear()

    def __iter__(self) -> Iterator[Message]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> Message:
        return self._all[index]


class MessageSubscription:
    """Tells those who wait that something changed; many changes in one turn of the loop are one look."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._look_is_due = False

    def changed(self) -> None:
        if self._waiting and not self._look_is_due:
            self._look_is_due = True
            asyncio.get_running_loop().call_soon(self._look)

    async def until(self, true: Callable[[], bool], timeout: float) -> None:
        """Raises TimeoutError when it has not become true within `timeout` seconds."""
        if true():
            return
        waiter = (true, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await asyncio.wait_for(waiter[1], timeout)
        finally:
            self._waiting.remove(waiter)

    def _look(self) -> None:
        self._look_is_due = False
        for true, future in self._waiting:
            if future.done():
                continue
            try:
                if true():
                    future.set_result(None)
            except Exception as error:  # noqa: BLE001 - the asker's own fault belongs to the asker, whatever it is
                future.set_exception(error)
