"""WebDriver BiDi over one WebSocket, with nothing but aiohttp.

Debian's Firefox speaks it by itself, so the tests need no geckodriver and no Selenium.
"""

import asyncio
import itertools
import json
from typing import Any, Self

import aiohttp


class BidiError(Exception):
    """The browser refused a command, or a script threw."""


class Bidi:
    """Commands by id; every command has a time limit, and a lost connection fails all that wait."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._http = http
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str) -> Self:
        http = aiohttp.ClientSession()
        try:
            return cls(http, await http.ws_connect(url, max_msg_size=0))
        except aiohttp.ClientError:
            await http.close()
            raise

    async def _read(self) -> None:
        async for frame in self._socket:
            message = json.loads(frame.data)
            answer = self._waiting.pop(message.get("id"), None)
            if answer is None or answer.done():
                continue
            if message["type"] == "error":
                answer.set_exception(BidiError(f"{message['error']}: {message['message']}"))
            else:
                answer.set_result(message["result"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(BidiError("the browser closed the connection"))

    async def command(self, method: str, /, timeout: float = 30, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await asyncio.wait_for(answer, timeout)

    async def evaluate(self, context: str, expression: str, timeout: float = 30) -> Any:
        """The value of a JavaScript expression (a promise is awaited): whatever JSON can carry."""
        answer = await self.command(
            "script.evaluate",
            timeout=timeout,
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            awaitPromise=True,
            target={"context": context},
        )
        if answer["type"] == "exception":
            raise BidiError(answer["exceptionDetails"]["text"])
        value = answer["result"].get("value")
        return None if value is None else json.loads(value)

    async def close(self) -> None:
        await self._socket.close()
        await self._reader
        await self._http.close()
