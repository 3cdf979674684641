"""The gateway's main job before your eyes: 2,000 browsers on a map, a weather alert, a campaign, a full account.

Everything is real but the browsers and the push services, which `gateway up --sim` plays: an embedded Postgres, the
queue, the worker, the encryption, the retries. Open the printed page in Firefox to be one of them yourself.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
DEVICES = 2000
START_S = 60
SEED = 7
# Where people are: (longitude, latitude, weight).
CITIES = [
    (16.37, 48.21, 9), (15.44, 47.07, 4), (14.29, 48.31, 4), (13.05, 47.81, 3), (11.40, 47.27, 3), (9.74, 47.50, 2),
    (17.11, 48.15, 3), (19.04, 47.50, 6), (14.42, 50.08, 5), (11.58, 48.14, 6), (8.54, 47.38, 4), (14.51, 46.05, 2),
]  # fmt: skip
AREA = [[15.7, 47.7], [17.4, 47.6], [17.5, 48.6], [16.4, 48.9], [15.6, 48.5], [15.7, 47.7]]
PLATFORMS = ["android", "android", "windows", "windows", "macos", "ios", "linux"]
BROWSERS = {"fcm": "Chrome 141", "mozilla": "Firefox 140", "apple": "Safari 18", "wns": "Edge 141"}
SHARES = {"fcm": 0.6, "mozilla": 0.15, "apple": 0.15, "wns": 0.1}
SERVICES = {"fcm": "FCM", "mozilla": "Mozilla", "apple": "Apple", "wns": "WNS"}
COLOURS = {"accepted": "green", "gone": "yellow", "rejected": "red", "expired": "magenta", "cancelled": "cyan"}

console = Console(highlight=False)


class DemoFailed(Exception):
    """Why there is nothing to see, in one line."""


def main() -> None:
    asked = arguments()
    asked.data_dir = asked.data_dir.absolute()
    asked.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    try:
        asyncio.run(demo(asked))
    except DemoFailed as failure:
        sys.exit(f"demo: {failure}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass  # Ctrl-C or SIGTERM: the gateway has been stopped in order


def arguments() -> argparse.Namespace:
    # Root's Postgres runs as somebody else, who cannot be expected to reach a checkout.
    home = Path(f"/var/tmp/webpush-gateway-demo-{os.getuid()}") if os.geteuid() == 0 else ROOT / ".demo"
    parser = argparse.ArgumentParser(
        prog="ops/run/demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end when both have been sent, with exit code 0")
    parser.add_argument("--data-dir", type=Path, default=home, help="kept from run to run (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="of the gateway (default: %(default)s)")
    parser.add_argument(
        "--sim-port", type=int, default=9090, help="first of the simulator's four (default: %(default)s)"
    )
    parser.add_argument("--devices", type=int, default=DEVICES, help="simulated browsers (default: %(default)s)")
    return parser.parse_args()


async def demo(asked: argparse.Namespace) -> None:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    async with running_gateway(asked) as (base, gateway), aiohttp.ClientSession(base) as http:
        api = Api(http)
        keys = await application(api, asked.data_dir, base)
        api.key = keys["secret_key"]
        services = await register(api, keys, asked)
        console.print(f"\nBe one of them   [bold]{base}/sample/#key={keys['publishable_key']}[/]", soft_wrap=True)
        console.print(
            f"                 [dim]in a Firefox whose dom.push.serverURL is ws://127.0.0.1:{asked.sim_port + 1}/[/]"
        )
        console.print(f"Watch            [bold]{base}/console/#key={keys['secret_key']}[/]\n", soft_wrap=True)
        await send_and_watch(api, services)
        if not asked.once:
            console.print("\nThe gateway goes on serving. Ctrl-C ends it; the next demo finds everything still there.")
            await gateway.wait()
            raise DemoFailed("the gateway has ended")


@contextlib.asynccontextmanager
async def running_gateway(asked: argparse.Namespace) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """`gateway up --sim`, until we are done; answers its URL and its process."""
    log_file = asked.data_dir / "gateway.log"
    base = f"http://127.0.0.1:{asked.port}"
    command = ["-m", "gateway", "up", "--sim", "--data-dir", str(asked.data_dir)]
    command += ["--port", str(asked.port), "--sim-port", str(asked.sim_port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with log_file.open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        with console.status("starting the gateway on a Postgres of its own"):
            await until_ready(base, process, log_file)
        yield base, process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def until_ready(base: str, process: asyncio.subprocess.Process, log_file: Path) -> None:
    async with aiohttp.ClientSession(base) as http, asyncio.timeout(START_S):
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get("/readyz") as answer:
                    if answer.status == 200 and process.returncode is None:
                        return
            await asyncio.sleep(0.1)  # another process starts: there is nothing to await
    raise DemoFailed(last_line(log_file) or "the gateway ended at once")


def last_line(log_file: Path) -> str:
    return log_file.read_text().strip().rpartition("\n")[2].removeprefix("gateway: ")


class Api:
    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.key = ""

    async def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        async with self._http.request(method, path, json=body, headers=headers) as answer:
            said = await answer.json(content_type=None)
            if answer.status >= 400:
                raise DemoFailed(f"{method} {path}: {said.get('detail', said)}")
            return said

    async def import_devices(self, lines: list[bytes]) -> dict[str, int]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/x-ndjson"}
        async with self._http.post("/v1/devices/import", data=b"\n".join(lines), headers=headers) as answer:
            *verdicts, last = (await answer.text()).strip().splitlines()
            refused = next((line for line in verdicts if '"refused"' in line), None)
            if refused or answer.status != 200:
                raise DemoFailed(f"a device was refused: {refused or last}")
            sums: dict[str, int] = json.loads(last)
            return sums

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """The log as it grows; the first item, empty, says that it is followed."""
        timeout = aiohttp.ClientTimeout(total=None)
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self._http.get("/v1/deliveries/stream", headers=headers, timeout=timeout) as answer:
            yield {}
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    async def pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        cursor = ""
        while True:
            page = await self.call("GET", f"{path}&limit=1000{cursor}")
            for item in page["items"]:
                yield item
            if page["next_cursor"] is None:
                return
            cursor = f"&cursor={page['next_cursor']}"


async def application(api: Api, data_dir: Path, base: str) -> dict[str, str]:
    """The demo's application; its keys are kept beside the database they belong to."""
    kept = data_dir / "demo-keys.json"
    admin = (data_dir / "admin-token").read_text().strip()
    if kept.exists():
        keys: dict[str, str] = json.loads(kept.read_text())
        await api.call("PATCH", f"/v1/applications/{keys['id']}", {"allowed_origins": [base]}, admin)
        return keys
    new = {"name": "Skyline Weather", "subject": "mailto:ops@skyline-weather.example", "allowed_origins": [base]}
    made = await api.call("POST", "/v1/applications", new, admin)
    keys = {name: made[name] for name in ("id", "publishable_key", "secret_key", "vapid_public_key")}
    with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(keys, file)
    return keys


