"""Everything that is logged while a test runs, looked through for what must be in no log line.

What must not be is learned where it is made: secrets where they are drawn, device tokens, receipt tokens, private keys,
endpoints, and what messages say. A line's words are compared with the words of those, so that a look costs as much as
the line is long, however many secrets there are. What another process made is known by its shape.
"""

import json
import logging
import re
import secrets
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from gateway import log
from gateway.push.vapid import VapidKey
from gateway.service.access.secrets import Keyring
from gateway.service.notifications.rendering import NotificationRenderer

WORDS = (re.compile(r"[A-Za-z0-9_-]{16,}"), re.compile(r"[A-Za-z0-9+/]{20,}"))
"""Keys, tokens and the last part of endpoints are made of these; so are ids, but those are nobody's secret."""
SHAPES = (
    re.compile(r"\b(?:sk|pk|dt|rt|is|whsec)_[A-Za-z0-9_+/-]{30,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    re.compile(r"\bhttps?://[^\s\"'<>]*/[A-Za-z0-9_:%=-]{40,}"),
    re.compile(r"\bpostgres(?:ql)?://[^\s:/@]*:(?!\*\*\*)[^\s/@]+@"),
    re.compile(r"BEGIN (?:EC )?PRIVATE KEY"),
)
SHORTEST_SAID = 10
"""Characters of a title or body: 'Hello' may well be said in a log by somebody else."""


class Leaked(AssertionError):
    """A log line says what it must not."""


class Guard:
    def __init__(self) -> None:
        self._words: set[str] = set()
        self._said: set[str] = set()
        self._lines: list[str] = []

    def learn(self, secret: str | bytes) -> None:
        forms = [secret] if isinstance(secret, str) else _forms(secret)
        self._words.update(word for form in forms for words in WORDS for word in words.findall(form))

    def learn_message(self, plain: bytes) -> None:
        shown = json.loads(plain)["notification"]
        said = (shown.get("title"), shown.get("body"))
        self._said.update(text for text in said if isinstance(text, str) and len(text) >= SHORTEST_SAID)

    def hear(self, text: str) -> None:
        self._lines.extend(text.splitlines())

    def check(self) -> None:
        """Look through what was logged since the last time. Raises Leaked."""
        lines, self._lines = self._lines, []
        for line in lines:
            if found := self._found(line):
                raise Leaked(f"{found!r} is in a log line: {line}")

    def _found(self, line: str) -> str | None:
        for words in WORDS:
            if known := self._words.intersection(words.findall(line)):
                return known.pop()
        for shape in SHAPES:
            if (shaped := shape.search(line)) is not None:
                return shaped[0]
        return next((said for said in self._said if said in line), None)


class _Ear(logging.Handler):
    """Writes where logs are written, and tells the guard."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        print(line, file=sys.stderr)
        guard.hear(line)


guard = Guard()
"""Of this process: each of those that share the tests has its own."""


def listen() -> None:
    """Log as a gateway does, from now on, with the guard listening."""
    if structlog.is_configured():
        return
    before = [one for one in logging.getLogger().handlers if not isinstance(one, _Ear)]  # one ear is enough
    log.configure("info", "json")
    logging.captureWarnings(capture=False)  # pytest has them
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # of the tests' own receivers; the gateway has none
    [ours] = logging.getLogger().handlers
    ear = _Ear()
    ear.setFormatter(ours.formatter)
    logging.getLogger().handlers = [*before, ear]


@contextmanager
def learning() -> Iterator[None]:
    """Learn every secret where it is made."""
    with pytest.MonkeyPatch.context() as patch:
        for source in ("token_urlsafe", "token_bytes"):
            patch.setattr(secrets, source, _heard(getattr(secrets, source)))
        patch.setattr(Keyring, "device_token", _heard(Keyring.device_token))
        patch.setattr(Keyring, "receipt_token", _heard(Keyring.receipt_token))
        patch.setattr(VapidKey, "private_bytes", _heard(VapidKey.private_bytes))
        made = NotificationRenderer.for_device

        def for_device(self: NotificationRenderer, *said: Any) -> tuple[bytes, str]:
            plain, topic = made(self, *said)
            guard.learn_message(plain)
            return plain, topic

        patch.setattr(NotificationRenderer, "for_device", for_device)
        yield


def _heard(make: Callable[..., Any]) -> Callable[..., Any]:
    def making(*said: Any, **named: Any) -> Any:
        secret = make(*said, **named)
        guard.learn(secret)
        return secret

    return making


def _forms(octets: bytes) -> list[str]:
    return [octets.hex(), b64encode(octets).decode(), urlsafe_b64encode(octets).rstrip(b"=").decode(), repr(octets)]
