"""Play seeds, and tell of each what it came to: `python -m tests.faults --seed 17 --devices 20000`, or `--seeds 1-200`.

A seed that fails is told with the command that plays it again.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import structlog

from tests.faults.cluster import Cluster, cluster
from tests.faults.run import run
from tests.support import log_guard


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int)
    which.add_argument("--seeds", help="such as 1-200")
    parser.add_argument("--devices", type=int, default=20_000, help="(%(default)s)")
    parser.add_argument("--keep", type=Path, help="keep the logs of the processes in this directory")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # whoever ends us finds everything cleared away
        signal.signal(number, signal.default_int_handler)
    first, _, last = str(asked.seeds or asked.seed).partition("-")
    structlog.configure(processors=[_say_nothing])  # our own eyes on the database see the faults too
    with log_guard.learn_secrets():
        failed = asyncio.run(play(range(int(first), int(last or first) + 1), asked.devices, asked.keep))
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(map(str, failed))}")


def _say_nothing(*_: object) -> NoReturn:
    raise structlog.DropEvent


async def play(seeds: range, devices: int, keep: Path | None) -> list[int]:
    failed = []
    async with cluster() as shared:
        print(
            "the log's disk is", "a file system of its own" if shared.disk else "full by a trigger's word", flush=True
        )
        for seed in seeds:
            if not await _one(shared, seed, devices, keep):
                failed.append(seed)
    print(f"{len(seeds) - len(failed)} of {len(seeds)} seeds passed with {devices} devices")
    return failed


async def _one(shared: Cluster, seed: int, devices: int, keep: Path | None) -> bool:
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{seed}-"))
    try:
        ran = await run(shared, seed, devices, folder)
        print(f"seed {seed}: {ran}", flush=True)
        if ran.breaches:
            print("\n".join(f"    {one}" for one in ran.played.happened))
            print("\n".join(f"    ! {breach}" for breach in ran.breaches[:20]))
            print(f"    again: python -m tests.faults --seed {seed} --devices {devices}", flush=True)
        if keep is not None:
            shutil.copytree(folder, keep / str(seed), dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder)
    return not ran.breaches


if __name__ == "__main__":
    main()
