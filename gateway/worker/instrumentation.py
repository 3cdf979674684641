"""Record metrics and spans of a batch of results. Updating them for each message would take measurable CPU time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from gateway import metrics, tracing
from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.job import Job
from gateway.domain.job_payload import Recipient
from gateway.domain.notification import Notification
from gateway.push.endpoints import service_label, vendor_name
from gateway.service.pipeline.push_sender import SendResult

# Maximum number of attempts in a batch that get a span. Recording a span takes more time than all other work for a
# message, and no tool displays a trace with a million spans. Failed attempts are recorded first. The span of the batch
# has the total counts.
MAX_TRACED = 32


def record_batch(job: Job, notification: Notification | None, batch: Sequence[tuple[Recipient, SendResult]]) -> None:
    """Record the attempts of a batch, and for first attempts the time since the notification was accepted."""
    posted_results: defaultdict[tuple[str, str], list[SendResult]] = defaultdict(list)
    for recipient, result in batch:
        if result.posted:
            posted_results[recipient.host, result.outcome.name].append(result)
    if tracing.is_recording():
        _trace(job, batch)
    for (host, outcome), results in posted_results.items():
        service = service_label(host)
        metrics.attempts(service, outcome).inc(len(results))
        metrics.ATTEMPT_SECONDS.observe((service,), [result.duration_ms / 1000 for result in results])
    if posted_results and job.attempts == 0 and notification is not None and not _is_delayed(notification):
        accepted_at = max(notification.created_at, notification.start_at).timestamp()
        sent_at = [result.at.timestamp() for results in posted_results.values() for result in results if result.at]
        metrics.ACCEPT_TO_SEND_SECONDS.observe((job.lane.label,), [max(0.0, at - accepted_at) for at in sent_at])


def _trace(job: Job, batch: Iterable[tuple[Recipient, SendResult]]) -> None:
    """Record spans of attempts, failed attempts first."""
    posted = [(recipient, result) for recipient, result in batch if result.posted]
    posted.sort(key=lambda pair: pair[1].outcome.name == OutcomeName.ACCEPTED)
    for recipient, result in posted[:MAX_TRACED]:
        if result.at is None:
            continue
        attributes: dict[str, str | int] = {
            "http.request.method": "POST",
            "server.address": recipient.host,
            "outcome": result.outcome.name,
            "device.id": ids.format_id(ids.DEVICE, recipient.device_id),
            "http.request.resend_count": job.attempts,
        }
        if result.status is not None:
            attributes["http.response.status_code"] = result.status
        tracing.record_call(
            f"POST {vendor_name(recipient.host)}",
            attributes,
            start_s=result.at.timestamp(),
            seconds=result.duration_ms / 1000,
            failed=result.outcome.name != OutcomeName.ACCEPTED,
        )


def _is_delayed(notification: Notification) -> bool:
    """Return whether the application requested a delay. Then the time until sending does not measure the gateway."""
    policy = notification.policy
    return bool(policy.throttle or policy.quiet_hours or policy.winner or policy.local_at)
