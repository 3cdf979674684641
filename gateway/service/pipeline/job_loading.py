"""Load what a claimed job needs to be sent, and ask once more who of its devices may be sent to now."""

from dataclasses import replace
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload, PreSendOutcome
from gateway.domain.notification import Notification, Status
from gateway.records import applications, notifications
from gateway.records.recipients import known_of, load_signing_keys, load_targets
from gateway.service.inbox import live_channel
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import admission, throttling


async def load(engine: AsyncEngine, composer: RendererCache, job: Job) -> JobPayload | None:
    """None when the job was put back instead: its notification is paused, or its throttle lets it go later."""
    async with engine.begin() as conn:
        [notification] = await notifications.load(conn, [job.notification_id])
        now = clock.now()
        if notification.status is Status.PAUSED and now < notification.delivery.expires_at:
            await lifecycle.requeue(conn, job)
            return None
        # What is only accounted for needs no slot.
        throttled = notification.policy.throttle is not None and notification.status is Status.SENDING
        if throttled and not await throttling.has_slot(conn, job):
            return None
        targets = await load_targets(conn, notification, job)
        keys = await load_signing_keys(conn, list({target.vapid_key_id for target in targets}))
        messages = composer.kept(notification.id)
        if messages is None:
            messages = composer.messages(notification, await _home(conn, notification, composer))
        known = await known_of(conn, job.device_ids) if messages.personal else {}
        if notification.is_blocked_on_winner(target.bucket for target in targets):
            winner = await notifications.decide_winner(conn, notification.id)
            notification = replace(notification, winner=winner)
        verdicts: dict[UUID, PreSendOutcome] = {**await admission.decide(conn, notification, targets, now)}
        left = [target for target in targets if target.device_id not in verdicts] if verdicts else targets
        verdicts |= await live_channel.decide(conn, notification, left, now)
    return JobPayload(notification, messages.home, targets, keys, verdicts, known)


async def _home(conn: AsyncConnection, notification: Notification, composer: RendererCache) -> str | None:
    return await applications.home(conn, notification.application_id) or composer.public_url
