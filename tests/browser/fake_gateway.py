"""A fake of the gateway's HTTP API, for tests of the SDK and the service worker.

The fake records every request, and can return errors that a healthy gateway does not return. test_round_trip.py runs
the SDK against the real gateway.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02, b64urlencode
from pywebpush import WebPusher

STATIC = Path(__file__).parents[2] / "gateway" / "static"
KEY = "pk_test"
CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*", "Access-Control-Allow-Methods": "*"}


class VapidPair:
    """A VAPID key pair of the gateway."""

    def __init__(self) -> None:
        self.private = Vapid02()
        self.private.generate_keys()
        point = self.private.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.public: str = b64urlencode(point)


class RequestSignal:
    """Wakes all waiting tasks whenever a request arrives."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class FakeGateway:
    """Serves devices and receipts, and records every request as (method, path, token, body)."""

    def __init__(self) -> None:
        self.origin = ""
        self.vapid = VapidPair()
        self.devices: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, str, Any]] = []
        self.request_received = RequestSignal()
        self.receipts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        # By path: responses that replace those of `respond`.
        self.overrides: dict[str, web.Response] = {}

    @property
    def subscription(self) -> dict[str, Any]:
        """The push subscription of the browser that registered last."""
        return list(self.devices.values())[-1]["subscription"]

    def receipt_of(self, token: str) -> dict[str, str]:
        """Return the `data.gateway` of a message whose receipts have this token."""
        return {"id": f"ntf_{token}", "receipt": token, "receipts": f"{self.origin}/v1/receipts"}

    async def next_receipt(self, timeout: float = 15) -> dict[str, Any]:
        """Wait for the next receipt and return its body."""
        return await asyncio.wait_for(self.receipts.get(), timeout)

    async def send(self, message: Any, subscription: dict[str, Any] | None = None, ttl: int = 60) -> int:
        """Encrypt (pywebpush), sign (py_vapid) and POST a message; None sends no data.

        Returns:
            The status of the push service's response.
        """
        subscription = subscription or self.subscription
        endpoint = subscription["endpoint"]
        url = urlsplit(endpoint)
        headers = self.vapid.private.sign({"sub": "mailto:ops@example.org", "aud": f"{url.scheme}://{url.netloc}"})
        headers["TTL"] = str(ttl)
        body = b""
        if message is not None:
            text = message if isinstance(message, str) else json.dumps(message)
            body = WebPusher(subscription).encode(text.encode(), content_encoding="aes128gcm")["body"]
            headers |= {"Content-Encoding": "aes128gcm", "Content-Type": "application/json"}
        async with aiohttp.ClientSession() as http, http.post(endpoint, data=body, headers=headers) as response:
            return response.status

    async def handle(self, request: web.Request) -> web.Response:
        """Record a request and respond to it."""
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=CORS)
        body = await request.json() if request.can_read_body else None
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.requests.append((request.method, request.path, token, body))
        self.request_received.notify()
        if request.path in self.overrides:
            response = self.overrides[request.path]
        else:
            response = self.respond(request.method, request.path, token, body)
        response.headers.update(CORS)
        return response

    def respond(self, method: str, path: str, token: str, body: Any) -> web.Response:
        """Return the response to a request, as the gateway would."""
        if path == "/v1/receipts":
            self.receipts.put_nowait(body)
            return web.Response(status=204)
        if token == KEY and path == "/v1/vapid-public-key":
            return web.json_response({"vapid_public_key": self.vapid.public})
        if token == KEY and (method, path) == ("POST", "/v1/devices"):
            for device, registration in self.devices.items():
                if registration["subscription"]["endpoint"] == body["subscription"]["endpoint"]:
                    self.devices[device] = registration | body
                    return web.json_response({"id": device, "device_token": f"dt_{device}"})
            device = f"dev_{len(self.requests)}"
            self.devices[device] = body
            return web.json_response({"id": device, "device_token": f"dt_{device}"}, status=201)
        if path.endswith("/preferences") and method == "GET":
            muted = list(self.devices.values())[-1].get("muted", [])
            names = ("news", "offers")
            categories = [{"category": name, "title": name.title(), "enabled": name not in muted} for name in names]
            return web.json_response({"categories": categories})
        if path.startswith("/v1/devices/") and token == f"dt_{path.split('/')[3]}":
            return web.Response(status=204)
        return web.json_response({"code": "unauthenticated", "title": "No"}, status=401)


@asynccontextmanager
async def serve_app(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free loopback port, and yield its web origin."""
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running_fake_gateway() -> AsyncIterator[FakeGateway]:
    """Serve a fake gateway with the sample page and the SDK."""
    gateway = FakeGateway()

    async def cors(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(CORS)

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "sample" / "index.html")

    app = web.Application()
    app.on_response_prepare.append(cors)
    app.router.add_get("/sample/", index)
    app.router.add_static("/sample", STATIC / "sample")
    app.router.add_static("/sdk", STATIC / "sdk")
    app.router.add_route("*", "/v1/{tail:.*}", gateway.handle)
    async with serve_app(app) as origin:
        gateway.origin = origin
        yield gateway
