"""Commands for feeds: the addresses that alerts are fetched from."""

import json as jsonlib
from datetime import timedelta
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.installation import AppOption, DataDir, application, id_of, order
from gateway.cli.output import JsonOption, as_json, pairs, table
from gateway.domain import ids
from gateway.service import audit, feeds
from gateway.service.context import Context
from gateway.web.feeds import NewFeed
from gateway.web.reading import read_body

feed = typer.Typer(help="Feeds that alerts are fetched from.", no_args_is_help=True)

FeedId = Annotated[str, typer.Argument(metavar="ID", help="The feed's id (fed_...).")]


def add(cli: typer.Typer) -> None:
    cli.add_typer(feed, name="feed")


@feed.command("add")
def add_feed(
    url: Annotated[str, typer.Argument(help="An Atom or RSS feed of CAP alerts, or alerts of api.weather.gov.")],
    app_: AppOption,
    name: Annotated[str | None, typer.Option(help="What to call it; its address when left out.")] = None,
    interval: Annotated[int | None, typer.Option(help="Seconds between two looks; 60 when left out.")] = None,
    audience: Annotated[str | None, typer.Option(help="Narrows its alerts to an audience, as JSON.")] = None,
    category: Annotated[str | None, typer.Option(help="What kind of message its alerts are.")] = None,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Fetch alerts from an address from now on."""
    said: dict[str, Any] = {"name": (name or url)[:255], "url": url, "category": category}
    said |= {} if interval is None else {"interval": interval}
    if audience is not None:
        try:
            said["audience"] = jsonlib.loads(audience)
        except ValueError as error:
            raise typer.BadParameter(f"is not JSON: {error}", param_hint="--audience") from None
    new = read_body(NewFeed, jsonlib.dumps(said).encode())

    async def added(conn: AsyncConnection, context: Context) -> dict[str, Any]:
        application_id = await application(conn, app_)
        made = await feeds.create(
            conn,
            context,
            application_id,
            new.name,
            new.url,
            interval=timedelta(seconds=new.interval),
            audience=new.audience,
            category=new.category,
        )
        given = {"url": url} if name is None else {"url": url, "name": name}
        await audit.note(conn, audit.COMMAND_LINE, "feeds.create", application_id, made["id"], given)
        return made

    made = order(data_dir, added)
    if json:
        return as_json(made)
    pairs({"id": made["id"], "url": made["url"], "every": f"{made['interval']} s"})


@feed.command("list")
def list_feeds(app_: AppOption, data_dir: DataDir = None, json: JsonOption = False) -> None:
    """Show the feeds and how they fare."""

    async def listed(conn: AsyncConnection, _: Context) -> list[dict[str, Any]]:
        return [*await feeds.newest(conn, await application(conn, app_), before=None, limit=1000)]

    shown = order(data_dir, listed)
    if json:
        return as_json(shown)
    rows = [
        (one["id"], one["name"], one["status"], one["last_ok_at"] or "never", one["counts"].get("accepted", 0),
         one["last_error"] or "")
        for one in shown
    ]  # fmt: skip
    table(("id", "name", "status", "last read", "alerts", "fault"), rows)


@feed.command("remove")
def remove_feed(feed_id: FeedId, app_: AppOption, data_dir: DataDir = None) -> None:
    """Fetch it no longer. What it has brought goes on."""
    id_ = id_of(ids.FEED, feed_id)

    async def removed(conn: AsyncConnection, _: Context) -> None:
        application_id = await application(conn, app_)
        await feeds.remove(conn, application_id, id_)
        await audit.note(conn, audit.COMMAND_LINE, "feeds.remove", application_id, feed_id)

    order(data_dir, removed)
