"""Delivery statistics: the deliveries of a period in steps of a minute, an hour or a day."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gateway.domain import clock
from gateway.domain.database_work import LIST
from gateway.domain.errors import FieldError, ValidationError
from gateway.service import views
from gateway.service.access.authentication import READ
from gateway.service.reporting import statistics
from gateway.web.http.parsing import Query, QueryMoment
from gateway.web.http.routing import Response, Routes, TransactionalRequest

routes = Routes("deliveries")

# Maximum number of time steps in one response.
MAX_STEPS = 120


class Step(StrEnum):
    """The length of a time step."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def length(self) -> timedelta:
        """The step as a duration."""
        return timedelta(**{f"{self.value}s": 1})


class StatisticsQuery(Query):
    """The period of the statistics, and the length of a step."""

    by: Annotated[Step, Field(description="Length of a step.")] = Step.MINUTE
    since: Annotated[QueryMoment | None, Field(description="Start of the first step; defaults to 60 steps ago.")] = None
    until: Annotated[QueryMoment | None, Field(description="End of the last step; defaults to now.")] = None


@routes.add("GET", "/v1/stats", scopes=(READ,), query=StatisticsQuery, work=LIST, responses={200: views.Statistics})
async def get_statistics(request: TransactionalRequest[None, StatisticsQuery]) -> Response:
    """Get the deliveries of each minute, hour or day by outcome and push service, their latencies, and queued jobs.

    There are at most 120 steps. In a step with more than 200 deliveries, shares and latencies are estimated from the
    last 200 of them, and `estimated` is true. `accept_ms` is the time from the scheduled start of the notification to
    the acceptance by the push service. `answer_ms` is the duration of the last POST.
    """
    query, step = request.query, request.query.by.length
    until = query.until or clock.now()
    since = query.since or until - 60 * step
    steps = -((since - until) // step)
    if not 1 <= steps <= MAX_STEPS:
        raise ValidationError([FieldError("/query/since", f"must be 1 to {MAX_STEPS} steps before the end")])
    breakers = request.context.breakers
    until = since + steps * step
    return Response(await statistics.summarize(request.conn, request.application_id, since, until, step, breakers))
