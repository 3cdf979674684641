"""How many machines a fleet of devices takes, from what each step was measured to cost.

Every figure that the model rests on is in COSTS, with the bench that it comes from, and every rule in RULES, with its
reason: a new measurement is one number changed there. The model is arithmetic and nothing else; `ops/bench/fleet` holds
it to a simulation, and `ops/docs/scale.md` tells what follows from it.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, NoReturn

DAY_S = 86_400
MB, GB, TB = 10**6, 10**9, 10**12


class Figure(NamedTuple):
    value: float
    unit: str
    words: str
    source: str
    """The bench in ops/bench/RESULTS.md, or for a rule its reason."""


COSTS = {
    "worker_us": Figure(241, "us CPU", "worker, a delivery; with NATS no less is reckoned", "queues"),
    "relay_us": Figure(36, "us CPU", "relay, a delivery", "queues"),
    "postgres_us": Figure(19, "us CPU", "Postgres, a delivery (claim, load, settle)", "queues"),
    "postgres_nats_us": Figure(15, "us CPU", "Postgres behind a relay, a delivery", "queues"),
    "nats_us": Figure(52, "us CPU", "three NATS servers together, a delivery", "queues"),
    "register_us": Figure(1149, "us CPU", "server, a registration at a fixed rate", "register"),
    "postgres_register_us": Figure(522, "us CPU", "Postgres, a registration at a fixed rate", "register"),
    "register_wal": Figure(20_000, "octets", "WAL of a registration, 15 to 25 kB", "register"),
    "planning_us": Figure(0.92, "us", "planning, for each device of the audience; one transaction", "scale"),
    "row_held_ms": Figure(
        17, "ms", "a busy worker that settles a job locks its application's row for", "steps, 15.5 and 19"
    ),
    "row_idle_ms": Figure(7.2, "ms", "likewise one with nothing else to do: Postgres, three ways of 0.3 ms", "steps"),
    "row_floor_ms": Figure(6.3, "ms", "what of that Postgres itself takes", "steps"),
    "commit_ms": Figure(0.64, "ms", "a commit with a signal; Postgres makes these one after another", "steps"),
    "signal_us": Figure(45, "us CPU", "Postgres, a signal", "steps"),
    "listener_us": Figure(13, "us CPU", "Postgres, a signal, for each process that listens", "steps"),
    "wal_octets": Figure(776, "octets", "WAL of a delivery", "steps"),
    "delivery_octets": Figure(434, "octets", "a row of the log on disk, with its indexes", "steps"),
    "attempt_octets": Figure(282, "octets", "an attempt that was tried again, likewise", "steps"),
    "receipt_octets": Figure(180, "octets", "a receipt, likewise", "steps"),
    "receipt_wal": Figure(256, "octets", "WAL of a receipt", "steps"),
    "device_octets": Figure(1_100, "octets", "a device on disk, with nine indexes", "audience"),
    "wire_octets": Figure(
        362,
        "octets",
        "a delivery in a job's message, 181 kB of 500",
        "seen once, no bench; steps: 101 kB with endpoints of 30 characters",
    ),
    "result_octets": Figure(
        147,
        "octets",
        "a delivery in the result that comes back, 74 kB of 500",
        "packed once by queue/wire.py, no bench",
    ),
    "push_octets": Figure(
        1_300, "octets", "a message to a push service over HTTP/2 and TLS, endpoint and all", "push_vs_pull"
    ),
    "answer_octets": Figure(130, "octets", "its answer", "steps"),
    "worker_mb": Figure(182, "MB", "worker at its peak", "steps"),
    "relay_mb": Figure(146, "MB", "relay at its peak", "queues"),
    "nats_mb": Figure(66, "MB", "one of three NATS servers at its peak", "queues"),
}

RULES = {
    "headroom": Figure(
        0.6, "", "of any resource is used in the busiest minute", "beyond it waiting grows fast, and a third may fail"
    ),
    "in_flight": Figure(1024, "", "messages of a worker in flight at the most", "GATEWAY_WORKER_CONCURRENCY"),
    "largest_application": Figure(0.8, "", "of all messages are one application's", "as bench log assumes it"),
    "retried": Figure(0.01, "", "of all messages are tried again", "as bench log assumes it"),
    "receipts": Figure(0.32, "", "receipts for each message", "as bench log assumes it"),
    "job": Figure(500, "", "devices in a job", "domain/job.py"),
    "register_every_days": Figure(7, "days", "a device registers again after", "an assumption; give your own rate"),
    "busy": Figure(3, "", "times the average is the busiest hour of registering", "an assumption"),
    "pool": Figure(11, "", "connections of a process", "GATEWAY_DATABASE_POOL and one that listens"),
    "fewest": Figure(2, "", "processes of each kind", "so that one may fail"),
    "nats_servers": Figure(3, "", "NATS servers", "the smallest number that survives one"),
    "results_days": Figure(1, "days", "NATS keeps results", "RESULTS_KEPT in queue/nats.py"),
    "ahead": Figure(256, "", "jobs of a lane in NATS, those that workers have among them", "AHEAD in worker/relay.py"),
    "jobs_of_worker": Figure(5, "", "jobs a worker has: four at hand, one that is settled", "GATEWAY_WORKER_JOBS"),
    "most_connections": Figure(500, "", "connections of one Postgres", "usual advice, not measured"),
    "most_cores": Figure(64, "", "cores of one Postgres", "what is sold everywhere, not measured"),
    "most_wal": Figure(200 * MB, "octets/s", "WAL of one Postgres", "one stream, archive and replica; not measured"),
    "most_memory": Figure(512 * GB, "octets", "memory of one Postgres", "what is sold everywhere"),
    "most_log": Figure(10 * TB, "octets", "of log in one Postgres", "a backup comes back within a day at 120 MB/s"),
    "most_planning_s": Figure(60, "s", "planning may take", "nothing of a campaign is sent before it is planned"),
    "connection_mb": Figure(10, "MB", "of Postgres's memory for a connection", "usual advice, not measured"),
}


def cost(name: str) -> float:
    return COSTS[name].value


def rule(name: str) -> float:
    return RULES[name].value


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is asked. Raises ValueError, in one line, for what cannot be.

    `peak_minute`: deliveries accepted by push services in the busiest minute. `registrations`: a second, likewise.
    """

    devices: int
    messages_per_day: int
    peak_minute: int
    answer_ms: float = 100
    retention_days: int = 90
    registrations: float | None = None

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError("there must be a device at least")
        if self.messages_per_day < 0 or self.peak_minute < 0:
            raise ValueError("messages cannot be fewer than none")
        if self.peak_minute > self.messages_per_day:
            raise ValueError("the busiest minute cannot have more messages than the whole day")
        if self.peak_minute * 1440 < self.messages_per_day:
            raise ValueError("the busiest minute cannot have fewer messages than the average one")
        if not (math.isfinite(self.answer_ms) and self.answer_ms > 0):
            raise ValueError("push services take some time to answer")
        if self.retention_days < 1:
            raise ValueError("the log is kept for a day at least")
        if self.registrations is not None and not (math.isfinite(self.registrations) and self.registrations >= 0):
            raise ValueError("registrations cannot be fewer than none")

    @property
    def rate(self) -> float:
        """Deliveries a second in the busiest minute."""
        return self.peak_minute / 60

    @property
    def registering(self) -> float:
        """Registrations a second in the busiest hour."""
        if self.registrations is not None:
            return self.registrations
        return self.devices / (rule("register_every_days") * DAY_S) * rule("busy")


