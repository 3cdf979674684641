"""Estimate the machines that a fleet of devices needs, from the measured cost of each step.

COSTS lists every measured figure with the benchmark it comes from, and RULES every assumption with its reason, so a new
measurement changes one number. The model is arithmetic only; `ops/bench/fleet` compares it with a simulation, and
`ops/docs/scale.md` shows the results.
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
    """A figure of the model. `source` is the benchmark in ops/bench/RESULTS.md, or the reason of a rule."""

    value: float
    unit: str
    description: str
    source: str


COSTS = {
    "worker_us": Figure(241, "us CPU", "worker, per delivery; assumed equal with NATS", "queues"),
    "relay_us": Figure(36, "us CPU", "relay, per delivery", "queues"),
    "postgres_us": Figure(19, "us CPU", "Postgres, per delivery (claim, load, settle)", "queues"),
    "postgres_nats_us": Figure(15, "us CPU", "Postgres behind a relay, per delivery", "queues"),
    "nats_us": Figure(52, "us CPU", "three NATS servers together, per delivery", "queues"),
    "register_us": Figure(1149, "us CPU", "server, per registration at a fixed rate", "register"),
    "postgres_register_us": Figure(522, "us CPU", "Postgres, per registration at a fixed rate", "register"),
    "register_wal": Figure(20_000, "octets", "WAL per registration, 15 to 25 kB", "register"),
    "planning_us": Figure(0.92, "us", "planning, per device of the audience; one transaction", "scale"),
    "row_busy_ms": Figure(
        17, "ms", "lock on the application's row while a busy worker settles a job", "steps: 15.5 to 19 ms"
    ),
    "row_idle_ms": Figure(
        7.2, "ms", "the same for an idle worker: Postgres and three network trips of 0.3 ms", "steps"
    ),
    "row_floor_ms": Figure(6.3, "ms", "the part of `row_idle_ms` that Postgres takes", "steps"),
    "commit_ms": Figure(0.64, "ms", "a commit with a NOTIFY; Postgres serialises these", "steps"),
    "signal_us": Figure(45, "us CPU", "Postgres, per NOTIFY", "steps"),
    "listener_us": Figure(13, "us CPU", "Postgres, per NOTIFY and listening process", "steps"),
    "wal_octets": Figure(776, "octets", "WAL per delivery", "steps"),
    "delivery_octets": Figure(434, "octets", "a log row on disk, with its indexes", "steps"),
    "attempt_octets": Figure(282, "octets", "a retried attempt on disk, with its indexes", "steps"),
    "receipt_octets": Figure(180, "octets", "a receipt on disk, with its indexes", "steps"),
    "receipt_wal": Figure(256, "octets", "WAL per receipt", "steps"),
    "device_octets": Figure(1_100, "octets", "a device on disk, with nine indexes", "audience"),
    "wire_octets": Figure(
        362,
        "octets",
        "a delivery in a job's message (181 kB for 500)",
        "observed once, no benchmark (steps measures 101 kB, but with short endpoints of 30 characters)",
    ),
    "result_octets": Figure(
        147,
        "octets",
        "a delivery in the result message (74 kB for 500)",
        "encoded once by queue/wire.py, no benchmark",
    ),
    "push_octets": Figure(
        1_300, "octets", "a message to a push service over HTTP/2 and TLS, with its endpoint", "push_vs_pull"
    ),
    "response_octets": Figure(130, "octets", "the response to it", "steps"),
    "worker_mb": Figure(182, "MB", "worker, peak memory", "steps"),
    "relay_mb": Figure(146, "MB", "relay, peak memory", "queues"),
    "nats_mb": Figure(66, "MB", "one of three NATS servers, peak memory", "queues"),
}

RULES = {
    "headroom": Figure(
        0.6,
        "",
        "maximum use of a resource in the busiest minute; the rest is headroom",
        "above it queueing delay grows fast; if a third of the machines fails, the others are 90 % busy",
    ),
    "in_flight": Figure(1024, "", "maximum messages in flight per worker", "GATEWAY_WORKER_CONCURRENCY"),
    "largest_application": Figure(0.8, "", "share of the largest application in all messages", "as in ops/bench/log"),
    "retried": Figure(0.01, "", "share of messages that are retried", "as in ops/bench/log"),
    "receipts": Figure(0.32, "", "receipts per message", "as in ops/bench/log"),
    "job": Figure(500, "", "devices per job", "domain/job.py"),
    "register_every_days": Figure(
        7, "days", "interval between registrations of a device", "an assumption; give your own rate"
    ),
    "busy": Figure(3, "", "registration rate of the busiest hour, as a multiple of the average", "an assumption"),
    "pool": Figure(11, "", "database connections per process", "GATEWAY_DATABASE_POOL and one for LISTEN"),
    "min_processes": Figure(2, "", "minimum processes of each kind", "so that one may fail"),
    "nats_servers": Figure(3, "", "NATS servers", "the smallest number that survives the loss of one"),
    "results_days": Figure(1, "days", "retention of results in NATS", "RESULTS_MAX_AGE in queue/nats.py"),
    "ahead": Figure(
        256,
        "",
        "published jobs of a lane in NATS, including those that workers process",
        "MAX_PUBLISHED in worker/relay.py",
    ),
    "jobs_of_worker": Figure(5, "", "jobs per worker: four claimed, one being settled", "GATEWAY_WORKER_JOBS"),
    "max_connections": Figure(500, "", "maximum connections of one Postgres", "usual advice, not measured"),
    "max_cores": Figure(64, "", "maximum cores of one Postgres", "commonly available, not measured"),
    "max_wal": Figure(
        200 * MB,
        "octets/s",
        "maximum WAL of one Postgres",
        "written, archived and replicated as one stream; not measured",
    ),
    "max_memory": Figure(512 * GB, "octets", "maximum memory of one Postgres", "commonly available"),
    "max_log": Figure(
        10 * TB, "octets", "maximum size of the log in one Postgres", "a backup is restored within a day at 120 MB/s"
    ),
    "max_planning_s": Figure(60, "s", "maximum planning time of a campaign", "sending starts after planning"),
    "connection_mb": Figure(10, "MB", "memory of Postgres per connection", "usual advice, not measured"),
}


def cost(name: str) -> float:
    """Return a measured cost."""
    return COSTS[name].value


def rule(name: str) -> float:
    """Return a rule's value."""
    return RULES[name].value


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet to plan for.

    `peak_minute` is the number of deliveries accepted by push services in the busiest minute, `registrations` the
    number of registrations per second in the busiest hour.

    Raises:
        ValueError: a value is impossible; the message is one line.
    """

    devices: int
    messages_per_day: int
    peak_minute: int
    answer_ms: float = 100
    retention_days: int = 90
    registrations: float | None = None

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError("devices must be at least 1")
        if self.messages_per_day < 0 or self.peak_minute < 0:
            raise ValueError("messages must not be negative")
        if self.peak_minute > self.messages_per_day:
            raise ValueError("the busiest minute cannot have more messages than the whole day")
        if self.peak_minute * 1440 < self.messages_per_day:
            raise ValueError("the busiest minute cannot have fewer messages than the average one")
        if not (math.isfinite(self.answer_ms) and self.answer_ms > 0):
            raise ValueError("the response time of push services must be a positive number")
        if self.retention_days < 1:
            raise ValueError("retention must be at least 1 day")
        if self.registrations is not None and not (math.isfinite(self.registrations) and self.registrations >= 0):
            raise ValueError("registrations must not be negative")

    @property
    def rate(self) -> float:
        """Deliveries per second in the busiest minute."""
        return self.peak_minute / 60

    @property
    def registration_rate(self) -> float:
        """Registrations per second in the busiest hour."""
        if self.registrations is not None:
            return self.registrations
        return self.devices / (rule("register_every_days") * DAY_S) * rule("busy")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of the fleet.

    `used` is the share of one resource that the fleet uses; 1 is the recommended maximum, with headroom left. `remedy`
    says what to do beyond it. A limit `by_design` comes from the gateway's own code; more machines do not raise it.
    """

    name: str
    used: float
    remedy: str
    by_design: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The required machines.

    Sizes are octets, or octets per second; cores and memory are totals of all processes of a kind. `bound_by` is what
    limits one worker: its processor or its messages in flight. With `log_store` the log needs a store of its own.
    `limits` are sorted by use, the nearest first.
    """

    queue: str
    workers: int
    worker_cores: int
    worker_memory: float
    bound_by: str
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
    limits: tuple[Limit, ...]

    @property
    def first_limit(self) -> Limit:
        """Return the nearest limit."""
        return self.limits[0]


def per_worker(answer_ms: float) -> tuple[float, float]:
    """Return the deliveries per second of a worker as limited by its processor, and by its messages in flight."""
    return 1e6 / cost("worker_us"), rule("in_flight") / (answer_ms / 1000)


def row_lock_s(busy: float) -> float:
    """Return how long settling a job locks the application's row, for a process with this utilisation (0 to 1).

    The process sends two more statements between the lock and the commit, and each response waits for the event loop.
    """
    return (cost("row_idle_ms") + min(1.0, busy) * (cost("row_busy_ms") - cost("row_idle_ms"))) / 1000


def max_rate_of_application(workers: float) -> float:
    """Return the deliveries per second that the workers can settle in one application, whose row they lock in turn.

    With more workers each is less busy and holds the lock for a shorter time. At the returned rate the row is always
    locked: jobs per second times `row_lock_s(rate * worker_us / workers)` equals 1.
    """
    idle, extra = row_lock_s(0), row_lock_s(1) - row_lock_s(0)
    busy = cost("worker_us") / 1e6 / workers
    if extra * busy == 0:
        return rule("job") / idle
    rate = (math.sqrt(idle**2 + 4 * extra * busy * rule("job")) - idle) / (2 * extra * busy)
    return rate if rate * busy <= 1 else rule("job") / row_lock_s(1)


def plan(fleet: Fleet) -> Plan:
    """Return the plan: with the queue in Postgres if it can serve the workers' connections, or else with NATS."""
    postgres = _plan(fleet, nats=False)
    needs_nats = any(limit.name == CONNECTIONS and limit.used > 1 for limit in postgres.limits)
    return _plan(fleet, nats=True) if needs_nats else postgres


