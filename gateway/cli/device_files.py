"""Reads device registrations from files: the gateway's NDJSON, lists of subscriptions, and CSV exports from OneSignal.

The format is detected from the first line.
"""

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from gateway.domain.errors import GatewayError, MalformedBody

# The required columns of a CSV export from OneSignal. Exports have `web_auth` and `web_p256` only if these extra fields
# were selected.
ONESIGNAL_COLUMNS = {"identifier", "web_auth", "web_p256"}
BASE64URL = str.maketrans("+/", "-_")
TRUE_VALUES = {"t", "true", "1", "yes"}
# Longest CSV field, in characters.
MAX_FIELD_LENGTH = 1 << 20


def read_registrations(path: Path) -> Iterator[tuple[int, bytes | GatewayError]]:
    """Yield (line number, JSON of one registration, or the error of the line).

    Raises:
        MalformedBody: the file has none of these formats.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _detect_and_read(file)
        except UnicodeDecodeError:
            raise MalformedBody(f"{path} is not UTF-8 text") from None


def _detect_and_read(file: IO[str]) -> Iterator[tuple[int, bytes | GatewayError]]:
    first = next((line for line in file if line.strip()), "")
    if first.lstrip().startswith("{"):
        yield from _read_ndjson(chain([first], file))
    elif first.lstrip().startswith("["):
        yield from _read_json_list(first + file.read())
    elif set(next(csv.reader([first]), [])) >= ONESIGNAL_COLUMNS:
        yield from _read_onesignal(chain([first], file))
    else:
        columns = ", ".join(sorted(ONESIGNAL_COLUMNS))
        raise MalformedBody(f"the file is neither NDJSON, nor a JSON list, nor CSV with the columns {columns}")


def _read_ndjson(lines: Iterator[str]) -> Iterator[tuple[int, bytes | GatewayError]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _to_registration(line)


def _to_registration(line: str) -> bytes:
    """Return the JSON of a registration. A bare subscription (`PushSubscription.toJSON()`) is wrapped into one."""
    line = line.strip()
    if '"subscription"' not in line and '"endpoint"' in line:
        return b'{"subscription": %s}' % line.encode()
    return line.encode()


def _read_json_list(text: str) -> Iterator[tuple[int, bytes | GatewayError]]:
    try:
        subscriptions = json.loads(text)
    except ValueError as error:
        raise MalformedBody(f"the file is not valid JSON: {error}") from None
    for number, subscription in enumerate(subscriptions, 1):
        yield number, _to_registration(json.dumps(subscription))


def _read_onesignal(lines: Iterator[str]) -> Iterator[tuple[int, bytes | GatewayError]]:
    csv.field_size_limit(MAX_FIELD_LENGTH)
    rows = csv.DictReader(lines)
    for row in rows:
        try:
            yield rows.line_num, json.dumps(_convert_onesignal(row)).encode()
        except GatewayError as error:
            yield rows.line_num, error


def _convert_onesignal(row: dict[str, str]) -> dict[str, Any]:
    """Convert a row to a registration.

    Raises:
        MalformedBody: the row is not an active Web Push subscription.
    """
    endpoint = row["identifier"] or ""
    if not endpoint.startswith("https://") or not row["web_p256"] or not row["web_auth"]:
        raise MalformedBody("not a Web Push subscription: it is an app or an e-mail address, or its keys are missing")
    if (row.get("invalid_identifier") or "").lower() in TRUE_VALUES:
        raise MalformedBody("the subscription has ended")
    try:
        tags = json.loads(row.get("tags") or "{}")
    except ValueError:
        raise MalformedBody("the tags are not valid JSON") from None
    client = {"locale": row.get("language"), "timezone": row.get("timezone_id"), "app_version": row.get("game_version")}
    keys = {name: row[column].translate(BASE64URL) for name, column in (("p256dh", "web_p256"), ("auth", "web_auth"))}
    registration: dict[str, Any] = {"subscription": {"endpoint": endpoint, "keys": keys}, "attributes": tags}
    if user_id := row.get("external_user_id"):
        registration["user_id"] = user_id
    if client_details := {name: value for name, value in client.items() if value}:
        registration["client"] = client_details
    return registration
