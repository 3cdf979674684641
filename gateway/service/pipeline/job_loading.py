"""Load the payload of a claimed job, and decide which of its devices may receive the notification now."""

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from gateway.domain import clock
from gateway.domain.delivery import Skipped
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload, PreSendOutcome, Recipient
from gateway.domain.notification import Notification, Status
from gateway.records import applications, bound_deliveries, notifications
from gateway.records.postgres.engine import Connection, Engine
from gateway.records.recipients import load_recipients, load_signing_keys, load_template_context
from gateway.service.inbox import live_channel
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import admission, throttling

# The outcome of a delivery if the user for whom it was planned has signed out, or the device has another user.
OTHER_USER = Skipped("the device no longer has the user for whom this was planned")


async def load(engine: Engine, renderers: RendererCache, job: Job) -> JobPayload | None:
    """Return the payload of a job. Returns None if the job was requeued: its notification is paused or throttled."""
    async with engine.begin() as conn:
        [notification] = await notifications.load(conn, [job.notification_id])
        now = clock.now()
        if notification.status is Status.PAUSED and now < notification.delivery.expires_at:
            await lifecycle.requeue(conn, job)
            return None
        # A cancelled notification needs no slot: its devices are logged without sending anything.
        is_throttled = notification.policy.throttle is not None and notification.status is Status.SENDING
        if is_throttled and not await throttling.has_slot(conn, job):
            return None
        recipients = await load_recipients(conn, notification, job)
        keys = await load_signing_keys(conn, list({recipient.vapid_key_id for recipient in recipients}))
        renderer = renderers.get_cached(notification.id)
        if renderer is None:
            renderer = renderers.get(notification, await _default_origin(conn, notification, renderers))
        template_context = await load_template_context(conn, job.device_ids) if renderer.is_personal else {}
        if notification.is_blocked_on_winner(recipient.bucket for recipient in recipients):
            winner = await notifications.decide_winner(conn, notification.id)
            notification = replace(notification, winner=winner)
        planned_users: dict[UUID, str] = {}
        if notification.person_bound:
            # The users are compared last: a message counts as in flight if the user of its device changes later.
            planned_users = await bound_deliveries.find_other_users(conn, notification.id, job.device_ids)
            recipients = [_for_planned_user(recipient, planned_users) for recipient in recipients]
        same_user = [recipient for recipient in recipients if recipient.device_id not in planned_users]
        outcomes: dict[UUID, PreSendOutcome] = {**await admission.decide(conn, notification, same_user, now)}
        undecided = [recipient for recipient in recipients if recipient.device_id not in outcomes]
        outcomes |= dict.fromkeys(planned_users, OTHER_USER)
        outcomes |= await live_channel.offer_to_pages(
            conn, notification, undecided, now, withdrawn=planned_users.keys()
        )
    return JobPayload(notification, renderer.default_origin, recipients, keys, outcomes, template_context)


def _for_planned_user(recipient: Recipient, planned_users: Mapping[UUID, str]) -> Recipient:
    """Return the recipient with the user for whom the delivery was planned, whom the log must contain."""
    user_id = planned_users.get(recipient.device_id)
    return recipient if user_id is None else recipient._replace(user_id=user_id)


async def _default_origin(conn: Connection, notification: Notification, renderers: RendererCache) -> str | None:
    return await applications.get_default_origin(conn, notification.application_id) or renderers.public_url
