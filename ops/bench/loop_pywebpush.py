"""A bare send loop: pywebpush's async call, so many at a time. No queue, no retry, no log.

Reads {origin, ca_file, private_key, subscriptions, count, at_once, payload, cached} on stdin; writes {seconds, cpu_s}.
`cached`: sign once and give the header to each call, which the library allows and its own call does not do.
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


async def main(asked: dict[str, Any]) -> None:
    left = iter(range(asked["count"]))
    key = Vapid02.from_string(asked["private_key"])
    claims = {"sub": "mailto:ops@example.org", "aud": asked["origin"]}
    header = key.sign(dict(claims))
    connector = aiohttp.TCPConnector(limit=asked["at_once"], ssl=ssl.create_default_context(cafile=asked["ca_file"]))
    subscriptions, payload = asked["subscriptions"], asked["payload"]

    async def sender(http: aiohttp.ClientSession) -> None:
        for number in left:
            subscription = subscriptions[number % len(subscriptions)]
            if asked["cached"]:
                pusher = WebPusher(subscription, aiohttp_session=http)
                answer = await pusher.send_async(payload, headers=dict(header), ttl=3600)
            else:
                answer = await webpush_async(
                    subscription,
                    payload,
                    vapid_private_key=key,
                    vapid_claims=dict(claims),
                    ttl=3600,
                    aiohttp_session=http,
                )
            assert answer.status == 201, answer.status

    async with aiohttp.ClientSession(connector=connector) as http:
        began, used = time.perf_counter(), cpu()
        async with asyncio.TaskGroup() as group:
            for _ in range(asked["at_once"]):
                group.create_task(sender(http))
        print(json.dumps({"seconds": time.perf_counter() - began, "cpu_s": cpu() - used}))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    uvloop.run(main(json.load(sys.stdin)))