@dataclass(frozen=True, slots=True)
class Limit:
    """What ends first: `used` of what one of it can do, headroom and all, where 1 is as much as is wise."""

    name: str
    used: float
    then: str
    ours: bool = False
    """Whether it is the gateway's own way of doing it, which more machines do not change."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes. Sizes are octets, or octets a second; cores and memory are of all of a kind together."""

    queue: str
    workers: int
    worker_cores: int
    worker_memory: float
    bound_by: str
    """What one worker is bound by: its processor, or what it may have in flight."""
    servers: int
    relays: int
    postgres_servers: int
    postgres_cores: int
    postgres_memory: float
    postgres_connections: int
    postgres_commits: float
    devices_on_disk: float
    log_on_disk: float
    wal: float
    nats_servers: int
    nats_cores: int
    nats_memory: float
    nats_disk: float
    nats_network: float
    bandwidth_out: float
    bandwidth_in: float
    log_store: bool
    """Whether the log needs a store of its own."""
    limits: tuple[Limit, ...]
    """The nearest first."""

    @property
    def first_limit(self) -> Limit:
        return self.limits[0]


def per_worker(answer_ms: float) -> tuple[float, float]:
    """Deliveries a second of one busy worker: as its processor allows, and as what it may have in flight does."""
    return 1e6 / cost("worker_us"), rule("in_flight") / (answer_ms / 1000)


