"""Simulate a fleet of workers: the rate by number of workers, and the number beyond which more workers gain little.

The simulation uses discrete events and a fixed seed. Each worker is an event loop that sends in bursts; it processes a
database response only after the current burst. A worker has a connection pool, claimed jobs, and a limited number of
messages in flight. Postgres has a number of cores and a lock on each application's row, which a transaction holds from
the assignment of log positions to its commit. Postgres serialises commits that send NOTIFY. Campaigns never end. Alerts
to one device arrive during the campaigns; each alert wakes every worker, and the workers pause their non-urgent
sending. Service times are those of ops/capacity.py and benchmark `steps`.

Not simulated: planning of large audiences, retries and slow push services, registrations, reads of the log, checkpoints
and vacuum, failures, limits of the network, and a worker's own cost of receiving NOTIFY.
"""

import heapq
import itertools
import math
import random
import statistics
import sys
from collections import deque
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import testbed
from testbed import console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import capacity
from capacity import cost, rule

from gateway.queue.postgres import MAX_CONCURRENT_NON_URGENT
from gateway.worker.worker import MAX_URGENT_CLAIM_S

SEED = 20261127
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BULK, PLAN, URGENT = "bulk", "plan", "urgent"


class Resource:
    """A resource with a number of slots and a FIFO queue."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free = slots
        self.waiting: deque[Process] = deque()
        self.busy_s = 0.0


class Event:
    """Wakes all processes that wait for it."""

    def __init__(self) -> None:
        self.waiting: list[Process] = []


# A process yields seconds to wait, a resource to acquire, or an event to wait for.
Process = Generator["float | Resource | Event", None, None]


class Simulation:
    """A discrete-event simulation whose processes are generators."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Process]] = []
        self._numbers = itertools.count()

    def start(self, process: Process, after: float = 0.0) -> None:
        """Start a process after a delay."""
        heapq.heappush(self._due, (self.now + after, next(self._numbers), process))

    def run(self, until: float) -> None:
        """Run until this time."""
        while self._due and self._due[0][0] <= until:
            self.now, _, process = heapq.heappop(self._due)
            self._step(process)

    def _step(self, process: Process) -> None:
        """Run a process until it waits."""
        for request in process:
            if isinstance(request, float):
                self.start(process, request)
            elif isinstance(request, Event):
                request.waiting.append(process)
            elif request.free:
                request.free -= 1
                continue
            else:
                request.waiting.append(process)
            return

    def release(self, resource: Resource) -> None:
        """Release a slot and start the next waiting process."""
        if resource.waiting:
            self.start(resource.waiting.popleft())
        else:
            resource.free += 1

    def set_event(self, event: Event) -> None:
        """Start all processes that wait for an event."""
        waiting, event.waiting = event.waiting, []
        for process in waiting:
            self.start(process)

    def use(self, resource: Resource, seconds: float) -> Process:
        """Acquire a slot for this time."""
        yield resource
        yield seconds
        resource.busy_s += seconds
        self.release(resource)


@dataclass(frozen=True, slots=True)
class Setting:
    """The parameters of a simulation.

    The round trips to Postgres and their milliseconds are those that benchmark `steps` measures. COPY takes two round
    trips; `steps` counts one, because Postgres logs COPY as one line.
    """

    workers: int
    answer_ms: float = 100.0
    applications: int = 1
    postgres_cores: int = 16
    network_ms: float = 0.3
    alert_every_s: float = 2.0
    seconds: float = 40.0
    warm_up_s: float = 2.0
    # If not 0: workers, Postgres and push service share this many cores, as in the measurements.
    shared_cores: int = 0
    # CPU time of the push service per message, on the shared cores.
    sink_us: float = 21.5
    # How long a database response waits for the event loop: (open ms - server ms) / round trips, of benchmark `steps`.
    round_ms: float = 6.2
    claim_trips: int = 6
    claim_ms: float = 1.5
    load_trips: int = 7
    load_ms: float = 1.6
    settle_trips_before: int = 5
    settle_ms_before: float = 0.5
    # Trips between the lock of the application's row and the commit: COPY.
    locked_trips: int = 2
    max_claimed_jobs: int = 4
    pool: int = 10


@dataclass(slots=True)
class Job:
    """A job with `remaining` unsettled messages."""

    application: int
    lane: str
    remaining: int
    accepted: float = 0.0


@dataclass(slots=True)
class Result:
    """The result of a simulation.

    The delays are None if no alert was sent. `model` is the rate by the formulas of ops/capacity.py.
    """

    setting: Setting
    rate: float
    postgres_used: float
    row_used: float
    commits_used: float
    alerts: int
    alert_p50_ms: float | None
    alert_p99_ms: float | None
    lock_ms: float
    model: float


