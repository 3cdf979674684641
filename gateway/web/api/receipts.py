"""Receipts: the service worker tells what became of a message."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from gateway import metrics
from gateway.service.inbox import receipts
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest

routes = Routes("receipts")


class Receipt(Body):
    model_config = example(**{"token": "the receipt token of the message", "event": "clicked", "action": "open"})

    token: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    event: Literal["displayed", "clicked", "dismissed"]
    action: Annotated[str, StringConstraints(max_length=255)] | None = None


@routes.add("POST", "/v1/receipts", body=Receipt, browser=True, responses={204: None})
async def report(call: TransactionalRequest[Receipt]) -> Response:
    """Report a receipt with the token of the message; the same again changes nothing."""
    told = call.body
    await receipts.receive(call.conn, call.context.keyring, told.token, told.event, told.action)
    metrics.RECEIPTS.labels(told.event).inc()
    return Response(status=204)
