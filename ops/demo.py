"""Run the gateway with 2,000 simulated browsers, send a weather alert and a campaign, and print every outcome.

`gateway up --sim` simulates the browsers and the push services. The embedded Postgres, the queue, the worker, the
encryption and the retries are the real ones. Open the printed page in Firefox to add a browser of your own.
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
# Places where devices are created: (longitude, latitude, weight).
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
    """The demo cannot continue; the message is one line."""


def main() -> None:
    """Run the demo; exit with one line when it fails."""
    options = parse_arguments()
    options.data_dir = options.data_dir.absolute()
    options.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    try:
        asyncio.run(run_demo(options))
    except DemoFailed as error:
        sys.exit(f"demo: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass  # Ctrl-C or SIGTERM: the gateway has been stopped in order


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    # As root, the embedded Postgres runs as another user, which may not have access to the checkout.
    data_dir = Path(f"/var/tmp/webpush-gateway-demo-{os.getuid()}") if os.geteuid() == 0 else ROOT / ".demo"
    parser = argparse.ArgumentParser(
        prog="ops/run/demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="exit with code 0 after both notifications have been sent")
    parser.add_argument(
        "--data-dir", type=Path, default=data_dir, help="data directory, reused by later runs (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8080, help="port of the gateway (default: %(default)s)")
    parser.add_argument(
        "--sim-port", type=int, default=9090, help="first of the simulator's four ports (default: %(default)s)"
    )
    parser.add_argument(
        "--devices", type=int, default=DEVICES, help="number of simulated browsers (default: %(default)s)"
    )
    return parser.parse_args()


async def run_demo(options: argparse.Namespace) -> None:
    """Start the gateway, register devices, send, and print the outcomes."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with run_gateway(options) as (base, gateway), aiohttp.ClientSession(base) as http:
        api = Api(http)
        keys = await ensure_application(api, options.data_dir, base)
        api.key = keys["secret_key"]
        services = await register_devices(api, keys, options)
        console.print(f"\nAdd a browser    [bold]{base}/sample/#key={keys['publishable_key']}[/]", soft_wrap=True)
        console.print(
            f"                 [dim]in a Firefox with dom.push.serverURL = ws://127.0.0.1:{options.sim_port + 1}/[/]"
        )
        console.print(f"Watch            [bold]{base}/console/#key={keys['secret_key']}[/]\n", soft_wrap=True)
        await send_and_follow(api, services)
        if not options.once:
            console.print("\nThe gateway keeps running. Stop it with Ctrl-C; the next demo reuses its data.")
            await gateway.wait()
            raise DemoFailed("the gateway has stopped")


@contextlib.asynccontextmanager
async def run_gateway(options: argparse.Namespace) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run `gateway up --sim` for the duration of the block; yield its URL and its process."""
    log_file = options.data_dir / "gateway.log"
    base = f"http://127.0.0.1:{options.port}"
    command = ["-m", "gateway", "up", "--sim", "--data-dir", str(options.data_dir)]
    command += ["--port", str(options.port), "--sim-port", str(options.sim_port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with log_file.open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        with console.status("starting the gateway with an embedded Postgres"):
            await wait_until_ready(base, process, log_file)
        yield base, process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def wait_until_ready(base: str, process: asyncio.subprocess.Process, log_file: Path) -> None:
    """Wait until `/readyz` returns 200. Raise DemoFailed when the gateway stops first."""
    async with aiohttp.ClientSession(base) as http, asyncio.timeout(START_S):
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get("/readyz") as response:
                    if response.status == 200 and process.returncode is None:
                        return
            await asyncio.sleep(0.1)  # another process starts; there is no event to wait for
    raise DemoFailed(read_last_line(log_file) or "the gateway stopped during start-up")


def read_last_line(log_file: Path) -> str:
    """Return the last line of the gateway's log."""
    return log_file.read_text().strip().rpartition("\n")[2].removeprefix("gateway: ")


class Api:
    """The gateway's HTTP API, as far as the demo needs it."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.key = ""

    async def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """Send a JSON request and return the JSON response. Raise DemoFailed for an error status."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        async with self._http.request(method, path, json=body, headers=headers) as response:
            result = await response.json(content_type=None)
            if response.status >= 400:
                raise DemoFailed(f"{method} {path}: {result.get('detail', result)}")
            return result

    async def import_devices(self, lines: list[bytes]) -> dict[str, int]:
        """Import devices from NDJSON lines and return the import's summary."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/x-ndjson"}
        async with self._http.post("/v1/devices/import", data=b"\n".join(lines), headers=headers) as response:
            *results, summary = (await response.text()).strip().splitlines()
            refused = next((line for line in results if '"refused"' in line), None)
            if refused or response.status != 200:
                raise DemoFailed(f"the import refused a device: {refused or summary}")
            sums: dict[str, int] = json.loads(summary)
            return sums

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Yield new deliveries of the log. The first item is empty: the stream is open."""
        timeout = aiohttp.ClientTimeout(total=None)
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self._http.get("/v1/deliveries/stream", headers=headers, timeout=timeout) as response:
            yield {}
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    async def pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the items of all pages."""
        cursor = ""
        while True:
            page = await self.call("GET", f"{path}&limit=1000{cursor}")
            for item in page["items"]:
                yield item
            if page["next_cursor"] is None:
                return
            cursor = f"&cursor={page['next_cursor']}"


async def ensure_application(api: Api, data_dir: Path, base: str) -> dict[str, str]:
    """Return the keys of the demo's application; create the application on the first run.

    The keys are stored in the data directory, next to the database that they belong to.
    """
    key_file = data_dir / "demo-keys.json"
    admin = (data_dir / "admin-token").read_text().strip()
    if key_file.exists():
        keys: dict[str, str] = json.loads(key_file.read_text())
        await api.call("PATCH", f"/v1/applications/{keys['id']}", {"allowed_origins": [base]}, admin)
        return keys
    new = {"name": "Skyline Weather", "subject": "mailto:ops@skyline-weather.example", "allowed_origins": [base]}
    created = await api.call("POST", "/v1/applications", new, admin)
    keys = {name: created[name] for name in ("id", "publishable_key", "secret_key", "vapid_public_key")}
    with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(keys, file)
    return keys


async def register_devices(api: Api, keys: dict[str, str], options: argparse.Namespace) -> dict[str, str]:
    """Register simulated browsers up to the requested number; return the push services' names by host."""
    sim = f"http://127.0.0.1:{options.sim_port}"
    existing = (await api.call("POST", "/v1/audiences/preview", {"audience": {"everyone": True}}))["devices"]
    rng = random.Random(SEED + existing)  # noqa: S311 - no secret
    missing = max(0, options.devices - existing)
    async with aiohttp.ClientSession(sim) as http:
        origins = (await (await http.get("/_sim")).json())["origins"]
        lines = []
        for vendor, share in SHARES.items():
            count = round(missing * share)
            if not count:
                continue
            request = {"vendor": vendor, "count": count, "vapid_public_key": keys["vapid_public_key"]}
            async with http.post("/_sim/subscribers", json=request) as response:
                for subscription in await response.json():
                    number = existing + len(lines)
                    lines.append(json.dumps(build_device(subscription, vendor, number, rng)).encode())
    created = (await api.import_devices(lines))["created"] if lines else 0
    console.print(f"Registered {created:,} browsers; {existing:,} were registered before.")
    return {origin.partition("://")[2]: SERVICES[vendor] for vendor, origin in origins.items()}


