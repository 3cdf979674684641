"""Receipts: service workers report that a notification was displayed, clicked or dismissed."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import StringConstraints

from gateway import metrics
from gateway.service.inbox import receipts
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest

routes = Routes("receipts")


class Receipt(Body):
    """A receipt for a message."""

    model_config = example(**{"token": "the receipt token of the message", "event": "clicked", "action": "open"})

    token: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    event: Literal["displayed", "clicked", "dismissed"]
    action: Annotated[str, StringConstraints(max_length=255)] | None = None


async def verify_token(request: Request[Receipt]) -> Mapping[str, str]:
    """Verify the receipt token before a transaction is opened; raises ReceiptInvalid."""
    receipts.verify(request.context.keyring, request.body.token)
    return {}


@routes.add("POST", "/v1/receipts", body=Receipt, browser=True, precondition=verify_token, responses={204: None})
async def add_receipt(request: TransactionalRequest[Receipt]) -> Response:
    """Report a receipt, with the receipt token of the message. A repeated receipt has no effect."""
    receipt = request.body
    await receipts.receive(request.conn, request.context.keyring, receipt.token, receipt.event, receipt.action)
    metrics.RECEIPTS.labels(receipt.event).inc()
    return Response(status=204)
