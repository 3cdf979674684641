"""Operator commands: applications, API keys, audit log."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.connect import AppArgument, GatewayTarget, gateway_command, resolve_application_id
from gateway.cli.output import JsonOption, format_time, get_console, print_fields, print_items, print_json, print_table

if TYPE_CHECKING:
    from gateway.client import Gateway
    from gateway.client.requests import NewApplication
    from gateway.client.responses import AuditEntry, CreatedApplication, CreatedKey, Key, ListedApplication

apps = typer.Typer(help="Manage applications, the tenants of this gateway.", no_args_is_help=True)
keys = typer.Typer(help="Manage API keys of an application.", no_args_is_help=True)

# Maximum number of items that a `list` command prints.
MAX_LISTED = 1000


class Scope(StrEnum):
    """A permission of an API key."""

    SEND = "send"
    READ = "read"
    MANAGE = "manage"
    REGISTER = "register"


# The scopes of a secret key, the default of `keys create`.
SECRET_KEY_SCOPES = (Scope.SEND, Scope.READ, Scope.MANAGE)


def register_commands(cli: typer.Typer) -> None:
    """Add `apps`, `keys` and `audit`."""
    cli.add_typer(apps, name="apps")
    cli.add_typer(keys, name="keys")
    cli.command("audit")(list_audit)


@apps.command("create")
@gateway_command
def create_app(
    target: GatewayTarget,
    name: str,
    subject: Annotated[str, typer.Option(help="Contact for push services, such as mailto:ops@example.org.")],
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Web origin that may register browsers. Repeatable.", metavar="ORIGIN"),
    ] = None,
    vapid_key: Annotated[
        Path | None,
        typer.Option(
            help="File with an existing private VAPID key (PEM or base64url), so that subscriptions stay valid."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Create an application. Its keys are shown only once."""
    fields: NewApplication = {"name": name, "subject": subject, "allowed_origins": origin or []}
    if vapid_key is not None:
        fields["vapid_private_key"] = _read_vapid_key(vapid_key)

    async def create(gateway: "Gateway") -> "CreatedApplication":
        return await gateway.applications.create(**fields)

    application = target.call_as_operator(create)
    if json:
        return print_json(application)
    names = ("id", "name", "vapid_public_key", "publishable_key", "secret_key")
    print_fields({field: getattr(application, field) for field in names})
    if not origin:
        get_console().print("No page can use the publishable key yet: no --origin was given.", style="yellow")


def _read_vapid_key(file: Path) -> str:
    """Return the private key in a file as base64url.

    Raises:
        BadParameter: the file contains no P-256 private key.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from gateway.push.encryption import decode_base64url, encode_base64url

    content = file.read_bytes().strip()
    try:
        if content.startswith(b"-----BEGIN"):
            key = load_pem_private_key(content, None)
            if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
                raise ValueError("not a P-256 key")
            return encode_base64url(key.private_numbers().private_value.to_bytes(32, "big"))
        return encode_base64url(decode_base64url(content.decode("ascii", "replace")))
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{file} contains no private key: {error}", param_hint="--vapid-key") from None


@apps.command("list")
@gateway_command
def list_apps(target: GatewayTarget, json: JsonOption = False) -> None:
    """List applications."""

    async def fetch(gateway: "Gateway") -> "list[ListedApplication]":
        return await gateway.applications.list().fetch(MAX_LISTED)

    applications = target.call_as_operator(fetch)
    if json:
        return print_items(applications)
    print_table(
        ("id", "name", "subject", "allowed origins"),
        [
            (application.id, application.name, application.subject, " ".join(application.allowed_origins))
            for application in applications
        ],
    )


@keys.command("create")
@gateway_command
def create_key(
    target: GatewayTarget,
    app_: AppArgument,
    name: Annotated[str, typer.Option(help="Purpose of the key.")] = "secret key",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="Scope of the key; all but `register` by default. Repeatable.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Create an API key. It is shown only once.

    `--scope register` alone creates a publishable key.
    """
    scopes: list[Any] = [item.value for item in dict.fromkeys(scope or SECRET_KEY_SCOPES)]

    async def create(gateway: "Gateway") -> "CreatedKey":
        return await gateway.applications.create_key(
            await resolve_application_id(gateway, app_), name=name, scopes=scopes
        )

    created = target.call_as_operator(create)
    if json:
        return print_json(created)
    print_fields({"id": created.id, "key": created.key})


@keys.command("list")
@gateway_command
def list_keys(target: GatewayTarget, app_: AppArgument, json: JsonOption = False) -> None:
    """List the API keys of an application, without their secrets."""

    async def fetch(gateway: "Gateway") -> "list[Key]":
        return (await gateway.applications.get(await resolve_application_id(gateway, app_))).keys

    api_keys = target.call_as_operator(fetch)
    if json:
        return print_items(api_keys)
    print_table(
        ("id", "name", "scopes", "key"), [(key.id, key.name, " ".join(key.scopes), key.hint) for key in api_keys]
    )


@keys.command("remove")
@gateway_command
def remove_key(target: GatewayTarget, key_id: str, app_: AppArgument) -> None:
    """Remove an API key. Requests with it fail from then on."""

    async def remove(gateway: "Gateway") -> None:
        await gateway.applications.remove_key(await resolve_application_id(gateway, app_), key_id)

    target.call_as_operator(remove)
    typer.echo("removed")


@gateway_command
def list_audit(
    target: GatewayTarget,
    app_: Annotated[str | None, typer.Option("--app", help="Show only this application.", metavar="ID")] = None,
    action: Annotated[str | None, typer.Option(help="Show only this action, such as keys.remove.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of entries.")] = 100,
    json: JsonOption = False,
) -> None:
    """List administrative actions, newest first."""

    async def fetch(gateway: "Gateway") -> "list[AuditEntry]":
        application_id = None if app_ is None else await resolve_application_id(gateway, app_)
        return await gateway.audit.list(application_id=application_id, action=action).fetch(limit)

    entries = target.call_as_operator(fetch)
    if json:
        return print_items(entries)
    print_table(
        ("at", "actor", "action", "target"),
        [(format_time(entry.at), entry.actor, entry.action, entry.target) for entry in entries],
    )