class Postgres:
    """The simulated Postgres: its cores, a lock per application, and a lock that serialises commits with NOTIFY."""

    def __init__(self, fleet: "Fleet") -> None:
        setting = fleet.setting
        self.fleet = fleet
        self.cores = fleet.cores or Resource(setting.postgres_cores)
        self.rows = [Resource(1) for _ in range(setting.applications)]
        self.commits = Resource(1)
        self.busy_s = 0.0
        self.lock_times: list[float] = []

    def use_core(self, seconds: float) -> Process:
        """Use a core for this time."""
        self.busy_s += seconds
        yield from self.fleet.simulation.use(self.cores, seconds)

    def commit_with_notify(self) -> Process:
        """Commit with a NOTIFY: one at a time; afterwards Postgres wakes every listener."""
        yield from self.fleet.simulation.use(self.commits, cost("commit_ms") / 1000)
        self.fleet.simulation.start(self.wake_listeners())

    def wake_listeners(self) -> Process:
        """Deliver a NOTIFY to every listener."""
        yield from self.use_core((cost("signal_us") + len(self.fleet.workers) * cost("listener_us")) / 1e6)


class Worker:
    """A worker process: event loop, connection pool, claimed jobs and messages in flight."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.loop = Resource(1)
        self.pool = Resource(fleet.setting.pool)
        self.connections_for_bulk = Resource(MAX_CONCURRENT_NON_URGENT)
        self.backlog: deque[tuple[Job, int]] = deque()
        self.in_flight = 0
        self.urgent_jobs: deque[Job] = deque()
        self.claimed = 0
        self.loading = 0
        self.paused_until = 0.0
        self.next_pause_at = 0.0
        self.has_work = Event()
        self.needs_jobs = Event()

    def trip(self, server_ms: float) -> Process:
        """Send a statement to Postgres; the worker processes the response when its event loop is free."""
        sim = self.fleet.simulation
        yield self.fleet.setting.network_ms / 1000
        if server_ms:
            yield from self.fleet.postgres.use_core(server_ms / 1000)
        yield self.loop
        sim.release(self.loop)

    def trips(self, count: int, server_ms: float) -> Process:
        """Make several trips to Postgres."""
        for _ in range(count):
            yield from self.trip(server_ms / count)

    def claim(self) -> Process:
        """Claim a job whenever the worker has fewer than `max_claimed_jobs`."""
        sim, setting = self.fleet.simulation, self.fleet.setting
        size = int(rule("job"))
        while True:
            while self.claimed > (setting.max_claimed_jobs - 1) * size or self.loading >= setting.max_claimed_jobs:
                yield self.needs_jobs
            self.loading += 1
            yield self.connections_for_bulk
            yield self.pool
            yield from self.trips(setting.claim_trips, setting.claim_ms)
            sim.release(self.pool)
            sim.release(self.connections_for_bulk)
            sim.start(self.deliver(Job(self.fleet.random.randrange(setting.applications), BULK, size)))

    def deliver(self, job: Job) -> Process:
        """Load a job and put its messages into the backlog."""
        sim, setting = self.fleet.simulation, self.fleet.setting
        yield self.pool
        yield from self.trips(setting.load_trips, setting.load_ms)
        sim.release(self.pool)
        self.loading -= 1
        self.backlog.append((job, job.remaining))
        self.claimed += job.remaining
        sim.set_event(self.has_work)
        sim.set_event(self.needs_jobs)

    def send(self) -> Process:
        """Send in bursts: each takes a round of the event loop, then its messages are in flight."""
        sim = self.fleet.simulation
        message_s = cost("worker_us") / 1e6
        limit = max(1, round(self.fleet.setting.round_ms / 1000 / message_s))
        while True:
            if self.urgent_jobs:
                yield from self.run_loop(message_s)
                self.fleet.record_alert(self.urgent_jobs.popleft())
                continue
            burst = [] if sim.now < self.paused_until else self.take_messages(limit)
            count = sum(number for _, number in burst)
            if not count:
                yield self.has_work
                continue
            yield from self.run_loop(count * message_s)
            sim.set_event(self.needs_jobs)
            sim.start(self.await_responses(burst))

    def run_loop(self, seconds: float) -> Process:
        """Occupy the event loop for this time."""
        sim = self.fleet.simulation
        yield self.loop
        if self.fleet.cores:
            yield from sim.use(self.fleet.cores, seconds)
        else:
            yield seconds
        self.loop.busy_s += seconds
        sim.release(self.loop)

    def take_messages(self, limit: int) -> list[tuple[Job, int]]:
        """Take up to `limit` messages, in order."""
        burst: list[tuple[Job, int]] = []
        limit = min(limit, int(rule("in_flight")) - self.in_flight)
        while self.backlog and limit:
            job, waiting = self.backlog.popleft()
            count = min(waiting, limit)
            if count < waiting:
                self.backlog.appendleft((job, waiting - count))
            limit -= count
            burst.append((job, count))
        total = sum(count for _, count in burst)
        self.in_flight += total
        self.claimed -= total
        return burst

    def await_responses(self, burst: list[tuple[Job, int]]) -> Process:
        """Wait for the responses to a burst and settle the finished jobs."""
        sim, setting = self.fleet.simulation, self.fleet.setting
        if self.fleet.cores:
            yield from sim.use(self.fleet.cores, sum(count for _, count in burst) * setting.sink_us / 1e6)
        yield setting.answer_ms / 1000 * self.fleet.random.uniform(0.8, 1.2)
        for job, count in burst:
            self.in_flight -= count
            job.remaining -= count
            if not job.remaining:
                sim.start(self.settle(job))
        sim.set_event(self.has_work)

    def settle(self, job: Job) -> Process:
        """Settle a job: lock the application's row, append to the log, and commit."""
        sim, setting, postgres = self.fleet.simulation, self.fleet.setting, self.fleet.postgres
        row = postgres.rows[job.application]
        yield self.connections_for_bulk
        yield self.pool
        yield from self.trips(setting.settle_trips_before - 1, setting.settle_ms_before)
        yield setting.network_ms / 1000
        yield row
        locked = sim.now
        yield from self.trip(0)
        yield from self.trips(setting.locked_trips, cost("row_floor_ms") - cost("commit_ms"))
        yield setting.network_ms / 1000
        yield from postgres.commit_with_notify()
        row.busy_s += sim.now - locked
        postgres.lock_times.append(sim.now - locked)
        sim.release(row)
        yield self.loop
        sim.release(self.loop)
        sim.release(self.pool)
        sim.release(self.connections_for_bulk)
        self.fleet.record_settled(int(rule("job")))

    def on_urgent_job(self) -> Process:
        """Pause non-urgent sending, and try to claim the urgent job."""
        sim, setting = self.fleet.simulation, self.fleet.setting
        if sim.now >= self.next_pause_at:
            self.paused_until, self.next_pause_at = sim.now + MAX_URGENT_CLAIM_S, sim.now + 2 * MAX_URGENT_CLAIM_S
            sim.start(self.resume(), MAX_URGENT_CLAIM_S)
        yield self.pool
        yield from self.trips(setting.claim_trips, setting.claim_ms)
        sim.release(self.pool)
        if not self.fleet.urgent_jobs:
            return
        job = self.fleet.urgent_jobs.popleft()
        yield self.pool
        yield from self.trips(setting.load_trips, setting.load_ms)
        if job.lane == PLAN:
            yield from self.trips(setting.load_trips, setting.load_ms)  # planning costs about as much as loading
            yield from self.fleet.postgres.commit_with_notify()
            sim.release(self.pool)
            self.fleet.announce_urgent(Job(job.application, URGENT, 1, job.accepted))
            return
        sim.release(self.pool)
        self.paused_until = sim.now
        self.urgent_jobs.append(job)
        sim.set_event(self.has_work)

    def resume(self) -> Process:
        """End the pause of non-urgent sending."""
        self.fleet.simulation.set_event(self.has_work)
        yield from ()


