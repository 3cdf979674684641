"""`ops/run/demo --once` prints an outcome for every delivery, on a new data directory and on an existing one."""

import asyncio
import sys
from pathlib import Path

from tests.support.command import ROOT, environment, free_ports


async def test_demo_accounts_for_every_delivery_on_each_run(reachable_tmp: Path) -> None:
    """The second run has the data directory of the first run, so most of its browsers are registered already."""
    port = free_ports(5)
    arguments = ["--once", "--devices", "300", "--data-dir", str(reachable_tmp / "demo")]
    arguments += ["--port", str(port), "--sim-port", str(port + 1)]
    # In the second run all devices exist, except those whose subscription ended in the first run, if any.
    for expected in ("Registered 300 browsers; 0 were registered before", "were registered before"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "ops" / "demo.py"), *arguments),
            env=environment({}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            stdout, _ = await process.communicate()
        output = stdout.decode()
        assert process.returncode == 0, output
        assert expected in output
        assert "alert: Severe thunderstorms" in output
        assert "campaign: Autumn offers" in output
        assert output.count("accounted for") == 2
        assert any(status in output for status in ("410", "429", "503"))  # the simulator always returns some errors
