"""A bare send loop: concurrent calls of pywebpush's async function, without queue, retry and log.

Reads {origin, ca_file, private_key, subscriptions, count, concurrency, payload, cached} on stdin and writes
{seconds, cpu_s}. `cached`: sign once and pass the header to each call; the library allows this but does not do so by
itself.
"""

import asyncio
import json
import resource
import ssl
import sys
import time
from typing import Any

import aiohttp
import uvloop
from py_vapid import Vapid02
from pywebpush import WebPusher, webpush_async


async def main(options: dict[str, Any]) -> None:
    """Send the messages and print the time."""
    numbers = iter(range(options["count"]))
    key = Vapid02.from_string(options["private_key"])
    claims = {"sub": "mailto:ops@example.org", "aud": options["origin"]}
    header = key.sign(dict(claims))
    connector = aiohttp.TCPConnector(
        limit=options["concurrency"], ssl=ssl.create_default_context(cafile=options["ca_file"])
    )
    subscriptions, payload = options["subscriptions"], options["payload"]

    async def sender(http: aiohttp.ClientSession) -> None:
        for number in numbers:
            subscription = subscriptions[number % len(subscriptions)]
            if options["cached"]:
                pusher = WebPusher(subscription, aiohttp_session=http)
                response = await pusher.send_async(payload, headers=dict(header), ttl=3600)
            else:
                response = await webpush_async(
                    subscription,
                    payload,
                    vapid_private_key=key,
                    vapid_claims=dict(claims),
                    ttl=3600,
                    aiohttp_session=http,
                )
            assert response.status == 201, response.status

    async with aiohttp.ClientSession(connector=connector) as http:
        start, cpu_before = time.perf_counter(), cpu_s()
        async with asyncio.TaskGroup() as group:
            for _ in range(options["concurrency"]):
                group.create_task(sender(http))
        print(json.dumps({"seconds": time.perf_counter() - start, "cpu_s": cpu_s() - cpu_before}))


def cpu_s() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    uvloop.run(main(json.load(sys.stdin)))
