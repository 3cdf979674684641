"""Commands of the operator: applications and their keys, and who did what."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.connect import AppArgument, GatewayTarget, named, reaching
from gateway.cli.output import JsonOption, as_items, as_json, console, moment, pairs, table

if TYPE_CHECKING:
    from gateway.client import Gateway
    from gateway.client.requests import NewApplication
    from gateway.client.responses import AuditEntry, CreatedApplication, CreatedKey, Key, ListedApplication

apps = typer.Typer(help="Applications: the tenants of this gateway.", no_args_is_help=True)
keys = typer.Typer(help="API keys of an application.", no_args_is_help=True)

MAX_LISTED = 1000


class Scope(StrEnum):
    SEND = "send"
    READ = "read"
    MANAGE = "manage"
    REGISTER = "register"


SECRET = (Scope.SEND, Scope.READ, Scope.MANAGE)


def add(cli: typer.Typer) -> None:
    cli.add_typer(apps, name="apps")
    cli.add_typer(keys, name="keys")
    cli.command("audit")(show_audit)


@apps.command("create")
@reaching
def create_app(
    reach: GatewayTarget,
    name: str,
    subject: Annotated[str, typer.Option(help="Where push services reach you: mailto:ops@example.org")],
    origin: Annotated[
        list[str] | None,
        typer.Option(help="A web origin that may register browsers; may be repeated.", metavar="ORIGIN"),
    ] = None,
    vapid_key: Annotated[
        Path | None,
        typer.Option(
            help="A file with the private VAPID key of before (PEM, or base64url), "
            "so that browsers need not subscribe anew."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Create an application. Its keys are shown this once."""
    new: NewApplication = {"name": name, "subject": subject, "allowed_origins": origin or []}
    if vapid_key is not None:
        new["vapid_private_key"] = _read_vapid_key(vapid_key)

    async def make(gateway: "Gateway") -> "CreatedApplication":
        return await gateway.applications.create(**new)

    made = reach.operate(make)
    if json:
        return as_json(made)
    shown = ("id", "name", "vapid_public_key", "publishable_key", "secret_key")
    pairs({field: getattr(made, field) for field in shown})
    if not origin:
        console().print("No page may use the publishable key yet: no --origin was given.", style="yellow")


def _read_vapid_key(file: Path) -> str:
    """In base64url. Raises BadParameter."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from gateway.push.encryption import decode_base64url, encode_base64url

    said = file.read_bytes().strip()
    try:
        if said.startswith(b"-----BEGIN"):
            key = load_pem_private_key(said, None)
            if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
                raise ValueError("it is no key of P-256")
            return encode_base64url(key.private_numbers().private_value.to_bytes(32, "big"))
        return encode_base64url(decode_base64url(said.decode("ascii", "replace")))
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{file} holds no private key: {error}", param_hint="--vapid-key") from None


@apps.command("list")
@reaching
def list_apps(reach: GatewayTarget, json: JsonOption = False) -> None:
    """List the applications."""

    async def find(gateway: "Gateway") -> "list[ListedApplication]":
        return await gateway.applications.list().first(MAX_LISTED)

    found = reach.operate(find)
    if json:
        return as_items(found)
    table(
        ("id", "name", "subject", "allowed origins"),
        [(one.id, one.name, one.subject, " ".join(one.allowed_origins)) for one in found],
    )


@keys.command("create")
@reaching
def create_key(
    reach: GatewayTarget,
    app_: AppArgument,
    name: Annotated[str, typer.Option(help="What it is for.")] = "secret key",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="All but `register` when left out; may be repeated.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make an API key; it is shown this once. `--scope register` alone makes a publishable one."""
    wanted: list[Any] = [one.value for one in dict.fromkeys(scope or SECRET)]

    async def make(gateway: "Gateway") -> "CreatedKey":
        return await gateway.applications.create_key(await named(gateway, app_), name=name, scopes=wanted)

    made = reach.operate(make)
    if json:
        return as_json(made)
    pairs({"id": made.id, "key": made.key})


@keys.command("list")
@reaching
def list_keys(reach: GatewayTarget, app_: AppArgument, json: JsonOption = False) -> None:
    """List an application's keys, without the keys themselves."""

    async def find(gateway: "Gateway") -> "list[Key]":
        return (await gateway.applications.get(await named(gateway, app_))).keys

    found = reach.operate(find)
    if json:
        return as_items(found)
    table(("id", "name", "scopes", "key"), [(one.id, one.name, " ".join(one.scopes), one.hint) for one in found])


@keys.command("remove")
@reaching
def remove_key(reach: GatewayTarget, key_id: str, app_: AppArgument) -> None:
    """Remove a key: the next request with it is refused."""

    async def remove(gateway: "Gateway") -> None:
        await gateway.applications.remove_key(await named(gateway, app_), key_id)

    reach.operate(remove)
    typer.echo("removed")


@reaching
def show_audit(
    reach: GatewayTarget,
    app_: Annotated[str | None, typer.Option("--app", help="Only of this application.", metavar="ID")] = None,
    action: Annotated[str | None, typer.Option(help="Only of this kind, such as keys.remove.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 100,
    json: JsonOption = False,
) -> None:
    """List who did what, the newest first."""

    async def find(gateway: "Gateway") -> "list[AuditEntry]":
        own = None if app_ is None else await named(gateway, app_)
        return await gateway.audit.list(application_id=own, action=action).first(limit)

    found = reach.operate(find)
    if json:
        return as_items(found)
    table(("at", "actor", "action", "target"), [(moment(one.at), one.actor, one.action, one.target) for one in found])
