"""The Prometheus metrics of the gateway, for `/metrics`.

A delivery takes a few hundred microseconds of CPU time, so updating a metric per message would cost too much. Attempts
are counted once per batch of results. The state of components (pools, hosts, claimed jobs) is read by callbacks when
`/metrics` is scraped.

The label `host` is the vendor of the push service (FCM, Mozilla, Apple, WNS), or else what GATEWAY_PUSH_HOSTS names:
the host or the wildcard. Its values are those that an operator configured, whatever hosts devices have. Every process
with a database exports the same queue metrics: aggregate them by `max`, not by `sum`.
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
# HTTP methods that are used as label values. Clients may send any text as the method; other ones become `other`.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class BatchHistogram:
    """A histogram that observes many values in one call. A value costs a tenth of a call of `Histogram.observe`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        """Register the histogram. `buckets` are the upper bounds in ascending order, without infinity."""
        self.name = name
        self.documentation = documentation
        self.labels = labels
        self._buckets = buckets
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        REGISTRY.register(self)

    def observe(self, labels: Labels, values: Iterable[float]) -> None:
        """Add the values to the series with these label values."""
        counts = self._counts.setdefault(labels, [0] * (len(self._buckets) + 1))
        total = self._sums.get(labels, 0.0)
        for value in values:
            counts[bisect_left(self._buckets, value)] += 1
            total += value
        self._sums[labels] = total

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Return the metric family without samples, as the registry requires."""
        return [HistogramMetricFamily(self.name, self.documentation, labels=self.labels)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Yield the metric family with the current samples."""
        [family] = self.describe()
        bounds = [*map(str, map(float, self._buckets)), "+Inf"]
        for labels, counts in self._counts.items():
            cumulative, buckets = 0, []
            for bound, count in zip(bounds, counts, strict=True):
                cumulative += count
                buckets.append((bound, cumulative))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family


