"""The command line. Exit codes: 0 done, 1 failed with one clear line on stderr, 2 wrong usage."""

import sys
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError

from gateway import __version__
from gateway.app import CannotStart
from gateway.cli import campaigns, devices, feeds, operating, running, secrets, sending, watching
from gateway.cli.output import fail
from gateway.domain.errors import GatewayError, Invalid
from gateway.embedded import EmbeddedUnavailable
from gateway.service.vault import Unsealable
from gateway.settings import SettingsError

cli = typer.Typer(
    name="gateway",
    help="A self-hosted Web Push notification gateway. Begin with `gateway up`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

running.add(cli)
operating.add(cli)
sending.add(cli)
watching.add(cli)
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
    except Invalid as refusal:
        fail("; ".join(f"{fault.pointer or '/'} {fault.detail}" for fault in refusal.faults))
    except GatewayError as refusal:
        fail(refusal.detail)
    except (CannotStart, SettingsError, EmbeddedUnavailable, Unsealable) as refusal:
        fail(str(refusal))
    except DBAPIError as error:
        fail(f"the database refused: {str(error.orig).partition(chr(10))[0]}; is it migrated? (`gateway migrate`)")
    except OSError as error:
        fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except BrokenPipeError:
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
