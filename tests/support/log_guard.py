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

TOKEN_PATTERNS = (re.compile(r"[A-Za-z0-9_-]{16,}"), re.compile(r"[A-Za-z0-9+/]{20,}"))
"""Keys, tokens and the last part of endpoints are made of these; so are ids, but those are nobody's secret."""
SECRET_PATTERNS = (
    re.compile(r"\b(?:sk|pk|dt|rt|is|whsec)_[A-Za-z0-9_+/-]{30,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    re.compile(r"\bhttps?://[^\s\"'<>]*/[A-Za-z0-9_:%=-]{40,}"),
    re.compile(r"\bpostgres(?:ql)?://[^\s:/@]*:(?!\*\*\*)[^\s/@]+@"),
    re.compile(r"BEGIN (?:EC )?PRIVATE KEY"),
)
MIN_MESSAGE_LENGTH = 10
"""Characters of a title or body: 'Hello' may well be said in a log by somebody else."""


class SecretInLog(AssertionError):
    """A log line says what it must not."""


class Guard:
    def __init__(self) -> None:
        self._tokens: set[str] = set()
        self._messages: set[str] = set()
        self._lines: list[str] = []

    def learn(self, secret: str | bytes) -> None:
        forms = [secret] if isinstance(secret, str) else _forms(secret)
        self._tokens.update(word for form in forms for words in TOKEN_PATTERNS for word in words.findall(form))

    def learn_message(self, plain: bytes) -> None:
        shown = json.loads(plain)["notification"]
        said = (shown.get("title"), shown.get("body"))
        self._messages.update(text for text in said if isinstance(text, str) and len(text) >= MIN_MESSAGE_LENGTH)

    def record(self, text: str) -> None:
        self._lines.extend(text.splitlines())

    def check(self) -> None:
        """Look through what was logged since the last time. Raises Leaked."""
        lines, self._lines = self._lines, []
        for line in lines:
            if found := self._find_secret(line):
                raise SecretInLog(f"{found!r} is in a log line: {line}")

    def _find_secret(self, line: str) -> str | None:
        for words in TOKEN_PATTERNS:
            if known := self._tokens.intersection(words.findall(line)):
                return known.pop()
        for shape in SECRET_PATTERNS:
            if (shaped := shape.search(line)) is not None:
                return shaped[0]
        return next((said for said in self._messages if said in line), None)


class _GuardHandler(logging.Handler):
    """Writes where logs are written, and tells the guard."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        print(line, file=sys.stderr)
        guard.record(line)


guard = Guard()
"""Of this process: each of those that share the tests has its own."""


def install_handler() -> None:
    """Log as a gateway does, from now on, with the guard listening."""
    if structlog.is_configured():
        return
    before = [one for one in logging.getLogger().handlers if not isinstance(one, _GuardHandler)]  # one ear is enough
    log.configure("info", "json")
    logging.captureWarnings(capture=False)  # pytest has them
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # of the tests' own receivers; the gateway has none
    [ours] = logging.getLogger().handlers
    ear = _GuardHandler()
    ear.setFormatter(ours.formatter)
    logging.getLogger().handlers = [*before, ear]


@contextmanager
def learn_secrets() -> Iterator[None]:
    """Learn every secret where it is made."""
    with pytest.MonkeyPatch.context() as patch:
        for source in ("token_urlsafe", "token_bytes"):
            patch.setattr(secrets, source, _learning_results(getattr(secrets, source)))
        patch.setattr(Keyring, "device_token", _learning_results(Keyring.device_token))
        patch.setattr(Keyring, "receipt_token", _learning_results(Keyring.receipt_token))
        patch.setattr(VapidKey, "private_bytes", _learning_results(VapidKey.private_bytes))
        made = NotificationRenderer.for_device

        def for_device(self: NotificationRenderer, *said: Any) -> tuple[bytes, str]:
            plain, topic = made(self, *said)
            guard.learn_message(plain)
            return plain, topic

        patch.setattr(NotificationRenderer, "for_device", for_device)
        yield


def _learning_results(make: Callable[..., Any]) -> Callable[..., Any]:
    def making(*said: Any, **named: Any) -> Any:
        secret = make(*said, **named)
        guard.learn(secret)
        return secret

    return making


def _forms(octets: bytes) -> list[str]:
    return [octets.hex(), b64encode(octets).decode(), urlsafe_b64encode(octets).rstrip(b"=").decode(), repr(octets)]