async def register(api: Api, keys: dict[str, str], asked: argparse.Namespace) -> dict[str, str]:
    """Have so many simulated browsers; answers the push services' names by host."""
    sim = f"http://127.0.0.1:{asked.sim_port}"
    there = (await api.call("POST", "/v1/audiences/preview", {"audience": {"everyone": True}}))["devices"]
    chance = random.Random(SEED + there)  # noqa: S311 - a map, not a secret
    missing = max(0, asked.devices - there)
    async with aiohttp.ClientSession(sim) as http:
        origins = (await (await http.get("/_sim")).json())["origins"]
        lines = []
        for vendor, share in SHARES.items():
            count = round(missing * share)
            if not count:
                continue
            wanted = {"vendor": vendor, "count": count, "vapid_public_key": keys["vapid_public_key"]}
            async with http.post("/_sim/subscribers", json=wanted) as answer:
                for subscription in await answer.json():
                    number = there + len(lines)
                    lines.append(json.dumps(device(subscription, vendor, number, chance)).encode())
    created = (await api.import_devices(lines))["created"] if lines else 0
    console.print(f"Registered {created:,} browsers; {there:,} were there already.")
    return {origin.partition("://")[2]: SERVICES[vendor] for vendor, origin in origins.items()}


def device(subscription: dict[str, Any], vendor: str, number: int, chance: random.Random) -> dict[str, Any]:
    lon, lat, _ = chance.choices(CITIES, [weight for *_, weight in CITIES])[0]
    topics = [topic for topic, share in (("weather", 0.9), ("offers", 0.5), ("news", 0.3)) if chance.random() < share]
    platform = {"apple": "ios", "wns": "windows"}.get(vendor) or chance.choice(PLATFORMS)
    return {
        "subscription": subscription,
        "user_id": f"u-{number}",
        "client": {"platform": platform, "browser": BROWSERS[vendor], "locale": "de-AT", "timezone": "Europe/Vienna"},
        "attributes": {"plan": chance.choice(["free", "free", "pro"]), "age": chance.randint(16, 80)},
        "topics": topics,
        "location": {"lat": round(chance.gauss(lat, 0.25), 5), "lon": round(chance.gauss(lon, 0.35), 5)},
    }


