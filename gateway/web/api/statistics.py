"""What was sent lately, in steps of time, for those who watch."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gateway.domain import clock
from gateway.domain.errors import FieldError, ValidationError
from gateway.service.access.authentication import READ
from gateway.service.reporting import statistics
from gateway.web.http.parsing import AskedMoment, Query
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses

routes = Routes("deliveries")

MAX_STEPS = 120


class Step(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def length(self) -> timedelta:
        return timedelta(**{f"{self.value}s": 1})


class StatisticsQuery(Query):
    by: Annotated[Step, Field(description="How long a step is.")] = Step.MINUTE
    since: Annotated[AskedMoment | None, Field(description="Begin of the first step; 60 steps ago when left out.")] = (
        None
    )
    until: Annotated[AskedMoment | None, Field(description="End of the last step; now when left out.")] = None


@routes.add("GET", "/v1/stats", scopes=(READ,), query=StatisticsQuery, responses={200: responses.Statistics})
async def show(call: TransactionalRequest[None, StatisticsQuery]) -> Response:
    """Count what settled in each minute, hour or day by outcome and push service, how long it took, and what waits.

    At most 120 steps. Of a step with more than 200 deliveries, mix and times are those of its last 200, and `estimated`
    says so. `accept_ms` runs from when the notification was to start until the push service accepted it; `answer_ms` is
    the last POST alone.
    """
    asked, step = call.query, call.query.by.length
    until = asked.until or clock.now()
    since = asked.since or until - 60 * step
    steps = -((since - until) // step)
    if not 1 <= steps <= MAX_STEPS:
        raise ValidationError([FieldError("/query/since", f"must be 1 to {MAX_STEPS} steps before the end")])
    breakers = call.context.breakers.open_breakers()
    until = since + steps * step
    return Response(await statistics.summarize(call.conn, call.application_id, since, until, step, breakers))
