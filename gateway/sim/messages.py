"""The messages that the simulator has accepted, and a subscription by which tests wait for changes."""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.sim.keys import DeviceKeys, Undecryptable
from gateway.sim.profiles import Vendor


@dataclass(slots=True, eq=False)
class Message:
    """One accepted push message.

    Attributes:
        id: message id.
        vendor: the push service.
        endpoint: the endpoint to which the message was posted.
        received_at: time of acceptance.
        ttl: granted TTL in seconds.
        urgency: Urgency header.
        topic: Topic header.
        content_type: Content-Type header.
        encoding: Content-Encoding header; None for an empty body.
        body: encrypted body.
        keys: keys of a simulated device; None for a real browser.
        extra: headers of the legacy encoding aesgcm.
        delivered: whether the message was sent to the device.
        ack: Firefox's acknowledgement: 100 displayed, 101 not decryptable, 102 not delivered to the service worker.
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
    keys: DeviceKeys | None = field(repr=False)
    extra: dict[str, str] = field(default_factory=dict)
    delivered: bool = False
    ack: int | None = None
    _payload: bytes | None = None

    @property
    def payload(self) -> bytes:
        """Return the plain text, decrypted on first access.

        Raises:
            Undecryptable: the device cannot decrypt the body.
        """
        if self._payload is None:
            self._payload = self._decrypt()
        return self._payload

    @property
    def text(self) -> str:
        """Return the plain text as a string."""
        return self.payload.decode()

    def json(self) -> Any:
        """Return the plain text as JSON."""
        return json.loads(self.payload)

    def _decrypt(self) -> bytes:
        if not self.body:
            return b""
        if self.keys is None:
            raise Undecryptable("only the browser has the private key")
        if self.encoding != "aes128gcm":
            raise Undecryptable(f"{self.encoding} is decrypted only by real browsers")
        return self.keys.decrypt(self.body)


class MessageLog:
    """The newest messages, oldest first: at most `max_messages`, or all if it is None.

    `total` is the number of all messages since the last clear.
    """

    def __init__(self, max_messages: int | None) -> None:
        """Start empty."""
        self.max_messages = max_messages
        self.total = 0
        self._all: deque[Message] = deque()
        self._by_endpoint: defaultdict[str, deque[Message]] = defaultdict(deque)

    def append(self, message: Message) -> None:
        """Add a message, and drop the oldest if there are too many."""
        self.total += 1
        self._all.append(message)
        self._by_endpoint[message.endpoint].append(message)
        if self.max_messages is not None and len(self._all) > self.max_messages:
            oldest = self._all.popleft()
            of_endpoint = self._by_endpoint[oldest.endpoint]
            of_endpoint.popleft()
            if not of_endpoint:
                del self._by_endpoint[oldest.endpoint]

    def find_by_endpoint(self, endpoint: str) -> list[Message]:
        """Return the messages that were posted to an endpoint."""
        return list(self._by_endpoint.get(endpoint, ()))

    def clear(self) -> None:
        """Remove all messages."""
        self.total = 0
        self._all.clear()
        self._by_endpoint.clear()

    def __iter__(self) -> Iterator[Message]:
        """Iterate over the messages, oldest first."""
        return iter(self._all)

    def __len__(self) -> int:
        """Return the number of stored messages."""
        return len(self._all)

    def __getitem__(self, index: int) -> Message:
        """Return a stored message."""
        return self._all[index]


class MessageSubscription:
    """Lets tasks wait for a condition, which is checked again after each change.

    Several changes in one iteration of the event loop cause one check.
    """

    def __init__(self) -> None:
        """Start without waiters."""
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._check_is_scheduled = False

    def notify(self) -> None:
        """Schedule a check of all conditions."""
        if self._waiting and not self._check_is_scheduled:
            self._check_is_scheduled = True
            asyncio.get_running_loop().call_soon(self._check_conditions)

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> None:
        """Wait until the condition is true.

        Raises:
            TimeoutError: not true within `timeout` seconds.
        """
        if condition():
            return
        waiter = (condition, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await asyncio.wait_for(waiter[1], timeout)
        finally:
            self._waiting.remove(waiter)

    def _check_conditions(self) -> None:
        self._check_is_scheduled = False
        for condition, future in self._waiting:
            if future.done():
                continue
            try:
                if condition():
                    future.set_result(None)
            except Exception as error:  # noqa: BLE001 - an error of the condition is raised in its waiter
                future.set_exception(error)
