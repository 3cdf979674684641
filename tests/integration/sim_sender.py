"""An application server made of other people's parts: pywebpush encrypts, PyJWT signs, aiohttp posts."""

import json
import time
from typing import Any

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multidict import CIMultiDict
from pywebpush import WebPusher
from yarl import URL

from gateway.sim import Subscriber
from gateway.sim.base64url import encode


def encrypt(subscriber: Subscriber, payload: bytes) -> bytes:
    return bytes(WebPusher(subscriber.to_json()).encode(payload, "aes128gcm")["body"])


class Sender:
    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.private_key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key(self) -> bytes:
        return self.private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def vapid(self, endpoint: str, *, key: bytes | None = None, **claims: object) -> str:
        """A good header for this endpoint, but for the claims that are said to be otherwise; None leaves one out."""
        good = {
            "aud": str(URL(endpoint).origin()),
            "exp": int(time.time()) + 43_200,
            "sub": "mailto:push@example.com",
        }
        said = {name: value for name, value in (good | claims).items() if value is not None}
        # jwt.encode looks at the claims first, and would not sign all of the bad ones.
        token = jwt.api_jws.PyJWS().encode(json.dumps(said).encode(), self.private_key, algorithm="ES256")
        return f"vapid t={token}, k={encode(key or self.public_key)}"

    async def post(self, endpoint: str, body: bytes = b"", headers: dict[str, str | None] | None = None) -> "Reply":
        """A good POST, but for the headers that are said to be otherwise; None leaves one out."""
        good: dict[str, str | None] = {"TTL": "60", "Authorization": self.vapid(endpoint)}
        if body:
            good["Content-Encoding"] = "aes128gcm"
        said = {name: value for name, value in (good | (headers or {})).items() if value is not None}
        async with self.http.post(
            URL(endpoint, encoded=True), data=body, headers=said, allow_redirects=False
        ) as response:
            return Reply(response.status, CIMultiDict(response.headers), await response.text())

    async def push(self, subscriber: Subscriber, payload: bytes, headers: dict[str, str | None] | None = None) -> int:
        return (await self.post(subscriber.endpoint, encrypt(subscriber, payload), headers)).status


class Reply:
    def __init__(self, status: int, headers: CIMultiDict[str], text: str) -> None:
        self.status = status
        self.headers = headers
        self.text = text

    def reason(self) -> Any:
        """The refusal in the vendor's own vocabulary, wherever the vendor puts it."""
        if "X-WNS-Error-Description" in self.headers:
            return self.headers["X-WNS-Error-Description"]
        if self.headers["Content-Type"].startswith("application/json"):
            problem = json.loads(self.text)
            return problem["errno"] if "errno" in problem else problem["reason"]
        return self.text.strip()