def row_held_s(busy: float) -> float:
    """How long settling a job locks its application's row, by a process that is busy for so much of the time.

    Between the lock and the commit it asks twice more, and each answer waits for what the process does just then.
    """
    return (cost("row_idle_ms") + min(1.0, busy) * (cost("row_held_ms") - cost("row_idle_ms"))) / 1000


def most_of_one_application(workers: float) -> float:
    """Deliveries a second that so many workers can settle in one application, whose row one of them has at a time.

    The more workers share it the less each has to send, and the sooner each lets go: it is where `rate *
    row_held_s(rate * worker_us / workers)` is a job.
    """
    idle, more = row_held_s(0), row_held_s(1) - row_held_s(0)
    busy = cost("worker_us") / 1e6 / workers
    if more * busy == 0:
        return rule("job") / idle
    found = (math.sqrt(idle**2 + 4 * more * busy * rule("job")) - idle) / (2 * more * busy)
    return found if found * busy <= 1 else rule("job") / row_held_s(1)


def plan(fleet: Fleet) -> Plan:
    """With the queue in Postgres for as long as it bears the workers' connections, else with NATS."""
    first = _plan(fleet, nats=False)
    crowded = any(one.name == CONNECTIONS and one.used > 1 for one in first.limits)
    return _plan(fleet, nats=True) if crowded else first


ROW = "one application's row in the log"
CONNECTIONS, LOG_DISK = "connections to Postgres", "disk for the log"