# The row of `applications` that numbers the log of one application. Settling a job locks it.
ROW = "one application's row in the log"
CONNECTIONS, LOG_DISK = "connections to Postgres", "disk for the log"


def _plan(fleet: Fleet, *, nats: bool) -> Plan:
    headroom, rate, registration_rate = rule("headroom"), fleet.rate, fleet.registration_rate
    jobs_per_second = rate / rule("job")

    cpu_rate, in_flight_rate = per_worker(fleet.answer_ms)
    workers = _round_up(rate / (min(cpu_rate, in_flight_rate) * headroom))
    servers = _round_up(registration_rate * cost("register_us") / 1e6 / headroom)
    relays = _round_up(rate * cost("relay_us") / 1e6 / headroom) if nats else 0

    database_processes = servers + (relays if nats else workers)
    connections = round(database_processes * rule("pool"))
    notify_cores = jobs_per_second * (cost("signal_us") + database_processes * cost("listener_us")) / 1e6
    postgres_us = cost("postgres_nats_us" if nats else "postgres_us")
    busy_cores = rate * postgres_us / 1e6 + registration_rate * cost("postgres_register_us") / 1e6 + notify_cores
    wal = rate * (cost("wal_octets") + rule("receipts") * cost("receipt_wal")) + registration_rate * cost(
        "register_wal"
    )

    devices = fleet.devices * cost("device_octets")
    row = cost("delivery_octets") + rule("retried") * cost("attempt_octets") + rule("receipts") * cost("receipt_octets")
    log = fleet.messages_per_day * fleet.retention_days * row
    memory = devices + fleet.messages_per_day * row / 2 + connections * rule("connection_mb") * MB
    largest = rate * rule("largest_application")
    row_lock = row_lock_s(rate * cost("relay_us") / 1e6 / relays if nats else rate * cost("worker_us") / 1e6 / workers)
    # A job is planned, claimed and settled in one commit each.
    commits_per_second = jobs_per_second * 3 + registration_rate

    limits = [
        Limit(
            ROW,
            largest / rule("job") * row_lock / headroom,
            "assign log positions in one statement or from a sequence, settle several jobs in one transaction; "
            "then split the application",
            by_design=True,
        ),
        Limit(
            "serialised commits with NOTIFY",
            jobs_per_second * cost("commit_ms") / 1000 / headroom,
            "limit NOTIFY to a few per second and application; then several Postgres",
            by_design=True,
        ),
        Limit(
            "Postgres's processors",
            busy_cores / (rule("max_cores") * headroom),
            "several Postgres, each with applications or device ids of its own",
        ),
        Limit(
            "WAL of one Postgres",
            wal / (rule("max_wal") * headroom),
            "the log in a store of its own; then several Postgres",
        ),
        Limit(
            CONNECTIONS,
            connections / rule("max_connections"),
            "NATS, so that workers need none; then fewer per process",
        ),
        Limit(
            "memory for the devices",
            memory / rule("max_memory"),
            "several Postgres by device id",
        ),
        Limit(
            LOG_DISK,
            log / rule("max_log"),
            "keep it for fewer days, or in a store of its own (columns, compressed)",
        ),
        Limit(
            "planning one campaign to everyone",
            fleet.devices * rule("largest_application") * cost("planning_us") / 1e6 / rule("max_planning_s"),
            "plan in slices of device ids, and send the first while the others are planned",
            by_design=True,
        ),
    ]
    if nats:
        limits.append(
            Limit(
                "published jobs in NATS",
                workers * rule("jobs_of_worker") / rule("ahead"),
                "let the relays publish as many jobs as the workers can process",
                by_design=True,
            )
        )
    sorted_limits = tuple(sorted(limits, key=lambda limit: -limit.used))
    used = {limit.name: limit.used for limit in sorted_limits if not limit.by_design and limit.name != CONNECTIONS}
    log_store = used[LOG_DISK] > 1
    if log_store:
        del used[LOG_DISK]
    shards = max(1, math.ceil(max(used.values())))
    results = cost("result_octets") * fleet.messages_per_day * rule("results_days")
    ahead = cost("wire_octets") * rule("job") * rule("ahead")
    # Each message crosses the network to the leader, from the leader to two replicas, and to the consumer.
    nats_network = rate * (cost("wire_octets") + cost("result_octets")) * (rule("nats_servers") + 1)
    return Plan(
        queue="NATS" if nats else "Postgres",
        workers=workers,
        worker_cores=_round_up(rate * cost("worker_us") / 1e6 / headroom),
        worker_memory=workers * cost("worker_mb") * MB,
        bound_by="its processor" if cpu_rate <= in_flight_rate else "its messages in flight",
        servers=servers,
        relays=relays,
        postgres_servers=shards,
        postgres_cores=_round_up(busy_cores / headroom),
        postgres_memory=memory,
        postgres_connections=connections,
        postgres_commits=commits_per_second,
        devices_on_disk=devices,
        log_on_disk=log,
        wal=wal,
        nats_servers=round(rule("nats_servers")) if nats else 0,
        nats_cores=max(round(rule("nats_servers")), math.ceil(rate * cost("nats_us") / 1e6 / headroom)) if nats else 0,
        nats_memory=rule("nats_servers") * cost("nats_mb") * MB if nats else 0,
        nats_disk=(results + ahead) * rule("nats_servers") if nats else 0,
        nats_network=nats_network if nats else 0,
        bandwidth_out=rate * cost("push_octets"),
        bandwidth_in=rate * cost("response_octets"),
        log_store=log_store,
        limits=sorted_limits,
    )


