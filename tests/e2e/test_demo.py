"""`ops/run/demo --once`: everything is accounted for, the first time and the next, on the same data directory."""

import asyncio
import sys
from pathlib import Path

from tests.support.command import ROOT, environment, free_ports


async def test_the_demo_accounts_for_every_delivery_and_starts_again_on_what_it_left(reachable_tmp: Path) -> None:
    port = free_ports(5)
    arguments = ["--once", "--devices", "300", "--data-dir", str(reachable_tmp / "demo")]
    arguments += ["--port", str(port), "--sim-port", str(port + 1)]
    # The second time finds all but those whose subscription has ended, which by chance may be none.
    for there in ("Registered 300 browsers; 0 were there already", "were there already"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "ops" / "demo.py"), *arguments),
            env=environment({}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        said = out.decode()
        assert process.returncode == 0, said
        assert there in said
        assert "alert: Severe thunderstorms" in said
        assert "campaign: Autumn offers" in said
        assert said.count("accounted for") == 2
        assert any(status in said for status in ("410", "429", "503"))  # a bad day, whichever way it is bad
