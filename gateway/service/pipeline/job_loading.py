"""Load the payload of a claimed job, and decide which of its devices may receive the notification now."""

from dataclasses import replace
from uuid import UUID

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload, PreSendOutcome
from gateway.domain.notification import Notification, Status
from gateway.records import applications, notifications
from gateway.records.postgres.engine import Connection, Engine
from gateway.records.recipients import load_recipients, load_signing_keys, load_template_context
from gateway.service.inbox import live_channel
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import admission, throttling


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
        outcomes: dict[UUID, PreSendOutcome] = {**await admission.decide(conn, notification, recipients, now)}
        undecided = [recipient for recipient in recipients if recipient.device_id not in outcomes]
        outcomes |= await live_channel.offer_to_pages(conn, notification, undecided, now)
    return JobPayload(notification, renderer.default_origin, recipients, keys, outcomes, template_context)


async def _default_origin(conn: Connection, notification: Notification, renderers: RendererCache) -> str | None:
    return await applications.get_default_origin(conn, notification.application_id) or renderers.public_url
