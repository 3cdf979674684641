"""Commands that run the gateway or its parts."""

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.installation import DataDir, read_settings, run_async

if TYPE_CHECKING:
    from gateway.app import Installation
    from gateway.embedded import EmbeddedPostgres
    from gateway.settings import Settings
    from gateway.sim import Sim

Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port to listen on.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
SimPort = Annotated[int, typer.Option("--sim-port", min=1, max=65531, help="First of the simulator's four ports.")]

SIM_PORT = 9090


def register_commands(cli: typer.Typer) -> None:
    """Add `up`, `serve`, `work`, `relay`, `migrate` and `sim`."""
    for command in (up, serve, work, relay, migrate, sim):
        cli.command()(command)


def up(
    port: Port = None,
    host: Host = None,
    data_dir: DataDir = None,
    sim: Annotated[
        bool, typer.Option("--sim", help="Also run a local push service, which returns some errors.")
    ] = False,
    sim_port: SimPort = SIM_PORT,
) -> None:
    """Run everything in one process.

    Starts an embedded Postgres, unless GATEWAY_DATABASE_URL is set, applies the migrations and runs `serve` and `work`.
    All state is in the data directory.
    """
    from gateway import app, log
    from gateway.embedded import EmbeddedPostgres
    from gateway.settings import open_data_dir
    from gateway.sim import Sim, Vendor

    settings = read_settings(data_dir, port=port, host=host)
    log.configure(settings.log_level, settings.log_format)
    open_data_dir(settings.data_dir)
    simulator = None
    if sim:
        simulator = Sim(port=sim_port, state_file=settings.data_dir / "sim.json")
        origins = tuple(f"http://127.0.0.1:{sim_port + index}" for index, _ in enumerate(Vendor))
        settings = settings.model_copy(update={"push_hosts": (*settings.push_hosts, *origins)})
    if settings.public_url is None:
        reachable_host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
        reachable_host = f"[{reachable_host}]" if ":" in reachable_host else reachable_host
        settings = settings.model_copy(update={"public_url": f"http://{reachable_host}:{settings.port}"})
    with contextlib.ExitStack() as stack:
        postgres = None
        if settings.database_url is None:
            postgres = stack.enter_context(EmbeddedPostgres(app.postgres_dir(settings)))
            url = postgres.url
        else:
            url = settings.database_url.get_secret_value()
        app.migrate_database(url)
        run_async(_run_until_signal(settings, _complete_installation(settings, url), simulator, postgres))


def _complete_installation(settings: "Settings", url: str) -> "Installation":
    """Return the installation of `gateway up`; create a master key and an admin token unless they are configured."""
    from gateway.app import Installation
    from gateway.settings import load_or_create_secret

    key, token = settings.master_key, settings.admin_token
    files = settings.data_dir / "master-key", settings.data_dir / "admin-token"
    return Installation(
        url,
        (key.get_secret_value() if key else load_or_create_secret(files[0])).encode(),
        token.get_secret_value() if token else load_or_create_secret(files[1]),
    )


async def _run_until_signal(
    settings: "Settings", installation: "Installation", simulator: "Sim | None", postgres: "EmbeddedPostgres | None"
) -> None:
    from gateway import app

    stop = asyncio.Event()
    app.stop_on_signals(stop)
    base = settings.public_url
    lines = [f"console      {base}/console/", f"sample app   {base}/sample/", f"API          {base}/openapi.json"]
    if not settings.admin_token:
        lines.append(f"admin token  {settings.data_dir / 'admin-token'}")
    if simulator is not None:
        lines.append(f"push service http://127.0.0.1:{simulator.port} (Firefox: dom.push.serverURL)")
    typer.echo("\n".join(lines), err=True)
    await app.up(settings, installation, stop, simulator, postgres)


def serve(port: Port = None, host: Host = None, data_dir: DataDir = None) -> None:
    """Serve the HTTP API and the web pages.

    Any number of servers can run. Delivery needs workers.
    """
    from gateway import app, log

    settings = read_settings(data_dir, port=port, host=host)
    log.configure(settings.log_level, settings.log_format)

    async def run_server() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        await app.serve(settings, await asyncio.to_thread(app.find_installation, settings), stop)

    run_async(run_server())


def work(
    lanes: Annotated[
        str | None, typer.Option("--lanes", help="Comma-separated lanes to deliver: urgent,normal,bulk.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Deliver queued notifications.

    Any number of workers can run; with NATS as the queue they need no database. SIGTERM shuts down gracefully.
    """
    from gateway import app, log

    settings = read_settings(data_dir, lanes=lanes)
    log.configure(settings.log_level, settings.log_format)

    async def run_worker() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        await app.work(settings, stop)

    run_async(run_worker())


def relay(data_dir: DataDir = None) -> None:
    """Transfer jobs to NATS and results back to the database.

    Needed only when NATS is the queue. Any number of relays can run.
    """
    from gateway import app, log

    settings = read_settings(data_dir)
    log.configure(settings.log_level, settings.log_format)

    async def run_relay() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        await app.relay(settings, await asyncio.to_thread(app.find_installation, settings), stop)

    run_async(run_relay())


def migrate(data_dir: DataDir = None) -> None:
    """Apply database migrations.

    Can run while gateways are running, and several times at once.
    """
    from gateway import app, log
    from gateway.app import CannotStart
    from gateway.embedded import EmbeddedPostgres

    settings = read_settings(data_dir)
    log.configure(settings.log_level, settings.log_format)
    if settings.database_url is not None:
        app.migrate_database(settings.database_url.get_secret_value())
    else:
        postgres_dir = app.postgres_dir(settings)
        if not postgres_dir.exists():
            raise CannotStart(
                f"there is no database: set GATEWAY_DATABASE_URL, or start `gateway up` with {postgres_dir.parent}"
            )
        with contextlib.ExitStack() as stack:
            url = EmbeddedPostgres.running_url(postgres_dir) or stack.enter_context(EmbeddedPostgres(postgres_dir)).url
            app.migrate_database(url)
    typer.echo("the database is up to date")


def sim(
    port: Annotated[int, typer.Option("--port", min=1, max=65531, help="First of four ports.")] = SIM_PORT,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    misbehave: Annotated[bool, typer.Option("--misbehave", help="Return some 410, 429 and 503, with delays.")] = False,
    state: Annotated[Path | None, typer.Option("--state", help="File to store subscriptions in.")] = None,
) -> None:
    """Run a local push service for development.

    It behaves like FCM, Mozilla, Apple and WNS.
    """
    from gateway import app
    from gateway.app import CannotStart
    from gateway.sim import DEMO, Sim

    async def run_simulator() -> None:
        stop = asyncio.Event()
        app.stop_on_signals(stop)
        simulator = Sim(host, port, state_file=state)
        try:
            await simulator.start()
        except OSError as error:
            raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None
        if misbehave:
            simulator.behave(*DEMO)
        for vendor, origin in simulator.origins.items():
            typer.echo(f"{vendor.value:<8} {origin}")
        typer.echo(f"Firefox  {simulator.websocket_url} (dom.push.serverURL)")
        typer.echo(f"to use it: GATEWAY_PUSH_HOSTS={','.join(simulator.origins.values())}", err=True)
        await stop.wait()
        await simulator.stop()

    run_async(run_simulator())
