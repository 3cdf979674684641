"""Campaigns: a named message to many, in the lane that gives way to all others."""

from gateway.domain.notification import Kind
from gateway.service.access import SEND
from gateway.web import shapes
from gateway.web.content import Audience, Label, Schedule, Sendable
from gateway.web.notifications import accept
from gateway.web.routes import Answer, Call, Routes

routes = Routes("campaigns")


class NewCampaign(Sendable):
    name: Label
    audience: Audience
    schedule: Schedule | None = None


@routes.add("POST", "/v1/campaigns", may=(SEND,), body=NewCampaign, creates=True, answers={201: shapes.Notification})
async def start(call: Call[NewCampaign]) -> Answer:
    """Start a campaign, now or at `schedule.at`."""
    new = call.body
    return await accept(call, new.draft(Kind.CAMPAIGN, new.audience, name=new.name, schedule=new.schedule))
