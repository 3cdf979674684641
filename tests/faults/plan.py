"""The plan of a run: the faults, the responses of push services and the clock errors, all derived from a seed."""

import random
from dataclasses import dataclass
from enum import StrEnum

from gateway.sim import Rule, Vendor

WORKERS = 2
# The response delay is chosen so that a campaign takes about this time, in which the faults occur.
SENDING_S = 8.0
# The settings of each worker: the maximum number of messages in flight, that of urgent messages in addition, the
# number of claimed jobs, and the lease.
SENDERS = 24
URGENT_SENDERS = 16
JOBS = 2
LEASE_S = 4.0
# The number of notifications to topics that are sent in addition to the campaign.
REQUESTS = 10
# The number of devices at the malformed push service.
MALFORMED_DEVICES = 24
# Statuses with which the push services of a plan may refuse the hostile tenant.
HOSTILE_STATUSES = (401, 403, 429, 500, 503, 507)
# Upper bound of the share at which a fault starts: some devices accept no message, so the share never reaches 1.
MAX_FAULT_SHARE = 0.8


class FaultKind(StrEnum):
    """The kinds of faults, with their names in the output."""

    KILL_WORKER = "a worker is killed"
    KILL_API = "the API is killed"
    STOP_POSTGRES = "Postgres stops immediately"
    CUT = "connections are cut"
    DELAY = "a connection is slow"
    FULL_DISK = "the disk of the log is full"


class LinkGroup(StrEnum):
    """The links of the environment, grouped by the processes they connect."""

    WORKERS_AND_POSTGRES = "workers and Postgres"
    API_AND_POSTGRES = "the API and Postgres"
    CLIENTS_AND_API = "clients and the API"
    WORKERS_AND_PUSH = "workers and push services"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a plan.

    The fault starts when the push services have accepted the share `at` of the messages, and lasts for `seconds`; a
    killed process is restarted after that time. `delay_s` is the delay of a slow connection.
    """

    at: float
    kind: FaultKind
    seconds: float
    link_group: LinkGroup | None = None
    worker: int = 0
    delay_s: float = 0.0

    def __str__(self) -> str:
        location = f" between {self.link_group}" if self.link_group else ""
        worker = f" ({self.worker})" if self.kind is FaultKind.KILL_WORKER else ""
        return f"{self.kind}{worker}{location} at {self.at:.0%} for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run.

    `skew_s` has the clock error of each worker, and as its last item that of the API. `hostile_status` is the status
    with which push services refuse the messages of the hostile tenant.
    """

    seed: int
    devices: int
    faults: tuple[Fault, ...]
    rules: tuple[Rule, ...]
    skew_s: tuple[float, ...]
    hostile_status: int = 429


def draw_plan(seed: int, devices: int) -> Plan:
    """Derive the plan of a seed."""
    rng = random.Random(seed)  # noqa: S311 - reproducible by design
    shares = sorted(rng.uniform(0.02, MAX_FAULT_SHARE) for _ in range(rng.randint(3, 7)))
    faults = tuple(_draw_fault(rng, share) for share in shares)
    skew_s = [0.0] * (WORKERS + 1)
    if rng.random() < 0.5:
        skew_s[rng.randrange(len(skew_s))] = rng.choice((-1, 1)) * rng.uniform(60, 600)
    rules = _draw_rules(rng, devices)
    return Plan(seed, devices, faults, rules, tuple(skew_s), rng.choice(HOSTILE_STATUSES))


def _draw_fault(rng: random.Random, at: float) -> Fault:
    kind = rng.choice(list(FaultKind))
    match kind:
        case FaultKind.KILL_WORKER:
            return Fault(at, kind, rng.uniform(0, 1), worker=rng.randrange(WORKERS))
        case FaultKind.CUT:
            return Fault(at, kind, rng.choice((0.0, rng.uniform(0.1, 2))), rng.choice(list(LinkGroup)))
        case FaultKind.DELAY:
            return Fault(at, kind, rng.uniform(0.5, 2), rng.choice(list(LinkGroup)), delay_s=rng.uniform(0.01, 0.2))
        case FaultKind.KILL_API | FaultKind.STOP_POSTGRES | FaultKind.FULL_DISK:
            return Fault(at, kind, rng.uniform(0, 2))


def _draw_rules(rng: random.Random, devices: int) -> tuple[Rule, ...]:
    """Draw three to eight error responses of real push services, each for a few devices; other messages are accepted.

    Retry-After values are short, because they prolong the run.
    """
    retry_after = rng.randint(0, 2)
    rules = [
        Rule(status=410),
        Rule(status=404),
        Rule(status=410, vendor=Vendor.MOZILLA, reason="105"),
        Rule(status=413),
        Rule(status=400),
        Rule(status=400, vendor=Vendor.APPLE, reason="BadWebPushTopic"),
        Rule(status=400, vendor=Vendor.APPLE, reason="VapidPkHashMismatch"),
        Rule(status=400, vendor=Vendor.MOZILLA, reason="111"),
        Rule(status=rng.choice((301, 302, 303, 307, 308))),
        Rule(status=rng.choice((200, 202)), vendor=Vendor.APPLE),
        Rule(status=401, vendor=Vendor.MOZILLA, times=1),
        Rule(status=403, vendor=Vendor.FCM, times=1, reason="invalid JWT provided"),
        Rule(status=403, vendor=Vendor.APPLE, times=1),
        Rule(status=401, vendor=Vendor.WNS, times=1),
        Rule(status=403, vendor=Vendor.FCM),
        Rule(status=429, times=rng.randint(1, 2), retry_after=retry_after),
        Rule(status=429, times=1),
        Rule(status=406, vendor=Vendor.WNS, times=1, retry_after=retry_after),
        Rule(status=503, times=rng.randint(1, 2), retry_after=retry_after),
        Rule(status=503, vendor=Vendor.MOZILLA, times=1, reason="202", retry_after=0),
        Rule(status=502, vendor=Vendor.MOZILLA, times=1, reason="902"),
        Rule(status=500, times=rng.randint(1, 3)),
        Rule(status=504, times=1),
        Rule(status=408, times=1),
        Rule(status=503, times=1, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
        Rule(status=429, times=1, retry_after="soon"),
        Rule(reset=True, times=1),
        Rule(delay_ms=1500, times=1),
    ]
    selected = rng.sample(rules, rng.randint(3, 8))
    shared_rules = [_with_share(rule, rng.uniform(0.005, 0.02)) for rule in selected]
    delay_ms = round(1000 * SENDING_S * SENDERS * WORKERS / devices)
    return (*shared_rules, Rule(delay_ms=min(1000, max(5, delay_ms))))


def _with_share(rule: Rule, share: float) -> Rule:
    return Rule(**{**{name: getattr(rule, name) for name in Rule.__slots__}, "share": share})
