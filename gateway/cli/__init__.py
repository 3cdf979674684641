"""The command line. Exit codes: 0 done, 1 failed with one clear line on stderr, 2 wrong usage.

What a command needs it imports when it runs: help and completion are there at once, whatever else is installed.
"""

import sys
from typing import Annotated, Any

import typer

from gateway import __version__
from gateway.cli import applications, campaigns, deliveries, devices, feeds, maintenance, running, secrets, sending
from gateway.cli.output import fail
from gateway.domain.errors import GatewayError, OperatorError, ValidationError

cli = typer.Typer(
    name="gateway",
    help="A self-hosted Web Push notification gateway. Begin with `gateway up`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

running.add(cli)
maintenance.add(cli)
applications.add(cli)
sending.add(cli)
deliveries.add(cli)
campaigns.add(cli)
feeds.add(cli)
devices.add(cli)
secrets.add(cli)


@cli.callback(invoke_without_command=True)
def version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


def main() -> None:
    try:
        cli()
    except ValidationError as refusal:
        fail(_faults(refusal))
    except GatewayError as refusal:
        fail(refusal.detail)
    except OperatorError as obstacle:
        fail(str(obstacle))
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (line := _of_libraries(error)) is None:
            raise
        fail(line)


def _faults(refusal: Any) -> str:
    return "; ".join(f"{fault.pointer or '/'} {fault.detail}" for fault in refusal.faults)


def _of_libraries(error: Exception) -> str | None:
    """What is raised by what only some commands load; it is loaded when it was raised."""
    if "gateway.client" in sys.modules:
        from gateway import client

        match error:
            case client.Unauthenticated():
                return f"{error.detail}: is --key (GATEWAY_KEY) one of this gateway's?"
            case client.Refused(faults=[_, *_]):
                return _faults(error)
            case client.Refused():
                return error.detail
            case client.GatewayError():
                return str(error)
    if "gateway.records.postgres.engine" in sys.modules:
        from gateway.records.postgres.engine import DatabaseError

        if isinstance(error, DatabaseError):
            reason = str(error.orig).partition("\n")[0]
            return f"the database refused: {reason}; is it migrated? (`gateway migrate`)"
    return None
