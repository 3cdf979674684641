"""Push services that remember every answer they gave: to which message, for whom, when, and what it means.

What an answer means is read here from the push services' rules and not from the gateway's own table: a fault in that
one is to be found.
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
from gateway.sim.vapid import Verifier

# FCM's words and Apple's for a subscription that was made with another key. Mozilla has one word (errno 109) for that
# and for a token that is wrong, so what it says is never known to be this.
ANOTHER_KEY = ("VapidPkHashMismatch", "UnauthorizedRegistration", "do not correspond to the credentials")
REFUSING = {400, 401, 403}


class Meaning(StrEnum):
    TAKEN = "taken"
    GONE = "gone"
    REJECTED = "rejected"
    ANOTHER_KEY = "refused for its key"
    PASSING = "a passing fault"


@dataclass(frozen=True, slots=True)
class Said:
    """One answer; `asked_at` and `answered_at` in seconds since 1970, by the harness's own clock."""

    meaning: Meaning
    asked_at: float
    answered_at: float


class Remembering(Sim):
    """`said`: the answers by endpoint and Topic. `titles`: of what is sent with each Topic."""

    async def start(self) -> Self:
        self.said: defaultdict[tuple[str, str], list[Said]] = defaultdict(list)
        self.titles: dict[str, str] = {}
        self.strays = 0
        """Requests to where no device is: a redirect was followed, or an endpoint invented."""
        return await super().start()

    async def _take(self, profile: Profile, verifier: Verifier, request: web.Request) -> SimResponse | None:
        asked_at = time.time()
        answer = await super()._take(profile, verifier, request)
        token = request.match_info.get("token") or request.query.get("token", "")
        subscriber, topic = self.subscribers.get(token), request.headers.get("Topic", "")
        if subscriber is None or subscriber.keys is None:
            self.strays += 1
            return answer
        if topic not in self.titles:
            self.titles[topic] = json.loads(subscriber.keys.decrypt(await request.read()))["notification"]["title"]
        means = Meaning.PASSING if answer is None else meaning(answer.status, answer.body)
        self.said[subscriber.endpoint, topic].append(Said(means, asked_at, time.time()))
        return answer


def meaning(status: int, body: str) -> Meaning:
    if status < 300:
        return Meaning.TAKEN
    if status in (404, 410):
        return Meaning.GONE
    if status in REFUSING and any(words in body for words in ANOTHER_KEY):
        return Meaning.ANOTHER_KEY
    return Meaning.REJECTED if status < 401 or status == 413 else Meaning.PASSING
