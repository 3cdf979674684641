"""Commands that send: a notification, an alert from a file."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gateway.cli.connect import AppOption, GatewayTarget, reaching
from gateway.cli.output import JsonOption, as_json, fail, pairs, table

if TYPE_CHECKING:
    from gateway.client import Gateway
    from gateway.client.requests import Schedule
    from gateway.client.responses import AlertIngestion, IngestedAlert, Notification

REFUSED = "refused"


def add(cli: typer.Typer) -> None:
    cli.command()(send)
    cli.command()(alert)


@reaching
def send(
    reach: GatewayTarget,
    title: Annotated[str, typer.Option(help="The notification's title.")],
    app_: AppOption = None,
    body: Annotated[str | None, typer.Option(help="Its text.")] = None,
    url: Annotated[str | None, typer.Option(help="Where a click leads.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="To the devices with this topic; may be repeated.", metavar="TOPIC")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="To this user's devices; may be repeated.", metavar="USER")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="To this device; may be repeated.", metavar="ID")] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="To all devices.")] = False,
    audience: Annotated[str | None, typer.Option(help="To an audience, as JSON.")] = None,
    urgency: Annotated[
        Literal["very-low", "low", "normal", "high"] | None, typer.Option(help="What wakes a sleeping phone.")
    ] = None,
    lane: Annotated[Literal["urgent", "normal", "bulk"] | None, typer.Option(help="What goes first.")] = None,
    ttl: Annotated[int | None, typer.Option(help="Seconds a push service may hold it.")] = None,
    category: Annotated[str | None, typer.Option(help="What kind of message it is.")] = None,
    at: Annotated[str | None, typer.Option(help="When, such as 2026-12-01T09:00:00Z.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="The zone of --at, such as Europe/Vienna, or `device` for each device's own.")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key twice sends once.", metavar="KEY")] = None,
    json: JsonOption = False,
) -> None:
    """Send a notification."""
    given: list[Any] = [{"topic": name} for name in topic or []]
    given += [{"user_id": user}] if user else []
    given += [{"device_id": device}] if device else []
    given += [{"everyone": True}] if everyone else []
    if audience is not None:
        given.append(read_json(audience, "--audience"))
    if not given:
        raise typer.BadParameter("say to whom: --topic, --user, --device, --everyone or --audience")
    when: Schedule | None = None if at is None else {"at": at, "timezone": timezone}

    async def sent(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.send(
            content={"title": title, "body": body, "url": url},
            audience=given[0] if len(given) == 1 else {"any": given},
            delivery={"urgency": urgency, "lane": lane, "ttl": ttl},
            category=category,
            schedule=when,
            idempotency_key=idempotency_key,
        )

    made = reach.ask(sent, app=app_)
    if json:
        return as_json(made)
    _tell(made)


@reaching
def alert(
    reach: GatewayTarget,
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON as POST /v1/alerts takes it, a CAP document, or GeoJSON of the US National Weather Service.",
            exists=True,
            dir_okay=False,
        ),
    ],
    app_: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Raise an alert from a file."""
    raw = file.read_bytes()
    said, kind = _recognised(raw)

    async def taken(gateway: "Gateway") -> "Notification | AlertIngestion":
        if kind is not None:
            return await gateway.alerts.raise_document(raw, kind)
        return await gateway.alerts.raise_(**said)

    made: Any = reach.ask(taken, app=app_)
    items: list[IngestedAlert] = getattr(made, "items", [])
    if json:
        as_json(made)
    elif items:
        table(("identifier", "outcome", "notification", "why"), [_row(item) for item in items])
    else:
        _tell(made)
    if items and all(item.outcome == REFUSED for item in items):
        fail("no alert was accepted")


def read_json(text: str, option: str) -> Any:
    """Raises BadParameter."""
    try:
        return jsonlib.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint=option) from None


def _recognised(raw: bytes) -> tuple[Any, str | None]:
    """(alert, None) of JSON of ours, else (None, content type), by its looks."""
    if raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None, "application/cap+xml"
    try:
        said = jsonlib.loads(raw)
    except ValueError as error:
        fail(f"the file is neither XML nor JSON: {error}")
    if isinstance(said, dict) and said.get("type") in ("Feature", "FeatureCollection"):
        return None, "application/geo+json"
    if not isinstance(said, dict):
        fail("the file holds no alert: its JSON is not an object")
    return said, None


def _row(item: "IngestedAlert") -> tuple[str, ...]:
    shown = " ".join(notification.id for notification in item.notifications)
    why = "; ".join([*([item.detail] if item.detail else []), *(f"ignored {said}" for said in item.ignored)])
    return item.identifier or "", item.outcome, shown, why


def _tell(made: "Notification") -> None:
    pairs({"id": made.id, "status": made.status, "lane": made.delivery.lane, "starts": made.start_at})