def build_device(subscription: dict[str, Any], vendor: str, number: int, rng: random.Random) -> dict[str, Any]:
    """Return a registration of one simulated browser."""
    lon, lat, _ = rng.choices(CITIES, [weight for *_, weight in CITIES])[0]
    topics = [topic for topic, share in (("weather", 0.9), ("offers", 0.5), ("news", 0.3)) if rng.random() < share]
    platform = {"apple": "ios", "wns": "windows"}.get(vendor) or rng.choice(PLATFORMS)
    return {
        "subscription": subscription,
        "user_id": f"u-{number}",
        "client": {"platform": platform, "browser": BROWSERS[vendor], "locale": "de-AT", "timezone": "Europe/Vienna"},
        "attributes": {"plan": rng.choice(["free", "free", "pro"]), "age": rng.randint(16, 80)},
        "topics": topics,
        "location": {"lat": round(rng.gauss(lat, 0.25), 5), "lon": round(rng.gauss(lon, 0.35), 5)},
    }


async def send_and_follow(api: Api, services: dict[str, str]) -> None:
    """Send a campaign to a topic and an alert to an area, and show both until every delivery has an outcome."""
    storm = {"within": {"type": "Polygon", "coordinates": [AREA]}}
    audiences = {"campaign": {"topic": "offers"}, "alert": storm}
    sizes = {
        name: (await api.call("POST", "/v1/audiences/preview", {"audience": audience}))["devices"]
        for name, audience in audiences.items()
    }
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with contextlib.aclosing(api.follow()) as deliveries:
        await anext(deliveries)
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
            remaining = sum(sizes.values())
            while remaining:
                delivery = await anext(deliveries)
                if delivery["notification_id"] in sent:
                    progress.advance(bars[sent[delivery["notification_id"]]])
                    remaining -= 1
    for id_, name in sent.items():
        await print_outcomes(api, id_, name, services)
    await print_responses(next(iter(services)))


async def print_outcomes(api: Api, id_: str, name: str, services: dict[str, str]) -> None:
    """Print one notification's outcomes by push service. Raise DemoFailed when one is missing from the log."""
    outcomes: Counter[tuple[str, str, str]] = Counter()
    attempts: Counter[tuple[str, str, str]] = Counter()
    first = last = None
    async for delivery in api.pages(f"/v1/deliveries?notification_id={id_}"):
        service = services.get(delivery["host"], delivery["host"])
        row = (service, delivery["outcome"], delivery["cause"])
        outcomes[row] += 1
        attempts[row] += delivery["attempts"]
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
        ("attempts", "right"),
        ("cause", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for row in sorted(outcomes):
        service, outcome, cause = row
        table.add_row(service, f"[{COLOURS[outcome]}]{outcome}[/]", str(outcomes[row]), str(attempts[row]), cause)
    console.print(table)
    settled = counts["targets"] - counts["pending"]
    console.print(
        f"{settled:,} of {counts['targets']:,} accounted for, {counts['retries']:,} retried; "
        f"the first at {format_time(first)}, the last at {format_time(last)}\n"
    )
    if counts["pending"] or sum(outcomes.values()) != counts["targets"]:
        raise DemoFailed(f"{counts['targets'] - sum(outcomes.values())} deliveries of the {name} are not in the log")


async def print_responses(sim: str) -> None:
    """Print the push services' response counts since their start."""
    async with aiohttp.ClientSession(f"http://{sim}") as http, http.get("/_sim/counters") as response:
        counters = (await response.json())["counters"]
    console.print("[bold]responses of the push services[/]")
    for vendor, statuses in counters.items():
        summary = "  ".join(f"{status} x {count:,}" for status, count in sorted(statuses.items()))
        console.print(f"{SERVICES[vendor]:<8} {summary}")


def format_time(moment: str | None) -> str:
    """Return the time of day of an RFC 3339 timestamp."""
    return "-" if moment is None else moment[11:23]


if __name__ == "__main__":
    main()
