"""What the gateway measures of itself, for `/metrics` (names by Prometheus's conventions)."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

ATTEMPTS = Counter("gateway_attempts_total", "POSTs to push services.", ["host", "outcome"])
ATTEMPT_SECONDS = Histogram(
    "gateway_attempt_seconds",
    "Time a push service took to answer.",
    ["host"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
SETTLED = Counter("gateway_deliveries_settled_total", "Deliveries that reached their end.", ["outcome"])
SETTLE_BATCH = Histogram(
    "gateway_settle_batch_size", "Results settled in one transaction.", buckets=(1, 5, 10, 25, 50, 100, 250, 500)
)
LEASES_LOST = Counter("gateway_leases_lost_total", "Jobs another worker claimed while we held them.")
QUEUE_JOBS = Gauge("gateway_queue_jobs", "Jobs in the queue.", ["lane"])
QUEUE_AGE_SECONDS = Gauge("gateway_queue_age_seconds", "How long the oldest due job has waited.", ["lane"])
HOSTS_UNREACHABLE = Gauge(
    "gateway_hosts_unreachable", "Hosts of a push service that do not answer and are left alone for a while.", ["host"]
)
BREAKER_OPENED = Counter("gateway_breaker_opened_total", "Times a push-service host stopped answering.", ["host"])
PUT_OFF = Counter(
    "gateway_put_off_total", "Messages put back into the queue without a try, by what their host is.", ["cause"]
)
KEY_REFUSED = Counter("gateway_key_refused_total", "Times a push service refused our VAPID key.")

WEBHOOK_POSTS = Counter("gateway_webhook_posts_total", "Batches of events sent to webhooks.", ["result"])
WEBHOOKS_DISABLED = Counter("gateway_webhooks_disabled_total", "Webhooks given up, since their receivers took nothing.")


@cache
def attempts(service: str, outcome: str) -> Counter:
    """Looked up once: a label's look-up costs as much as all counting."""
    return ATTEMPTS.labels(service, outcome)


@cache
def attempt_seconds(service: str) -> Histogram:
    return ATTEMPT_SECONDS.labels(service)
