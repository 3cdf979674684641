"""A simulated fleet: what more workers bring, and where they stop bringing anything.

Discrete events, from a fixed seed. Each worker is an event loop that sends in bursts, and whose questions to the
database wait for the burst that is under way; it has its pool of connections, its jobs at hand, and its messages in
flight, as many as it may have. Postgres has processors, a lock on each
application's row, which is held from taking positions to the commit, and makes commits that signal one after
another. Campaigns never end; alerts to one device come beside them, each of which every worker hears of and makes way
for. Times of service are those of ops/capacity.py and of bench `steps`.

Not simulated: planning of large audiences, retries and slow push services, registering, reading of the log,
checkpoints and vacuum, loss of anything, the network's own limits, and what a worker does to hear a signal.
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

import stage
from stage import console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import capacity
from capacity import cost, rule

from gateway.queue.postgres import AT_ONCE
from gateway.worker.worker import MAX_URGENT_CLAIM_S

SEED = 20261127
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BULK, PLAN, URGENT = "bulk", "plan", "urgent"


class Places:
    """So many at once; who comes first goes first."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.free = places
        self.waiting: deque[Process] = deque()
        self.busy_s = 0.0


class Bell:
    """Wakes all who wait for it."""

    def __init__(self) -> None:
        self.waiting: list[Process] = []


Process = Generator["float | Places | Bell", None, None]


class Simulation:
    """Processes are generators: they yield seconds to let pass, places to get one of, or a bell to hear."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Process]] = []
        self._numbers = itertools.count()

    def start(self, process: Process, after: float = 0.0) -> None:
        heapq.heappush(self._due, (self.now + after, next(self._numbers), process))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, process = heapq.heappop(self._due)
            self._go_on(process)

    def _go_on(self, process: Process) -> None:
        for wanted in process:
            if isinstance(wanted, float):
                self.start(process, wanted)
            elif isinstance(wanted, Bell):
                wanted.waiting.append(process)
            elif wanted.free:
                wanted.free -= 1
                continue
            else:
                wanted.waiting.append(process)
            return

    def release(self, places: Places) -> None:
        if places.waiting:
            self.start(places.waiting.popleft())
        else:
            places.free += 1

    def ring(self, bell: Bell) -> None:
        heard, bell.waiting = bell.waiting, []
        for process in heard:
            self.start(process)

    def hold(self, places: Places, seconds: float) -> Process:
        yield places
        yield seconds
        places.busy_s += seconds
        self.release(places)


@dataclass(frozen=True, slots=True)
class Setting:
    """`trips` and `_ms` are of bench `steps`; COPY is two trips in one line of Postgres's log."""

    workers: int
    answer_ms: float = 100.0
    applications: int = 1
    postgres_cores: int = 16
    network_ms: float = 0.3
    alert_every_s: float = 2.0
    seconds: float = 40.0
    warm_up_s: float = 2.0
    shared_cores: int = 0
    """When not 0, all of workers, Postgres and push service run on so many, as when it was measured."""
    sink_us: float = 21.5
    """What the push service takes of shared cores for a message."""
    round_ms: float = 6.2
    """A round of the event loop, for which an answer of the database waits: (open - server) / trips of `steps`."""
    claim_trips: int = 6
    claim_ms: float = 1.5
    load_trips: int = 7
    load_ms: float = 1.6
    settle_trips_before: int = 5
    settle_ms_before: float = 0.5
    held_trips: int = 2
    """After the application's row was locked and before the commit: COPY."""
    jobs_at_hand: int = 4
    pool: int = 10


@dataclass(slots=True)
class Job:
    application: int
    lane: str
    left: int
    accepted: float = 0.0


@dataclass(slots=True)
class Found:
    setting: Setting
    rate: float
    postgres_used: float
    row_used: float
    commits_used: float
    alerts: int
    alert_p50_ms: float | None
    alert_p99_ms: float | None
    """Of the alerts that were sent; None when there were none."""
    held_ms: float
    model: float
    """Deliveries a second by arithmetic alone."""


