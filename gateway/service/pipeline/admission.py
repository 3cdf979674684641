"""Decide before sending which devices of a job must not be sent to now: opt-outs, quiet hours and frequency caps.

The decision needs no rendered message. For urgent notifications only opt-outs apply: quiet hours and caps protect
people from marketing, not from a storm.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from gateway.domain.delivery import Deferred, Expired, Skipped
from gateway.domain.job_payload import PreSendOutcome, Recipient
from gateway.domain.notification import Notification
from gateway.domain.send_policy import FrequencyCap
from gateway.records import frequency_caps
from gateway.records.postgres.engine import Connection


async def decide(
    conn: Connection, notification: Notification, recipients: Sequence[Recipient], now: datetime
) -> dict[UUID, PreSendOutcome]:
    """Return the outcomes of devices that are not sent to; the others are counted against their caps.

    Caps are keyed by application, category and person, so they charge nobody but the person who is sent to.
    """
    policy = notification.policy
    if policy.category is None and policy.quiet_hours is None:
        return {}
    outcomes: dict[UUID, PreSendOutcome] = {}
    for recipient in recipients:
        if policy.category is not None and policy.category in recipient.muted:
            outcomes[recipient.device_id] = Skipped(f"the device opted out of {policy.category!r}")
        elif policy.quiet_hours is not None:
            until = policy.quiet_hours.end_of_quiet(recipient.timezone, now)
            if until is not None and until >= notification.delivery.expires_at:
                outcomes[recipient.device_id] = Expired("the notification expires before the quiet hours end")
            elif until is not None:
                outcomes[recipient.device_id] = Deferred(until)
    if policy.cap is not None and policy.category is not None:
        undecided = [recipient for recipient in recipients if recipient.device_id not in outcomes]
        people = sorted({recipient.person_key for recipient in undecided})
        admitted = await frequency_caps.reserve_quota(conn, notification, policy.category, policy.cap, people)
        capped = Skipped(_cause(policy.category, policy.cap))
        outcomes |= {recipient.device_id: capped for recipient in undecided if recipient.person_key not in admitted}
    return outcomes


def _cause(category: str, cap: FrequencyCap) -> str:
    return f"the cap of {cap.limit} within {cap.window} is reached for {category!r}"
