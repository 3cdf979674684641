"""Commands that run the gateway or parts of it."""

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.installation import DataDir, run, settings

if TYPE_CHECKING:
    from gateway.app import Installation
    from gateway.settings import Settings
    from gateway.sim import Sim

Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Listen on this port.")]
Host = Annotated[str | None, typer.Option("--host", help="Listen on this address.")]
SimPort = Annotated[int, typer.Option("--sim-port", min=1, max=65531, help="The first of the simulator's four ports.")]

SIM_PORT = 9090


def add(cli: typer.Typer) -> None:
    for command in (up, serve, work, relay, migrate, sim):
        cli.command()(command)


def up(
    port: Port = None,
    host: Host = None,
    data_dir: DataDir = None,
    sim: Annotated[
        bool, typer.Option("--sim", help="Run a local push service too, which misbehaves a little.")
    ] = False,
    sim_port: SimPort = SIM_PORT,
) -> None:
    """Run everything in one process.

    That is a Postgres of its own, unless GATEWAY_DATABASE_URL is set, the migrations, `serve` and `work`. What it needs
    to run again is in the data directory.
    """
    from gateway import app, log
    from gateway.embedded import EmbeddedPostgres
    from gateway.settings import open_data_dir
    from gateway.sim import Sim, Vendor

    chosen = settings(data_dir, port=port, host=host)
    log.configure(chosen.log_level, chosen.log_format)
    open_data_dir(chosen.data_dir)
    pusher = None
    if sim:
        pusher = Sim(port=sim_port, state_file=chosen.data_dir / "sim.json")
        origins = tuple(f"http://127.0.0.1:{sim_port + index}" for index, _ in enumerate(Vendor))
        chosen = chosen.model_copy(update={"push_hosts": (*chosen.push_hosts, *origins)})
    if chosen.public_url is None:
        reached = "127.0.0.1" if chosen.host in ("0.0.0.0", "::") else chosen.host  # noqa: S104 - compared, not bound
        reached = f"[{reached}]" if ":" in reached else reached
        chosen = chosen.model_copy(update={"public_url": f"http://{reached}:{chosen.port}"})
    with contextlib.ExitStack() as stack:
        if chosen.database_url is None:
            url = stack.enter_context(EmbeddedPostgres(app.postgres_dir(chosen))).url
        else:
            url = chosen.database_url.get_secret_value()
        app.migrate_database(url)
        run(_until_told(chosen, _own(chosen, url), pusher))


def _own(chosen: "Settings", url: str) -> "Installation":
    """What the settings leave open, `up` makes for itself: a master key, an admin token."""
    from gateway.app import Installation
    from gateway.settings import load_or_create_secret

    key, token = chosen.master_key, chosen.admin_token
    files = chosen.data_dir / "master-key", chosen.data_dir / "admin-token"
    return Installation(
        url,
        (key.get_secret_value() if key else load_or_create_secret(files[0])).encode(),
        token.get_secret_value() if token else load_or_create_secret(files[1]),
    )


async def _until_told(chosen: "Settings", own: "Installation", pusher: "Sim | None") -> None:
    from gateway import app

    stop = asyncio.Event()
    app.stop_on_signals(stop)
    base = chosen.public_url
    lines = [f"console      {base}/console/", f"sample app   {base}/sample/", f"API          {base}/openapi.json"]
    if not chosen.admin_token:
        lines.append(f"admin token  {chosen.data_dir / 'admin-token'}")
    if pusher is not None:
        lines.append(f"push service http://127.0.0.1:{pusher.port} (Firefox: dom.push.serverURL)")
    typer.echo("\n".join(lines), err=True)
    await app.up(chosen, own, stop, pusher)


def serve(port: Port = None, host: Host = None, data_dir: DataDir = None) -> None:
    """Serve the HTTP API and the pages.

    Any number may run. Workers deliver.
    """
    from gateway import app, log

    chosen = settings(data_dir, port=port, host=host)
    log.configure(chosen.log_level, chosen.log_format)

    async def served() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        await app.serve(chosen, await asyncio.to_thread(app.find_installation, chosen), stop)

    run(served())


def work(
    lanes: Annotated[
        str | None, typer.Option("--lanes", help="Only these lanes, separated by commas: urgent,normal,bulk.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Deliver what is in the queue.

    Any number may run; with NATS without a database. SIGTERM ends in order.
    """
    from gateway import app, log

    chosen = settings(data_dir, lanes=lanes)
    log.configure(chosen.log_level, chosen.log_format)

    async def worked() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        await app.work(chosen, stop)

    run(worked())


def relay(data_dir: DataDir = None) -> None:
    """Pass jobs to NATS, and results back.

    Stands beside the database when NATS is the queue. Any number may run.
    """
    from gateway import app, log

    chosen = settings(data_dir)
    log.configure(chosen.log_level, chosen.log_format)

    async def relayed() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        await app.relay(chosen, await asyncio.to_thread(app.find_installation, chosen), stop)

    run(relayed())


def migrate(data_dir: DataDir = None) -> None:
    """Bring the database up to date.

    Safe beside running gateways, and several at once.
    """
    from gateway import app, log
    from gateway.app import CannotStart
    from gateway.embedded import EmbeddedPostgres

    chosen = settings(data_dir)
    log.configure(chosen.log_level, chosen.log_format)
    if chosen.database_url is not None:
        app.migrate_database(chosen.database_url.get_secret_value())
    else:
        home = app.postgres_dir(chosen)
        if not home.exists():
            raise CannotStart(f"there is no database: set GATEWAY_DATABASE_URL, or start `gateway up` on {home.parent}")
        with contextlib.ExitStack() as stack:
            url = EmbeddedPostgres.running_url(home) or stack.enter_context(EmbeddedPostgres(home)).url
            app.migrate_database(url)
    typer.echo("the database is up to date")


def sim(
    port: Annotated[int, typer.Option("--port", min=1, max=65531, help="The first of four ports.")] = SIM_PORT,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    misbehave: Annotated[bool, typer.Option("--misbehave", help="Answer some 410, 429, 503, and slowly.")] = False,
    state: Annotated[Path | None, typer.Option("--state", help="Keep subscriptions in this file.")] = None,
) -> None:
    """Run a local push service, for development.

    It answers as FCM, Mozilla, Apple and WNS do.
    """
    from gateway import app
    from gateway.app import CannotStart
    from gateway.sim import DEMO, Sim

    async def simulated() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        pusher = Sim(host, port, state_file=state)
        try:
            await pusher.start()
        except OSError as error:
            raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None
        if misbehave:
            pusher.behave(*DEMO)
        for vendor, origin in pusher.origins.items():
            typer.echo(f"{vendor.value:<8} {origin}")
        typer.echo(f"Firefox  {pusher.websocket_url} (dom.push.serverURL)")
        typer.echo(f"allow it: GATEWAY_PUSH_HOSTS={','.join(pusher.origins.values())}", err=True)
        await stop.wait()
        await pusher.stop()

    run(simulated())
