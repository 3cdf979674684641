"""What the doctor looks at, and what to do about each thing that is not as it should be.

`wrong` keeps something from working now, `warning` may do so, or does when nobody looks. One fault is told once: what
cannot be looked at because of another is left out.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal, NamedTuple

import aiohttp

from gateway import app
from gateway.app import CannotStart
from gateway.cli.installation import installation, settings
from gateway.domain.notification import Lane
from gateway.push.endpoints import VENDORS
from gateway.push.vapid import check_subject
from gateway.queue.connection import BrokerIncompatible, BrokerUnavailable
from gateway.queue.nats import Broker
from gateway.records import applications, devices
from gateway.records.jobs import measure_depth
from gateway.records.postgres import clock_sync, migrate, partitions
from gateway.records.postgres.engine import Connection, DatabaseError, get_server_version
from gateway.service.access.secrets import DecryptionFailed
from gateway.service.context import Context
from gateway.service.operations import key_rotation
from gateway.settings import Settings, SettingsError, unknown_variables

MIN_POSTGRES_VERSION = 14
# A push service takes a VAPID token that is good until 12 h from now; RFC 8292 section 2 allows 24 h.
CLOCK_WARNS_S, CLOCK_FAILS_S = 2.0, 3600.0
DATE_HEADER_S = 5.0  # it has whole seconds, and took its time to get here
LATE_S = {Lane.URGENT: 30.0, Lane.NORMAL: 120.0, Lane.BULK: 900.0}
CALL_S = 8.0

Level = Literal["ok", "warning", "wrong"]


class Finding(NamedTuple):
    check: str
    level: Level
    said: str
    advice: str = ""


async def examine(data_dir: Path | None, *, offline: bool) -> list[Finding]:
    try:
        chosen = settings(data_dir)
    except SettingsError as error:
        faults = "; ".join(str(error).splitlines())
        return [Finding("settings", "wrong", faults, "`gateway settings` lists every setting and what it is for")]
    found = [_settings(), _public_url(chosen)]
    hosts: Sequence[str] = ()
    try:
        async with installation(chosen) as context:
            found += [one async for one in _installation(chosen, context)]
            if not any(one.level == "wrong" and one.check in ("database", "migrations") for one in found):
                async with context.engine.connect() as conn:
                    hosts = await devices.list_hosts(conn)
    except (CannotStart, OSError, DatabaseError) as error:
        said = str(getattr(error, "orig", None) or error).partition("\n")[0]
        found.append(Finding("database", "wrong", said or type(error).__name__, _database_advice(chosen)))
    if chosen.nats_servers:
        found.append(await _broker(chosen))
    return found if offline else [*found, *await _push_services(chosen, hosts)]


def _settings() -> Finding:
    if unknown := unknown_variables():
        return Finding("settings", "wrong", "; ".join(unknown), "correct or remove them: they do nothing as they are")
    return Finding("settings", "ok", "all known")


def _public_url(chosen: Settings) -> Finding:
    url = chosen.public_url
    if url is None:
        said = "not set: browsers report no receipts, except to `gateway up`, which knows where it listens"
        return Finding("public url", "ok", said)
    if url.startswith("http://") and not url.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]")):
        advice = "browsers allow push on https pages alone: put a proxy with TLS before it, and set its address"
        return Finding("public url", "warning", url, advice)
    return Finding("public url", "ok", url)


def _database_advice(chosen: Settings) -> str:
    if chosen.database_url is None:
        return f"start `gateway up` on {chosen.data_dir}, or set GATEWAY_DATABASE_URL"
    return "is Postgres running, and are host, port, user, password and name in GATEWAY_DATABASE_URL right?"


async def _installation(chosen: Settings, context: Context) -> AsyncIterator[Finding]:
    async with context.engine.connect() as conn:
        major, whole = await get_server_version(conn)
        if major < MIN_POSTGRES_VERSION:
            yield Finding("database", "wrong", f"PostgreSQL {whole}", f"upgrade it to {MIN_POSTGRES_VERSION} or newer")
            return
        yield Finding("database", "ok", f"PostgreSQL {whole}")
        if not await migrate.is_current(conn, context.engine.url.render_as_string(hide_password=False)):
            yield Finding("migrations", "wrong", "missing", "run `gateway migrate`; it may be run beside gateways")
            return
        yield Finding("migrations", "ok", "up to date")
        yield _clock(await clock_sync.sync_clock(context.engine))
        yield await _master_key(conn, context)
        yield _admin_token(chosen)
        yield await _subjects(conn)
        yield await _log_partitions(conn)
        async for one in _queue(conn, chosen):
            yield one


def _clock(ahead: float | None) -> Finding:
    if ahead is None:
        return Finding("clock", "warning", "the database answers too slowly to compare it", "ask again in a moment")
    direction = "ahead of" if ahead > 0 else "behind"
    said = f"{abs(ahead):.1f} s {direction} the database's"
    advice = "run NTP here (chrony, systemd-timesyncd) and on the database's machine; the database's time is used"
    if abs(ahead) > CLOCK_FAILS_S:
        return Finding("clock", "wrong", said, advice)
    return Finding("clock", "warning", said, advice) if abs(ahead) > CLOCK_WARNS_S else Finding("clock", "ok", said)


async def _master_key(conn: Connection, context: Context) -> Finding:
    try:
        await key_rotation.check(conn, context.keyring)
    except DecryptionFailed as error:
        advice = (
            "set GATEWAY_MASTER_KEY to the key this database was made with, or add it to GATEWAY_RETIRED_MASTER_KEYS"
        )
        return Finding("master key", "wrong", str(error), advice)
    standing = await key_rotation.progress(conn, context.keyring)
    whole, others = (sum(counts) for counts in zip(*standing.values(), strict=True))
    if others:
        said = f"{others} of {whole} are sealed with another one"
        return Finding("master key", "warning", said, "run `gateway secrets rotate`")
    return Finding("master key", "ok", "opens the stored keys" if whole else "nothing is sealed with it yet")


def _admin_token(chosen: Settings) -> Finding:
    if app.find_installation(chosen).admin_token:
        return Finding("admin token", "ok", "set")
    advice = "set GATEWAY_ADMIN_TOKEN to a long random text: openssl rand -base64 32"
    return Finding("admin token", "wrong", "not set: nobody is admin", advice)


async def _subjects(conn: Connection) -> Finding:
    """Push services refuse every message of an application whose subject is no address that they can write to."""
    rows = await applications.list_by_creation(conn, limit=1000)
    faults = [f"{row.name}: {row.subject} {fault}" for row in rows if (fault := check_subject(row.subject))]
    if faults:
        advice = "PATCH /v1/applications/{id} with a subject such as mailto:ops@example.com; Apple refuses any other"
        return Finding("VAPID subject", "wrong", "; ".join(faults), advice)
    if not rows:
        said = "there is no application yet"
        return Finding("VAPID subject", "ok", said, "`gateway apps create` makes one")
    return Finding("VAPID subject", "ok", f"of {len(rows)} application{'s' if len(rows) > 1 else ''} can be reached")


async def _log_partitions(conn: Connection) -> Finding:
    today = datetime.now(UTC).date()
    for day, word in ((today, "today"), (today + timedelta(days=1), "tomorrow")):
        if not await partitions.has_partitions(conn, day):
            said = f"the log has no partition for {word}: no worker has run its maintenance"
            advice = "start `gateway work` or `gateway relay`, or run `gateway prune` now"
            return Finding("maintenance", "warning", said, advice)
    return Finding("maintenance", "ok", "the log has partitions for the days ahead")


async def _queue(conn: Connection, chosen: Settings) -> AsyncIterator[Finding]:
    waiting = await measure_depth(conn)
    late = [(lane, due, age) for lane, _, due, age in waiting if age > LATE_S[lane]]
    if not late:
        jobs = sum(count for _, count, _, _ in waiting)
        yield Finding("queue", "ok", "empty" if not jobs else f"{jobs} waiting for their time")
        return
    said = "; ".join(f"{lane.label}: {due} due, the oldest for {_span(age)}" for lane, due, age in late)
    role = "gateway relay` and `gateway work" if chosen.nats_servers else "gateway work"
    advice = (
        f"is `{role}` running? If so start more, or raise GATEWAY_WORKER_CONCURRENCY; "
        "a push service may be slowing us down"
    )
    yield Finding("queue", "wrong", said, advice)


async def _broker(chosen: Settings) -> Finding:
    try:
        async with Broker.connected(chosen.nats_servers, ca=chosen.queue_ca):
            return Finding("NATS", "ok", "answers, with JetStream")
    except (BrokerUnavailable, BrokerIncompatible) as error:
        advice = "are the servers in GATEWAY_QUEUE running with JetStream, and are user and password right?"
        return Finding("NATS", "wrong", str(error), advice)


async def _push_services(chosen: Settings, used: Sequence[str]) -> list[Finding]:
    """Whose devices there are must be reached; others that we know are called too, since the first device may come."""
    named = [host for host in (*VENDORS, *chosen.push_hosts) if "*" not in host]
    origins = {host if "://" in host else f"https://{host}": False for host in named}
    known = {origin.partition("://")[2]: origin for origin in origins}
    origins |= {known.get(host, f"https://{host}"): True for host in used}
    try:
        context = ssl.create_default_context()
        if chosen.push_ca is not None:
            context.load_verify_locations(chosen.push_ca)
    except (OSError, ssl.SSLError) as error:
        advice = "GATEWAY_PUSH_CA must be a file of PEM certificates"
        return [Finding("push services", "wrong", f"{chosen.push_ca}: {error}", advice)]
    timeout = aiohttp.ClientTimeout(total=CALL_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout) as http:
        heard = await asyncio.gather(*(_call(http, origin) for origin in origins))
    found = []
    for (origin, in_use), (fault, _) in zip(origins.items(), heard, strict=True):
        host = origin.removeprefix("https://")
        if fault is None:
            found.append(Finding("push service", "ok", f"{host} answers"))
            continue
        advice = "allow this machine to connect to it: name resolution, firewall, proxies, certificates"
        said = f"{host} cannot be reached: {fault}" + ("" if in_use else "; no device needs it yet")
        found.append(Finding("push service", "wrong" if in_use else "warning", said, advice))
    if ahead := [seconds for _, seconds in heard if seconds is not None]:
        found.append(against_services(min(ahead, key=abs)))
    return found


def against_services(ahead: float) -> Finding:
    """`ahead`: the seconds that our clock is ahead of theirs."""
    direction = "ahead of" if ahead > 0 else "behind"
    if abs(ahead) <= DATE_HEADER_S:
        return Finding("time", "ok", "as the push services have it")
    advice = "run NTP (chrony, systemd-timesyncd): push services refuse messages that were signed at another time"
    level: Level = "wrong" if abs(ahead) > CLOCK_FAILS_S else "warning"
    return Finding("time", level, f"{_span(abs(ahead))} {direction} the push services'", advice)


async def _call(http: aiohttp.ClientSession, origin: str) -> tuple[str | None, float | None]:
    """(why it does not answer, seconds our clock is ahead of its). Any status is an answer."""
    try:
        async with http.get(origin, allow_redirects=False) as answer:
            told = answer.headers.get("Date")
    except TimeoutError:
        return f"no answer within {CALL_S:g} s", None
    except aiohttp.ClientConnectorError as error:
        return error.os_error.strerror or str(error.os_error), None
    except (aiohttp.ClientError, OSError) as error:
        return str(error) or type(error).__name__, None
    try:
        return None, None if told is None else time.time() - parsedate_to_datetime(told).timestamp()
    except ValueError:
        return None, None


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 300
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