def _plan(fleet: Fleet, *, nats: bool) -> Plan:
    headroom, rate, registering = rule("headroom"), fleet.rate, fleet.registering
    settles = rate / rule("job")

    by_cpu, by_flight = per_worker(fleet.answer_ms)
    workers = _count(rate / (min(by_cpu, by_flight) * headroom))
    servers = _count(registering * cost("register_us") / 1e6 / headroom)
    relays = _count(rate * cost("relay_us") / 1e6 / headroom) if nats else 0

    at_database = servers + (relays if nats else workers)
    connections = round(at_database * rule("pool"))
    signalling = settles * (cost("signal_us") + at_database * cost("listener_us")) / 1e6
    postgres_us = cost("postgres_nats_us" if nats else "postgres_us")
    busy_cores = rate * postgres_us / 1e6 + registering * cost("postgres_register_us") / 1e6 + signalling
    wal = rate * (cost("wal_octets") + rule("receipts") * cost("receipt_wal")) + registering * cost("register_wal")

    devices = fleet.devices * cost("device_octets")
    row = cost("delivery_octets") + rule("retried") * cost("attempt_octets") + rule("receipts") * cost("receipt_octets")
    log = fleet.messages_per_day * fleet.retention_days * row
    memory = devices + fleet.messages_per_day * row / 2 + connections * rule("connection_mb") * MB
    largest = rate * rule("largest_application")
    held = row_held_s(rate * cost("relay_us") / 1e6 / relays if nats else rate * cost("worker_us") / 1e6 / workers)
    claims_settles_plans = settles * 3 + registering

    found = [
        Limit(
            ROW,
            largest / rule("job") * held / headroom,
            "hand out positions in one statement or from a sequence, several jobs at once; then split the application",
            ours=True,
        ),
        Limit(
            "commits that signal, one after another",
            settles * cost("commit_ms") / 1000 / headroom,
            "signal at most some times a second for each application; then several Postgres",
            ours=True,
        ),
        Limit(
            "Postgres's processors",
            busy_cores / (rule("most_cores") * headroom),
            "several Postgres, each with applications or device ids of its own",
        ),
        Limit(
            "WAL of one Postgres",
            wal / (rule("most_wal") * headroom),
            "the log in a store of its own; then several Postgres",
        ),
        Limit(
            CONNECTIONS,
            connections / rule("most_connections"),
            "NATS, so that workers need none; then fewer for each process",
        ),
        Limit(
            "memory for the devices",
            memory / rule("most_memory"),
            "several Postgres by device id",
        ),
        Limit(
            LOG_DISK,
            log / rule("most_log"),
            "keep it for fewer days, or in a store of its own (columns, compressed)",
        ),
        Limit(
            "planning one campaign to everyone",
            fleet.devices * rule("largest_application") * cost("planning_us") / 1e6 / rule("most_planning_s"),
            "plan in slices of device ids, and send the first while the others are planned",
            ours=True,
        ),
    ]
    if nats:
        found.append(
            Limit(
                "jobs in NATS at once",
                workers * rule("jobs_of_worker") / rule("ahead"),
                "let the relays keep as many ahead as the workers there are can hold",
                ours=True,
            )
        )
    limits = tuple(sorted(found, key=lambda limit: -limit.used))
    used = {limit.name: limit.used for limit in limits if not limit.ours and limit.name != CONNECTIONS}
    log_store = used[LOG_DISK] > 1
    if log_store:
        del used[LOG_DISK]
    shards = max(1, math.ceil(max(used.values())))
    kept = cost("result_octets") * fleet.messages_per_day * rule("results_days")
    ahead = cost("wire_octets") * rule("job") * rule("ahead")
    # In to the leader, to two others, and out to whoever takes it.
    passed = rate * (cost("wire_octets") + cost("result_octets")) * (rule("nats_servers") + 1)
    return Plan(
        queue="NATS" if nats else "Postgres",
        workers=workers,
        worker_cores=_count(rate * cost("worker_us") / 1e6 / headroom),
        worker_memory=workers * cost("worker_mb") * MB,
        bound_by="its processor" if by_cpu <= by_flight else "what it may have in flight",
        servers=servers,
        relays=relays,
        postgres_servers=shards,
        postgres_cores=_count(busy_cores / headroom),
        postgres_memory=memory,
        postgres_connections=connections,
        postgres_commits=claims_settles_plans,
        devices_on_disk=devices,
        log_on_disk=log,
        wal=wal,
        nats_servers=round(rule("nats_servers")) if nats else 0,
        nats_cores=max(round(rule("nats_servers")), math.ceil(rate * cost("nats_us") / 1e6 / headroom)) if nats else 0,
        nats_memory=rule("nats_servers") * cost("nats_mb") * MB if nats else 0,
        nats_disk=(kept + ahead) * rule("nats_servers") if nats else 0,
        nats_network=passed if nats else 0,
        bandwidth_out=rate * cost("push_octets"),
        bandwidth_in=rate * cost("answer_octets"),
        log_store=log_store,
        limits=limits,
    )


def _count(wanted: float) -> int:
    return max(round(rule("fewest")), math.ceil(wanted))


def show(fleet: Fleet, found: Plan) -> str:
    """As Markdown tables, for a terminal and for ops/docs/scale.md alike."""
    workers = f"{found.workers:,} processes, {found.worker_cores:,} cores, {_size(found.worker_memory)} of memory"
    rows = [
        ("busiest minute", f"{fleet.rate:,.0f} deliveries/s, {fleet.registering:,.0f} registrations/s"),
        ("workers", f"{workers}; each bound by {found.bound_by}"),
        ("servers (`gateway serve`)", f"{found.servers:,} processes"),
        ("queue", "Postgres suffices" if found.queue == "Postgres" else "NATS is called for"),
        ("relays", f"{found.relays:,} processes" if found.relays else "none"),
        (
            "Postgres",
            f"{found.postgres_servers:,} of them; together {found.postgres_cores:,} cores, "
            f"{_size(found.postgres_memory)} of memory, {found.postgres_connections:,} connections",
        ),
        ("Postgres, writing", f"{_size(found.wal)}/s of WAL, {found.postgres_commits:,.0f} commits/s"),
        ("Postgres, disk", f"devices {_size(found.devices_on_disk)}, log {_size(found.log_on_disk)}"),
        ("log", "needs a store of its own" if found.log_store else "stays in Postgres"),
        (
            "NATS",
            f"{found.nats_servers} servers; together {found.nats_cores:,} cores, {_size(found.nats_disk)} of disk, "
            f"{_size(found.nats_network)}/s of network"
            if found.nats_servers
            else "none",
        ),
        ("to push services", f"{found.bandwidth_out * 8 / MB:,.0f} Mbit/s out, {found.bandwidth_in * 8 / MB:,.0f} in"),
    ]
    lines = ["| what | how much |", "|---|---|", *(f"| {name} | {words} |" for name, words in rows)]
    lines += ["", "| limit | of one Postgres used | then |", "|---|---:|---|"]
    lines += [f"| {one.name}{' (ours)' if one.ours else ''} | {one.used:,.0%} | {one.then} |" for one in found.limits]
    first = found.first_limit
    lines += ["", f"{'Reached' if first.used > 1 else 'Nearest'} first: {first.name} ({first.used:,.0%})."]
    return "\n".join(lines)


