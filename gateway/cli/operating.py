"""Commands of the operator: applications and keys, who did what, settings, a check-up, upkeep now."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import app
from gateway.app import CannotStart
from gateway.cli.installation import AppOption, DataDir, application, installation, order, run, settings
from gateway.cli.output import JsonOption, as_json, console, pairs, table
from gateway.domain import ids
from gateway.domain.errors import NotFound
from gateway.push.encryption import decode_base64url
from gateway.records import applications as records
from gateway.records import migrate
from gateway.service import applications, audit, rotation
from gateway.service.access import REGISTER, SCOPES
from gateway.service.context import Context
from gateway.service.vault import Unsealable
from gateway.settings import Settings, SettingsError, unknown_variables
from gateway.worker import upkeep

apps = typer.Typer(help="Applications: the tenants of this gateway.", no_args_is_help=True)
keys = typer.Typer(help="API keys of an application.", no_args_is_help=True)


def add(cli: typer.Typer) -> None:
    cli.add_typer(apps, name="apps")
    cli.add_typer(keys, name="keys")
    cli.command("settings")(show_settings)
    cli.command("audit")(show_audit)
    cli.command()(doctor)
    cli.command()(prune)


@apps.command("create")
def create_app(
    name: str,
    subject: Annotated[str, typer.Option(help="Where push services reach you: mailto:ops@example.org")],
    origin: Annotated[
        list[str] | None, typer.Option(help="A web origin that may register browsers; may be given more than once.")
    ] = None,
    vapid_key: Annotated[
        Path | None,
        typer.Option(
            help="A file with the private VAPID key of before (PEM, or base64url), "
            "so that browsers need not subscribe anew."
        ),
    ] = None,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Create an application. Its keys are shown this once."""
    private = None if vapid_key is None else _read_vapid_key(vapid_key)

    async def make(conn: AsyncConnection, context: Context) -> dict[str, Any]:
        made = await applications.create(conn, context.vault, name, subject, origin or [], private)
        id_, given = ids.parse(ids.APPLICATION, made["id"]), {"name": name, "subject": subject}
        given |= {} if private is None else {"vapid_private_key": ""}
        await audit.note(conn, audit.COMMAND_LINE, "applications.create", id_, made["id"], given)
        return made

    made = order(data_dir, make)
    if json:
        return as_json(made)
    shown = ("id", "name", "vapid_public_key", "publishable_key", "secret_key")
    pairs({name: made[name] for name in shown})
    if not origin:
        console.print("No page may use the publishable key yet: no --origin was given.", style="yellow")


def _read_vapid_key(file: Path) -> bytes:
    said = file.read_bytes().strip()
    try:
        if said.startswith(b"-----BEGIN"):
            key = load_pem_private_key(said, None)
            if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
                raise ValueError("it is no key of P-256")
            return key.private_numbers().private_value.to_bytes(32, "big")
        return decode_base64url(said.decode("ascii", "replace"))
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{file} holds no private key: {error}", param_hint="--vapid-key") from None


@apps.command("list")
def list_apps(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """List the applications."""
    found = order(data_dir, lambda conn, _: applications.page(conn, after=None, limit=1000))
    if json:
        return as_json({"items": found, "next_cursor": None})
    table(
        ("id", "name", "subject", "allowed origins"),
        [(one["id"], one["name"], one["subject"], " ".join(one["allowed_origins"])) for one in found],
    )


@keys.command("create")
def create_key(
    app_: AppOption,
    name: Annotated[str, typer.Option(help="What it is for.")] = "secret key",
    scope: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join((*SCOPES, REGISTER))}; may be given more than once.")
    ] = None,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Make an API key; it is shown this once. `--scope register` alone makes a publishable one."""
    wanted = tuple(dict.fromkeys(scope or SCOPES))
    if unknown := [one for one in wanted if one not in (*SCOPES, REGISTER)]:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join((*SCOPES, REGISTER))}", param_hint="--scope")

    async def make(conn: AsyncConnection, _: Context) -> dict[str, Any]:
        application_id = await application(conn, app_)
        made = await applications.add_key(conn, application_id, name, wanted)
        given = {"name": name, "scopes": list(wanted)}
        await audit.note(conn, audit.COMMAND_LINE, "keys.create", application_id, made["id"], given)
        return made

    made = order(data_dir, make)
    if json:
        return as_json(made)
    pairs({"id": made["id"], "key": made["key"]})


@keys.command("list")
def list_keys(app_: AppOption, data_dir: DataDir = None, json: JsonOption = False) -> None:
    """List an application's keys, without the keys themselves."""

    async def found(conn: AsyncConnection, _: Context) -> list[dict[str, Any]]:
        return [applications.show_key(row) for row in await records.keys(conn, await application(conn, app_))]

    items = order(data_dir, found)
    if json:
        return as_json({"items": items, "next_cursor": None})
    table(
        ("id", "name", "scopes", "key"),
        [(one["id"], one["name"], " ".join(one["scopes"]), one["hint"]) for one in items],
    )