def _round_up(required: float) -> int:
    """Round up, to at least the minimum number of processes."""
    return max(round(rule("min_processes")), math.ceil(required))


def format_plan(fleet: Fleet, plan: Plan) -> str:
    """Format the plan as Markdown tables, for a terminal and for ops/docs/scale.md."""
    workers = f"{plan.workers:,} processes, {plan.worker_cores:,} cores, {_size(plan.worker_memory)} of memory"
    rows = [
        ("busiest minute", f"{fleet.rate:,.0f} deliveries/s, {fleet.registration_rate:,.0f} registrations/s"),
        ("workers", f"{workers}; each bound by {plan.bound_by}"),
        ("servers (`gateway serve`)", f"{plan.servers:,} processes"),
        ("queue", "Postgres suffices" if plan.queue == "Postgres" else "NATS is needed"),
        ("relays", f"{plan.relays:,} processes" if plan.relays else "none"),
        (
            "Postgres",
            f"{plan.postgres_servers:,} servers; in total {plan.postgres_cores:,} cores, "
            f"{_size(plan.postgres_memory)} of memory, {plan.postgres_connections:,} connections",
        ),
        ("Postgres, writing", f"{_size(plan.wal)}/s of WAL, {plan.postgres_commits:,.0f} commits/s"),
        ("Postgres, disk", f"devices {_size(plan.devices_on_disk)}, log {_size(plan.log_on_disk)}"),
        ("log", "needs a store of its own" if plan.log_store else "stays in Postgres"),
        (
            "NATS",
            f"{plan.nats_servers} servers; in total {plan.nats_cores:,} cores, {_size(plan.nats_disk)} of disk, "
            f"{_size(plan.nats_network)}/s of network"
            if plan.nats_servers
            else "none",
        ),
        ("to push services", f"{plan.bandwidth_out * 8 / MB:,.0f} Mbit/s out, {plan.bandwidth_in * 8 / MB:,.0f} in"),
    ]
    lines = ["| component | size |", "|---|---|", *(f"| {name} | {size} |" for name, size in rows)]
    lines += ["", "| limit | used of one Postgres | remedy |", "|---|---:|---|"]
    lines += [
        f"| {limit.name}{' (by design)' if limit.by_design else ''} | {limit.used:,.0%} | {limit.remedy} |"
        for limit in plan.limits
    ]
    first = plan.first_limit
    lines += ["", f"{'First limit reached' if first.used > 1 else 'Nearest limit'}: {first.name} ({first.used:,.0%})."]
    return "\n".join(lines)


