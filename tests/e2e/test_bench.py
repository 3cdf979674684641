"""The benchmark still runs, and accounts for what it sends. It is not timed here."""

import asyncio
import json
import sys
from pathlib import Path

from tests.support.command import ROOT, environment


async def test_the_benchmark_measures_every_sender_it_can_run(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["--devices", "600", "--messages", "40", "--rounds", "1", "--json", str(figures)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "ops" / "bench" / "send.py"), *arguments),
        env=environment({"PATH": "/nowhere"}),  # no npm, which would need the network
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(90):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert "npm web-push is left out" in out.decode()
    senders = json.loads(figures.read_text())["contestants"]
    assert list(senders) == ["gateway", "pywebpush, its async call", "pywebpush, signing once"]
    assert all(one["all_us"] > 0 for one in senders.values())