class Fleet:
    """The simulated workers, Postgres and alerts, and the counters from which the result is computed."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.simulation = Simulation()
        self.random = random.Random(SEED)  # noqa: S311 - a fixed seed
        self.cores = Resource(setting.shared_cores) if setting.shared_cores else None
        self.workers: list[Worker] = []
        self.postgres = Postgres(self)
        self.workers += [Worker(self, number) for number in range(setting.workers)]
        self.urgent_jobs: deque[Job] = deque()
        self.count = 0
        self.alerts: list[float] = []

    def run(self) -> Result:
        """Run the simulation and return its result."""
        sim, setting, postgres = self.simulation, self.setting, self.postgres
        for worker in self.workers:
            sim.start(worker.claim(), self.random.random() / 10)
            sim.start(worker.send())
        sim.start(self.accept_alerts())
        sim.run(setting.warm_up_s)
        self.count, self.alerts, postgres.busy_s, postgres.lock_times = 0, [], 0.0, []
        for resource in (*postgres.rows, postgres.commits):
            resource.busy_s = 0.0
        sim.run(setting.warm_up_s + setting.seconds)
        delays = sorted(self.alerts)
        return Result(
            setting,
            self.count / setting.seconds,
            postgres.busy_s / setting.seconds / setting.postgres_cores,
            statistics.mean(row.busy_s for row in postgres.rows) / setting.seconds,
            postgres.commits.busy_s / setting.seconds,
            len(self.alerts),
            delays[len(delays) // 2] * 1000 if delays else None,
            delays[math.ceil(len(delays) * 0.99) - 1] * 1000 if delays else None,
            statistics.mean(postgres.lock_times or [0.0]) * 1000,
            model_rate(setting),
        )

    def accept_alerts(self) -> Process:
        """Accept alerts at random intervals."""
        if not self.setting.alert_every_s:
            return
        while True:
            yield self.random.expovariate(1 / self.setting.alert_every_s)
            accepted = self.simulation.now
            yield from self.postgres.commit_with_notify()
            self.announce_urgent(Job(0, PLAN, 1, accepted))

    def announce_urgent(self, job: Job) -> None:
        """Announce an urgent job to every worker."""
        self.urgent_jobs.append(job)
        for worker in self.workers:
            self.simulation.start(worker.on_urgent_job(), self.setting.network_ms / 1000)

    def record_alert(self, job: Job) -> None:
        """Record the delay of a sent alert."""
        self.alerts.append(self.simulation.now - job.accepted)

    def record_settled(self, count: int) -> None:
        """Count settled deliveries."""
        self.count += count


def model_rate(setting: Setting) -> float:
    """Return the rate by the formulas of ops/capacity.py, without headroom."""
    paused_share = MAX_URGENT_CLAIM_S / setting.alert_every_s if setting.alert_every_s else 0.0
    worker_rate = min(capacity.per_worker(setting.answer_ms))
    if setting.shared_cores:
        all_us = cost("worker_us") + cost("postgres_us") + setting.sink_us
        worker_rate = min(worker_rate, setting.shared_cores / setting.workers * 1e6 / all_us)
    return min(
        setting.workers * worker_rate * (1 - paused_share),
        setting.applications * capacity.max_rate_of_application(setting.workers / setting.applications),
        rule("job") / (cost("commit_ms") / 1000),
    )


def main() -> None:
    """Simulate every fleet and print the results."""
    parser = testbed.make_parser("fleet", __doc__)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=list(WORKERS), help="numbers of workers (%(default)s)"
    )
    parser.add_argument("--answer-ms", type=float, default=100, help="response time of push services (%(default)s)")
    parser.add_argument("--applications", type=int, default=1, help="applications of equal size (%(default)s)")
    parser.add_argument("--postgres-cores", type=int, default=16, help="cores of Postgres (%(default)s)")
    parser.add_argument(
        "--alert-every", type=float, default=2.0, help="seconds between alerts, 0 for none (%(default)s)"
    )
    parser.add_argument(
        "--shared-cores", type=int, default=0, help="run everything on this many cores, as in benchmark cores"
    )
    parser.add_argument("--seconds", type=float, default=40, help="simulated time per fleet (%(default)s)")
    options = parser.parse_args()
    results = []
    for workers in options.workers:
        setting = Setting(
            workers,
            options.answer_ms,
            options.applications,
            options.postgres_cores,
            alert_every_s=options.alert_every,
            seconds=options.seconds,
            shared_cores=options.shared_cores,
        )
        results.append(Fleet(setting).run())
        console.print(f"[dim]{workers} workers: {results[-1].rate:,.0f}/s[/]")
    report(results)
    testbed.write_json(options.json, {"fleets": [asdict(result) for result in results], "knee": knee(results)})


def knee(results: list[Result]) -> int | None:
    """Return the number of workers beyond which adding workers gains less than half of the ideal, or None."""
    for before, after in itertools.pairwise(results):
        if after.rate < before.rate * (1 + (after.setting.workers / before.setting.workers - 1) / 2):
            return before.setting.workers
    return None


def report(results: list[Result]) -> None:
    """Print the results."""
    table = testbed.make_table(
        "workers", "sent/s", "model", "Postgres", "row", "lock ms", "commits", "alert p50 ms", "p99 ms"
    )
    for result in results:
        table.add_row(
            f"{result.setting.workers}",
            f"{result.rate:,.0f}",
            f"{result.model:,.0f} ({result.rate / result.model:.0%})",
            f"{result.postgres_used:.0%}",
            f"{result.row_used:.0%}",
            f"{result.lock_ms:.0f}",
            f"{result.commits_used:.0%}",
            *("" if ms is None else f"{ms:,.0f}" for ms in (result.alert_p50_ms, result.alert_p99_ms)),
        )
    console.print(table)
    knee_workers = knee(results)
    console.print(
        f"More than {knee_workers} workers gain little."
        if knee_workers
        else "Every step of more workers raises the rate."
    )


if __name__ == "__main__":
    main()
