"""Resolves, checks and pins the addresses of hosts that are allowed only by a wildcard (`*.example.org`).

Anyone who can create a DNS name below the suffix could let it resolve to an address in the operator's network, now or
at a later lookup. So such a name is resolved here, all its addresses must be public, and the client connects to one of
these addresses. Hosts that are allowed by their exact name are trusted.
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

# How long a resolved address is used.
PIN_TTL_S = 60.0
# Maximum number of pinned hosts, and of origins with open connections.
MAX_PINS = 256

# A function that returns the addresses of a name, and raises OSError when the name has none.
Resolver = Callable[[str], Awaitable[Sequence[str]]]


class NotPublic(Exception):
    """A name resolves to an address outside the public internet."""


async def resolve(name: str) -> Sequence[str]:
    """Resolve a name with the system's resolver."""
    addresses = await asyncio.get_running_loop().getaddrinfo(
        name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [str(address[0]) for *_, address in addresses]


class _Pin(NamedTuple):
    expires_at: float
    address: asyncio.Future[str]


class AddressPins:
    """Cache of one checked address for each of at most MAX_PINS host names."""

    def __init__(self, resolver: Resolver = resolve, clock: Callable[[], float] = time.monotonic) -> None:
        """Create an empty cache; `clock` is in seconds."""
        self._resolver, self._clock = resolver, clock
        self._pins: OrderedDict[str, _Pin] = OrderedDict()

    async def address(self, name: str) -> str:
        """Return the address to which the client connects for a host name. It stays the same for PIN_TTL_S.

        Raises:
            NotPublic: an address of the name is not public.
            OSError: the name cannot be resolved.
        """
        pin = self._pins.get(name)
        if pin is None or pin.expires_at <= self._clock():
            pin = self._pins[name] = _Pin(
                self._clock() + PIN_TTL_S, asyncio.ensure_future(self._resolve_checked(name, pin))
            )
            if len(self._pins) > MAX_PINS:
                self._pins.popitem(last=False)
        self._pins.move_to_end(name)
        try:
            # Shielded, because other requests wait for the same lookup.
            return await asyncio.shield(pin.address)
        except OSError:
            self.forget(name)
            raise

    def forget(self, name: str) -> None:
        """Discard the address of a host name, so that the next call of `address` resolves the name again."""
        self._pins.pop(name, None)

    async def _resolve_checked(self, name: str, previous: _Pin | None) -> str:
        """Resolve and check a name. Prefer the previous address if the name still has it: its connection is reused."""
        addresses = await self._resolver(name)
        if not all(is_global(ip_address(address)) for address in addresses):
            raise NotPublic
        if previous is not None and previous.address.done() and previous.address.exception() is None:
            addresses = [address for address in addresses if address == previous.address.result()] or addresses
        return random.choice(addresses)  # noqa: S311 - any of them
