"""The benchmark `ops/bench/send` runs to its end; the measured times are not checked."""

import asyncio
import json
import sys
from pathlib import Path

from tests.support.command import ROOT, environment


async def test_send_bench_measures_every_available_sender(tmp_path: Path) -> None:
    """Without npm, the benchmark leaves out the npm package web-push and measures the gateway and pywebpush."""
    figures = tmp_path / "figures.json"
    arguments = ["--devices", "600", "--messages", "40", "--rounds", "1", "--json", str(figures)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "ops" / "bench" / "send.py"), *arguments),
        env=environment({"PATH": "/nowhere"}),  # hides npm, which would need the network
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "npm web-push is left out" in output.decode()
    senders = json.loads(figures.read_text())["senders"]
    assert list(senders) == ["gateway", "pywebpush, its async call", "pywebpush, signing once"]
    assert all(sender["all_us"] > 0 for sender in senders.values())