class CallbackGauge:
    """A gauge whose value is the sum of its callbacks, which are called when `/metrics` is scraped."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        """Register the gauge."""
        self.name = name
        self.documentation = documentation
        self.labels = labels
        self._callbacks: list[Callable[[], Reading]] = []
        REGISTRY.register(self)

    @contextmanager
    def set_callback(self, callback: Callable[[], Reading]) -> Iterator[None]:
        """Call `callback` at every scrape until the context ends. It returns values by label values."""
        self._callbacks.append(callback)
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the metric family without samples, as the registry requires."""
        return [GaugeMetricFamily(self.name, self.documentation, labels=self.labels)]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the metric family with the current samples."""
        [family] = self.describe()
        total: Tally[Labels] = Tally()
        for callback in self._callbacks:
            for labels, value in callback().items():
                total[labels] += value  # type: ignore[assignment] # a Counter adds floats too
        for labels, value in total.items():
            family.add_metric(labels, value)
        yield family


BUILD = Info("gateway_build", "Version of the gateway.")
BUILD.info({"version": __version__})

ATTEMPTS = Counter("gateway_attempts_total", "POSTs to push services.", ["host", "outcome"])
ATTEMPT_SECONDS = BatchHistogram(
    "gateway_attempt_seconds",
    "Response time of push services.",
    ["host"],
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
ACCEPT_TO_SEND_SECONDS = BatchHistogram(
    "gateway_accept_to_send_seconds",
    "Time from the acceptance (or scheduled start) of a notification to the first POST of a message. Excludes messages "
    "delayed by a throttle, quiet hours, local delivery times or a variant test.",
    ["lane"],
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
SETTLED = Counter("gateway_deliveries_settled_total", "Deliveries with a final outcome.", ["outcome"])
SETTLE_BATCH = Histogram(
    "gateway_settle_batch_size",
    "Delivery results written per transaction.",
    buckets=(1, 5, 10, 25, 50, 100, 250, 500),
)
SETTLE_SECONDS = Histogram(
    "gateway_settle_seconds",
    "Duration of the transaction that writes a batch of results.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LEASES_LOST = Counter(
    "gateway_leases_lost_total", "Jobs that another worker claimed while this worker was still sending them."
)
JOBS_HELD = CallbackGauge("gateway_jobs_held", "Jobs that this worker has claimed and not finished.")
PLANNED = Counter("gateway_notifications_planned_total", "Notifications whose sending started.", ["kind"])
TARGETS = Counter(
    "gateway_deliveries_planned_total", "Deliveries of the notifications whose sending started.", ["kind"]
)

QUEUE_JOBS = Gauge("gateway_queue_jobs", "Jobs in the queue, due or not.", ["lane"])
QUEUE_DUE = Gauge("gateway_queue_jobs_due", "Jobs in the queue that are due and not claimed.", ["lane"])
QUEUE_AGE_SECONDS = Gauge("gateway_queue_age_seconds", "Time for which the oldest due job has been due.", ["lane"])

IN_FLIGHT = CallbackGauge("gateway_messages_in_flight", "Messages in flight per push service.", ["host"])
LIMIT = CallbackGauge(
    "gateway_messages_in_flight_limit", "Current adaptive limit on in-flight messages per push service.", ["host"]
)
BREAKER_OPEN = CallbackGauge(
    "gateway_breaker_open", "Open circuit breakers of push-service hosts, and of applications at a host.", ["host"]
)
APPLICATIONS_LIMITED = CallbackGauge(
    "gateway_applications_limited",
    "Applications that a push service limits: their messages to it are held or paced, those of others are not.",
    ["host"],
)
BREAKER_OPENED = Counter("gateway_breaker_opened_total", "Times that a circuit breaker opened.", ["host"])
DEFERRED = Counter(
    "gateway_deliveries_deferred_total",
    "Deliveries requeued without a POST, by the state of their host.",
    ["cause"],
)
KEY_REFUSED = Counter(
    "gateway_key_refused_total", "Times that sending paused because a push service kept refusing a VAPID key."
)

POOL = CallbackGauge("gateway_database_connections", "Connections in this process's pool, by state.", ["state"])
POOL_LIMIT = CallbackGauge("gateway_database_connections_limit", "Maximum connections in this process's pool.")
CLOCK = Gauge("gateway_clock_ahead_seconds", "Offset of this machine's clock from the database clock.")
MAINTENANCE = Gauge(
    "gateway_maintenance_last_success_timestamp_seconds",
    "Unix time at which this process last completed a maintenance task.",
    ["task"],
)

REQUESTS = Counter("gateway_http_requests_total", "HTTP requests by route and status.", ["method", "route", "code"])
REQUEST_SECONDS = Histogram(
    "gateway_http_request_seconds",
    "Duration of HTTP requests, except of streams, which last until a client disconnects.",
    ["route"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REQUESTS_IN_PROGRESS = CallbackGauge("gateway_http_requests_in_progress", "HTTP requests in progress.")
LONG_LIVED_CONNECTIONS = CallbackGauge(
    "gateway_http_long_lived_connections",
    "Open long-lived connections, by kind: imports, streams of the delivery log, live channels and long polls.",
    ["kind"],
)
RECEIPTS = Counter("gateway_receipts_total", "Receipts from browsers: displayed, clicked, dismissed.", ["event"])

WEBHOOK_POSTS = Counter("gateway_webhook_posts_total", "Batches of events sent to webhooks, by result.", ["result"])
WEBHOOKS_DISABLED = Counter("gateway_webhooks_disabled_total", "Webhooks disabled because their receiver kept failing.")


@cache
def attempts(service: str, outcome: str) -> Counter:
    """Return the counter of attempts with these labels.

    It is cached, because looking it up by labels costs as much as the rest of the counting.
    """
    return ATTEMPTS.labels(service, outcome)


def record_response(method: str, route: str, code: int, seconds: float | None) -> None:
    """Count an HTTP response. `seconds` is None for a stream, which lasts until the client disconnects."""
    counter, histogram = _request_metrics(method if method in METHODS else "other", route, code)
    counter.inc()
    if seconds is not None:
        histogram.observe(seconds)


@cache
def _request_metrics(method: str, route: str, code: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(code)), REQUEST_SECONDS.labels(route)
