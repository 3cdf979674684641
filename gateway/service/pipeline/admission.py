"""Decide which devices of a job do not receive the notification now: opt-outs, quiet hours and frequency caps.

The decision is made before messages are rendered. For urgent notifications only opt-outs apply: quiet hours and caps
protect users from marketing, and must not delay warnings.
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
    """Return the outcomes of the devices that do not receive the notification now, by device id.

    For each other device, one send is counted against the frequency cap of its user. Caps are keyed by application,
    category and user, so sends to one user never use up the cap of another.
    """
    policy = notification.policy
    if policy.category is None and policy.quiet_hours is None:
        return {}
    outcomes: dict[UUID, PreSendOutcome] = {}
    for recipient in recipients:
        if policy.category is not None and policy.category in recipient.muted:
            outcomes[recipient.device_id] = Skipped(f"the device opted out of {policy.category!r}")
        elif policy.quiet_hours is not None:
            quiet_until = policy.quiet_hours.end_of_quiet(recipient.timezone, now)
            if quiet_until is not None and quiet_until >= notification.delivery.expires_at:
                outcomes[recipient.device_id] = Expired("the notification expires before the quiet hours end")
            elif quiet_until is not None:
                outcomes[recipient.device_id] = Deferred(quiet_until)
    if policy.cap is not None and policy.category is not None:
        undecided = [recipient for recipient in recipients if recipient.device_id not in outcomes]
        persons = sorted({recipient.person_key for recipient in undecided})
        below_cap = await frequency_caps.reserve_quota(conn, notification, policy.category, policy.cap, persons)
        capped = Skipped(_cap_cause(policy.category, policy.cap))
        outcomes |= {recipient.device_id: capped for recipient in undecided if recipient.person_key not in below_cap}
    return outcomes


def _cap_cause(category: str, cap: FrequencyCap) -> str:
    return f"the cap of {cap.limit} within {cap.window} is reached for {category!r}"
