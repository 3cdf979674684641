"""Registrations out of files: our own NDJSON, subscriptions as other senders keep them, and exports of OneSignal's.

What a file is shows in its first character and its heading, so that nobody has to say it.
"""

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from gateway.domain.errors import GatewayError, MalformedBody

# OneSignal's CSV with the extra fields `web_auth` and `web_p256`, without which a subscription cannot be sent to.
ONESIGNAL = {"identifier", "web_auth", "web_p256"}
BASE64URL = str.maketrans("+/", "-_")
TRUE = {"t", "true", "1", "yes"}
MAX_FIELD_LENGTH = 1 << 20


def read(path: Path) -> Iterator[tuple[int, bytes | GatewayError]]:
    """(line, a registration's JSON, or why there is none in it) of all that is there. Raises MalformedBody."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _read(file)
        except UnicodeDecodeError:
            raise MalformedBody(f"{path} is not UTF-8 text") from None


def _read(file: IO[str]) -> Iterator[tuple[int, bytes | GatewayError]]:
    first = next((line for line in file if line.strip()), "")
    if first.lstrip().startswith("{"):
        yield from _ndjson(chain([first], file))
    elif first.lstrip().startswith("["):
        yield from _array(first + file.read())
    elif set(next(csv.reader([first]), [])) >= ONESIGNAL:
        yield from _onesignal(chain([first], file))
    else:
        wanted = ", ".join(sorted(ONESIGNAL))
        raise MalformedBody(f"it is neither NDJSON, nor a JSON list, nor a CSV file with the columns {wanted}")


def _ndjson(lines: Iterator[str]) -> Iterator[tuple[int, bytes | GatewayError]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _registration(line)


def _registration(line: str) -> bytes:
    """A bare subscription, as `PushSubscription.toJSON()` gives it and most senders keep it, is one too."""
    line = line.strip()
    if '"subscription"' not in line and '"endpoint"' in line:
        return b'{"subscription": %s}' % line.encode()
    return line.encode()


def _array(text: str) -> Iterator[tuple[int, bytes | GatewayError]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise MalformedBody(f"it is not JSON: {error}") from None
    for number, one in enumerate(found, 1):
        yield number, _registration(json.dumps(one))


def _onesignal(lines: Iterator[str]) -> Iterator[tuple[int, bytes | GatewayError]]:
    csv.field_size_limit(MAX_FIELD_LENGTH)
    rows = csv.DictReader(lines)
    for row in rows:
        try:
            yield rows.line_num, json.dumps(_of_onesignal(row)).encode()
        except GatewayError as refusal:
            yield rows.line_num, refusal


def _of_onesignal(row: dict[str, str]) -> dict[str, Any]:
    """Raises MalformedBody for what is no browser that can be sent to."""
    endpoint = row["identifier"] or ""
    if not endpoint.startswith("https://") or not row["web_p256"] or not row["web_auth"]:
        raise MalformedBody("it is no Web Push subscription: an app, an e-mail address, or without its keys")
    if (row.get("invalid_identifier") or "").lower() in TRUE:
        raise MalformedBody("its subscription had ended")
    try:
        tags = json.loads(row.get("tags") or "{}")
    except ValueError:
        raise MalformedBody("its tags are not JSON") from None
    client = {"locale": row.get("language"), "timezone": row.get("timezone_id"), "app_version": row.get("game_version")}
    keys = {name: row[column].translate(BASE64URL) for name, column in (("p256dh", "web_p256"), ("auth", "web_auth"))}
    said: dict[str, Any] = {"subscription": {"endpoint": endpoint, "keys": keys}, "attributes": tags}
    if user_id := row.get("external_user_id"):
        said["user_id"] = user_id
    if given := {name: value for name, value in client.items() if value}:
        said["client"] = given
    return said
