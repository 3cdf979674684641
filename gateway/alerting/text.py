"""Limits, types and parsing of texts that the readers of CAP documents and NWS features share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape

from gateway.alerting.vtec import VtecEvents
from gateway.domain.alert import AlertInfo, MessageType

MAX_IDENTIFIER_LENGTH = 500
MAX_REFERENCES = 1000
MAX_EVENT_LENGTH = 200
MAX_IGNORED = 50
LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}")

_BREAK = re.compile(r"<br\s*/?>|</p>|</li>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


@dataclass(frozen=True, slots=True)
class RefusedAlert:
    """An alert in a document that cannot be sent, with all reasons."""

    identifier: str | None
    reasons: tuple[str, ...]


def effective_type(
    declared: MessageType, events: VtecEvents, references: Sequence[str], infos: Sequence[AlertInfo]
) -> MessageType:
    """Return the type by which a message is handled, which may differ from the type that it declares.

    Some issuers announce the end of an event in an Update whose info blocks are all clear. Others send an Alert without
    references, and only its VTEC codes say that it updates or ends an event.
    """
    if declared is MessageType.ALERT:
        return declared if references or events.message_type is None else events.message_type
    if events.message_type is MessageType.CANCEL or (infos and all(info.all_clear for info in infos)):
        return MessageType.CANCEL
    return declared


def parse_time(text: str | None) -> datetime | None:
    """Parse a time with an offset and return it in UTC; None for anything else."""
    try:
        time = datetime.fromisoformat((text or "").strip())
        return time.astimezone(UTC) if time.tzinfo is not None and 1970 <= time.year <= 9000 else None
    except (ValueError, OverflowError):
        return None


def strip_unstorable(text: str) -> str:
    """Remove characters that JSON can carry and Postgres cannot store: U+0000 and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode()


def plain_text(text: str | None) -> str | None:
    """Return text without HTML, which some issuers put into plain-text elements; None when nothing is left."""
    plain = unescape(_TAG.sub("", _BREAK.sub("\n", text or "")))
    lines = "\n".join(line.rstrip() for line in plain.strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines) or None
