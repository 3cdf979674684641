"""Run seeds and print their results: `python -m tests.faults --seed 17 --devices 20000`, or `--seeds 1-200`.

For each seed that fails, the command that repeats it is printed.
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

from tests.faults.cluster import Cluster, start_cluster
from tests.faults.run import run_seed
from tests.support import log_guard


def main() -> None:
    """Run the requested seeds; exit with an error if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--seed", type=int)
    group.add_argument("--seeds", help="such as 1-200")
    parser.add_argument("--devices", type=int, default=20_000, help="number of devices (%(default)s)")
    parser.add_argument("--keep", type=Path, help="keep the logs of the processes in this directory")
    options = parser.parse_args()
    for signal_ in (signal.SIGTERM, signal.SIGINT):  # raise KeyboardInterrupt, so that contexts clean up
        signal.signal(signal_, signal.default_int_handler)
    first, _, last = str(options.seeds or options.seed).partition("-")
    structlog.configure(processors=[_drop_event])  # faults also break the harness's connections, which logs errors
    with log_guard.learn_secrets():
        failed_seeds = asyncio.run(run_seeds(range(int(first), int(last or first) + 1), options.devices, options.keep))
    if failed_seeds:
        sys.exit(f"{len(failed_seeds)} failed: {', '.join(map(str, failed_seeds))}")


def _drop_event(*_: object) -> NoReturn:
    raise structlog.DropEvent


async def run_seeds(seeds: range, devices: int, log_folder: Path | None) -> list[int]:
    """Run the seeds with `devices` devices each, and return the seeds that failed."""
    failed_seeds = []
    async with start_cluster() as cluster:
        disk = "a separate file system" if cluster.disk else "simulated by a trigger"
        print("the disk of the log is", disk, flush=True)
        for seed in seeds:
            if not await _run_and_print(cluster, seed, devices, log_folder):
                failed_seeds.append(seed)
    print(f"{len(seeds) - len(failed_seeds)} of {len(seeds)} seeds passed with {devices} devices")
    return failed_seeds


async def _run_and_print(cluster: Cluster, seed: int, devices: int, log_folder: Path | None) -> bool:
    """Run a seed, print its result, and return whether it passed."""
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{seed}-"))
    try:
        result = await run_seed(cluster, seed, devices, folder)
        print(f"seed {seed}: {result}", flush=True)
        if result.breaches:
            print("\n".join(f"    {injected}" for injected in result.record.faults))
            print("\n".join(f"    ! {breach}" for breach in result.breaches[:20]))
            print(f"    repeat: python -m tests.faults --seed {seed} --devices {devices}", flush=True)
        if log_folder is not None:
            shutil.copytree(folder, log_folder / str(seed), dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder)
    return not result.breaches


if __name__ == "__main__":
    main()
