"""Commands that send: a notification, an alert from a file."""

import json as jsonlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.installation import AppOption, DataDir, application, order
from gateway.cli.output import JsonOption, as_json, fail, pairs, table
from gateway.domain.notification import Kind, Progress
from gateway.service import reports, submission
from gateway.service.alert_documents import REFUSED, take_all
from gateway.service.context import Context
from gateway.web.alerts import NewAlert, read_any, take_one
from gateway.web.notifications import NewNotification
from gateway.web.reading import read_body

Drafting = Callable[[AsyncConnection, UUID], Awaitable[submission.Draft]]


def add(cli: typer.Typer) -> None:
    cli.command()(send)
    cli.command()(alert)


def send(
    app_: AppOption,
    title: Annotated[str, typer.Option(help="The notification's title.")],
    body: Annotated[str | None, typer.Option(help="Its text.")] = None,
    url: Annotated[str | None, typer.Option(help="Where a click leads.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="To the devices with this topic; may be repeated.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="To this user's devices; may be repeated.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="To this device; may be repeated.")] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="To all devices.")] = False,
    audience: Annotated[str | None, typer.Option(help="To an audience, as JSON.")] = None,
    urgency: Annotated[str | None, typer.Option(help="very-low, low, normal or high.")] = None,
    lane: Annotated[str | None, typer.Option(help="urgent, normal or bulk.")] = None,
    ttl: Annotated[int | None, typer.Option(help="Seconds a push service may hold it.")] = None,
    category: Annotated[str | None, typer.Option(help="What kind of message it is.")] = None,
    at: Annotated[str | None, typer.Option(help="When, such as 2026-12-01T09:00:00Z.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="The zone of --at, such as Europe/Vienna, or `device` for each device's own.")
    ] = None,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Send a notification."""
    given: list[Any] = [{"topic": name} for name in topic or []]
    given += [{"user_id": user}] if user else []
    given += [{"device_id": device}] if device else []
    given += [{"everyone": True}] if everyone else []
    if audience is not None:
        try:
            given.append(jsonlib.loads(audience))
        except ValueError as error:
            raise typer.BadParameter(f"is not JSON: {error}", param_hint="--audience") from None
    if not given:
        raise typer.BadParameter("say to whom: --topic, --user, --device, --everyone or --audience")
    said = {
        "content": {"title": title, "body": body, "url": url},
        "audience": given[0] if len(given) == 1 else {"any": given},
        "delivery": {"urgency": urgency, "lane": lane, "ttl": ttl},
        "category": category,
        "schedule": None if at is None else {"at": at, "timezone": timezone},
    }
    new = read_body(NewNotification, jsonlib.dumps(said).encode())

    async def draft(conn: AsyncConnection, application_id: UUID) -> submission.Draft:
        return await new.draft(conn, application_id, Kind.DIRECT, new.audience, schedule=new.schedule)

    _submit(app_, draft, data_dir, as_json_=json)


def alert(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON as POST /v1/alerts takes it, a CAP document, or GeoJSON of the US National Weather Service.",
            exists=True,
            dir_okay=False,
        ),
    ],
    app_: AppOption,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Raise an alert from a file."""
    raw = file.read_bytes()

    async def taken(conn: AsyncConnection, context: Context) -> dict[str, Any]:
        id_, read = await application(conn, app_), await read_any(raw)
        if isinstance(read, NewAlert):
            _, shown = await take_one(conn, context, id_, read)
            return shown
        return {"items": await take_all(conn, context, id_, read.alerts)}

    made = order(data_dir, taken)
    if json:
        as_json(made)
    elif "items" in made:
        columns = ("identifier", "outcome", "notification", "why")
        table(columns, [_row(item) for item in made["items"]])
    else:
        _tell(made)
    items = made.get("items", [])
    if items and all(item["outcome"] == REFUSED for item in items):
        fail("no alert was accepted")


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    told = " ".join(notification["id"] for notification in item["notifications"])
    why = "; ".join([*([item["detail"]] if item["detail"] else []), *(f"ignored {said}" for said in item["ignored"])])
    return item["identifier"] or "", item["outcome"], told, why


def _submit(app_: str, draft: Drafting, data_dir: Path | None, *, as_json_: bool) -> None:
    async def submitted(conn: AsyncConnection, context: Context) -> dict[str, Any]:
        id_ = await application(conn, app_)
        accepted = await submission.submit(conn, context, id_, await draft(conn, id_))
        return reports.notification(accepted, Progress())

    made = order(data_dir, submitted)
    if as_json_:
        return as_json(made)
    _tell(made)


def _tell(made: dict[str, Any]) -> None:
    pairs({"id": made["id"], "status": made["status"], "lane": made["delivery"]["lane"], "starts": made["start_at"]})
