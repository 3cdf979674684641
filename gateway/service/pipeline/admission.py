"""Who of a job's devices may be sent to now: opt-outs, quiet hours and caps, asked once a job.

What is decided here needs no message made. The urgent lane asks for opt-outs alone: quiet hours and caps protect
people from marketing, not from a storm.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.delivery import Deferred, Expired, Skipped
from gateway.domain.job_payload import PreSendOutcome, Recipient
from gateway.domain.notification import Notification
from gateway.domain.send_policy import FrequencyCap
from gateway.records import frequency_caps


async def decide(
    conn: AsyncConnection, notification: Notification, targets: Sequence[Recipient], now: datetime
) -> dict[UUID, PreSendOutcome]:
    """The devices that are not to be sent to now, each with its reason; the rest count against their caps."""
    steering = notification.policy
    if steering.category is None and steering.quiet_hours is None:
        return {}
    verdicts: dict[UUID, PreSendOutcome] = {}
    for target in targets:
        if steering.category is not None and steering.category in target.muted:
            verdicts[target.device_id] = Skipped(f"the device opted out of {steering.category!r}")
        elif steering.quiet_hours is not None:
            until = steering.quiet_hours.end_of_quiet(target.timezone, now)
            if until is not None and until >= notification.delivery.expires_at:
                verdicts[target.device_id] = Expired("its time runs out before the quiet hours end")
            elif until is not None:
                verdicts[target.device_id] = Deferred(until)
    if steering.cap is not None and steering.category is not None:
        left = [target for target in targets if target.device_id not in verdicts]
        people = sorted({target.person_key for target in left})
        admitted = await frequency_caps.reserve_quota(conn, notification, steering.category, steering.cap, people)
        reached = Skipped(_cause(steering.category, steering.cap))
        verdicts |= {target.device_id: reached for target in left if target.person_key not in admitted}
    return verdicts


def _cause(category: str, cap: FrequencyCap) -> str:
    return f"the cap of {cap.limit} within {cap.window} is reached for {category!r}"
