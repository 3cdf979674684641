"""What is to go wrong in a run, drawn from its seed: a value, the same whenever and wherever it is drawn."""

import random
from dataclasses import dataclass
from enum import StrEnum

from gateway.sim import Rule, Vendor

WORKERS = 2
# A campaign takes about so long by the answers' delay alone, so that the faults come while it is sent.
SENDING_S = 8.0
SENDERS = 24
URGENT_SENDERS = 16
JOBS = 2
LEASE_S = 4.0
REQUESTS = 10
RAW_DEVICES = 24
# Later moments would not come: a part of the devices takes no message.
LATEST = 0.8


class Break(StrEnum):
    KILL_WORKER = "a worker is killed"
    KILL_API = "the API is killed"
    STOP_POSTGRES = "Postgres stops immediately"
    CUT = "connections are cut"
    DELAY = "a connection is slow"
    FULL_DISK = "the disk of the log is full"


class Between(StrEnum):
    WORKERS_AND_POSTGRES = "workers and Postgres"
    API_AND_POSTGRES = "the API and Postgres"
    CLIENTS_AND_API = "clients and the API"
    WORKERS_AND_PUSH = "workers and push services"


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: once the push services have taken this share of the devices' messages. `seconds`: how long it lasts; of a
    kill, until the process is started again. `delay_s` is that of a slow connection."""

    at: float
    what: Break
    seconds: float
    between: Between | None = None
    worker: int = 0
    delay_s: float = 0.0

    def __str__(self) -> str:
        where = f" between {self.between}" if self.between else ""
        which = f" ({self.worker})" if self.what is Break.KILL_WORKER else ""
        return f"{self.what}{which}{where} at {self.at:.0%} for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Plan:
    """`skew_s`: by how much the clock of each worker is ahead, and at last the API's."""

    seed: int
    devices: int
    faults: tuple[Fault, ...]
    rules: tuple[Rule, ...]
    skew_s: tuple[float, ...]


def draw(seed: int, devices: int) -> Plan:
    chance = random.Random(seed)  # noqa: S311 - the same again is what it is for
    moments = sorted(chance.uniform(0.02, LATEST) for _ in range(chance.randint(3, 7)))
    faults = tuple(_fault(chance, at) for at in moments)
    skew_s = [0.0] * (WORKERS + 1)
    if chance.random() < 0.5:
        skew_s[chance.randrange(len(skew_s))] = chance.choice((-1, 1)) * chance.uniform(60, 600)
    return Plan(seed, devices, faults, _rules(chance, devices), tuple(skew_s))


def _fault(chance: random.Random, at: float) -> Fault:
    what = chance.choice(list(Break))
    match what:
        case Break.KILL_WORKER:
            return Fault(at, what, chance.uniform(0, 1), worker=chance.randrange(WORKERS))
        case Break.CUT:
            return Fault(at, what, chance.choice((0.0, chance.uniform(0.1, 2))), chance.choice(list(Between)))
        case Break.DELAY:
            return Fault(
                at, what, chance.uniform(0.5, 2), chance.choice(list(Between)), delay_s=chance.uniform(0.01, 0.2)
            )
        case Break.KILL_API | Break.STOP_POSTGRES | Break.FULL_DISK:
            return Fault(at, what, chance.uniform(0, 2))


def _rules(chance: random.Random, devices: int) -> tuple[Rule, ...]:
    """Return responses of real push services for a few devices each; the rest respond normally, only slowly.

    Wishes to come again are short, or a run would take as long as they say.
    """
    soon = chance.randint(0, 2)
    known = [
        Rule(status=410),
        Rule(status=404),
        Rule(status=410, vendor=Vendor.MOZILLA, reason="105"),
        Rule(status=413),
        Rule(status=400),
        Rule(status=400, vendor=Vendor.APPLE, reason="BadWebPushTopic"),
        Rule(status=400, vendor=Vendor.APPLE, reason="VapidPkHashMismatch"),
        Rule(status=400, vendor=Vendor.MOZILLA, reason="111"),
        Rule(status=chance.choice((301, 302, 303, 307, 308))),
        Rule(status=chance.choice((200, 202)), vendor=Vendor.APPLE),
        Rule(status=401, vendor=Vendor.MOZILLA, times=1),
        Rule(status=403, vendor=Vendor.FCM, times=1, reason="invalid JWT provided"),
        Rule(status=403, vendor=Vendor.APPLE, times=1),
        Rule(status=401, vendor=Vendor.WNS, times=1),
        Rule(status=403, vendor=Vendor.FCM),
        Rule(status=429, times=chance.randint(1, 2), retry_after=soon),
        Rule(status=429, times=1),
        Rule(status=406, vendor=Vendor.WNS, times=1, retry_after=soon),
        Rule(status=503, times=chance.randint(1, 2), retry_after=soon),
        Rule(status=503, vendor=Vendor.MOZILLA, times=1, reason="202", retry_after=0),
        Rule(status=502, vendor=Vendor.MOZILLA, times=1, reason="902"),
        Rule(status=500, times=chance.randint(1, 3)),
        Rule(status=504, times=1),
        Rule(status=408, times=1),
        Rule(status=503, times=1, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
        Rule(status=429, times=1, retry_after="soon"),
        Rule(reset=True, times=1),
        Rule(delay_ms=1500, times=1),
    ]
    picked = chance.sample(known, chance.randint(3, 8))
    shared = [_for_a_few(rule, chance.uniform(0.005, 0.02)) for rule in picked]
    pace_ms = round(1000 * SENDING_S * SENDERS * WORKERS / devices)
    return (*shared, Rule(delay_ms=min(1000, max(5, pace_ms))))


def _for_a_few(rule: Rule, share: float) -> Rule:
    return Rule(**{**{name: getattr(rule, name) for name in Rule.__slots__}, "share": share})