def show_figures() -> str:
    lines = ["| what | figure | | from |", "|---|---:|---|---|"]
    for figures in (COSTS, RULES):
        lines += [f"| {one.words} | {one.value:,g} | {one.unit} | {one.source} |" for one in figures.values()]
    return "\n".join(lines)


def _size(octets: float) -> str:
    for unit, name in ((10**15, "PB"), (TB, "TB"), (GB, "GB"), (MB, "MB")):
        if octets >= unit:
            return f"{octets / unit:,.3g} {name}" if octets < 1000 * unit else f"{octets / unit:,.0f} {name}"
    return f"{octets / 1000:,.0f} kB"


def whole(words: str) -> int:
    """A whole number, as people write large ones: 2_000_000, 2,000,000, 2k, 2M or 2B."""
    factors = {"k": 10**3, "M": 10**6, "B": 10**9}
    plain = words.replace(",", "").replace("_", "")
    factor = factors.get(plain[-1:], 1)
    try:
        value = float(plain[:-1] if factor > 1 else plain) * factor
        if value == round(value):
            return round(value)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{words!r} is no number: write 2000000, 2,000,000 or 2M (k, M, B)")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"ops/capacity: {message}\nops/capacity --help tells what it understands.\n")


class _ShowFigures(argparse.Action):
    def __call__(self, using: argparse.ArgumentParser, *_: object) -> None:
        print(show_figures())
        using.exit()


def parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog="ops/capacity",
        description="How many workers, which Postgres and which NATS a fleet of devices takes.",
        epilog="Example: ops/capacity --devices 10M --messages-per-day 20M --peak-minute 1M",
        allow_abbrev=False,
    )
    made.add_argument("--devices", type=whole, required=True, metavar="N", help="registered browsers: 10M")
    made.add_argument("--messages-per-day", type=whole, required=True, metavar="N", help="each to one device")
    made.add_argument("--peak-minute", type=whole, required=True, metavar="N", help="deliveries in the busiest minute")
    made.add_argument(
        "--answer-ms", type=float, default=100, metavar="MS", help="how long push services take to answer (%(default)s)"
    )
    made.add_argument("--retention-days", type=int, default=90, metavar="DAYS", help="of the log (%(default)s)")
    made.add_argument(
        "--registrations-per-second",
        type=float,
        metavar="N",
        help="in the busiest hour (each device once in 7 days, three times the average)",
    )
    made.add_argument("--json", action="store_true", help="print JSON instead of tables")
    made.add_argument("--figures", action=_ShowFigures, nargs=0, help="what the model rests on, and end")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    using = parser()
    asked = using.parse_args(argv)
    try:
        fleet = Fleet(
            asked.devices,
            asked.messages_per_day,
            asked.peak_minute,
            asked.answer_ms,
            asked.retention_days,
            asked.registrations_per_second,
        )
    except ValueError as error:
        using.error(str(error))
    found = plan(fleet)
    if asked.json:
        asked_for = asdict(replace(fleet, registrations=fleet.registering))
        print(json.dumps({"fleet": asked_for, "plan": asdict(found), "first_limit": found.first_limit.name}, indent=2))
        return
    print(show(fleet, found))


if __name__ == "__main__":
    main()