@keys.command("remove")
def remove_key(key_id: str, app_: AppOption, data_dir: DataDir = None) -> None:
    """Remove a key: the next request with it is refused."""

    async def remove(conn: AsyncConnection, _: Context) -> None:
        id_ = ids.parse(ids.KEY, key_id)
        if id_ is None:
            raise NotFound(f"{key_id!r} is not the id of a key; `gateway keys list` shows them")
        application_id = await application(conn, app_)
        await applications.remove_key(conn, application_id, id_)
        await audit.note(conn, audit.COMMAND_LINE, "keys.remove", application_id, key_id)

    order(data_dir, remove)
    typer.echo("removed")


def show_audit(
    app_: Annotated[str | None, typer.Option("--app", help="Only of this application.", metavar="ID")] = None,
    act: Annotated[str | None, typer.Option(help="Only of this kind, such as keys.remove.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 100,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """List administrative acts, the newest first: who did what, on what, when."""

    async def found(conn: AsyncConnection, _: Context) -> list[dict[str, Any]]:
        own = None if app_ is None else await application(conn, app_)
        return await audit.page(conn, own=own, act=act, limit=limit)

    items = order(data_dir, found)
    if json:
        return as_json({"items": items, "next_cursor": None})
    rows = [(f"{one['at']:%Y-%m-%d %H:%M:%S}", one["who"], one["act"], one["target"]) for one in items]
    table(("at (UTC)", "who", "act", "target"), rows)


def show_settings(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """List every setting, its value and what it is for."""
    rows = settings(data_dir).listed()
    if json:
        return as_json([{"name": row.name, "value": row.value, "description": row.description} for row in rows])
    table(("setting", "value", "what it is for"), [(row.name, row.value, row.description) for row in rows])


def doctor(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """Check the installation: settings, database, migrations, secrets, push services."""
    found = run(_examine(data_dir))
    if json:
        as_json([{"check": name, "ok": sound, "said": said} for name, sound, said in found])
    else:
        for name, sound, said in found:
            console.print("ok   " if sound else "wrong", style="green" if sound else "red", end="  ")
            console.print(f"{name:<12}  {said}", markup=False, soft_wrap=True)
    sys.exit(0 if all(sound for _, sound, _ in found) else 1)


async def _examine(data_dir: DataDir) -> list[tuple[str, bool, str]]:
    found: list[tuple[str, bool, str]] = []
    try:
        chosen = settings(data_dir)
    except SettingsError as error:
        return [("settings", False, str(error))]
    unknown = unknown_variables()
    found.append(("settings", not unknown, "; ".join(unknown) or "all known"))
    hosts = ", ".join(chosen.push_hosts) or "none beside the four vendors"
    found.append(("push hosts", True, hosts))
    url = chosen.public_url
    alone = "not set: browsers report no receipts, except to `gateway up`, which knows where it listens"
    found.append(("public url", True, url or alone))
    try:
        async with installation(chosen) as context, context.engine.connect() as conn:
            return found + await _examine_database(chosen, context, conn)
    except (CannotStart, OSError, DBAPIError) as error:
        return [*found, ("database", False, str(getattr(error, "orig", None) or error).partition("\n")[0])]


async def _examine_database(chosen: Settings, context: Context, conn: AsyncConnection) -> list[tuple[str, bool, str]]:
    version = (await conn.execute(text("SHOW server_version"))).scalar_one()
    found = [("database", True, f"PostgreSQL {version}")]
    current = await migrate.is_current(conn, context.engine.url.render_as_string(hide_password=False))
    found.append(("migrations", current, "up to date" if current else "missing: run `gateway migrate`"))
    if not current:
        return found
    try:
        await rotation.check(conn, context.vault)
        found.append(("master key", True, _sealed(await rotation.standing(conn, context.vault))))
    except Unsealable as error:
        found.append(("master key", False, str(error)))
    token = app.find(chosen).admin_token
    found.append(("admin token", bool(token), "set" if token else "GATEWAY_ADMIN_TOKEN is not set: nobody is admin"))
    return found


def _sealed(kinds: dict[str, rotation.Standing]) -> str:
    whole, others = (sum(counts) for counts in zip(*kinds.values(), strict=True))
    if not whole:
        return "nothing is sealed with it yet"
    return "opens the stored keys" + (f"; {others} of {whole} wait for `gateway secrets rotate`" if others else "")


def prune(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """Do the upkeep now that workers do by the hour: partitions, old log, gone devices, idempotency keys."""

    async def pruned() -> dict[str, int]:
        chosen = settings(data_dir)
        async with installation(chosen) as context:
            return await upkeep.once(context.engine, app.keep(chosen))

    changed = run(pruned())
    if json:
        return as_json(changed)
    pairs({name: f"{count} changed" for name, count in changed.items()})
