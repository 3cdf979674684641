"""An application server that shares no code with the gateway: pywebpush encrypts, PyJWT signs, aiohttp sends."""

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
    """An application server with a VAPID key."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.private_key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key(self) -> bytes:
        return self.private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def vapid(self, endpoint: str, *, key: bytes | None = None, **claims: object) -> str:
        """Return a VAPID header for the endpoint; `claims` replace the valid claims, and None omits a claim."""
        valid = {
            "aud": str(URL(endpoint).origin()),
            "exp": int(time.time()) + 43_200,
            "sub": "mailto:push@example.com",
        }
        payload = {name: value for name, value in (valid | claims).items() if value is not None}
        # `jwt.encode` would refuse some invalid claims; PyJWS signs any payload.
        token = jwt.api_jws.PyJWS().encode(json.dumps(payload).encode(), self.private_key, algorithm="ES256")
        return f"vapid t={token}, k={encode(key or self.public_key)}"

    async def post(self, endpoint: str, body: bytes = b"", headers: dict[str, str | None] | None = None) -> "Reply":
        """Send a push message; `headers` replace the valid headers, and None omits a header."""
        valid: dict[str, str | None] = {"TTL": "60", "Authorization": self.vapid(endpoint)}
        if body:
            valid["Content-Encoding"] = "aes128gcm"
        all_headers = {name: value for name, value in (valid | (headers or {})).items() if value is not None}
        async with self.http.post(
            URL(endpoint, encoded=True), data=body, headers=all_headers, allow_redirects=False
        ) as response:
            return Reply(response.status, CIMultiDict(response.headers), await response.text())

    async def push(self, subscriber: Subscriber, payload: bytes, headers: dict[str, str | None] | None = None) -> int:
        """Encrypt and send a message, and return the status of the response."""
        return (await self.post(subscriber.endpoint, encrypt(subscriber, payload), headers)).status


class Reply:
    """The response of a push service."""

    def __init__(self, status: int, headers: CIMultiDict[str], text: str) -> None:
        self.status = status
        self.headers = headers
        self.text = text

    def reason(self) -> Any:
        """Return the reason of a refusal, which the vendors report in a header, a JSON body or a text body."""
        if "X-WNS-Error-Description" in self.headers:
            return self.headers["X-WNS-Error-Description"]
        if self.headers["Content-Type"].startswith("application/json"):
            problem = json.loads(self.text)
            return problem["errno"] if "errno" in problem else problem["reason"]
        if self.headers["Content-Type"].startswith("text/html"):
            return self.text.partition("<TITLE>")[2].partition("</TITLE>")[0]
        return self.text.strip()
