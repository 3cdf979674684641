"""Commands for the master key."""

import sys
from typing import TYPE_CHECKING

import typer

from gateway.cli.installation import DataDir, open_installation, read_settings, run_async
from gateway.cli.output import JsonOption, fail, print_json, print_table

if TYPE_CHECKING:
    from gateway.service.operations.key_rotation import RotationProgress

secrets = typer.Typer(help="Manage stored secrets and the master key that encrypts them.", no_args_is_help=True)

# Typer keeps the line breaks of a paragraph that begins with \b.
ROTATE_HELP = """Re-encrypt all secrets with GATEWAY_MASTER_KEY while processes are running.

\b
1. Create a key: openssl rand -base64 32. Keep a copy apart from the
   database backups.
2. Add it to GATEWAY_RETIRED_MASTER_KEYS of every process and restart them one
   by one. They can then decrypt with it, and do not encrypt with it yet.
3. Swap the keys: the new one is GATEWAY_MASTER_KEY, the old one is in
   GATEWAY_RETIRED_MASTER_KEYS. Restart the processes one by one.
4. Run `gateway secrets rotate` with these settings. Interrupted, it continues
   when it is run again. `gateway secrets status` shows the progress.
5. Remove the old key when its tokens are no longer needed: messages sent with
   it may report receipts until a week after they expire, and a page gets a new
   device token when it calls `subscribe` again. With NATS, also wait for the
   longest TTL. If the old key was stolen, remove it at once.

Both settings can be files: GATEWAY_MASTER_KEY_FILE and
GATEWAY_RETIRED_MASTER_KEYS_FILE, one key per line. The key that `gateway up`
creates is DATA_DIR/master-key; with one process, step 2 is not needed.
"""


def register_commands(cli: typer.Typer) -> None:
    """Add `secrets`."""
    cli.add_typer(secrets, name="secrets")


@secrets.command("rotate", help=ROTATE_HELP)
def rotate(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """Re-encrypt all secrets with the current master key."""
    from gateway.service.access import audit
    from gateway.service.operations import key_rotation

    async def rotate_secrets() -> tuple[dict[str, int], int]:
        done = dict.fromkeys((kind.name for kind in key_rotation.KINDS), 0)

        def add_progress(kind: str, count: int) -> None:
            done[kind] += count
            if sys.stderr.isatty():
                typer.echo(f"\r{kind}: {done[kind]} re-encrypted", err=True, nl=False)

        async with open_installation(read_settings(data_dir)) as context:
            # The audit entry comes first, because the rotation consists of many transactions and may be interrupted.
            async with context.engine.begin() as conn:
                await audit.add_entry(conn, audit.COMMAND_LINE, "secrets.rotate", None)
            await key_rotation.rotate(context.engine, context.keyring, add_progress)
            async with context.engine.connect() as conn:
                remaining = await key_rotation.get_progress(conn, context.keyring)
        return done, sum(kind.remaining for kind in remaining.values())

    done, remaining = run_async(rotate_secrets())
    if json:
        print_json({"reencrypted": done, "remaining": remaining})
    else:
        print_table(("kind", "re-encrypted"), done.items())
    if remaining:
        hint = "add it to GATEWAY_RETIRED_MASTER_KEYS, or check that no process still uses it"
        fail(f"{remaining} secrets are still encrypted with another key: {hint}")


@secrets.command("status")
def status(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """Count the stored secrets, and those encrypted with another key than GATEWAY_MASTER_KEY."""
    from gateway.service.operations import key_rotation

    async def count() -> "dict[str, RotationProgress]":
        async with open_installation(read_settings(data_dir)) as context, context.engine.connect() as conn:
            return await key_rotation.get_progress(conn, context.keyring)

    kinds = run_async(count())
    if json:
        return print_json({name: progress._asdict() for name, progress in kinds.items()})
    print_table(("kind", "total", "with another key"), [(name, *progress) for name, progress in kinds.items()])
