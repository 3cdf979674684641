"""Commands for feeds, the URLs that alerts are fetched from."""

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.connect import AppOption, GatewayTarget, gateway_command
from gateway.cli.output import JsonOption, format_time, print_fields, print_json, print_table
from gateway.cli.sending import read_json

if TYPE_CHECKING:
    from gateway.client import Gateway
    from gateway.client.requests import NewFeed
    from gateway.client.responses import Feed

feed = typer.Typer(help="Manage feeds that alerts are fetched from.", no_args_is_help=True)

FeedId = Annotated[str, typer.Argument(metavar="ID", help="Feed id (fed_...).")]


def register_commands(cli: typer.Typer) -> None:
    """Add `feed`."""
    cli.add_typer(feed, name="feed")


@feed.command("add")
@gateway_command
def add_feed(
    target: GatewayTarget,
    url: Annotated[
        str, typer.Argument(help="URL of an Atom or RSS feed of CAP alerts, or of alerts at api.weather.gov.")
    ],
    app_: AppOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the feed; its URL by default.")] = None,
    interval: Annotated[int | None, typer.Option(help="Polling interval in seconds; 60 by default.")] = None,
    audience: Annotated[str | None, typer.Option(help="Limit the alerts to an audience, as JSON.")] = None,
    category: Annotated[str | None, typer.Option(help="Category of the alerts.")] = None,
    json: JsonOption = False,
) -> None:
    """Add a feed and start polling it."""
    fields: NewFeed = {"name": (name or url)[:255], "url": url, "category": category}
    if interval is not None:
        fields["interval"] = interval
    if audience is not None:
        fields["audience"] = read_json(audience, "--audience")

    async def create(gateway: "Gateway") -> "Feed":
        return await gateway.feeds.create(**fields)

    created = target.call(create, app=app_)
    if json:
        return print_json(created)
    print_fields({"id": created.id, "url": created.url, "interval": f"{created.interval} s"})


@feed.command("list")
@gateway_command
def list_feeds(target: GatewayTarget, app_: AppOption = None, json: JsonOption = False) -> None:
    """List feeds with their status."""

    async def fetch(gateway: "Gateway") -> "list[Feed]":
        return await gateway.feeds.list().fetch(1000)

    feeds = target.call(fetch, app=app_)
    if json:
        return print_json(feeds)
    rows = [
        (
            item.id,
            item.name,
            item.status,
            "never" if item.last_ok_at is None else format_time(item.last_ok_at),
            item.counts.get("accepted", 0),
            item.last_error,
        )
        for item in feeds
    ]
    print_table(("id", "name", "status", "last success", "alerts", "error"), rows)


@feed.command("remove")
@gateway_command
def remove_feed(target: GatewayTarget, feed_id: FeedId, app_: AppOption = None) -> None:
    """Stop polling a feed. Its alerts stay in effect."""

    async def delete(gateway: "Gateway") -> None:
        await gateway.feeds.delete(feed_id)

    target.call(delete, app=app_)
    typer.echo("removed")
