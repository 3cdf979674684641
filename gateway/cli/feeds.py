"""Commands for feeds: the addresses that alerts are fetched from."""

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.connect import AppOption, GatewayTarget, reaching
from gateway.cli.output import JsonOption, as_json, moment, pairs, table
from gateway.cli.sending import read_json

if TYPE_CHECKING:
    from gateway.client import Gateway
    from gateway.client.requests import NewFeed
    from gateway.client.responses import Feed

feed = typer.Typer(help="Feeds that alerts are fetched from.", no_args_is_help=True)

FeedId = Annotated[str, typer.Argument(metavar="ID", help="The feed's id (fed_...).")]


def add(cli: typer.Typer) -> None:
    cli.add_typer(feed, name="feed")


@feed.command("add")
@reaching
def add_feed(
    reach: GatewayTarget,
    url: Annotated[str, typer.Argument(help="An Atom or RSS feed of CAP alerts, or alerts of api.weather.gov.")],
    app_: AppOption = None,
    name: Annotated[str | None, typer.Option(help="What to call it; its address when left out.")] = None,
    interval: Annotated[int | None, typer.Option(help="Seconds between two looks; 60 when left out.")] = None,
    audience: Annotated[str | None, typer.Option(help="Narrows its alerts to an audience, as JSON.")] = None,
    category: Annotated[str | None, typer.Option(help="What kind of message its alerts are.")] = None,
    json: JsonOption = False,
) -> None:
    """Fetch alerts from an address from now on."""
    new: NewFeed = {"name": (name or url)[:255], "url": url, "category": category}
    if interval is not None:
        new["interval"] = interval
    if audience is not None:
        new["audience"] = read_json(audience, "--audience")

    async def added(gateway: "Gateway") -> "Feed":
        return await gateway.feeds.create(**new)

    made = reach.ask(added, app=app_)
    if json:
        return as_json(made)
    pairs({"id": made.id, "url": made.url, "every": f"{made.interval} s"})


@feed.command("list")
@reaching
def list_feeds(reach: GatewayTarget, app_: AppOption = None, json: JsonOption = False) -> None:
    """Show the feeds and how they fare."""

    async def listed(gateway: "Gateway") -> "list[Feed]":
        return await gateway.feeds.list().first(1000)

    shown = reach.ask(listed, app=app_)
    if json:
        return as_json(shown)
    rows = [
        (
            one.id,
            one.name,
            one.status,
            "never" if one.last_ok_at is None else moment(one.last_ok_at),
            one.counts.get("accepted", 0),
            one.last_error,
        )
        for one in shown
    ]
    table(("id", "name", "status", "last read", "alerts", "fault"), rows)


@feed.command("remove")
@reaching
def remove_feed(reach: GatewayTarget, feed_id: FeedId, app_: AppOption = None) -> None:
    """Fetch it no longer. What it has brought goes on."""

    async def removed(gateway: "Gateway") -> None:
        await gateway.feeds.delete(feed_id)

    reach.ask(removed, app=app_)
    typer.echo("removed")
