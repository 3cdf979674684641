"""The `gateway` command line.

Exit codes: 0 success, 1 failure with one line on stderr, 2 wrong usage.

Commands import what they need when they run, so that help and completion load quickly and need no optional package.
"""

import sys
from typing import Annotated, Any

import typer

from gateway import __version__
from gateway.cli import applications, campaigns, deliveries, devices, feeds, maintenance, running, secrets, sending
from gateway.cli.installation import INTERRUPTED
from gateway.cli.output import fail
from gateway.domain.errors import GatewayError, OperatorError, ValidationError

cli = typer.Typer(
    name="gateway",
    help="A self-hosted Web Push notification gateway. Start with `gateway up`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

running.register_commands(cli)
maintenance.register_commands(cli)
applications.register_commands(cli)
sending.register_commands(cli)
deliveries.register_commands(cli)
campaigns.register_commands(cli)
feeds.register_commands(cli)
devices.register_commands(cli)
secrets.register_commands(cli)


@cli.callback(invoke_without_command=True)
def version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Run the `gateway` command."""
    if version:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line and turn known exceptions into one line on stderr."""
    try:
        cli()
    except ValidationError as error:
        fail(_join_field_errors(error.errors))
    except GatewayError as error:
        fail(error.detail)
    except OperatorError as error:
        fail(str(error))
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (line := _describe_optional(error)) is None:
            raise
        fail(line)


def _join_field_errors(errors: Any) -> str:
    return "; ".join(f"{error.pointer or '/'} {error.detail}" for error in errors)


def _describe_optional(error: Exception) -> str | None:
    """Return one line for an exception of a module that only some commands import, or None.

    If such an exception was raised, its module is in sys.modules already, so importing it here costs nothing.
    """
    if "gateway.client" in sys.modules:
        from gateway import client

        match error:
            case client.Unauthenticated():
                return f"{error.detail}: is --key (GATEWAY_KEY) a key of this gateway?"
            case client.ApiError(errors=[_, *_]):
                return _join_field_errors(error.errors)
            case client.ApiError():
                return error.detail
            case client.GatewayError():
                return str(error)
    if "gateway.records.postgres.engine" in sys.modules:
        from gateway.records.postgres.engine import DatabaseError

        if isinstance(error, DatabaseError):
            reason = str(error.orig).partition("\n")[0]
            return f"database error: {reason}; are the migrations applied? (`gateway migrate`)"
    return None
