"""Commands about the master key."""

import sys
from typing import TYPE_CHECKING

import typer

from gateway.cli.installation import DataDir, installation, run, settings
from gateway.cli.output import JsonOption, as_json, fail, table

if TYPE_CHECKING:
    from gateway.service.operations.key_rotation import RotationProgress

secrets = typer.Typer(help="What is kept sealed, and the master key that seals it.", no_args_is_help=True)

HOW = """Seal everything anew with GATEWAY_MASTER_KEY, beside running processes.

\b
1. Make a key: openssl rand -base64 32. Keep a copy apart from the database's.
2. Put it into GATEWAY_RETIRED_MASTER_KEYS of every process and restart them one
   by one: they can open what it seals, and seal nothing with it yet.
3. Swap them: the new one is GATEWAY_MASTER_KEY, the old one is in
   GATEWAY_RETIRED_MASTER_KEYS. Restart the processes one by one.
4. Run `gateway secrets rotate` with these settings. Interrupted, it goes on
   where it was when it is run again. `gateway secrets status` tells how far it
   is.
5. Take the old key out when its tokens need not be known any more: messages
   that were sent before may report receipts until a week after they expire,
   and a page has a new device token once it has called `subscribe` again. Out
   of the queue of NATS it must be, too: wait for the longest TTL. If the old
   key was stolen, do it at once.

Both settings may be files: GATEWAY_MASTER_KEY_FILE and
GATEWAY_RETIRED_MASTER_KEYS_FILE, one key a line. What `gateway up` made for
itself is DATA_DIR/master-key; with one process step 2 is not needed.
"""


def add(cli: typer.Typer) -> None:
    cli.add_typer(secrets, name="secrets")


@secrets.command("rotate", help=HOW)
def rotate(data_dir: DataDir = None, json: JsonOption = False) -> None:
    from gateway.service.access import audit
    from gateway.service.operations import key_rotation

    async def rotated() -> tuple[dict[str, int], int]:
        done = dict.fromkeys((kind.name for kind in key_rotation.KINDS), 0)

        def told(kind: str, count: int) -> None:
            done[kind] += count
            if sys.stderr.isatty():
                typer.echo(f"\r{kind}: {done[kind]} sealed anew", err=True, nl=False)

        async with installation(settings(data_dir)) as context:
            async with context.engine.begin() as conn:  # before it begins, since it is many transactions
                await audit.note(conn, audit.COMMAND_LINE, "secrets.rotate", None)
            await key_rotation.rotate(context.engine, context.keyring, told)
            async with context.engine.connect() as conn:
                left = await key_rotation.progress(conn, context.keyring)
        return done, sum(one.remaining for one in left.values())

    done, left = run(rotated())
    if json:
        as_json({"sealed_anew": done, "left": left})
    else:
        table(("kind", "sealed anew"), done.items())
    if left:
        fail(f"{left} are still sealed with another key: is it among GATEWAY_RETIRED_MASTER_KEYS, or still in use?")


@secrets.command("status")
def status(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """How much is sealed, and how much of it with another key than GATEWAY_MASTER_KEY."""
    from gateway.service.operations import key_rotation

    async def found() -> "dict[str, RotationProgress]":
        async with installation(settings(data_dir)) as context, context.engine.connect() as conn:
            return await key_rotation.progress(conn, context.keyring)

    kinds = run(found())
    if json:
        return as_json({name: one._asdict() for name, one in kinds.items()})
    table(("kind", "sealed", "with another key"), [(name, *one) for name, one in kinds.items()])
