"""Campaigns: a named message to many, in the lane that gives way to all others."""

from gateway.domain.notification import Kind
from gateway.service.access import SEND
from gateway.web import shapes
from gateway.web.content import Audience, Label, Schedule, Steered
from gateway.web.notifications import accept
from gateway.web.reading import example
from gateway.web.routes import Answer, Call, Routes

routes = Routes("campaigns")


class NewCampaign(Steered):
    model_config = example(
        name="Autumn sale",
        content={"title": "Autumn sale", "body": "From today on.", "url": "/sale"},
        audience={"topic": "offers"},
        schedule={"at": "2027-09-01T09:00:00", "timezone": "device"},
        throttle={"per_second": 500},
        quiet_hours={"start": "21:00", "end": "08:00"},
        variants=[
            {"name": "plain", "content": {}},
            {"name": "urging", "weight": 2, "content": {"title": "Autumn sale: only today"}},
        ],
        winner={"sample": 0.2, "after": 3600},
        pause_when={"failure_share": 0.3, "after": 1000},
    )

    name: Label
    audience: Audience
    schedule: Schedule | None = None


@routes.add("POST", "/v1/campaigns", may=(SEND,), body=NewCampaign, creates=True, answers={201: shapes.Notification})
async def start(call: Call[NewCampaign]) -> Answer:
    """Start a campaign, now or at `schedule.at`."""
    new, id_ = call.body, call.application_id
    draft = await new.draft(call.conn, id_, Kind.CAMPAIGN, new.audience, name=new.name, schedule=new.schedule)
    return await accept(call, draft)