async def send_and_watch(api: Api, services: dict[str, str]) -> None:
    """An alert to everyone in the storm's way, while a campaign goes out to a topic."""
    storm = {"within": {"type": "Polygon", "coordinates": [AREA]}}
    audiences = {"campaign": {"topic": "offers"}, "alert": storm}
    sizes = {
        name: (await api.call("POST", "/v1/audiences/preview", {"audience": audience}))["devices"]
        for name, audience in audiences.items()
    }
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with contextlib.aclosing(api.follow()) as followed:
        await anext(followed)
        campaign = await api.call(
            "POST",
            "/v1/campaigns",
            {
                "name": "Autumn offers",
                "content": {"title": "Umbrellas, half price", "body": "This weekend only.", "url": "/offers"},
                "audience": audiences["campaign"],
            },
        )
        alert = await api.call(
            "POST",
            "/v1/alerts",
            {
                "event": "Severe Thunderstorm Warning",
                "headline": "Severe thunderstorms over Vienna until 18:00",
                "description": "Hail of 3 cm and gusts of 110 km/h.",
                "instruction": "Go indoors and stay away from windows.",
                "severity": "Severe",
                "urgency": "Immediate",
                "certainty": "Observed",
                "area": storm["within"],
            },
        )
        sent = {campaign["id"]: "campaign", alert["id"]: "alert"}
        with Progress(*columns, console=console) as progress:
            bars = {name: progress.add_task(name, total=sizes[name]) for name in ("alert", "campaign")}
            left = sum(sizes.values())
            while left:
                delivery = await anext(followed)
                if delivery["notification_id"] in sent:
                    progress.advance(bars[sent[delivery["notification_id"]]])
                    left -= 1
    for id_, name in sent.items():
        await show(api, id_, name, services)
    await show_answers(next(iter(services)))


async def show(api: Api, id_: str, name: str, services: dict[str, str]) -> None:
    outcomes: Counter[tuple[str, str, str]] = Counter()
    tries: Counter[tuple[str, str, str]] = Counter()
    first = last = None
    async for delivery in api.pages(f"/v1/deliveries?notification_id={id_}"):
        service = services.get(delivery["host"], delivery["host"])
        row = (service, delivery["outcome"], delivery["cause"])
        outcomes[row] += 1
        tries[row] += delivery["attempts"]
        last = last or delivery["settled_at"]
        first = delivery["settled_at"]
    notification = await api.call("GET", f"/v1/notifications/{id_}")
    counts = notification["progress"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"{name}: {notification['name']}"
    for column, justify in (
        ("push service", "left"),
        ("outcome", "left"),
        ("devices", "right"),
        ("tries", "right"),
        ("cause", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for row in sorted(outcomes):
        service, outcome, cause = row
        table.add_row(service, f"[{COLOURS[outcome]}]{outcome}[/]", str(outcomes[row]), str(tries[row]), cause)
    console.print(table)
    settled = counts["targets"] - counts["pending"]
    console.print(
        f"{settled:,} of {counts['targets']:,} accounted for, {counts['retries']:,} tried again; "
        f"the first at {clock(first)}, the last at {clock(last)}\n"
    )
    if counts["pending"] or sum(outcomes.values()) != counts["targets"]:
        raise DemoFailed(f"{counts['targets'] - sum(outcomes.values())} deliveries of the {name} are not in the log")


async def show_answers(sim: str) -> None:
    """What the push services said to every try since they were started."""
    async with aiohttp.ClientSession(f"http://{sim}") as http, http.get("/_sim/counters") as answer:
        counters = (await answer.json())["counters"]
    console.print("[bold]what the push services answered[/]")
    for vendor, statuses in counters.items():
        said = "  ".join(f"{status} x {count:,}" for status, count in sorted(statuses.items()))
        console.print(f"{SERVICES[vendor]:<8} {said}")


def clock(moment: str | None) -> str:
    return "-" if moment is None else moment[11:23]


if __name__ == "__main__":
    main()