def format_figures() -> str:
    """Format the figures of the model as a Markdown table."""
    lines = ["| figure | value | unit | source |", "|---|---:|---|---|"]
    for figures in (COSTS, RULES):
        lines += [
            f"| {figure.description} | {figure.value:,g} | {figure.unit} | {figure.source} |"
            for figure in figures.values()
        ]
    return "\n".join(lines)


def _size(octets: float) -> str:
    for unit, name in ((10**15, "PB"), (TB, "TB"), (GB, "GB"), (MB, "MB")):
        if octets >= unit:
            return f"{octets / unit:,.3g} {name}" if octets < 1000 * unit else f"{octets / unit:,.0f} {name}"
    return f"{octets / 1000:,.0f} kB"


def parse_count(value: str) -> int:
    """Parse an integer with separators or a suffix: 2_000_000, 2,000,000, 2k, 2M or 2B."""
    factors = {"k": 10**3, "M": 10**6, "B": 10**9}
    digits = value.replace(",", "").replace("_", "")
    factor = factors.get(digits[-1:], 1)
    try:
        number = float(digits[:-1] if factor > 1 else digits) * factor
        if number == round(number):
            return round(number)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{value!r} is not an integer: write 2000000, 2,000,000 or 2M (k, M, B)")


class _ArgumentParser(argparse.ArgumentParser):
    """Report a usage error in two lines."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"ops/capacity: {message}\nSee ops/capacity --help.\n")


class _ShowFigures(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(format_figures())
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the command's argument parser."""
    parser = _ArgumentParser(
        prog="ops/capacity",
        description="Estimate the workers, Postgres and NATS servers that a fleet of devices needs.",
        epilog="Example: ops/capacity --devices 10M --messages-per-day 20M --peak-minute 1M",
        allow_abbrev=False,
    )
    parser.add_argument("--devices", type=parse_count, required=True, metavar="N", help="registered browsers: 10M")
    parser.add_argument(
        "--messages-per-day", type=parse_count, required=True, metavar="N", help="messages, each to one device"
    )
    parser.add_argument(
        "--peak-minute", type=parse_count, required=True, metavar="N", help="deliveries in the busiest minute"
    )
    parser.add_argument(
        "--answer-ms", type=float, default=100, metavar="MS", help="response time of push services (%(default)s)"
    )
    parser.add_argument(
        "--retention-days", type=int, default=90, metavar="DAYS", help="retention of the log (%(default)s)"
    )
    parser.add_argument(
        "--registrations-per-second",
        type=float,
        metavar="N",
        help="registrations in the busiest hour (default: each device once in 7 days, times 3)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--figures", action=_ShowFigures, nargs=0, help="print the figures of the model and exit")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the plan for the fleet that the arguments describe."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        fleet = Fleet(
            options.devices,
            options.messages_per_day,
            options.peak_minute,
            options.answer_ms,
            options.retention_days,
            options.registrations_per_second,
        )
    except ValueError as error:
        parser.error(str(error))
    result = plan(fleet)
    if options.json:
        inputs = asdict(replace(fleet, registrations=fleet.registration_rate))
        print(json.dumps({"fleet": inputs, "plan": asdict(result), "first_limit": result.first_limit.name}, indent=2))
        return
    print(format_plan(fleet, result))


if __name__ == "__main__":
    main()