class Postgres:
    def __init__(self, fleet: "Fleet") -> None:
        setting = fleet.setting
        self.fleet = fleet
        self.cores = fleet.cores or Places(setting.postgres_cores)
        self.rows = [Places(1) for _ in range(setting.applications)]
        self.commits = Places(1)
        self.busy_s = 0.0
        self.held: list[float] = []

    def work(self, seconds: float) -> Process:
        self.busy_s += seconds
        yield from self.fleet.simulation.hold(self.cores, seconds)

    def signal(self) -> Process:
        """A commit that signals: one at a time, and then every listener's process has something to do."""
        yield from self.fleet.simulation.hold(self.commits, cost("commit_ms") / 1000)
        self.fleet.simulation.start(self.tell())

    def tell(self) -> Process:
        yield from self.work((cost("signal_us") + len(self.fleet.workers) * cost("listener_us")) / 1e6)


class Worker:
    def __init__(self, fleet: "Fleet", number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.loop = Places(1)
        self.pool = Places(fleet.setting.pool)
        self.not_urgent = Places(AT_ONCE)
        self.line: deque[tuple[Job, int]] = deque()
        self.in_flight = 0
        self.urgent: deque[Job] = deque()
        self.at_hand = 0
        self.loading = 0
        self.way_until = 0.0
        self.next_way = 0.0
        self.something = Bell()
        self.hungry = Bell()

    def trip(self, server_ms: float) -> Process:
        """A question to Postgres and back, with our turn in the loop."""
        sim = self.fleet.simulation
        yield self.fleet.setting.network_ms / 1000
        if server_ms:
            yield from self.fleet.postgres.work(server_ms / 1000)
        yield self.loop
        sim.release(self.loop)

    def trips(self, count: int, server_ms: float) -> Process:
        for _ in range(count):
            yield from self.trip(server_ms / count)

    def claim(self) -> Process:
        """Keep jobs at hand."""
        sim, setting = self.fleet.simulation, self.fleet.setting
        size = int(rule("job"))
        while True:
            while self.at_hand > (setting.jobs_at_hand - 1) * size or self.loading >= setting.jobs_at_hand:
                yield self.hungry
            self.loading += 1
            yield self.not_urgent
            yield self.pool
            yield from self.trips(setting.claim_trips, setting.claim_ms)
            sim.release(self.pool)
            sim.release(self.not_urgent)
            sim.start(self.deliver(Job(self.fleet.random.randrange(setting.applications), BULK, size)))

    def deliver(self, job: Job) -> Process:
        sim, setting = self.fleet.simulation, self.fleet.setting
        yield self.pool
        yield from self.trips(setting.load_trips, setting.load_ms)
        sim.release(self.pool)
        self.loading -= 1
        self.line.append((job, job.left))
        self.at_hand += job.left
        sim.ring(self.something)
        sim.ring(self.hungry)

    def send(self) -> Process:
        """Bursts: each takes a round of the loop, and its messages then are on their way."""
        sim = self.fleet.simulation
        each = cost("worker_us") / 1e6
        most = max(1, round(self.fleet.setting.round_ms / 1000 / each))
        while True:
            if self.urgent:
                yield from self.turn(each)
                self.fleet.alerted(self.urgent.popleft())
                continue
            some = [] if sim.now < self.way_until else self.take(most)
            count = sum(number for _, number in some)
            if not count:
                yield self.something
                continue
            yield from self.turn(count * each)
            sim.ring(self.hungry)
            sim.start(self.answered(some))

    def turn(self, seconds: float) -> Process:
        sim = self.fleet.simulation
        yield self.loop
        if self.fleet.cores:
            yield from sim.hold(self.fleet.cores, seconds)
        else:
            yield seconds
        self.loop.busy_s += seconds
        sim.release(self.loop)

    def take(self, most: int) -> list[tuple[Job, int]]:
        """Up to `most` messages, in order."""
        taken: list[tuple[Job, int]] = []
        most = min(most, int(rule("in_flight")) - self.in_flight)
        while self.line and most:
            job, waiting = self.line.popleft()
            count = min(waiting, most)
            if count < waiting:
                self.line.appendleft((job, waiting - count))
            most -= count
            taken.append((job, count))
        sent = sum(count for _, count in taken)
        self.in_flight += sent
        self.at_hand -= sent
        return taken

    def answered(self, some: list[tuple[Job, int]]) -> Process:
        sim, setting = self.fleet.simulation, self.fleet.setting
        if self.fleet.cores:
            yield from sim.hold(self.fleet.cores, sum(count for _, count in some) * setting.sink_us / 1e6)
        yield setting.answer_ms / 1000 * self.fleet.random.uniform(0.8, 1.2)
        for job, count in some:
            self.in_flight -= count
            job.left -= count
            if not job.left:
                sim.start(self.settle(job))
        sim.ring(self.something)

    def settle(self, job: Job) -> Process:
        sim, setting, postgres = self.fleet.simulation, self.fleet.setting, self.fleet.postgres
        row = postgres.rows[job.application]
        yield self.not_urgent
        yield self.pool
        yield from self.trips(setting.settle_trips_before - 1, setting.settle_ms_before)
        yield setting.network_ms / 1000
        yield row
        locked = sim.now
        yield from self.trip(0)
        yield from self.trips(setting.held_trips, cost("row_floor_ms") - cost("commit_ms"))
        yield setting.network_ms / 1000
        yield from postgres.signal()
        row.busy_s += sim.now - locked
        postgres.held.append(sim.now - locked)
        sim.release(row)
        yield self.loop
        sim.release(self.loop)
        sim.release(self.pool)
        sim.release(self.not_urgent)
        self.fleet.settled(int(rule("job")))

    def hear_alert(self) -> Process:
        """Make way, and look whether the job is for us."""
        sim, setting = self.fleet.simulation, self.fleet.setting
        if sim.now >= self.next_way:
            self.way_until, self.next_way = sim.now + MAX_URGENT_CLAIM_S, sim.now + 2 * MAX_URGENT_CLAIM_S
            sim.start(self.go_on(), MAX_URGENT_CLAIM_S)
        yield self.pool
        yield from self.trips(setting.claim_trips, setting.claim_ms)
        sim.release(self.pool)
        if not self.fleet.urgent:
            return
        job = self.fleet.urgent.popleft()
        yield self.pool
        yield from self.trips(setting.load_trips, setting.load_ms)
        if job.lane == PLAN:
            yield from self.trips(setting.load_trips, setting.load_ms)  # about as much again
            yield from self.fleet.postgres.signal()
            sim.release(self.pool)
            self.fleet.tell_alert(Job(job.application, URGENT, 1, job.accepted))
            return
        sim.release(self.pool)
        self.way_until = sim.now
        self.urgent.append(job)
        sim.ring(self.something)

    def go_on(self) -> Process:
        self.fleet.simulation.ring(self.something)
        yield from ()


class Fleet:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.simulation = Simulation()
        self.random = random.Random(SEED)  # noqa: S311 - the same every time
        self.cores = Places(setting.shared_cores) if setting.shared_cores else None
        self.workers: list[Worker] = []
        self.postgres = Postgres(self)
        self.workers += [Worker(self, number) for number in range(setting.workers)]
        self.urgent: deque[Job] = deque()
        self.count = 0
        self.alerts: list[float] = []

    def run(self) -> Found:
        sim, setting, postgres = self.simulation, self.setting, self.postgres
        for worker in self.workers:
            sim.start(worker.claim(), self.random.random() / 10)
            sim.start(worker.send())
        sim.start(self.accept_alerts())
        sim.run(setting.warm_up_s)
        self.count, self.alerts, postgres.busy_s, postgres.held = 0, [], 0.0, []
        for places in (*postgres.rows, postgres.commits):
            places.busy_s = 0.0
        sim.run(setting.warm_up_s + setting.seconds)
        ordered = sorted(self.alerts)
        return Found(
            setting,
            self.count / setting.seconds,
            postgres.busy_s / setting.seconds / setting.postgres_cores,
            statistics.mean(row.busy_s for row in postgres.rows) / setting.seconds,
            postgres.commits.busy_s / setting.seconds,
            len(self.alerts),
            ordered[len(ordered) // 2] * 1000 if ordered else None,
            ordered[math.ceil(len(ordered) * 0.99) - 1] * 1000 if ordered else None,
            statistics.mean(postgres.held or [0.0]) * 1000,
            arithmetic(setting),
        )

    def accept_alerts(self) -> Process:
        if not self.setting.alert_every_s:
            return
        while True:
            yield self.random.expovariate(1 / self.setting.alert_every_s)
            accepted = self.simulation.now
            yield from self.postgres.signal()
            self.tell_alert(Job(0, PLAN, 1, accepted))

    def tell_alert(self, job: Job) -> None:
        self.urgent.append(job)
        for worker in self.workers:
            self.simulation.start(worker.hear_alert(), self.setting.network_ms / 1000)

    def alerted(self, job: Job) -> None:
        self.alerts.append(self.simulation.now - job.accepted)

    def settled(self, count: int) -> None:
        self.count += count


def arithmetic(setting: Setting) -> float:
    """What the formulas of ops/capacity.py say, with nothing kept in reserve."""
    making_way = MAX_URGENT_CLAIM_S / setting.alert_every_s if setting.alert_every_s else 0.0
    each = min(capacity.per_worker(setting.answer_ms))
    if setting.shared_cores:
        all_us = cost("worker_us") + cost("postgres_us") + setting.sink_us
        each = min(each, setting.shared_cores / setting.workers * 1e6 / all_us)
    return min(
        setting.workers * each * (1 - making_way),
        setting.applications * capacity.most_of_one_application(setting.workers / setting.applications),
        rule("job") / (cost("commit_ms") / 1000),
    )


def main() -> None:
    parser = stage.parser("fleet", __doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS), help="(%(default)s)")
    parser.add_argument("--answer-ms", type=float, default=100, help="of push services (%(default)s)")
    parser.add_argument("--applications", type=int, default=1, help="of equal size (%(default)s)")
    parser.add_argument("--postgres-cores", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--alert-every", type=float, default=2.0, help="seconds, 0 for none (%(default)s)")
    parser.add_argument("--shared-cores", type=int, default=0, help="everything on so many, as in bench cores")
    parser.add_argument("--seconds", type=float, default=40, help="that are simulated of each (%(default)s)")
    asked = parser.parse_args()
    found = []
    for workers in asked.workers:
        setting = Setting(
            workers,
            asked.answer_ms,
            asked.applications,
            asked.postgres_cores,
            alert_every_s=asked.alert_every,
            seconds=asked.seconds,
            shared_cores=asked.shared_cores,
        )
        found.append(Fleet(setting).run())
        console.print(f"[dim]{workers} workers: {found[-1].rate:,.0f}/s[/]")
    report(found)
    stage.keep(asked.json, {"found": [asdict(one) for one in found], "knee": knee(found)})


def knee(found: list[Found]) -> int | None:
    """The largest fleet whose last doubling brought half as much again at least; None when all of them did."""
    for before, after in itertools.pairwise(found):
        if after.rate < before.rate * (1 + (after.setting.workers / before.setting.workers - 1) / 2):
            return before.setting.workers
    return None


def report(found: list[Found]) -> None:
    table = stage.table(
        "workers", "sent/s", "by arithmetic", "Postgres", "row", "held ms", "commits", "alert p50 ms", "p99 ms"
    )
    for one in found:
        table.add_row(
            f"{one.setting.workers}",
            f"{one.rate:,.0f}",
            f"{one.model:,.0f} ({one.rate / one.model:.0%})",
            f"{one.postgres_used:.0%}",
            f"{one.row_used:.0%}",
            f"{one.held_ms:.0f}",
            f"{one.commits_used:.0%}",
            *("" if ms is None else f"{ms:,.0f}" for ms in (one.alert_p50_ms, one.alert_p99_ms)),
        )
    console.print(table)
    stops = knee(found)
    console.print(f"Beyond {stops} workers more bring little." if stops else "More workers bring more, up to the last.")


if __name__ == "__main__":
    main()
