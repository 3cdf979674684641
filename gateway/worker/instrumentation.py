"""Count what a batch of sends came to, all at once: message by message it would be felt."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from gateway import metrics, tracing
from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.job import Job
from gateway.domain.job_payload import Recipient
from gateway.domain.notification import Notification
from gateway.push.endpoints import vendor_name
from gateway.service.pipeline.push_sender import SendResult

# A span takes longer than all else that is done for a message, and alerts would wait for those of a campaign. Nor does
# anything show a trace of a million. Those that were not accepted come first; how many there were the batch's own says.
MAX_TRACED = 32


def count(job: Job, notification: Notification | None, batch: Sequence[tuple[Recipient, SendResult]]) -> None:
    """The attempts of a batch, and how long the first ones were in coming."""
    answers: defaultdict[tuple[str, str], list[SendResult]] = defaultdict(list)
    for target, sent in batch:
        if sent.posted:
            answers[target.host, sent.outcome.name].append(sent)
    if tracing.is_recording():
        _trace(job, batch)
    for (host, outcome), several in answers.items():
        service = vendor_name(host)
        metrics.attempts(service, outcome).inc(len(several))
        metrics.ATTEMPT_SECONDS.observe((service,), [sent.duration_ms / 1000 for sent in several])
    if answers and job.attempts == 0 and notification is not None and not _is_held_back(notification):
        began = max(notification.created_at, notification.start_at).timestamp()
        sent_at = [sent.at.timestamp() for several in answers.values() for sent in several if sent.at is not None]
        metrics.ACCEPT_TO_SEND_SECONDS.observe((job.lane.label,), [max(0.0, at - began) for at in sent_at])


def _trace(job: Job, batch: Iterable[tuple[Recipient, SendResult]]) -> None:
    made = [(target, sent) for target, sent in batch if sent.posted]
    made.sort(key=lambda one: one[1].outcome.name == OutcomeName.ACCEPTED)
    for target, sent in made[:MAX_TRACED]:
        if sent.at is None:
            continue
        said: dict[str, str | int] = {
            "http.request.method": "POST",
            "server.address": target.host,
            "outcome": sent.outcome.name,
            "device.id": ids.format_id(ids.DEVICE, target.device_id),
            "http.request.resend_count": job.attempts,
        }
        if sent.status is not None:
            said["http.response.status_code"] = sent.status
        failed = sent.outcome.name != OutcomeName.ACCEPTED
        tracing.record_call(
            f"POST {vendor_name(target.host)}",
            said,
            start_s=sent.at.timestamp(),
            seconds=sent.duration_ms / 1000,
            failed=failed,
        )


def _is_held_back(notification: Notification) -> bool:
    """Whether it was asked for that it comes later."""
    steering = notification.policy
    return bool(steering.throttle or steering.quiet_hours or steering.winner or steering.local_at)
