"""Commands that send: a notification, or alerts from a file."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gateway.cli.connect import AppOption, GatewayTarget, gateway_command
from gateway.cli.output import JsonOption, fail, print_fields, print_json, print_table

if TYPE_CHECKING:
    from gateway.client import Gateway
    from gateway.client.requests import Schedule
    from gateway.client.responses import AlertIngestion, IngestedAlert, Notification

REFUSED = "refused"


def register_commands(cli: typer.Typer) -> None:
    """Add `send` and `alert`."""
    cli.command()(send)
    cli.command()(alert)


@gateway_command
def send(
    target: GatewayTarget,
    title: Annotated[str, typer.Option(help="Title of the notification.")],
    app_: AppOption = None,
    body: Annotated[str | None, typer.Option(help="Text of the notification.")] = None,
    url: Annotated[str | None, typer.Option(help="URL that a click opens.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="Send to devices subscribed to this topic. Repeatable.", metavar="TOPIC")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="Send to this user's devices. Repeatable.", metavar="USER")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Send to this device. Repeatable.", metavar="ID")] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="Send to all devices.")] = False,
    audience: Annotated[str | None, typer.Option(help="Send to an audience, as JSON.")] = None,
    urgency: Annotated[
        Literal["very-low", "low", "normal", "high"] | None,
        typer.Option(help="Urgency for the push service, which may delay less urgent messages to save battery."),
    ] = None,
    lane: Annotated[
        Literal["urgent", "normal", "bulk"] | None, typer.Option(help="Priority in the gateway's queue.")
    ] = None,
    ttl: Annotated[int | None, typer.Option(help="Seconds that a push service may store the message.")] = None,
    category: Annotated[str | None, typer.Option(help="Category of the notification.")] = None,
    at: Annotated[str | None, typer.Option(help="Time to send at, such as 2026-12-01T09:00:00Z.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Time zone of --at, such as Europe/Vienna, or `device` for each device's own.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated command with the same key sends only once.", metavar="KEY")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Send a notification."""
    audiences: list[Any] = [{"topic": name} for name in topic or []]
    audiences += [{"user_id": user}] if user else []
    audiences += [{"device_id": device}] if device else []
    audiences += [{"everyone": True}] if everyone else []
    if audience is not None:
        audiences.append(read_json(audience, "--audience"))
    if not audiences:
        raise typer.BadParameter("choose recipients: --topic, --user, --device, --everyone or --audience")
    schedule: Schedule | None = None if at is None else {"at": at, "timezone": timezone}

    async def submit(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.send(
            content={"title": title, "body": body, "url": url},
            audience=audiences[0] if len(audiences) == 1 else {"any": audiences},
            delivery={"urgency": urgency, "lane": lane, "ttl": ttl},
            category=category,
            schedule=schedule,
            idempotency_key=idempotency_key,
        )

    notification = target.call(submit, app=app_)
    if json:
        return print_json(notification)
    _print_notification(notification)


@gateway_command
def alert(
    target: GatewayTarget,
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON for POST /v1/alerts, a CAP document, or GeoJSON of the US National Weather Service.",
            exists=True,
            dir_okay=False,
        ),
    ],
    app_: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Send the alerts in a file."""
    raw = file.read_bytes()
    fields, content_type = _detect_format(raw)

    async def submit(gateway: "Gateway") -> "Notification | AlertIngestion":
        if content_type is not None:
            return await gateway.alerts.submit_document(raw, content_type)
        return await gateway.alerts.submit(**fields)

    result: Any = target.call(submit, app=app_)
    items: list[IngestedAlert] = getattr(result, "items", [])
    if json:
        print_json(result)
    elif items:
        print_table(("identifier", "outcome", "notification", "detail"), [_format_row(item) for item in items])
    else:
        _print_notification(result)
    if items and all(item.outcome == REFUSED for item in items):
        fail("no alert was accepted")


def read_json(text: str, option: str) -> Any:
    """Parse the JSON value of an option.

    Raises:
        BadParameter: not JSON.
    """
    try:
        return jsonlib.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint=option) from None


def _detect_format(raw: bytes) -> tuple[Any, str | None]:
    """Detect the format of a file from its content.

    Returns:
        The alert and None for JSON of the API; None and the content type for other documents.
    """
    if raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None, "application/cap+xml"
    try:
        document = jsonlib.loads(raw)
    except ValueError as error:
        fail(f"the file is neither XML nor JSON: {error}")
    if isinstance(document, dict) and document.get("type") in ("Feature", "FeatureCollection"):
        return None, "application/geo+json"
    if not isinstance(document, dict):
        fail("the file contains no alert: its JSON is not an object")
    return document, None


def _format_row(item: "IngestedAlert") -> tuple[str, ...]:
    notifications = " ".join(notification.id for notification in item.notifications)
    detail = "; ".join([*([item.detail] if item.detail else []), *(f"ignored {field}" for field in item.ignored)])
    return item.identifier or "", item.outcome, notifications, detail


def _print_notification(notification: "Notification") -> None:
    print_fields(
        {
            "id": notification.id,
            "status": notification.status,
            "lane": notification.delivery.lane,
            "starts": notification.start_at,
        }
    )
