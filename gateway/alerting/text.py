"""What CAP documents and NWS features have in common once they are read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape

from gateway.alerting.vtec import Events
from gateway.domain.alert import AlertInfo, MessageType

MAX_IDENTIFIER_LENGTH = 500
MAX_REFERENCES = 1000
MAX_EVENT_LENGTH = 200
MAX_IGNORED = 50
LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}")

_BREAK = re.compile(r"<br\s*/?>|</p>|</li>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


@dataclass(frozen=True, slots=True)
class Refused:
    """An alert in a document that cannot be told, and every reason."""

    identifier: str | None
    reasons: tuple[str, ...]


def meaning(said: MessageType, events: Events, references: Sequence[str], parts: Sequence[AlertInfo]) -> MessageType:
    """What a message does, which is not always what it says.

    Offices send the end of an event as an update, or as an alert that refers to nothing and says so by its event
    codes alone.
    """
    if said is MessageType.ALERT:
        return said if references or events.does is None else events.does
    if events.does is MessageType.CANCEL or (parts and all(part.all_clear for part in parts)):
        return MessageType.CANCEL
    return said


def moment(text: str | None) -> datetime | None:
    """A time with an offset, in UTC; None for anything else."""
    try:
        found = datetime.fromisoformat((text or "").strip())
        return found.astimezone(UTC) if found.tzinfo is not None and 1970 <= found.year <= 9000 else None
    except (ValueError, OverflowError):
        return None


def kept(text: str) -> str:
    """Without what Postgres cannot keep and JSON may say: U+0000 and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode()


def prose(text: str | None) -> str | None:
    """Plain text: some issuers write HTML into what should be none. None when nothing is left."""
    plain = unescape(_TAG.sub("", _BREAK.sub("\n", text or "")))
    lines = "\n".join(line.rstrip() for line in plain.strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines) or None
