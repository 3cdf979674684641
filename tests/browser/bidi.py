"""A WebDriver BiDi client over one WebSocket, which needs only aiohttp.

Firefox serves this protocol itself, so the tests need neither geckodriver nor Selenium.
"""

import asyncio
import itertools
import json
from typing import Any, Self

import aiohttp


class BidiError(Exception):
    """The browser refused a command, or a script threw."""


class Bidi:
    """Sends commands and matches responses by id.

    Every command has a timeout, and a lost connection fails all pending commands.
    """

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._http = http
        self._socket = socket
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str) -> Self:
        """Open the WebSocket."""
        http = aiohttp.ClientSession()
        try:
            return cls(http, await http.ws_connect(url, max_msg_size=0))
        except aiohttp.ClientError:
            await http.close()
            raise

    async def _read(self) -> None:
        async for frame in self._socket:
            message = json.loads(frame.data)
            response = self._pending.pop(message.get("id"), None)
            if response is None or response.done():
                continue
            if message["type"] == "error":
                response.set_exception(BidiError(f"{message['error']}: {message['message']}"))
            else:
                response.set_result(message["result"])
        for response in self._pending.values():
            if not response.done():
                response.set_exception(BidiError("the browser closed the connection"))

    async def command(self, method: str, /, timeout: float = 30, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        id_ = next(self._ids)
        response = self._pending[id_] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": id_, "method": method, "params": params})
        return await asyncio.wait_for(response, timeout)

    async def evaluate(self, context: str, expression: str, timeout: float = 30) -> Any:
        """Evaluate a JavaScript expression, await its promise, and return its value after a round trip through JSON."""
        response = await self.command(
            "script.evaluate",
            timeout=timeout,
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            awaitPromise=True,
            target={"context": context},
        )
        if response["type"] == "exception":
            raise BidiError(response["exceptionDetails"]["text"])
        value = response["result"].get("value")
        return None if value is None else json.loads(value)

    async def close(self) -> None:
        """Close the WebSocket and the HTTP session."""
        await self._socket.close()
        await self._reader
        await self._http.close()
