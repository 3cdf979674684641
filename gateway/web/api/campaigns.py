"""Campaigns: named notifications to many devices, in the lane with the lowest priority."""

from gateway.domain.notification import Kind
from gateway.service import views
from gateway.service.access.authentication import SEND
from gateway.web.api.notifications import submit
from gateway.web.http.parsing import example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas.notification_requests import Audience, CampaignOptions, Label, Schedule

routes = Routes("campaigns")


class CampaignRequest(CampaignOptions):
    """A campaign."""

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


@routes.add(
    "POST", "/v1/campaigns", scopes=(SEND,), body=CampaignRequest, creates=True, responses={201: views.Notification}
)
async def create_campaign(request: TransactionalRequest[CampaignRequest]) -> Response:
    """Start a campaign, now or at `schedule.at`."""
    campaign = request.body
    return await submit(
        request, campaign.to_request(Kind.CAMPAIGN, campaign.audience, name=campaign.name, schedule=campaign.schedule)
    )
