"""Where the hosts are that are allowed only as some of many (`*.example.org`).

Whoever may make a name below such a suffix could have it lead into the operator's own network, today or only at the
second look. So such a name is resolved here, all of what it leads to must be of the public internet, and one of these
addresses is what is connected to. Hosts that are allowed by their exact name are trusted.
"""

import asyncio
import random
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from gateway.domain.public_addresses import is_global

KEPT_S = 60.0
MAX_PINS = 256
"""Hosts whose addresses are remembered, and connections kept, at a time."""

Find = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a name. Raises OSError when it has none."""


class NotPublic(Exception):
    """A name leads to an address that is not of the public internet."""


async def find(name: str) -> Sequence[str]:
    """As the system resolves it."""
    found = await asyncio.get_running_loop().getaddrinfo(
        name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [str(address[0]) for *_, address in found]


class _Held(NamedTuple):
    ends: float
    address: asyncio.Future[str]


class AddressPins:
    def __init__(self, find: Find = find, clock: Callable[[], float] = time.monotonic) -> None:
        self._find, self._clock = find, clock
        self._held: OrderedDict[str, _Held] = OrderedDict()

    async def address(self, name: str) -> str:
        """The one to connect to, the same for `KEPT_S`. Raises NotPublic, and OSError when there is none."""
        held = self._held.get(name)
        if held is None or held.ends <= self._clock():
            held = self._held[name] = _Held(self._clock() + KEPT_S, asyncio.ensure_future(self._look(name, held)))
            if len(self._held) > MAX_PINS:
                self._held.popitem(last=False)
        self._held.move_to_end(name)
        try:
            # One may give up waiting while others still want to know.
            return await asyncio.shield(held.address)
        except OSError:
            self.forget(name)
            raise

    def forget(self, name: str) -> None:
        """Look again next time: nothing could be had from there."""
        self._held.pop(name, None)

    async def _look(self, name: str, before: _Held | None) -> str:
        """The same as before when the name still leads there, so that the connection is kept."""
        found = await self._find(name)
        if not all(is_global(ip_address(address)) for address in found):
            raise NotPublic
        if before is not None and before.address.done() and before.address.exception() is None:
            found = [address for address in found if address == before.address.result()] or found
        return random.choice(found)  # noqa: S311 - any of them
