"""Checks of `gateway doctor`: what is wrong with an installation, and what to do about it.

An `error` is a problem that prevents something from working now; a `warning` is one that may do so later. A check that
cannot run because of another problem is omitted, so that each problem is reported once.
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
from gateway.cli.installation import open_installation, read_settings
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
# The gateway's VAPID tokens expire after 12 hours, and RFC 8292 section 2 allows 24. So push services accept tokens
# although this machine's clock is wrong by some hours, but not by more.
CLOCK_WARNING_S, CLOCK_ERROR_S = 2.0, 3600.0
# Uncertainty of a Date header: whole seconds, plus the time of transfer.
DATE_HEADER_TOLERANCE_S = 5.0
# How long the oldest due job of a lane may wait.
MAX_QUEUE_AGE_S = {Lane.URGENT: 30.0, Lane.NORMAL: 120.0, Lane.BULK: 900.0}
REQUEST_TIMEOUT_S = 8.0

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """Result of one check. `advice` says what to do unless the level is `ok`."""

    check: str
    level: Level
    message: str
    advice: str = ""


async def run_checks(data_dir: Path | None, *, offline: bool) -> list[Finding]:
    """Run all checks. With `offline`, omit those that connect to push services."""
    try:
        settings = read_settings(data_dir)
    except SettingsError as error:
        errors = "; ".join(str(error).splitlines())
        return [Finding("settings", "error", errors, "`gateway settings` describes every setting")]
    findings = [_check_settings(), _check_public_url(settings)]
    hosts: Sequence[str] = ()
    try:
        async with open_installation(settings) as context:
            findings += [finding async for finding in _check_installation(settings, context)]
            if not any(
                finding.level == "error" and finding.check in ("database", "migrations") for finding in findings
            ):
                async with context.engine.connect() as conn:
                    hosts = await devices.list_hosts(conn)
    except (CannotStart, OSError, DatabaseError) as error:
        message = str(getattr(error, "orig", None) or error).partition("\n")[0]
        findings.append(Finding("database", "error", message or type(error).__name__, _database_advice(settings)))
    if settings.nats_servers:
        findings.append(await _check_broker(settings))
    return findings if offline else [*findings, *await _check_push_services(settings, hosts)]


def _check_settings() -> Finding:
    if unknown := unknown_variables():
        return Finding(
            "settings", "error", "; ".join(unknown), "correct or remove them: unknown variables have no effect"
        )
    return Finding("settings", "ok", "no unknown variables")


def _check_public_url(settings: Settings) -> Finding:
    url = settings.public_url
    if url is None:
        message = "not set: browsers report no receipts, except to `gateway up`, which uses its own address"
        return Finding("public url", "ok", message)
    if url.startswith("http://") and not url.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]")):
        advice = "browsers allow push only on https pages: use a TLS proxy and set GATEWAY_PUBLIC_URL to its URL"
        return Finding("public url", "warning", url, advice)
    return Finding("public url", "ok", url)


def _database_advice(settings: Settings) -> str:
    if settings.database_url is None:
        return f"start `gateway up` on {settings.data_dir}, or set GATEWAY_DATABASE_URL"
    return (
        "check that Postgres is running and that GATEWAY_DATABASE_URL has the right host, port, user, password and name"
    )


async def _check_installation(settings: Settings, context: Context) -> AsyncIterator[Finding]:
    async with context.engine.connect() as conn:
        major, full_version = await get_server_version(conn)
        if major < MIN_POSTGRES_VERSION:
            advice = f"upgrade it to {MIN_POSTGRES_VERSION} or newer"
            yield Finding("database", "error", f"PostgreSQL {full_version}", advice)
            return
        yield Finding("database", "ok", f"PostgreSQL {full_version}")
        if not await migrate.is_current(conn, context.engine.url.render_as_string(hide_password=False)):
            yield Finding("migrations", "error", "missing", "run `gateway migrate`; gateways may keep running")
            return
        yield Finding("migrations", "ok", "up to date")
        yield _check_clock(await clock_sync.sync_clock(context.engine))
        yield await _check_master_key(conn, context)
        yield _check_admin_token(settings)
        yield await _check_subjects(conn)
        yield await _check_log_partitions(conn)
        async for finding in _check_queue(conn, settings):
            yield finding


def _check_clock(ahead_s: float | None) -> Finding:
    if ahead_s is None:
        return Finding(
            "clock", "warning", "the database is too slow to compare the clocks", "run `gateway doctor` again"
        )
    direction = "ahead of" if ahead_s > 0 else "behind"
    message = f"{abs(ahead_s):.1f} s {direction} the database's clock"
    advice = "run NTP (chrony, systemd-timesyncd) here and on the database server; the gateway uses the database's time"
    if abs(ahead_s) > CLOCK_ERROR_S:
        return Finding("clock", "error", message, advice)
    return (
        Finding("clock", "warning", message, advice)
        if abs(ahead_s) > CLOCK_WARNING_S
        else Finding("clock", "ok", message)
    )


async def _check_master_key(conn: Connection, context: Context) -> Finding:
    try:
        await key_rotation.check(conn, context.keyring)
    except DecryptionFailed as error:
        advice = (
            "set GATEWAY_MASTER_KEY to the key that encrypted this database, or add it to GATEWAY_RETIRED_MASTER_KEYS"
        )
        return Finding("master key", "error", str(error), advice)
    progress = await key_rotation.get_progress(conn, context.keyring)
    total, with_other_key = (sum(counts) for counts in zip(*progress.values(), strict=True))
    if with_other_key:
        message = f"{with_other_key} of {total} secrets are encrypted with another key"
        return Finding("master key", "warning", message, "run `gateway secrets rotate`")
    return Finding("master key", "ok", "decrypts the stored secrets" if total else "no secrets are stored yet")


def _check_admin_token(settings: Settings) -> Finding:
    if app.find_installation(settings).admin_token:
        return Finding("admin token", "ok", "set")
    advice = "set GATEWAY_ADMIN_TOKEN to a long random string: openssl rand -base64 32"
    return Finding("admin token", "error", "not set: the admin API is not accessible", advice)


async def _check_subjects(conn: Connection) -> Finding:
    """Check all VAPID subjects: push services may reject every message of an application with an invalid one."""
    rows = await applications.list_by_creation(conn, limit=1000)
    errors = [f"{row.name}: {row.subject} {error}" for row in rows if (error := check_subject(row.subject))]
    if errors:
        advice = "PATCH /v1/applications/{id} with a subject such as mailto:ops@example.com; Apple rejects any other"
        return Finding("VAPID subject", "error", "; ".join(errors), advice)
    if not rows:
        message = "there is no application yet"
        return Finding("VAPID subject", "ok", message, "`gateway apps create` creates one")
    return Finding("VAPID subject", "ok", f"valid for {len(rows)} application{'s' if len(rows) > 1 else ''}")


async def _check_log_partitions(conn: Connection) -> Finding:
    today = datetime.now(UTC).date()
    for day, day_name in ((today, "today"), (today + timedelta(days=1), "tomorrow")):
        if not await partitions.has_partitions(conn, day):
            message = f"the delivery log has no partition for {day_name}: no worker has run maintenance"
            advice = "start `gateway work` or `gateway relay`, or run `gateway prune` now"
            return Finding("maintenance", "warning", message, advice)
    return Finding("maintenance", "ok", "the delivery log has partitions for the next days")


async def _check_queue(conn: Connection, settings: Settings) -> AsyncIterator[Finding]:
    waiting = await measure_depth(conn)
    late = [(lane, due, age) for lane, _, due, age in waiting if age > MAX_QUEUE_AGE_S[lane]]
    if not late:
        jobs = sum(count for _, count, _, _ in waiting)
        yield Finding("queue", "ok", "empty" if not jobs else f"{jobs} waiting")
        return
    message = "; ".join(f"{lane.label}: {due} due, the oldest for {_format_duration(age)}" for lane, due, age in late)
    role = "gateway relay` and `gateway work" if settings.nats_servers else "gateway work"
    advice = (
        f"check that `{role}` is running; if so, start more processes or raise GATEWAY_WORKER_CONCURRENCY. "
        "A push service may also be limiting the rate"
    )
    yield Finding("queue", "error", message, advice)


async def _check_broker(settings: Settings) -> Finding:
    try:
        async with Broker.connect(settings.nats_servers, ca=settings.queue_ca):
            return Finding("NATS", "ok", "reachable, with JetStream")
    except (BrokerUnavailable, BrokerIncompatible) as error:
        advice = "check that the servers in GATEWAY_QUEUE run with JetStream, and that user and password are right"
        return Finding("NATS", "error", str(error), advice)


async def _check_push_services(settings: Settings, hosts_in_use: Sequence[str]) -> list[Finding]:
    """Check that push services are reachable: an error for those with devices, a warning for the others."""
    known_hosts = [host for host in (*VENDORS, *settings.push_hosts) if "*" not in host]
    origins = {host if "://" in host else f"https://{host}": False for host in known_hosts}
    origin_of = {origin.partition("://")[2]: origin for origin in origins}
    origins |= {origin_of.get(host, f"https://{host}"): True for host in hosts_in_use}
    try:
        context = ssl.create_default_context()
        if settings.push_ca is not None:
            context.load_verify_locations(settings.push_ca)
    except (OSError, ssl.SSLError) as error:
        advice = "GATEWAY_PUSH_CA must be a file of PEM certificates"
        return [Finding("push services", "error", f"{settings.push_ca}: {error}", advice)]
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout) as http:
        results = await asyncio.gather(*(_measure_origin(http, origin) for origin in origins))
    findings = []
    for (origin, in_use), (failure, _) in zip(origins.items(), results, strict=True):
        host = origin.removeprefix("https://")
        if failure is None:
            findings.append(Finding("push service", "ok", f"{host} is reachable"))
            continue
        advice = "check name resolution, firewall, proxies and certificates of this machine"
        message = f"{host} cannot be reached: {failure}" + ("" if in_use else "; no device uses it yet")
        findings.append(Finding("push service", "error" if in_use else "warning", message, advice))
    if ahead_s := [seconds for _, seconds in results if seconds is not None]:
        findings.append(compare_clock(min(ahead_s, key=abs)))
    return findings


def compare_clock(ahead_s: float) -> Finding:
    """Return the finding about a clock that is `ahead_s` seconds ahead of those of the push services."""
    direction = "ahead of" if ahead_s > 0 else "behind"
    if abs(ahead_s) <= DATE_HEADER_TOLERANCE_S:
        return Finding("time", "ok", "agrees with the push services")
    advice = "run NTP (chrony, systemd-timesyncd): push services reject VAPID tokens from a wrong clock"
    level: Level = "error" if abs(ahead_s) > CLOCK_ERROR_S else "warning"
    return Finding("time", level, f"{_format_duration(abs(ahead_s))} {direction} the push services' clocks", advice)


async def _measure_origin(http: aiohttp.ClientSession, origin: str) -> tuple[str | None, float | None]:
    """Request an origin and return (failure, seconds that this machine's clock is ahead of the server's).

    The failure is None if there was a response with any status; the seconds are None if they are unknown.
    """
    try:
        async with http.get(origin, allow_redirects=False) as response:
            date = response.headers.get("Date")
    except TimeoutError:
        return f"no response within {REQUEST_TIMEOUT_S:g} s", None
    except aiohttp.ClientConnectorError as error:
        return error.os_error.strerror or str(error.os_error), None
    except (aiohttp.ClientError, OSError) as error:
        return str(error) or type(error).__name__, None
    try:
        return None, None if date is None else time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None, None


def _format_duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 300
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
