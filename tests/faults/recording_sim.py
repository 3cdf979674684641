"""Simulated push services that record every response: the message, the device, the times, and the meaning.

This module derives the meaning of a response from the documentation of push services, and not from the gateway's
classification, so that the harness finds a fault in that classification.
"""

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from aiohttp import web

from gateway.sim import Sim
from gateway.sim.profiles import Profile, SimResponse
from gateway.sim.vapid import VapidVerifier

# Errors for a subscription that was created with another VAPID key. Mozilla uses one number (errno 109) for this and
# for an invalid token; its message distinguishes them.
KEY_MISMATCH_ERRORS = (
    "VapidPkHashMismatch",
    "UnauthorizedRegistration",
    "VAPID public key mismatch",
    "do not correspond to the credentials",
)
AUTHENTICATION_STATUSES = {400, 401, 403}


class Meaning(StrEnum):
    """The meaning of a response for the device and the message."""

    ACCEPTED = "accepted"
    GONE = "gone"
    REJECTED = "rejected"
    KEY_MISMATCH = "key mismatch"
    TRANSIENT = "transient failure"


@dataclass(frozen=True, slots=True)
class Response:
    """A response of a push service. Times are in seconds since 1970 by the clock of the harness."""

    meaning: Meaning
    requested_at: float
    responded_at: float


class RecordingSim(Sim):
    """Simulated push services.

    `responses` has the responses by (endpoint, Topic), and `titles` the message titles by Topic. `strays` counts the
    requests without a device, which the gateway sends only if it follows a redirect or corrupts an endpoint. Responses
    to `hostile_tokens`, the devices of the hostile tenant, are not recorded.
    """

    async def start(self) -> Self:
        """Start the push services without recorded responses."""
        self.responses: defaultdict[tuple[str, str], list[Response]] = defaultdict(list)
        self.titles: dict[str, str] = {}
        self.strays = 0
        self.hostile_tokens: set[str] = set()
        return await super().start()

    async def handle_post(self, profile: Profile, verifier: VapidVerifier, request: web.Request) -> SimResponse | None:
        requested_at = time.time()
        response = await super().handle_post(profile, verifier, request)
        token = request.match_info.get("token") or request.query.get("token", "")
        if token in self.hostile_tokens:
            return response
        subscriber, topic = self.subscribers.get(token), request.headers.get("Topic", "")
        if subscriber is None or subscriber.keys is None:
            self.strays += 1
            return response
        if topic not in self.titles:
            self.titles[topic] = json.loads(subscriber.keys.decrypt(await request.read()))["notification"]["title"]
        meaning = Meaning.TRANSIENT if response is None else classify(response.status, response.body)
        self.responses[subscriber.endpoint, topic].append(Response(meaning, requested_at, time.time()))
        return response


def classify(status: int, body: str) -> Meaning:
    """Return the meaning of a response by the push services' rules.

    Without a key mismatch, a redirect, 400 or 413 rejects the message. Other errors are transient.
    """
    if status < 300:
        return Meaning.ACCEPTED
    if status in (404, 410):
        return Meaning.GONE
    if status in AUTHENTICATION_STATUSES and any(error in body for error in KEY_MISMATCH_ERRORS):
        return Meaning.KEY_MISMATCH
    return Meaning.REJECTED if status < 401 or status == 413 else Meaning.TRANSIENT
