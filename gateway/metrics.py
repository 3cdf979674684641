"""What the gateway measures of itself, for `/metrics` (names by Prometheus's conventions).

A delivery takes a few hundred microseconds in all, so nothing here is counted message by message: attempts are counted
by the batch they are settled in, and what has a state (pools, hosts, jobs at hand) is only read when somebody asks.

`host` is the push service as people call it (FCM, Mozilla, Apple, WNS), or the host's own name. Of the queue every
process that has the database tells the same, so take the `max`, not the `sum`.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

from gateway import __version__

Labels = tuple[str, ...]
Reading = Mapping[Labels, float]
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class BatchHistogram:
    """A histogram that is told many values at once; each then costs a tenth of what `Histogram.observe` takes."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        self._said = (name, documentation)
        self._labels = labels
        self._buckets = buckets
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        REGISTRY.register(self)

    def observe(self, labels: Labels, values: Iterable[float]) -> None:
        counts = self._counts.setdefault(labels, [0] * (len(self._buckets) + 1))
        total = self._sums.get(labels, 0.0)
        for value in values:
            counts[bisect_left(self._buckets, value)] += 1
            total += value
        self._sums[labels] = total

    def describe(self) -> Iterable[HistogramMetricFamily]:
        return [HistogramMetricFamily(*self._said, labels=self._labels)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        [family] = self.describe()
        for labels, counts in self._counts.items():
            reached, buckets = 0, []
            for most, count in zip([*map(str, map(float, self._buckets)), "+Inf"], counts, strict=True):
                reached += count
                buckets.append((most, reached))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family


class CallbackGauge:
    """A gauge that is read when somebody asks, and costs nothing in between. Its sources are added up."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        self._said = (name, documentation)
        self._labels = labels
        self._sources: list[Callable[[], Reading]] = []
        REGISTRY.register(self)

    @contextmanager
    def set_callback(self, source: Callable[[], Reading]) -> Iterator[None]:
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(*self._said, labels=self._labels)]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        [family] = self.describe()
        total: Tally[Labels] = Tally()
        for source in self._sources:
            for labels, value in source().items():
                total[labels] += value  # type: ignore[assignment] # it counts in fractions too
        for labels, value in total.items():
            family.add_metric(labels, value)
        yield family


BUILD = Info("gateway_build", "The version that runs here.")
BUILD.info({"version": __version__})

ATTEMPTS = Counter("gateway_attempts_total", "POSTs to push services.", ["host", "outcome"])
ATTEMPT_SECONDS = BatchHistogram(
    "gateway_attempt_seconds",
    "Time a push service took to answer.",
    ["host"],
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
ACCEPT_TO_SEND_SECONDS = BatchHistogram(
    "gateway_accept_to_send_seconds",
    "From when a notification was accepted, or was to start, until a message of it was first sent. Not of those that "
    "a throttle, quiet hours, a device's own time or the choice of a winner holds back.",
    ["lane"],
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
SETTLED = Counter("gateway_deliveries_settled_total", "Deliveries that reached their end.", ["outcome"])
SETTLE_BATCH = Histogram(
    "gateway_settle_batch_size", "Results settled in one transaction.", buckets=(1, 5, 10, 25, 50, 100, 250, 500)
)
SETTLE_SECONDS = Histogram(
    "gateway_settle_seconds",
    "Time it took to settle a batch.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LEASES_LOST = Counter("gateway_leases_lost_total", "Jobs another worker claimed while we held them.")
JOBS_HELD = CallbackGauge("gateway_jobs_held", "Jobs that this worker has claimed and not finished.")
PLANNED = Counter("gateway_notifications_planned_total", "Notifications whose sending began.", ["kind"])
TARGETS = Counter("gateway_deliveries_planned_total", "Deliveries that those notifications are to have.", ["kind"])

QUEUE_JOBS = Gauge("gateway_queue_jobs", "Jobs in the queue, whenever they are due.", ["lane"])
QUEUE_DUE = Gauge("gateway_queue_jobs_due", "Jobs in the queue that are due and that nobody has claimed.", ["lane"])
QUEUE_AGE_SECONDS = Gauge("gateway_queue_age_seconds", "How long the oldest due job has waited.", ["lane"])

IN_FLIGHT = CallbackGauge("gateway_messages_in_flight", "Messages on their way to a push service.", ["host"])
LIMIT = CallbackGauge("gateway_messages_in_flight_limit", "How many it bears at once, as learnt.", ["host"])
BREAKER_OPEN = CallbackGauge(
    "gateway_breaker_open", "Hosts of a push service that do not answer and are left alone for a while.", ["host"]
)
BREAKER_OPENED = Counter("gateway_breaker_opened_total", "Times a push-service host stopped answering.", ["host"])
DEFERRED = Counter(
    "gateway_deliveries_deferred_total",
    "Deliveries requeued without a POST, by the state of their host.",
    ["cause"],
)
KEY_REFUSED = Counter("gateway_key_refused_total", "Times a push service refused our VAPID key again and again.")

POOL = CallbackGauge("gateway_database_connections", "Connections of this process's pool, by what they do.", ["state"])
POOL_LIMIT = CallbackGauge("gateway_database_connections_limit", "The most that the pool may have.")
CLOCK = Gauge("gateway_clock_ahead_seconds", "How far this machine's clock is ahead of the database's.")
MAINTENANCE = Gauge(
    "gateway_maintenance_last_success_timestamp_seconds",
    "When this process last ran a maintenance task.",
    ["task"],
)

REQUESTS = Counter("gateway_http_requests_total", "Requests that were answered.", ["method", "route", "code"])
REQUEST_SECONDS = Histogram(
    "gateway_http_request_seconds",
    "Time it took to answer; not of streams, which last as long as somebody listens.",
    ["route"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REQUESTS_IN_PROGRESS = CallbackGauge("gateway_http_requests_in_progress", "Requests that are being answered.")
LONG_LIVED_CONNECTIONS = CallbackGauge(
    "gateway_http_long_lived_connections",
    "What lasts and has bounds of its own: imports, streams of the log, live channels.",
    ["kind"],
)
RECEIPTS = Counter("gateway_receipts_total", "What browsers told of messages.", ["event"])

WEBHOOK_POSTS = Counter("gateway_webhook_posts_total", "Batches of events sent to webhooks.", ["result"])
WEBHOOKS_DISABLED = Counter("gateway_webhooks_disabled_total", "Webhooks given up, since their receivers took nothing.")


@cache
def attempts(service: str, outcome: str) -> Counter:
    """Looked up once: a label's look-up costs as much as all counting."""
    return ATTEMPTS.labels(service, outcome)


def answered(method: str, route: str, code: int, seconds: float | None) -> None:
    """Count a request; `seconds` is None when its time says nothing."""
    # Callers may make up methods, and every one would be a series of its own.
    counted, timed = _request(method if method in METHODS else "other", route, code)
    counted.inc()
    if seconds is not None:
        timed.observe(seconds)


@cache
def _request(method: str, route: str, code: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(code)), REQUEST_SECONDS.labels(route)
